//! Which pages of a whole database have come.

use crate::base::{Error, PageSize, Pgno, Result};

/// A set of page numbers, one bit each.
#[derive(Default)]
pub(super) struct Coverage {
    words: Vec<u64>,
}

impl Coverage {
    /// Adds `count` pages from `first` on.
    pub fn add(&mut self, first: Pgno, count: usize) {
        for slot in first.slot()..first.slot().saturating_add(count) {
            let word = slot / 64;
            if word >= self.words.len() {
                self.words.resize(word + 1, 0);
            }
            if let Some(word) = self.words.get_mut(word) {
                *word |= 1 << (slot % 64);
            }
        }
    }

    /// Fails if a page of a database of `pages` pages has not come. The lock-byte page never does.
    pub fn check(&self, pages: u32, size: PageSize) -> Result<()> {
        let has = |pgno: Pgno| self.words.get(pgno.slot() / 64).is_some_and(|word| word >> (pgno.slot() % 64) & 1 == 1);
        let mut due = (1..=pages).filter_map(|n| Pgno::new(n).ok()).filter(|pgno| *pgno != size.lock_page());
        match due.find(|pgno| !has(*pgno)) {
            None => Ok(()),
            Some(missing) => Err(Error::corrupt(format!(
                "stream: a database of {pages} pages was to come whole, and page {} did not",
                missing.get()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_did_not_come_is_named() -> Result<()> {
        let size = PageSize::new(65536)?;
        let mut coverage = Coverage::default();
        coverage.add(Pgno::ONE, 100);
        coverage.add(Pgno::new(102)?, 28);
        assert!(coverage.check(100, size).is_ok());
        assert!(coverage.check(129, size).is_err_and(|e| e.to_string().contains("page 101 ")));
        coverage.add(Pgno::new(101)?, 1);
        assert!(coverage.check(129, size).is_ok());
        Ok(())
    }

    #[test]
    fn the_lock_byte_page_is_not_waited_for() -> Result<()> {
        let size = PageSize::new(65536)?;
        let mut coverage = Coverage::default();
        coverage.add(Pgno::ONE, size.lock_page().slot());
        coverage.add(Pgno::new(size.lock_page().get() + 1)?, 1);
        coverage.check(size.lock_page().get() + 1, size)
    }
}
