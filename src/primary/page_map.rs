//! Which commit changed each page last, and what every page sums up to.

use crate::base::{Lsn, PageSize, Pgno, limits};
use crate::format::checksum::PageChecksum;
use crate::store::{Checksums, Entry};

/// How many pages without a checksum a map has room for when it has none: a few commits bring as many again.
const FEW: usize = limits::scaled(1 << 14, 2);

/// The newest LSN and the checksum of every page, 16 bytes a page. A page that changed has no checksum until somebody has
/// read it.
pub(super) struct PageMap {
    newest: Vec<Lsn>,
    checksums: Checksums,
    lock_page: Pgno,
    /// Where pages without a checksum are looked for: at the end of this, as far as they still have none.
    unread: Vec<Pgno>,
}

impl PageMap {
    /// A map of `pages` pages that are older than everything, and of which nothing is known.
    pub fn new(pages: u32, size: PageSize) -> PageMap {
        let checksums = Checksums::new(0, size);
        let mut map = PageMap { newest: Vec::new(), checksums, lock_page: size.lock_page(), unread: Vec::new() };
        map.resize(pages);
        map
    }

    /// A map as it was kept.
    pub fn of(entries: &[Entry], size: PageSize) -> PageMap {
        let mut map = PageMap::new(0, size);
        map.newest = entries.iter().map(|(lsn, _)| *lsn).collect();
        map.checksums.resize(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        for (n, (_, checksum)) in (1..).zip(entries) {
            let Ok(pgno) = Pgno::new(n) else { continue };
            match checksum {
                Some(_) => map.checksums.set(pgno, *checksum),
                None => map.unread.push(pgno),
            }
        }
        map.unread.reverse();
        map
    }

    /// What is to be kept of it.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let pages = (1..).map_while(|n| Pgno::new(n).ok());
        pages.zip(&self.newest).map(|(pgno, lsn)| (*lsn, self.checksums.get(pgno)))
    }

    /// Database size in pages.
    pub fn pages(&self) -> u32 {
        self.checksums.pages()
    }

    /// Sets the database size. Pages beyond it are forgotten; pages that appear are older than everything.
    pub fn resize(&mut self, pages: u32) {
        let had = self.pages();
        self.newest.resize(pages as usize, Lsn::ZERO);
        self.checksums.resize(pages);
        let grown = (had.saturating_add(1)..=pages).rev().filter_map(|n| Pgno::new(n).ok());
        self.unread.extend(grown);
    }

    /// Takes all pages for older than everything: LSNs of another generation cannot be compared.
    pub fn forget_changes(&mut self) {
        self.newest.fill(Lsn::ZERO);
    }

    /// Records that `lsn` changed page `pgno`. Pages beyond the end are no pages.
    pub fn changed(&mut self, pgno: Pgno, lsn: Lsn) {
        let Some(newest) = self.newest.get_mut(pgno.slot()) else { return };
        *newest = lsn;
        if self.checksums.get(pgno).is_some() {
            self.checksums.set(pgno, None);
            self.unread.push(pgno);
        }
    }

    /// Records that page `pgno` changed at `lsn`, or since then.
    pub fn changed_before(&mut self, pgno: Pgno, lsn: Lsn) {
        let newest = self.newest(pgno).unwrap_or_default();
        self.changed(pgno, newest.max(lsn));
    }

    /// Records what page `pgno` sums up to since its last change.
    pub fn read(&mut self, pgno: Pgno, checksum: PageChecksum) {
        self.checksums.set(pgno, Some(checksum));
        if self.checksums.unknown() == 0 {
            self.unread.clear();
            self.unread.shrink_to(FEW);
        }
    }

    /// The same for a page that may have changed unseen, by `now` at the latest.
    pub fn read_unwatched(&mut self, pgno: Pgno, checksum: PageChecksum, now: Lsn) {
        if self.checksums.get(pgno) != Some(checksum) {
            self.changed(pgno, now);
        }
        self.read(pgno, checksum);
    }

    /// The LSN of the newest change of page `pgno`; none for a page beyond the end.
    pub fn newest(&self, pgno: Pgno) -> Option<Lsn> {
        self.newest.get(pgno.slot()).copied()
    }

    /// What page `pgno` sums up to, if that is known.
    pub fn checksum(&self, pgno: Pgno) -> Option<PageChecksum> {
        self.checksums.get(pgno)
    }

    /// What the database sums up to, once every page was read.
    pub fn total(&self) -> Option<u64> {
        self.checksums.total()
    }

    /// How many pages have to be read for that.
    pub fn unread(&self) -> u32 {
        self.checksums.unknown()
    }

