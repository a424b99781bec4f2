//! The write-ahead log of SQLite.
//!
//! WAL header, 32 bytes, every field big-endian:
//!
//! | offset | size | field | unit |
//! |---|---|---|---|
//! | 0 | 4 | magic: `0x377f0682`, or `0x377f0683` when checksums read words big-endian | |
//! | 4 | 4 | format version, 3007000 | |
//! | 8 | 4 | page size | bytes |
//! | 12 | 4 | sequence: how often this log was restarted | |
//! | 16 | 8 | salt 1, salt 2: what every frame of this life of the log repeats | |
//! | 24 | 8 | checksum of bytes 0..24 | |
//!
//! Then frames, each a header of 24 bytes and one page:
//!
//! | offset | size | field | unit |
//! |---|---|---|---|
//! | 0 | 4 | page number | from 1 |
//! | 4 | 4 | commit: database size after this transaction, 0 on all but its last frame | pages |
//! | 8 | 8 | salt 1, salt 2 | |
//! | 16 | 8 | checksum, running from the WAL header over bytes 0..8 of every frame header and every page | |
//!
//! Source: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>

use byteorder::{BigEndian, ByteOrder, LittleEndian};

use super::Cursor;
use crate::base::{Error, FrameNo, PageSize, Result};

/// Size of the WAL header in bytes.
pub const HEADER_SIZE: usize = 32;
/// Size of a frame header in bytes.
pub const FRAME_HEADER_SIZE: usize = 24;

const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;
const AT_CHECKSUM: usize = 24;
const AT_FRAME_SALTS: usize = 8;
const AT_FRAME_CHECKSUM: usize = AT_FRAME_SALTS + 8;
const _: () = assert!(AT_CHECKSUM + 8 == HEADER_SIZE && AT_FRAME_CHECKSUM + 8 == FRAME_HEADER_SIZE);

/// Size of a frame with its page, in bytes.
pub fn frame_size(page: PageSize) -> u64 {
    FRAME_HEADER_SIZE as u64 + u64::from(page.get())
}

/// Where frame `frame` starts in the file, in bytes. Frame 0 does not exist; its place is that of frame 1.
pub fn frame_offset(frame: FrameNo, page: PageSize) -> u64 {
    HEADER_SIZE as u64 + u64::from(frame.0.saturating_sub(1)) * frame_size(page)
}

/// The two salts that mark the frames of one life of the WAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Salts(pub u32, pub u32);

/// The running checksum of a WAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum(pub u32, pub u32);

/// In which byte order checksums read their 32-bit words. SQLite writes its machine's and reads both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordOrder {
    /// Magic `0x377f0682`.
    Little,
    /// Magic `0x377f0683`.
    Big,
}

impl WordOrder {
    /// What SQLite on this machine writes.
    pub const NATIVE: WordOrder = if cfg!(target_endian = "big") { WordOrder::Big } else { WordOrder::Little };

    /// Goes on with checksum `from` over `bytes`, whose length is a multiple of 8; a rest is left out.
    pub fn checksum(self, from: Checksum, bytes: &[u8]) -> Checksum {
        match self {
            WordOrder::Little => checksum::<LittleEndian>(from, bytes),
            WordOrder::Big => checksum::<BigEndian>(from, bytes),
        }
    }
}

/// Every word depends on the sums before it, but linearly: sums over the quarters of a page, each begun at zero, can be
/// taken side by side and joined. That is almost three times as fast as one after the other.
fn checksum<O: ByteOrder>(from: Checksum, bytes: &[u8]) -> Checksum {
    let Some(zeros) = quarter_of_zeros(bytes.len()) else {
        return bytes.chunks_exact(8).fold(from, add_pair::<O>);
    };
    let mut quarters = bytes.chunks_exact(bytes.len() / 4).map(|quarter| quarter.chunks_exact(8));
    let (Some(a), Some(b), Some(c), Some(d)) = (quarters.next(), quarters.next(), quarters.next(), quarters.next())
    else {
        return from;
    };
    let zero = Checksum::default();
    let mut sums = [from, zero, zero, zero];
    for (((a, b), c), d) in a.zip(b).zip(c).zip(d) {
        let [s0, s1, s2, s3] = sums;
        sums = [add_pair::<O>(s0, a), add_pair::<O>(s1, b), add_pair::<O>(s2, c), add_pair::<O>(s3, d)];
    }
    let [first, rest @ ..] = sums;
    rest.into_iter().fold(first, |before, quarter| {
        let Checksum(s1, s2) = shift(zeros, before);
        Checksum(s1.wrapping_add(quarter.0), s2.wrapping_add(quarter.1))
    })
}

/// The entry of [`SHIFTS`] for so many bytes, if a page has as many.
fn quarter_of_zeros(bytes: usize) -> Option<[u32; 3]> {
    let sizes_below = bytes.checked_ilog2()?.checked_sub(9)? as usize;
    SHIFTS.get(sizes_below).filter(|_| bytes.is_power_of_two()).copied()
}

