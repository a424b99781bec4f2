//! The wal-index: what the `-shm` file holds, in the byte order of the machine.
//!
//! Region 0 starts with 136 bytes:
//!
//! | offset | size | field | unit |
//! |---|---|---|---|
//! | 0 | 48 | header, first copy | |
//! | 48 | 48 | header, second copy, always written first | |
//! | 96 | 4 | nBackfill: frames copied into the database | frames |
//! | 100 | 20 | the five read marks | frame number |
//! | 120 | 8 | lock bytes | |
//! | 128 | 4 | nBackfillAttempted | frames |
//! | 132 | 4 | unused | |
//!
//! Header:
//!
//! | offset | size | field | unit |
//! |---|---|---|---|
//! | 0 | 4 | version, 3007000 | |
//! | 4 | 4 | unused | |
//! | 8 | 4 | iChange: up by one with each transaction | |
//! | 12 | 1 | isInit | 0 or 1 |
//! | 13 | 1 | bigEndCksum: byte order of the WAL's checksums | 0 or 1 |
//! | 14 | 2 | page size | bytes, 1 for 65536 |
//! | 16 | 4 | mxFrame: last committed frame | frame number |
//! | 20 | 4 | nPage: database size | pages |
//! | 24 | 8 | checksum of frame mxFrame | |
//! | 32 | 8 | salts, as the WAL header has them (big-endian) | |
//! | 40 | 8 | checksum of bytes 0..40 | |
//!
//! Every region is 32 KiB: 4096 page numbers of 4 bytes (4062 in region 0, after the 136 bytes), then a hash table of
//! 8192 slots of 2 bytes. Slot values are places in the region's page numbers, from 1.
//!
//! Source: <https://www.sqlite.org/walformat.html#the_wal_index_file_format>

use super::wal::{Checksum, Salts, WordOrder};
use crate::base::{FrameNo, PageSize};

/// Size of one region in bytes.
pub const REGION_SIZE: usize = 32768;
/// Words (4 bytes) in one copy of the header.
pub const HEADER_WORDS: usize = 12;
/// Where the second copy of the header starts, in bytes.
pub const AT_SECOND_HEADER: usize = HEADER_WORDS * 4;
/// Where nBackfill is, in bytes.
pub const AT_BACKFILL: usize = AT_SECOND_HEADER + HEADER_WORDS * 4;
/// Where the read marks start, in bytes.
pub const AT_READ_MARKS: usize = AT_BACKFILL + 4;
/// Read marks, of which number 0 is never set.
pub const READ_MARKS: usize = 5;
/// Where nBackfillAttempted is, in bytes.
pub const AT_BACKFILL_ATTEMPTED: usize = AT_READ_MARKS + READ_MARKS * 4 + 8;
/// A read mark that nobody uses.
pub const MARK_UNUSED: u32 = 0xffff_ffff;
/// Where the page numbers of region 0 start, in bytes.
const AT_FIRST_ENTRIES: usize = AT_BACKFILL_ATTEMPTED + 8;
/// Where the hash table of every region starts, in bytes.
pub const AT_HASH: usize = ENTRIES * 4;
/// Slots of a hash table.
pub const SLOTS: u32 = 8192;

const ENTRIES: usize = 4096;
const ENTRIES_IN_FIRST: usize = ENTRIES - AT_FIRST_ENTRIES / 4;
const _: () = assert!(AT_FIRST_ENTRIES == 136 && ENTRIES_IN_FIRST == 4062);
const _: () = assert!(AT_HASH + SLOTS as usize * 2 == REGION_SIZE);

const VERSION: u32 = 3_007_000;

/// Numbers of the eight locks (<https://www.sqlite.org/walformat.html#locks>).
pub mod lock {
    /// Held by the one writer.
    pub const WRITE: i32 = 0;
    /// Held by the one checkpointer.
    pub const CHECKPOINT: i32 = 1;
    /// The lock of read mark `n`, 0 to 4. Mark 0 stands for reading the database file alone.
    pub const fn read(n: i32) -> i32 {
        3 + n
    }
}

/// One copy of the wal-index header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Counts transactions.
    pub change: u32,
    /// Byte order of the WAL's checksums.
    pub order: WordOrder,
    /// Page size; none before the first transaction of a new WAL.
    pub page_size: Option<PageSize>,
    /// Last committed frame.
    pub last: FrameNo,
    /// Database size in pages.
    pub pages: u32,
    /// Checksum of the last committed frame.
    pub frame_checksum: Checksum,
    /// Salts of the WAL.
    pub salts: Salts,
}

