//! Write-ahead logs as the file format prescribes them, read and written by the tests themselves.
//!
//! Source: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>

const MAGIC: u32 = 0x377f_0682;
const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// What the header of a WAL says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether checksums read their words big-endian.
    pub big: bool,
    pub page_size: u32,
    pub sequence: u32,
    pub salts: [u32; 2],
}

/// A page on its way into a database. `commit` is the database size in pages where a transaction ends, otherwise 0.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub pgno: u32,
    pub commit: u32,
    pub page: Vec<u8>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "page {} commit {} of {} bytes", self.pgno, self.commit, self.page.len())
    }
}

/// Reads a WAL: the header, which must be right, and the frames up to the first one that does not follow.
pub fn parse(bytes: &[u8]) -> (Header, Vec<Frame>) {
    let magic = word(bytes, 0);
    assert!(magic | 1 == MAGIC | 1, "magic 0x{magic:08x}");
    assert_eq!(word(bytes, 4), 3_007_000, "format version");
    let salts = [word(bytes, 16), word(bytes, 20)];
    let header = Header { big: magic & 1 == 1, page_size: word(bytes, 8), sequence: word(bytes, 12), salts };
    let mut sum = checksum(header.big, [0, 0], &bytes[..24]);
    assert_eq!([word(bytes, 24), word(bytes, 28)], sum, "checksum of the WAL header");
    let mut frames = Vec::new();
    for frame in bytes[HEADER..].chunks_exact(FRAME_HEADER + header.page_size as usize) {
        let (head, page) = frame.split_at(FRAME_HEADER);
        sum = checksum(header.big, checksum(header.big, sum, &head[..8]), page);
        if word(head, 0) == 0 || [word(head, 8), word(head, 12)] != salts || [word(head, 16), word(head, 20)] != sum {
            break;
        }
        frames.push(Frame { pgno: word(head, 0), commit: word(head, 4), page: page.to_vec() });
    }
    (header, frames)
}

/// The bytes of a WAL with these frames.
pub fn build(header: &Header, frames: &[Frame]) -> Vec<u8> {
    let magic = MAGIC | u32::from(header.big);
    let fields = [magic, 3_007_000, header.page_size, header.sequence, header.salts[0], header.salts[1]];
    let mut bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_be_bytes()).collect();
    let mut sum = checksum(header.big, [0, 0], &bytes);
    put(&mut bytes, sum);
    for frame in frames {
        let start = bytes.len();
        put(&mut bytes, [frame.pgno, frame.commit]);
        sum = checksum(header.big, sum, &bytes[start..]);
        sum = checksum(header.big, sum, &frame.page);
        put(&mut bytes, header.salts);
        put(&mut bytes, sum);
        bytes.extend_from_slice(&frame.page);
    }
    bytes
}

/// Size of a WAL with `frames` frames, in bytes.
pub fn size(frames: usize, page_size: u32) -> usize {
    HEADER + frames * (FRAME_HEADER + page_size as usize)
}

/// The frames cut into transactions.
pub fn transactions(frames: &[Frame]) -> impl Iterator<Item = &[Frame]> {
    frames.split_inclusive(|frame| frame.commit > 0)
}

fn checksum(big: bool, from: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    let [mut one, mut two] = from;
    for pair in bytes.chunks_exact(8) {
        let read = |at| if big { word(pair, at) } else { word(pair, at).swap_bytes() };
        one = one.wrapping_add(read(0)).wrapping_add(two);
        two = two.wrapping_add(read(4)).wrapping_add(one);
    }
    [one, two]
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn put(bytes: &mut Vec<u8>, words: [u32; 2]) {
    bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
}
