//! Which pages of a whole database have come.

use std::collections::HashSet;

use crate::base::{Error, PageSize, Pgno, Result};

/// A set of page numbers. It takes memory for pages that came before those in front of them, and for no others: a number alone
/// asks for none.
pub struct Coverage {
    lock_page: Pgno,
    /// All pages up to this one have come.
    whole: u32,
    ahead: HashSet<u32>,
}

impl Coverage {
    /// The empty set, for pages of `size`. The lock-byte page never comes and counts as if it had.
    pub fn new(size: PageSize) -> Coverage {
        Coverage { lock_page: size.lock_page(), whole: 0, ahead: HashSet::new() }
    }

    /// Adds a page.
    pub fn add(&mut self, pgno: Pgno) {
        if Some(pgno.get()) == self.whole.checked_add(1) {
            self.whole = pgno.get();
            self.go_on();
        } else if pgno.get() > self.whole {
            self.ahead.insert(pgno.get());
        }
    }

    /// Takes in what follows now and was ahead before.
    fn go_on(&mut self) {
        while let Some(next) = self.whole.checked_add(1) {
            if next != self.lock_page.get() && !self.ahead.remove(&next) {
                return;
            }
            self.whole = next;
        }
    }

    /// Up to which page all have come.
    pub fn whole(&self) -> u32 {
        self.whole
    }

    /// Fails if a page of a database of `pages` pages has not come.
    pub fn check(&self, pages: u32) -> Result<()> {
        if self.whole >= pages {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "stream: a database of {pages} pages was to come whole, and page {} did not",
            self.whole.saturating_add(1)
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covering(size: u32, pages: impl IntoIterator<Item = u32>) -> Result<Coverage> {
        let mut coverage = Coverage::new(PageSize::new(size)?);
        for n in pages {
            coverage.add(Pgno::new(n)?);
        }
        Ok(coverage)
    }

    #[test]
    fn a_page_that_did_not_come_is_named() -> Result<()> {
        let mut coverage = covering(65536, (1..=100).chain(102..=129))?;
        assert!(coverage.check(100).is_ok());
        assert!(coverage.check(129).is_err_and(|e| e.to_string().contains("page 101 ")));
        coverage.add(Pgno::new(101)?);
        assert!(coverage.check(129).is_ok());
        assert!(coverage.check(130).is_err());
        Ok(())
    }

    #[test]
    fn the_lock_byte_page_is_not_waited_for() -> Result<()> {
        let lock = PageSize::new(65536)?.lock_page().get();
        covering(65536, (1..=lock + 1).filter(|n| *n != lock))?.check(lock + 1)?;
        covering(65536, (1..=lock + 1).rev().filter(|n| *n != lock))?.check(lock + 1)?;
        covering(65536, 1..lock)?.check(lock)
    }

    #[test]
    fn pages_come_in_any_order_up_to_the_last_there_can_be() -> Result<()> {
        let mut coverage = covering(512, [u32::MAX, 3, u32::MAX - 1, 1, 1, 3])?;
        assert_eq!((coverage.whole(), coverage.ahead.len()), (1, 3));
        coverage.add(Pgno::new(2)?);
        assert_eq!((coverage.whole(), coverage.ahead.len()), (3, 2));
        Ok(())
    }
}