impl Header {
    /// Reads one copy. None if it was never initialised, is of another version, or its checksum does not fit,
    /// all of which SQLite answers by rebuilding the index from the WAL.
    pub fn decode(words: &[u32; HEADER_WORDS]) -> Option<Header> {
        let [version, _, change, mixed, last, pages, f1, f2, s1, s2, c1, c2] = *words;
        let [init, big, size_a, size_b] = mixed.to_ne_bytes();
        if version != VERSION || init == 0 || checksum(words) != Checksum(c1, c2) {
            return None;
        }
        Some(Header {
            change,
            order: if big != 0 { WordOrder::Big } else { WordOrder::Little },
            page_size: PageSize::from_u16(u16::from_ne_bytes([size_a, size_b])).ok(),
            last: FrameNo(last),
            pages,
            frame_checksum: Checksum(f1, f2),
            salts: Salts(u32::from_be(s1), u32::from_be(s2)),
        })
    }

    /// The words of one copy.
    pub fn encode(&self) -> [u32; HEADER_WORDS] {
        let [size_a, size_b] = self.page_size.map_or(0, PageSize::to_u16).to_ne_bytes();
        let big = u8::from(self.order == WordOrder::Big);
        let mut words = [
            VERSION,
            0,
            self.change,
            u32::from_ne_bytes([1, big, size_a, size_b]),
            self.last.0,
            self.pages,
            self.frame_checksum.0,
            self.frame_checksum.1,
            self.salts.0.to_be(),
            self.salts.1.to_be(),
            0,
            0,
        ];
        let Checksum(c1, c2) = checksum(&words);
        words[10] = c1;
        words[11] = c2;
        words
    }
}

/// Checksum of the first 40 bytes of a header, always in the machine's byte order.
fn checksum(words: &[u32; HEADER_WORDS]) -> Checksum {
    let mut bytes = [0; 40];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    WordOrder::NATIVE.checksum(Checksum::default(), &bytes)
}

/// Where the wal-index keeps the page number of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which region.
    pub region: u32,
    /// Which entry of it, from 1.
    pub entry: u16,
}

impl Place {
    /// The place of `frame`, which is not zero.
    pub fn of(frame: FrameNo) -> Place {
        let n = frame.0.saturating_sub(1) as usize;
        let (region, entry) = match n.checked_sub(ENTRIES_IN_FIRST) {
            None => (0, n),
            Some(rest) => (1 + rest / ENTRIES, rest % ENTRIES),
        };
        Place { region: region as u32, entry: entry as u16 + 1 }
    }

    /// Where the entry is in its region, in bytes.
    pub fn offset(self) -> usize {
        entries_start(self.region) + (usize::from(self.entry) - 1) * 4
    }
}

/// Where the page numbers of a region start, in bytes.
pub fn entries_start(region: u32) -> usize {
    if region == 0 { AT_FIRST_ENTRIES } else { 0 }
}

/// The slot where the search for a page number starts.
pub fn first_slot(pgno: u32) -> u32 {
    pgno.wrapping_mul(383) & (SLOTS - 1)
}

/// The slot to look at after `slot`.
pub fn next_slot(slot: u32) -> u32 {
    (slot + 1) & (SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back_as_it_was_written() {
        let header = Header {
            change: 9,
            order: WordOrder::Big,
            page_size: PageSize::new(65536).ok(),
            last: FrameNo(77),
            pages: 12,
            frame_checksum: Checksum(1, 2),
            salts: Salts(3, 4),
        };
        let words = header.encode();
        assert_eq!(Header::decode(&words), Some(header));
        for at in 0..HEADER_WORDS {
            let mut bad = words;
            bad[at] ^= 0x100;
            assert_eq!(Header::decode(&bad), None, "word {at}");
        }
    }

    #[test]
    fn regions_begin_at_frames_4063_and_8159() {
        let at = |n| Place::of(FrameNo(n));
        assert_eq!(at(1), Place { region: 0, entry: 1 });
        assert_eq!(at(4062), Place { region: 0, entry: 4062 });
        assert_eq!(at(4063), Place { region: 1, entry: 1 });
        assert_eq!(at(4062 + 4096), Place { region: 1, entry: 4096 });
        assert_eq!(at(4062 + 4097), Place { region: 2, entry: 1 });
        assert_eq!(at(4062).offset() + 4, AT_HASH);
        assert_eq!(at(8158).offset() + 4, AT_HASH);
    }
}
