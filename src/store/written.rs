//! What the pages of a file sum up to, computed as they are written into it.

use std::collections::HashMap;

use super::Checksums;
use super::coverage::Coverage;
use crate::base::{PageSize, Pgno, Result};
use crate::format::checksum::PageChecksum;

/// The checksums of the pages written, each as it was written last.
pub struct Written {
    size: PageSize,
    coverage: Coverage,
    /// Of the pages up to which all were written.
    checksums: Checksums,
    /// Of the others.
    ahead: HashMap<Pgno, PageChecksum>,
}

impl Written {
    /// No page of `size` bytes yet.
    pub fn new(size: PageSize) -> Written {
        Written { size, coverage: Coverage::new(size), checksums: Checksums::new(0, size), ahead: HashMap::new() }
    }

    /// Takes in the consecutive pages from `first` on.
    pub fn add(&mut self, first: Pgno, images: &[u8]) -> Result<()> {
        for (n, image) in (u64::from(first.get())..).zip(images.chunks_exact(self.size.bytes())) {
            let pgno = Pgno::new(u32::try_from(n).unwrap_or(0))?;
            let checksum = PageChecksum::of(pgno, image);
            self.coverage.add(pgno);
            if pgno.get() > self.coverage.whole() {
                self.ahead.insert(pgno, checksum);
                continue;
            }
            if self.checksums.pages() < pgno.get() {
                self.checksums.resize(pgno.get());
            }
            self.checksums.set(pgno, Some(checksum));
            self.ahead.remove(&pgno);
        }
        Ok(())
    }

    /// The checksums of a database of `pages` pages.
    ///
    /// # Errors
    /// [`crate::base::Kind::Corrupt`] if one of them was not written.
    pub fn whole(mut self, pages: u32) -> Result<Checksums> {
        self.coverage.check(pages)?;
        self.checksums.resize(pages);
        self.ahead.into_iter().for_each(|(pgno, checksum)| self.checksums.set(pgno, Some(checksum)));
        Ok(self.checksums)
    }
}
