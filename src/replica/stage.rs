//! Pages of a commit that has not ended yet, in memory: each once, in its newest version.

use std::collections::HashMap;
use std::ops::Range;

use byteorder::{BigEndian, ByteOrder};

use crate::base::{Error, PageSize, Pgno, Result};

/// What a database begins with; its page size follows in 2 bytes, big-endian, 1 for 65536.
const MAGIC: &[u8] = b"SQLite format 3\0";
/// Where a database says which versions of SQLite may write and read it, in bytes from the start of page 1
/// (<https://www.sqlite.org/fileformat2.html#file_format_version_numbers>).
const AT_WRITE_VERSION: usize = 18;
const AT_READ_VERSION: usize = 19;
/// The schema cookie, which counts the changes of the schema.
const AT_SCHEMA_COOKIE: Range<usize> = 40..44;
/// WAL mode.
const WAL: u8 = 2;
/// A write version from the future: SQLite reads such a database, and refuses to write it.
const READ_ONLY: u8 = 3;

/// Bytes of the database header (<https://www.sqlite.org/fileformat2.html#the_database_header>).
pub(super) const DATABASE_HEADER: usize = 100;
/// The id that a new replica has while it is not finished, at [`AT_APPLICATION_ID`].
const UNFINISHED: u32 = 0x6c73_6e72;
const AT_PAGE_SIZE: usize = 16;
const AT_APPLICATION_ID: usize = 68;

/// Staged pages.
pub(super) struct Stage {
    size: PageSize,
    read_only: bool,
    slots: HashMap<Pgno, usize>,
    order: Vec<Pgno>,
    images: Vec<u8>,
}

impl Stage {
    /// An empty stage. Page 1 gets the read-only mark as it comes by, or loses it.
    pub fn new(size: PageSize, read_only: bool) -> Stage {
        Stage { size, read_only, slots: HashMap::new(), order: Vec::new(), images: Vec::new() }
    }

    /// Whether another page makes it larger than `bytes`.
    pub fn is_full(&self, bytes: usize) -> bool {
        !self.order.is_empty() && self.images.len() + self.size.bytes() > bytes
    }

    /// Adds a page, in place of an older version of it.
    pub fn put(&mut self, pgno: Pgno, image: &[u8]) {
        let bytes = self.size.bytes();
        let slot = *self.slots.entry(pgno).or_insert_with(|| {
            self.order.push(pgno);
            self.images.resize(self.images.len() + bytes, 0);
            self.order.len() - 1
        });
        let Some(place) = self.images.get_mut(slot * bytes..(slot + 1) * bytes) else { return };
        place.copy_from_slice(image);
        if pgno == Pgno::ONE {
            mark(place, self.read_only);
        }
    }

    /// Takes out pages beyond the end of a database of `pages` pages.
    pub fn cut(&mut self, pages: u32) {
        if self.order.iter().all(|pgno| pgno.get() <= pages) {
            return;
        }
        let mut kept = Stage::new(self.size, self.read_only);
        for (pgno, image) in self.pages().filter(|(pgno, _)| pgno.get() <= pages) {
            kept.put(pgno, image);
        }
        *self = kept;
    }

    /// The staged pages, in the order they first came.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = (Pgno, &[u8])> {
        self.order.iter().copied().zip(self.images.chunks_exact(self.size.bytes()))
    }

    /// Bytes of the images held.
    pub fn bytes(&self) -> usize {
        self.images.len()
    }

    /// How many pages are staged.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.order.clear();
        self.images.clear();
    }

    /// Size of its pages.
    pub fn page_size(&self) -> PageSize {
        self.size
    }
}

/// Fails if an image of page 1 does not begin like a database with pages of `size`
/// (<https://www.sqlite.org/fileformat2.html#the_database_header>).
pub(super) fn check_page_one(image: &[u8], size: PageSize) -> Result<()> {
    let (magic, rest) = image.split_at(MAGIC.len().min(image.len()));
    if magic != MAGIC {
        return Err(Error::corrupt("page 1 is no database header: it does not begin with 'SQLite format 3'"));
    }
    let stored = rest.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes));
    match PageSize::from_u16(stored) {
        Ok(found) if found == size => Ok(()),
        _ => Err(Error::corrupt(format!("page 1 is of a database with page size {stored}, expected {}", size.get()))),
    }
}