    /// Up to `most` of them.
    pub fn take_unread(&mut self, most: usize) -> Vec<Pgno> {
        let mut pages = Vec::new();
        while pages.len() < most
            && let Some(pgno) = self.unread.pop()
        {
            let is_page = pgno != self.lock_page && pgno.get() <= self.pages();
            if is_page && self.checksums.get(pgno).is_none() {
                pages.push(pgno);
            }
        }
        pages
    }

    /// Gives back pages that [`PageMap::take_unread`] gave and that could not be read.
    pub fn put_back(&mut self, pages: &[Pgno]) {
        self.unread.extend(pages);
    }

    /// Pages from number `from` on that changed after `since`; all of them when `since` is none. The lock-byte page is
    /// never among them.
    pub fn changed_since(&self, since: Option<Lsn>, from: Pgno) -> impl Iterator<Item = Pgno> {
        let (rest, lock_page) = (self.newest.get(from.slot()..).unwrap_or_default(), self.lock_page);
        let numbered = (from.get()..).zip(rest).filter_map(|(n, lsn)| Pgno::new(n).ok().map(|pgno| (pgno, *lsn)));
        numbered
            .filter(move |(pgno, lsn)| *pgno != lock_page && since.is_none_or(|since| *lsn > since))
            .map(|(pgno, _)| pgno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{FrameNo, Result};

    fn numbers(pages: impl Iterator<Item = Pgno>) -> Vec<u32> {
        pages.map(Pgno::get).collect()
    }

    fn map(pages: u32) -> Result<PageMap> {
        Ok(PageMap::new(pages, PageSize::new(4096)?))
    }

    #[test]
    fn only_pages_changed_since_are_named() -> Result<()> {
        let mut map = map(4)?;
        map.changed(Pgno::new(2)?, Lsn::new(0, FrameNo(5)));
        map.changed(Pgno::new(4)?, Lsn::new(1, FrameNo(1)));
        map.changed(Pgno::new(9)?, Lsn::new(1, FrameNo(1)));
        assert_eq!(numbers(map.changed_since(None, Pgno::ONE)), [1, 2, 3, 4]);
        assert_eq!(numbers(map.changed_since(Some(Lsn::ZERO), Pgno::ONE)), [2, 4]);
        assert_eq!(numbers(map.changed_since(Some(Lsn::new(0, FrameNo(5))), Pgno::ONE)), [4]);
        assert_eq!(numbers(map.changed_since(Some(Lsn::ZERO), Pgno::new(3)?)), [4]);
        map.resize(3);
        assert_eq!(numbers(map.changed_since(Some(Lsn::ZERO), Pgno::ONE)), [2]);
        Ok(())
    }

    #[test]
    fn the_lock_byte_page_is_never_named() -> Result<()> {
        let size = PageSize::new(65536)?;
        let lock = size.lock_page();
        let mut map = PageMap::new(lock.get() + 1, size);
        assert_eq!(numbers(map.changed_since(None, Pgno::new(lock.get() - 1)?)), [lock.get() - 1, lock.get() + 1]);
        let unread = map.take_unread(usize::MAX);
        assert_eq!(unread.len(), lock.slot() + 1);
        assert!(!unread.contains(&lock));
        Ok(())
    }

    #[test]
    fn a_page_that_changed_is_read_again_before_the_total_is_known() -> Result<()> {
        let mut map = map(2)?;
        let sum = |pgno, content| PageChecksum::of(pgno, &[content; 4096]);
        for pgno in map.take_unread(10) {
            map.read(pgno, sum(pgno, 1));
        }
        let before = map.total();
        assert!(before.is_some());
        map.changed(Pgno::ONE, Lsn::new(0, FrameNo(1)));
        assert_eq!((map.total(), map.unread()), (None, 1));
        assert_eq!(numbers(map.take_unread(10).into_iter()), [1]);
        map.read(Pgno::ONE, sum(Pgno::ONE, 1));
        assert_eq!((map.total(), map.unread()), (before, 0));
        Ok(())
    }

    #[test]
    fn a_page_that_is_as_it_was_has_not_changed_unseen() -> Result<()> {
        let (mut map, now) = (map(2)?, Lsn::new(3, FrameNo(0)));
        let two = Pgno::new(2)?;
        let sum = |pgno, content| PageChecksum::of(pgno, &[content; 4096]);
        map.read(Pgno::ONE, sum(Pgno::ONE, 1));
        map.read(two, sum(two, 1));
        let kept: Vec<Entry> = map.entries().collect();
        let mut map = PageMap::of(&kept, PageSize::new(4096)?);
        assert_eq!(map.unread(), 0);
        map.read_unwatched(Pgno::ONE, sum(Pgno::ONE, 1), now);
        map.read_unwatched(two, sum(two, 2), now);
        assert_eq!(numbers(map.changed_since(Some(Lsn::ZERO), Pgno::ONE)), [2]);
        assert_eq!(map.newest(two), Some(now));
        Ok(())
    }
}