fn add_pair<O: ByteOrder>(Checksum(s1, s2): Checksum, pair: &[u8]) -> Checksum {
    let (first, second) = pair.split_at(4);
    let s1 = s1.wrapping_add(O::read_u32(first)).wrapping_add(s2);
    Checksum(s1, s2.wrapping_add(O::read_u32(second)).wrapping_add(s1))
}

/// What a quarter page of zeros makes of the sums before it, for the eight page sizes: three Fibonacci numbers of the
/// matrix that one pair of zero words is the first power of.
const SHIFTS: [[u32; 3]; 8] = {
    let mut shifts = [[0; 3]; 8];
    let mut i = 0;
    while i < shifts.len() {
        let mut words = (512 << i) / 4 / 4;
        let (mut a, mut b) = (1u32, 0u32);
        while words > 0 {
            (a, b) = (b, a.wrapping_add(b));
            words -= 1;
        }
        shifts[i] = [a, b, a.wrapping_add(b)];
        i += 1;
    }
    shifts
};

fn shift([a, b, c]: [u32; 3], Checksum(s1, s2): Checksum) -> Checksum {
    Checksum(a.wrapping_mul(s1).wrapping_add(b.wrapping_mul(s2)), b.wrapping_mul(s1).wrapping_add(c.wrapping_mul(s2)))
}

/// The header of a WAL file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Byte order of the checksums.
    pub order: WordOrder,
    /// Size of every page in the file.
    pub page_size: PageSize,
    /// How often the log was restarted.
    pub sequence: u32,
    /// What marks its frames.
    pub salts: Salts,
}

impl Header {
    /// Reads a header and checks its magic, version, page size and checksum.
    pub fn decode(bytes: &[u8]) -> Result<Header> {
        let mut at = Cursor::new("WAL header", bytes);
        let magic = at.u32_be()?;
        let order = match magic {
            MAGIC => WordOrder::Little,
            m if m == MAGIC | 1 => WordOrder::Big,
            _ => {
                return Err(Error::corrupt(format!(
                    "not a WAL: magic 0x{magic:08x}, expected 0x{MAGIC:08x} or 0x{:08x}",
                    MAGIC | 1
                )));
            }
        };
        let version = at.u32_be()?;
        if version != VERSION {
            return Err(Error::corrupt(format!("WAL of version {version}, expected {VERSION}")));
        }
        let page_size = PageSize::new(at.u32_be()?).map_err(|e| e.within("WAL header"))?;
        let sequence = at.u32_be()?;
        let salts = Salts(at.u32_be()?, at.u32_be()?);
        let header = Header { order, page_size, sequence, salts };
        let stored = Checksum(at.u32_be()?, at.u32_be()?);
        let computed = header.checksum();
        if stored != computed {
            return Err(Error::corrupt(format!("WAL header: checksum {stored:x?}, expected {computed:x?}")));
        }
        at.finish()?;
        Ok(header)
    }

    /// The 32 bytes of the header.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut out = [0; HEADER_SIZE];
        let magic = if self.order == WordOrder::Big { MAGIC | 1 } else { MAGIC };
        BigEndian::write_u32(&mut out[0..4], magic);
        BigEndian::write_u32(&mut out[4..8], VERSION);
        BigEndian::write_u32(&mut out[8..12], self.page_size.get());
        BigEndian::write_u32(&mut out[12..16], self.sequence);
        BigEndian::write_u32(&mut out[16..20], self.salts.0);
        BigEndian::write_u32(&mut out[20..24], self.salts.1);
        let Checksum(s1, s2) = self.order.checksum(Checksum::default(), &out[..AT_CHECKSUM]);
        BigEndian::write_u32(&mut out[24..28], s1);
        BigEndian::write_u32(&mut out[28..32], s2);
        out
    }

    /// The checksum of the header, which the first frame's goes on from.
    pub fn checksum(&self) -> Checksum {
        let bytes = self.encode();
        Checksum(BigEndian::read_u32(&bytes[24..28]), BigEndian::read_u32(&bytes[28..32]))
    }
}

/// The header of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Page number; 0 in a damaged file.
    pub pgno: u32,
    /// Database size in pages after the transaction this frame ends; 0 if it does not end one.
    pub commit: u32,
    /// The salts of the WAL it was written into.
    pub salts: Salts,
    /// The running checksum after this frame.
    pub checksum: Checksum,
}

impl FrameHeader {
    /// Reads the 24 bytes of a frame header; nothing is checked but their number.
    pub fn decode(bytes: &[u8]) -> Result<FrameHeader> {
        let mut at = Cursor::new("WAL frame header", bytes);
        let header = FrameHeader {
            pgno: at.u32_be()?,
            commit: at.u32_be()?,
            salts: Salts(at.u32_be()?, at.u32_be()?),
            checksum: Checksum(at.u32_be()?, at.u32_be()?),
        };
        at.finish()?;
        Ok(header)
    }
}

