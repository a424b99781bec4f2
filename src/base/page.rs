//! Page sizes, page numbers and frame numbers.

use std::num::NonZeroU32;

use super::{Error, Result};

/// Size of a database page in bytes: a power of two from 512 to 65536
/// (<https://www.sqlite.org/fileformat2.html#pages>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize(u32);

impl PageSize {
    /// The page size of `bytes`, if that is one.
    pub fn new(bytes: u32) -> Result<PageSize> {
        if bytes.is_power_of_two() && (512..=65536).contains(&bytes) {
            return Ok(PageSize(bytes));
        }
        Err(Error::corrupt(format!("page size {bytes}: expected a power of two from 512 to 65536")))
    }

    /// The page size as a database header (offset 16) and the wal-index store it: 1 stands for 65536.
    pub fn from_u16(stored: u16) -> Result<PageSize> {
        PageSize::new(if stored == 1 { 65536 } else { u32::from(stored) })
    }

    /// The inverse of [`PageSize::from_u16`].
    pub fn to_u16(self) -> u16 {
        u16::try_from(self.0).unwrap_or(1)
    }

    /// In bytes.
    pub fn get(self) -> u32 {
        self.0
    }

    /// In bytes, as the size of a buffer.
    pub fn bytes(self) -> usize {
        self.0 as usize
    }

    /// The page that holds byte 1 GiB of the file: SQLite locks bytes in it and never stores anything there
    /// (<https://www.sqlite.org/fileformat2.html#the_lock_byte_page>).
    pub fn lock_page(self) -> Pgno {
        Pgno(NonZeroU32::MIN.saturating_add((1 << 30) / self.0))
    }
}

/// Number of a page of the database, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pgno(NonZeroU32);

impl Pgno {
    /// Page 1, which holds the database header.
    pub const ONE: Pgno = Pgno(NonZeroU32::MIN);

    /// Page `n`; pages are counted from 1.
    pub fn new(n: u32) -> Result<Pgno> {
        NonZeroU32::new(n).map(Pgno).ok_or_else(|| Error::corrupt("page number 0: pages are counted from 1"))
    }

    /// From 1.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// From 0, as a place in an array.
    pub fn slot(self) -> usize {
        self.0.get() as usize - 1
    }

    /// Where the page starts in the database file, in bytes.
    pub fn file_offset(self, size: PageSize) -> u64 {
        (u64::from(self.get()) - 1) * u64::from(size.get())
    }
}

/// Number of a frame of the WAL, from 1; 0 stands before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameNo(pub u32);

impl FrameNo {
    /// Before the first frame: an empty WAL.
    pub const ZERO: FrameNo = FrameNo(0);

    /// The frame after this one.
    pub fn next(self) -> FrameNo {
        FrameNo(self.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_from_512_to_65536_are_page_sizes() {
        for n in [512, 1024, 4096, 65536] {
            assert_eq!(PageSize::new(n).map(PageSize::get), Ok(n));
        }
        for n in [0, 1, 256, 513, 4095, 131_072, u32::MAX] {
            assert!(PageSize::new(n).is_err(), "{n}");
        }
        assert_eq!(PageSize::from_u16(1).map(PageSize::get), Ok(65536));
        assert_eq!(PageSize::new(65536).map(PageSize::to_u16), Ok(1));
    }

    #[test]
    fn the_lock_page_holds_byte_one_gibibyte() {
        let lock = |n| PageSize::new(n).map(|s| s.lock_page().get());
        assert_eq!(lock(512), Ok(2_097_153));
        assert_eq!(lock(4096), Ok(262_145));
        assert_eq!(lock(65536), Ok(16_385));
    }
}
