//! What the pages of one database sum up to.

use crate::base::{PageSize, Pgno};
use crate::format::checksum::{PageChecksum, of_database};

/// The checksum of every page, as far as it is known, and of all of them together; 8 bytes a page.
pub struct Checksums {
    pages: Vec<Option<PageChecksum>>,
    lock_page: Pgno,
    /// Exclusive or of all that are known.
    sum: u64,
    /// How many are not.
    unknown: u32,
}

impl Checksums {
    /// For a database of `pages` pages of which nothing is known.
    pub fn new(pages: u32, size: PageSize) -> Checksums {
        let mut checksums = Checksums { pages: Vec::new(), lock_page: size.lock_page(), sum: 0, unknown: 0 };
        checksums.resize(pages);
        checksums
    }

    /// Database size in pages.
    pub fn pages(&self) -> u32 {
        u32::try_from(self.pages.len()).unwrap_or(u32::MAX)
    }

    /// Those of all pages, from the first on.
    pub fn iter(&self) -> impl Iterator<Item = Option<PageChecksum>> {
        self.pages.iter().copied()
    }

    /// How many pages are not known. The lock-byte page holds nothing to be known.
    pub fn unknown(&self) -> u32 {
        self.unknown
    }

    /// That of page `pgno`, if it is known.
    pub fn get(&self, pgno: Pgno) -> Option<PageChecksum> {
        self.pages.get(pgno.slot()).copied().flatten()
    }

    /// Sets that of page `pgno`. Pages beyond the end, and the lock-byte page, are none.
    pub fn set(&mut self, pgno: Pgno, checksum: Option<PageChecksum>) {
        if pgno == self.lock_page {
            return;
        }
        let Some(place) = self.pages.get_mut(pgno.slot()) else { return };
        let old = std::mem::replace(place, checksum);
        self.sum ^= value(old) ^ value(checksum);
        self.unknown = self.unknown + u32::from(checksum.is_none()) - u32::from(old.is_none());
    }

    /// Sets the database size. Pages that appear are not known.
    pub fn resize(&mut self, pages: u32) {
        let had = self.pages();
        for gone in pages_between(pages, had, self.lock_page) {
            let checksum = self.get(gone);
            self.sum ^= value(checksum);
            self.unknown -= u32::from(checksum.is_none());
        }
        self.pages.resize(pages as usize, None);
        self.unknown += count_between(had, pages, self.lock_page);
    }

    /// The checksum of the database, once all pages are known.
    pub fn total(&self) -> Option<u64> {
        (self.unknown == 0).then(|| of_database(self.sum))
    }

    /// What the checksum of the database will be when `changes`, each page once, have led it to `pages` pages; none when a page
    /// is not known then.
    pub fn total_after(&self, changes: impl Iterator<Item = (Pgno, PageChecksum)>, pages: u32) -> Option<u64> {
        let (mut sum, had) = (self.sum, self.pages());
        let mut unknown = u64::from(self.unknown) + u64::from(count_between(had, pages, self.lock_page));
        for gone in pages_between(pages, had, self.lock_page) {
            sum ^= value(self.get(gone));
            unknown -= u64::from(self.get(gone).is_none());
        }
        for (pgno, checksum) in changes.filter(|(pgno, _)| pgno.get() <= pages && *pgno != self.lock_page) {
            sum ^= value(self.get(pgno)) ^ checksum.get();
            unknown -= u64::from(self.get(pgno).is_none());
        }
        (unknown == 0).then(|| of_database(sum))
    }
}

/// Pages `from` + 1 to `to`, without the lock-byte page.
fn pages_between(from: u32, to: u32, lock_page: Pgno) -> impl Iterator<Item = Pgno> {
    let pages = (from.saturating_add(1)..=to).filter_map(|n| Pgno::new(n).ok());
    pages.filter(move |pgno| *pgno != lock_page)
}

/// How many there are of them.
fn count_between(from: u32, to: u32, lock_page: Pgno) -> u32 {
    let with_lock_page = from < lock_page.get() && lock_page.get() <= to;
    to.saturating_sub(from) - u32::from(with_lock_page)
}

fn value(checksum: Option<PageChecksum>) -> u64 {
    checksum.map_or(0, PageChecksum::get)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Result;

    fn page(n: u32, content: u8) -> Result<(Pgno, PageChecksum)> {
        let pgno = Pgno::new(n)?;
        Ok((pgno, PageChecksum::of(pgno, &[content; 512])))
    }

    fn known(contents: &[u8]) -> Result<Checksums> {
        let mut checksums = Checksums::new(contents.len() as u32, PageSize::new(512)?);
        for (n, content) in (1..).zip(contents) {
            let (pgno, checksum) = page(n, *content)?;
            checksums.set(pgno, Some(checksum));
        }
        Ok(checksums)
    }

    #[test]
    fn the_total_is_that_of_the_pages_however_it_came_about() -> Result<()> {
        let expected = known(&[1, 2, 3])?.total();
        assert!(expected.is_some());
        let mut grown = known(&[1, 9])?;
        grown.resize(3);
        assert_eq!(grown.total(), None);
        for (pgno, checksum) in [page(3, 3)?, page(2, 2)?, page(4, 4)?] {
            grown.set(pgno, Some(checksum));
        }
        assert_eq!((grown.total(), grown.unknown()), (expected, 0));
        let mut cut = known(&[1, 2, 3, 4])?;
        cut.resize(3);
        assert_eq!(cut.total(), expected);
        cut.set(Pgno::new(2)?, None);
        assert_eq!((cut.total(), cut.unknown()), (None, 1));
        cut.resize(1);
        assert_eq!(cut.total(), known(&[1])?.total());
        Ok(())
    }

    #[test]
    fn the_total_of_a_commit_is_known_before_it_is_made() -> Result<()> {
        let before = known(&[1, 2, 3, 4])?;
        let after = |changes: &[(Pgno, PageChecksum)], pages| before.total_after(changes.iter().copied(), pages);
        assert_eq!(after(&[page(2, 7)?], 4), known(&[1, 7, 3, 4])?.total());
        assert_eq!(after(&[page(2, 7)?, page(4, 7)?], 3), known(&[1, 7, 3])?.total());
        assert_eq!(after(&[page(5, 7)?], 5), known(&[1, 2, 3, 4, 7])?.total());
        assert_eq!(after(&[page(6, 7)?], 6), None);
        Ok(())
    }

    #[test]
    fn the_lock_byte_page_holds_nothing() -> Result<()> {
        let size = PageSize::new(65536)?;
        let lock = size.lock_page();
        let mut checksums = Checksums::new(lock.get(), size);
        assert_eq!(checksums.unknown(), lock.get() - 1);
        checksums.set(lock, Some(PageChecksum::of(lock, &[1])));
        assert_eq!((checksums.get(lock), checksums.unknown()), (None, lock.get() - 1));
        checksums.resize(lock.get() + 1);
        assert_eq!(checksums.unknown(), lock.get());
        checksums.resize(lock.get());
        assert_eq!(checksums.unknown(), lock.get() - 1);
        Ok(())
    }
}
