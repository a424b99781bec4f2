//! The formats once more, as their descriptions say and with no thought of speed.

/// A WAL: what its header says, and the frames up to the first that does not follow.
pub struct Wal<'a> {
    /// Whether checksums read their words big-endian.
    pub big: bool,
    /// In bytes.
    pub page_size: usize,
    /// How often it was restarted.
    pub sequence: u32,
    /// What marks its frames.
    pub salts: [u32; 2],
    /// Those that count.
    pub frames: Vec<Frame<'a>>,
}

/// A frame of a WAL.
pub struct Frame<'a> {
    /// Page number.
    pub pgno: u32,
    /// Database size in pages if a transaction ends here, else 0.
    pub commit: u32,
    /// The page.
    pub page: &'a [u8],
}

const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// Reads a WAL; none if its header is not right.
pub fn wal(bytes: &[u8]) -> Option<Wal<'_>> {
    let header = bytes.get(..WAL_HEADER)?;
    let (magic, page_size) = (word(header, 0), word(header, 8));
    let big = match magic {
        0x377f_0682 => false,
        0x377f_0683 => true,
        _ => return None,
    };
    let sizes = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];
    let mut sum = wal_checksum(big, [0, 0], &header[..24]);
    if word(header, 4) != 3_007_000 || !sizes.contains(&page_size) || [word(header, 24), word(header, 28)] != sum {
        return None;
    }
    let (page_size, salts) = (page_size as usize, [word(header, 16), word(header, 20)]);
    let mut frames = Vec::new();
    for frame in bytes[WAL_HEADER..].chunks_exact(FRAME_HEADER + page_size) {
        let (head, page) = frame.split_at(FRAME_HEADER);
        sum = wal_checksum(big, wal_checksum(big, sum, &head[..8]), page);
        if word(head, 0) == 0 || [word(head, 8), word(head, 12)] != salts || [word(head, 16), word(head, 20)] != sum {
            break;
        }
        frames.push(Frame { pgno: word(head, 0), commit: word(head, 4), page });
    }
    Some(Wal { big, page_size, sequence: word(header, 12), salts, frames })
}

impl Wal<'_> {
    /// The frames up to the last that ends a transaction.
    pub fn committed(&self) -> &[Frame<'_>] {
        let end = self.frames.iter().rposition(|frame| frame.commit > 0).map_or(0, |last| last + 1);
        &self.frames[..end]
    }
}

/// A WAL with these frames: page number, commit size, page.
pub fn build_wal(page_size: usize, frames: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; WAL_HEADER];
    bytes[12..24].copy_from_slice(&[0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8]);
    for (pgno, commit, page) in frames {
        bytes.extend_from_slice(&pgno.to_be_bytes());
        bytes.extend_from_slice(&commit.to_be_bytes());
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(page);
    }
    repair_wal(&mut bytes, false, page_size);
    bytes
}

/// Makes salts and checksums right in bytes that should be a WAL with pages of `page_size`, and the rest of its header.
pub fn repair_wal(bytes: &mut [u8], big: bool, page_size: usize) {
    if bytes.len() < WAL_HEADER {
        return;
    }
    put(bytes, 0, 0x377f_0682 | u32::from(big));
    put(bytes, 4, 3_007_000);
    put(bytes, 8, page_size as u32);
    let mut sum = wal_checksum(big, [0, 0], &bytes[..24]);
    put(bytes, 24, sum[0]);
    put(bytes, 28, sum[1]);
    let (header, frames) = bytes.split_at_mut(WAL_HEADER);
    for frame in frames.chunks_exact_mut(FRAME_HEADER + page_size) {
        frame[8..16].copy_from_slice(&header[16..24]);
        let (head, page) = frame.split_at_mut(FRAME_HEADER);
        sum = wal_checksum(big, wal_checksum(big, sum, &head[..8]), page);
        put(head, 16, sum[0]);
        put(head, 20, sum[1]);
    }
}

/// The checksum of a WAL over `bytes`, from `sum` on.
pub fn wal_checksum(big: bool, sum: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    let [mut one, mut two] = sum;
    for pair in bytes.chunks_exact(8) {
        let read = |at| if big { word(pair, at) } else { word(pair, at).swap_bytes() };
        one = one.wrapping_add(read(0)).wrapping_add(two);
        two = two.wrapping_add(read(4)).wrapping_add(one);
    }
    [one, two]
}

/// CRC-64/GO-ISO, bit by bit.
pub fn crc64<'b>(bytes: impl Iterator<Item = &'b u8>) -> u64 {
    let mut crc = u64::MAX;
    for byte in bytes {
        crc ^= u64::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 1 { 0xd800_0000_0000_0000 } else { 0 };
        }
    }
    !crc
}

/// CRC-32/ISO-HDLC, bit by bit.
pub fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

/// Makes the last 4 bytes of a record the CRC-32 of all before.
pub fn seal(record: &mut [u8]) {
    if let Some(end) = record.len().checked_sub(4) {
        let crc = crc32(&record[..end]);
        put(record, end, crc);
    }
}

/// The checksum of a database file: that of its pages together. The lock-byte page is too far for files that are here.
pub fn database_checksum(database: &[u8], page_size: usize) -> u64 {
    let pages = (1u32..).zip(database.chunks(page_size));
    let sums = pages.map(|(number, page)| {
        let mut page = page.to_vec();
        if number == 1 {
            page[18..20].fill(2);
        }
        crc64(number.to_be_bytes().iter().chain(&page)) | 1 << 63
    });
    sums.fold(0, |sum, page| sum ^ page) | 1 << 63
}

/// A record of a stream.
pub struct Record<'a> {
    /// Type.
    pub kind: u32,
    /// Flags.
    pub flags: u32,
    /// Generation, index and offset.
    pub at: [u64; 3],
    /// Whole.
    pub payload: &'a [u8],
}

/// The records of a stream, up to the first that is not all there.
pub fn records(mut bytes: &[u8]) -> Vec<Record<'_>> {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(40) {
        let size = usize::try_from(long(head, 32)).unwrap_or(usize::MAX);
        let Some((payload, rest)) = rest.split_at_checked(size) else { break };
        let at = [long(head, 8), long(head, 16), long(head, 24)];
        found.push(Record { kind: word(head, 0), flags: word(head, 4), at, payload });
        bytes = rest;
    }
    found
}

/// The big-endian word at `at`.
pub fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The big-endian number of 8 bytes at `at`.
pub fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn put(bytes: &mut [u8], at: usize, word: u32) {
    bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
}
