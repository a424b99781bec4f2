//! A new replica, written straight into its file.
//!
//! Nobody can read the file meanwhile: it is locked exclusively. It begins with a [`placeholder`]; what page 1 really begins with
//! comes last, after all else is durable. So what a crash leaves is an empty database to everyone, which no SQLite writes
//! to, and the next attempt begins again. (A file that is no database would not do: newer SQLites read the schema before
//! they run any statement, the one that would begin again included.)

use std::time::Duration;

use super::anew::{check_new, lock_checked};
use super::database::Database;
use super::stage::{check_page_one, mark, placeholder};
use crate::base::{Error, Kind, PageSize, Pgno, Result, limits};
use crate::sqlite::{Connection, Exclusive, File, Writeback};
use crate::store::{Checksums, Written};

/// How long those who read the empty file are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much of page 1 comes last: what every disk writes as a whole or not at all.
const SECTOR: usize = 512;

/// What a hole reads as.
static ZEROS: [u8; limits::scaled(1 << 12, 100)] = [0; limits::scaled(1 << 12, 100)];

/// A file being filled.
pub(super) struct Bootstrap<'c> {
    connection: &'c Connection,
    file: File<'c>,
    size: PageSize,
    read_only: bool,
    page_one: Option<Vec<u8>>,
    written: Written,
    /// Up to where the file was written to, in bytes. Behind it are zeros, or nothing.
    end: u64,
    writeback: Writeback,
    finished: bool,
    _lock: Exclusive<'c>,
}

impl<'c> Bootstrap<'c> {
    /// Locks and empties the file of a connection that has read nothing from it, if it still holds nothing then.
    pub fn begin(database: &'c Database, size: PageSize, read_only: bool) -> Result<Bootstrap<'c>> {
        let connection = &database.connection;
        let file = connection.database()?;
        // The header that was read without the lock may be that of a transaction under way.
        let (lock, ()) = lock_checked(database, PATIENCE, check_new)?;
        let writeback = Writeback::of(connection.path());
        let begun = Bootstrap {
            connection,
            file,
            size,
            read_only,
            page_one: None,
            written: Written::new(size),
            end: 0,
            writeback,
            finished: false,
            _lock: lock,
        };
        file.truncate(0)?;
        file.write(0, &placeholder(size))?;
        // Before anything else is in the file.
        file.sync()?;
        Ok(begun)
    }

    /// Writes `images`, the consecutive pages from `first` on. Zeros that nothing was written over yet stay a hole.
    pub fn write(&mut self, first: Pgno, images: &[u8]) -> Result<()> {
        self.written.add(first, images)?;
        let (offset, rest) = match images.split_at_checked(self.size.bytes()) {
            Some((page_one, rest)) if first == Pgno::ONE => {
                self.page_one = Some(page_one.to_vec());
                (u64::from(self.size.get()), rest)
            }
            _ => (first.file_offset(self.size), images),
        };
        if offset >= self.end && rest.chunks(ZEROS.len()).all(|piece| ZEROS.starts_with(piece)) {
            return Ok(());
        }
        self.end = self.end.max(offset + rest.len() as u64);
        self.file.write(offset, rest)?;
        self.writeback.written(self.end);
        Ok(())
    }

    /// Makes the database of `pages` pages whole and durable, if the pages written sum up to
    /// `expected`. Returns their checksums. `claim` records whose replica it is.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if they do not, or if a page never came.
    pub fn finish_checked(
        mut self,
        pages: u32,
        expected: Option<u64>,
        claim: impl FnOnce() -> Result<()>,
    ) -> Result<Checksums> {
        let checksums = std::mem::replace(&mut self.written, Written::new(self.size)).whole(pages)?;
        match (expected, checksums.total()) {
            (Some(expected), found) if found != Some(expected) => Err(not_as_sent(expected, found)),
            _ => self.finish(pages, claim).map(|()| checksums),
        }
    }

    /// Makes the database of `pages` pages whole and durable, for a stream that does not say what
    /// they sum up to. Returns their checksums, if each of them came. `claim` records whose replica it is.
    pub fn finish_unchecked(mut self, pages: u32, claim: impl FnOnce() -> Result<()>) -> Result<Option<Checksums>> {
        let checksums = std::mem::replace(&mut self.written, Written::new(self.size)).whole(pages).ok();
        self.finish(pages, claim).map(|()| checksums)
    }

    fn finish(mut self, pages: u32, claim: impl FnOnce() -> Result<()>) -> Result<()> {
        let Some(mut page_one) = self.page_one.take() else {
            return Err(Error::new(Kind::Corrupt, "stream: a new database without its page 1"));
        };
        check_page_one(&page_one, self.size).map_err(|e| e.within("stream"))?;
        mark(&mut page_one, self.read_only);
        let (start, rest) = page_one.split_at(SECTOR.min(page_one.len()));
        self.file.truncate(u64::from(pages) * u64::from(self.size.get()))?;
        self.file.write(SECTOR as u64, rest)?;
        self.file.sync()?;
        // Not before: a file that is removed before it is finished leaves nothing that says whose the next one is. Not after: a
        // replica that nobody owns would be refused.
        claim()?;
        self.file.write(0, start)?;
        self.file.sync()?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Bootstrap<'_> {
    /// A file that came to nothing is empty again, as it was for everybody who looks at it; or as good as empty.
    fn drop(&mut self) {
        if self.finished || !self.connection.is_usable() {
            return;
        }
        let emptied = self.file.truncate(0).or_else(|_| self.file.write(0, &placeholder(self.size)));
        if let Err(error) = emptied {
            log::warn!("emptying a replica that was not finished: {error}");
        }
    }
}

fn not_as_sent(expected: u64, found: Option<u64>) -> Error {
    Error::corrupt(format!(
        "stream: the pages that came sum up to {:016x}, and those of the upstream to {expected:016x}",
        found.unwrap_or(0)
    ))
}
