//! Which commit changed each page last.

use crate::base::{Lsn, Pgno};

/// The LSN of the newest frame of every page, 8 bytes a page. Pages not changed since serving began have [`Lsn::ZERO`].
pub(super) struct PageMap {
    newest: Vec<Lsn>,
}

impl PageMap {
    /// A map of `pages` pages of which none has changed yet.
    pub fn new(pages: u32) -> PageMap {
        PageMap { newest: vec![Lsn::ZERO; pages as usize] }
    }

    /// Sets the database size. Pages beyond it are forgotten; pages that appear are older than everything.
    pub fn resize(&mut self, pages: u32) {
        self.newest.resize(pages as usize, Lsn::ZERO);
    }

    /// Records that `lsn` changed page `pgno`. Pages beyond the end are no pages.
    pub fn changed(&mut self, pgno: Pgno, lsn: Lsn) {
        if let Some(newest) = self.newest.get_mut(pgno.slot()) {
            *newest = lsn;
        }
    }

    /// The newest frame of page `pgno`; none for a page beyond the end.
    pub fn newest(&self, pgno: Pgno) -> Option<Lsn> {
        self.newest.get(pgno.slot()).copied()
    }

    /// Pages from number `from` on that changed after `since`; all of them when `since` is none. The lock-byte page is
    /// never among them.
    pub fn changed_since(&self, since: Option<Lsn>, from: Pgno, lock_page: Pgno) -> impl Iterator<Item = Pgno> {
        let rest = self.newest.get(from.slot()..).unwrap_or_default();
        let numbered = (from.get()..).zip(rest).filter_map(|(n, lsn)| Pgno::new(n).ok().map(|pgno| (pgno, *lsn)));
        numbered
            .filter(move |(pgno, lsn)| *pgno != lock_page && since.is_none_or(|since| *lsn > since))
            .map(|(pgno, _)| pgno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{FrameNo, PageSize, Result};

    fn numbers(pages: impl Iterator<Item = Pgno>) -> Vec<u32> {
        pages.map(Pgno::get).collect()
    }

    #[test]
    fn only_pages_changed_since_are_named() -> Result<()> {
        let lock = PageSize::new(4096)?.lock_page();
        let mut map = PageMap::new(4);
        map.changed(Pgno::new(2)?, Lsn::new(0, FrameNo(5)));
        map.changed(Pgno::new(4)?, Lsn::new(1, FrameNo(1)));
        map.changed(Pgno::new(9)?, Lsn::new(1, FrameNo(1)));
        assert_eq!(numbers(map.changed_since(None, Pgno::ONE, lock)), [1, 2, 3, 4]);
        assert_eq!(numbers(map.changed_since(Some(Lsn::ZERO), Pgno::ONE, lock)), [2, 4]);
        assert_eq!(numbers(map.changed_since(Some(Lsn::new(0, FrameNo(5))), Pgno::ONE, lock)), [4]);
        assert_eq!(numbers(map.changed_since(Some(Lsn::ZERO), Pgno::new(3)?, lock)), [4]);
        map.resize(3);
        assert_eq!(numbers(map.changed_since(Some(Lsn::ZERO), Pgno::ONE, lock)), [2]);
        Ok(())
    }

    #[test]
    fn the_lock_byte_page_is_never_named() -> Result<()> {
        let lock = PageSize::new(65536)?.lock_page();
        let map = PageMap::new(lock.get() + 1);
        assert_eq!(
            numbers(map.changed_since(None, Pgno::new(lock.get() - 1)?, lock)),
            [lock.get() - 1, lock.get() + 1]
        );
        Ok(())
    }
}