/// Where a WAL stands: what the next frame's salts and checksum depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    order: WordOrder,
    salts: Salts,
    checksum: Checksum,
}

impl Chain {
    /// Just after the header.
    pub fn start(header: &Header) -> Chain {
        Chain { order: header.order, salts: header.salts, checksum: header.checksum() }
    }

    /// In the middle of a WAL, after a frame with `checksum`.
    pub fn resume(order: WordOrder, salts: Salts, checksum: Checksum) -> Chain {
        Chain { order, salts, checksum }
    }

    /// The checksum of the last frame (or of the header).
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Takes in the next frame of a WAL that was read. False when its page number is 0, or its salts or checksum
    /// are not those of the frame that must follow; the chain then stays where it was.
    pub fn accept(&mut self, header: &[u8], page: &[u8]) -> bool {
        let Ok(frame) = FrameHeader::decode(header) else { return false };
        let next = self.after(&header[..AT_FRAME_SALTS], page);
        let fits = frame.pgno != 0 && frame.salts == self.salts && frame.checksum == next;
        if fits {
            self.checksum = next;
        }
        fits
    }

    /// Appends to `out` the next frame: header and page.
    pub fn append(&mut self, out: &mut Vec<u8>, pgno: u32, commit: u32, page: &[u8]) {
        let mut header = [0; FRAME_HEADER_SIZE];
        BigEndian::write_u32(&mut header[0..4], pgno);
        BigEndian::write_u32(&mut header[4..8], commit);
        self.checksum = self.after(&header[..AT_FRAME_SALTS], page);
        BigEndian::write_u32(&mut header[8..12], self.salts.0);
        BigEndian::write_u32(&mut header[12..16], self.salts.1);
        BigEndian::write_u32(&mut header[16..20], self.checksum.0);
        BigEndian::write_u32(&mut header[20..24], self.checksum.1);
        out.extend_from_slice(&header);
        out.extend_from_slice(page);
    }

    fn after(&self, start_of_header: &[u8], page: &[u8]) -> Checksum {
        let mid = self.order.checksum(self.checksum, start_of_header);
        self.order.checksum(mid, page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(order: WordOrder) -> Result<Header> {
        Ok(Header { order, page_size: PageSize::new(512)?, sequence: 3, salts: Salts(7, 0xdead_beef) })
    }

    #[test]
    fn a_header_is_read_back_in_both_checksum_byte_orders() -> Result<()> {
        for order in [WordOrder::Little, WordOrder::Big] {
            let header = header(order)?;
            assert_eq!(Header::decode(&header.encode())?, header);
        }
        Ok(())
    }

    #[test]
    fn the_checksum_of_a_page_is_that_of_its_words_one_after_another() {
        let bytes: Vec<u8> = (0..65536u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for order in [WordOrder::Little, WordOrder::Big] {
            for size in (9..=if cfg!(miri) { 11 } else { 16 }).map(|n| 1 << n) {
                let page = &bytes[..size];
                let one_by_one = page.chunks(8).fold(Checksum(5, 6), |sum, pair| order.checksum(sum, pair));
                assert_eq!(order.checksum(Checksum(5, 6), page), one_by_one, "{size}");
            }
        }
    }

    #[test]
    fn a_header_with_any_byte_changed_is_refused() -> Result<()> {
        let good = header(WordOrder::Little)?.encode();
        for at in 0..HEADER_SIZE {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert!(Header::decode(&bad).is_err(), "byte {at}");
        }
        assert!(Header::decode(&good[..31]).is_err());
        Ok(())
    }

    #[test]
    fn what_a_chain_appends_another_accepts_and_nothing_else() -> Result<()> {
        for order in [WordOrder::Little, WordOrder::Big] {
            let header = header(order)?;
            let mut wal = Vec::new();
            let mut writer = Chain::start(&header);
            writer.append(&mut wal, 1, 0, &[1; 512]);
            writer.append(&mut wal, 2, 2, &[2; 512]);
            let mut reader = Chain::start(&header);
            let (first, second) = wal.split_at(FRAME_HEADER_SIZE + 512);
            assert!(!reader.accept(&second[..FRAME_HEADER_SIZE], &second[FRAME_HEADER_SIZE..]), "out of order");
            assert!(reader.accept(&first[..FRAME_HEADER_SIZE], &first[FRAME_HEADER_SIZE..]));
            let mut bad = second.to_vec();
            bad[FRAME_HEADER_SIZE + 100] ^= 1;
            assert!(!reader.accept(&bad[..FRAME_HEADER_SIZE], &bad[FRAME_HEADER_SIZE..]), "changed page");
            assert!(reader.accept(&second[..FRAME_HEADER_SIZE], &second[FRAME_HEADER_SIZE..]));
            assert_eq!(reader, writer);
        }
        Ok(())
    }
}