/// Sets or takes away the read-only mark in the image of page 1.
pub(super) fn mark(page_one: &mut [u8], read_only: bool) {
    if let Some(version) = page_one.get_mut(AT_WRITE_VERSION) {
        *version = if read_only { READ_ONLY } else { WAL };
    }
    if let Some(version) = page_one.get_mut(AT_READ_VERSION) {
        *version = WAL;
    }
}

/// Moves the schema cookie of page 1 on by `jump`.
pub(super) fn move_schema_cookie(page_one: &mut [u8], jump: u32) {
    if let Some(bytes) = page_one.get_mut(AT_SCHEMA_COOKIE) {
        let cookie = BigEndian::read_u32(bytes).wrapping_add(jump);
        BigEndian::write_u32(bytes, cookie);
    }
}

/// What the file of a new replica begins with until it is finished: the header and the empty schema of a database of one page,
/// in rollback mode and with the read-only mark.
pub(super) fn placeholder(size: PageSize) -> [u8; DATABASE_HEADER + 8] {
    let stored = size.to_u16().to_be_bytes();
    let mut page = [0; DATABASE_HEADER + 8];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = page.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    put(0, MAGIC);
    put(AT_PAGE_SIZE, &stored);
    // Versions, no reserved bytes, and the three fractions that are the same in every database.
    put(AT_WRITE_VERSION, &[READ_ONLY, 1, 0, 64, 32, 32]);
    // Change counter and size in pages, which the counter at 92 says to be valid; schema format 4; UTF-8.
    for (at, number) in [(24, 1), (28, 1), (44, 4), (56, 1), (AT_APPLICATION_ID, UNFINISHED), (92, 1), (96, 3_031_000)]
    {
        put(at, &u32::to_be_bytes(number));
    }
    // A leaf of a table without a cell; its content begins at the end of the page (0 for 65536).
    put(DATABASE_HEADER, &[0x0d, 0, 0, 0, 0]);
    put(DATABASE_HEADER + 5, &u16::try_from(size.get()).unwrap_or(0).to_be_bytes());
    page
}

/// Whether a database begins like a new replica that is not finished.
pub(super) fn is_placeholder(header: &[u8; DATABASE_HEADER]) -> bool {
    let sized = header.get(AT_PAGE_SIZE..AT_PAGE_SIZE + 2).and_then(|bytes| bytes.first_chunk());
    let Some(size) = sized.and_then(|bytes| PageSize::from_u16(u16::from_be_bytes(*bytes)).ok()) else { return false };
    placeholder(size).starts_with(header)
}

/// Whether an image of page 1, or what it begins with, is that of a database in WAL mode.
pub(super) fn is_in_wal_mode(page_one: &[u8]) -> bool {
    page_one.get(AT_READ_VERSION) == Some(&WAL)
}

/// Whether an image of page 1 has the read-only mark.
pub(super) fn is_marked(page_one: &[u8]) -> bool {
    page_one.get(AT_WRITE_VERSION) == Some(&READ_ONLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_held_once_in_its_newest_version() -> Result<()> {
        let mut stage = Stage::new(PageSize::new(512)?, false);
        for (n, byte) in [(2, 1), (3, 2), (2, 3)] {
            stage.put(Pgno::new(n)?, &[byte; 512]);
        }
        let seen: Vec<_> = stage.pages().map(|(pgno, image)| (pgno.get(), image[0])).collect();
        assert_eq!(seen, [(2, 3), (3, 2)]);
        stage.cut(2);
        assert_eq!(stage.pages().map(|(pgno, _)| pgno.get()).collect::<Vec<_>>(), [2]);
        assert_eq!((stage.len(), stage.bytes()), (1, 512));
        Ok(())
    }

    #[test]
    fn page_one_gets_the_read_only_mark() -> Result<()> {
        for (read_only, version) in [(true, 3), (false, 2)] {
            let mut stage = Stage::new(PageSize::new(512)?, read_only);
            stage.put(Pgno::ONE, &[9; 512]);
            let (_, image) = stage.pages().next().ok_or_else(|| Error::usage("no page"))?;
            assert_eq!((image[17], image[18], image[19], image[20]), (9, version, 2, 9));
        }
        Ok(())
    }
}
