//! A file that a connection has open, reached through its VFS methods (<https://www.sqlite.org/c3ref/io_methods.html>).

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use sqlite3ext_sys::{sqlite3_file, sqlite3_io_methods};

use super::Connection;
use super::api::failure;
use crate::base::{Error, Kind, Result, limits};

const OK: c_int = 0;
const SHORT_READ: c_int = 10 | (2 << 8);
const SYNC_NORMAL: c_int = 2;
/// Most bytes given to one xRead or xWrite: SQLite never asks for more than a page, and its unix VFS takes only the low 17
/// bits of the amount.
const PIECE: usize = limits::scaled(1 << 16, 1000);
const BUSY: c_int = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(1);
const LOCK_SHARED: c_int = 1;
const LOCK_RESERVED: c_int = 2;
const LOCK_EXCLUSIVE: c_int = 4;

/// A file of a [`Connection`], valid while the connection is borrowed.
#[derive(Clone, Copy)]
pub struct File<'c> {
    pub(super) raw: NonNull<sqlite3_file>,
    connection: &'c Connection,
    name: &'static str,
}

impl<'c> File<'c> {
    /// Wraps a file of a connection, called `name` in errors; None if it is not open.
    ///
    /// # Safety
    /// `raw` is null or points to a file that lives as long as `'c`.
    pub(super) unsafe fn new(
        raw: *mut sqlite3_file,
        connection: &'c Connection,
        name: &'static str,
    ) -> Option<File<'c>> {
        let raw = NonNull::new(raw)?;
        // SAFETY: the caller vouches for the pointer; an unopened file has null methods.
        let open = unsafe { !raw.as_ref().pMethods.is_null() };
        open.then_some(File { raw, connection, name })
    }

    /// Fails with what was being done to which file, unless `rc` says that it was done.
    pub(super) fn check(&self, doing: &str, rc: c_int) -> Result<()> {
        if rc == OK {
            return Ok(());
        }
        Err(failure(format!("litestream: {}: {doing} {}", self.connection.path().display(), self.name), rc, None))
    }

    /// Its methods.
    pub(super) fn methods(&self) -> &sqlite3_io_methods {
        // SAFETY: checked not null in `new`; the table is static to the VFS.
        unsafe { &*self.raw.as_ref().pMethods }
    }

    /// Size in bytes.
    pub fn size(&self) -> Result<u64> {
        let mut size = 0;
        // SAFETY: an open file has xFileSize, which writes one integer.
        let rc = unsafe { self.methods().xFileSize.map_or(1, |f| f(self.raw.as_ptr(), &mut size)) };
        self.check("asking for the size of", rc)?;
        Ok(u64::try_from(size).unwrap_or(0))
    }

    /// Fills `out` from `offset` on. What lies past the end of the file reads as zeros, as it does for SQLite.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        for (i, piece) in out.chunks_mut(PIECE).enumerate() {
            let (length, offset) = amounts(piece.len(), offset + (i * PIECE) as u64)?;
            let to = piece.as_mut_ptr().cast::<c_void>();
            // SAFETY: an open file has xRead, which writes exactly `length` bytes (zeros past the end).
            let rc = unsafe { self.methods().xRead.map_or(1, |f| f(self.raw.as_ptr(), to, length, offset)) };
            if rc != SHORT_READ {
                self.check("reading", rc)?;
            }
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            let (length, offset) = amounts(piece.len(), offset + (i * PIECE) as u64)?;
            let from = piece.as_ptr().cast::<c_void>();
            // SAFETY: an open file has xWrite, which reads exactly `length` bytes.
            let rc = unsafe { self.methods().xWrite.map_or(1, |f| f(self.raw.as_ptr(), from, length, offset)) };
            self.check("writing", rc)?;
        }
        Ok(())
    }

    /// Cuts the file to `size` bytes.
    pub fn truncate(&self, size: u64) -> Result<()> {
        let (_, size) = amounts(0, size)?;
        // SAFETY: an open file has xTruncate.
        let rc = unsafe { self.methods().xTruncate.map_or(1, |f| f(self.raw.as_ptr(), size)) };
        self.check("truncating", rc)
    }

    /// Waits until what was written is durable.
    pub fn sync(&self) -> Result<()> {
        // SAFETY: an open file has xSync.
        let rc = unsafe { self.methods().xSync.map_or(1, |f| f(self.raw.as_ptr(), SYNC_NORMAL)) };
        self.check("syncing", rc)
    }

    /// Locks the database file against everyone, readers too, until the guard goes
    /// (<https://www.sqlite.org/lockingv3.html>). Only for a file that no connection of this process reads. Others that read
    /// are waited for up to `patience`; none can begin to meanwhile.
    pub fn lock_exclusive(&self, patience: Duration) -> Result<Exclusive<'c>> {
        let exclusive = Exclusive { file: *self };
        let deadline = Instant::now() + patience;
        // Reserved first: a transaction that writes ends as it would without us, and only new ones wait.
        for level in [LOCK_SHARED, LOCK_RESERVED, LOCK_EXCLUSIVE] {
            loop {
                // SAFETY: the levels are taken in the order xLock prescribes; a failed one leaves what was held, which the
                // guard gives back.
                let rc = unsafe { self.methods().xLock.map_or(1, |f| f(self.raw.as_ptr(), level)) };
                if rc != BUSY || Instant::now() >= deadline {
                    self.check("locking", rc)?;
                    break;
                }
                std::thread::sleep(BETWEEN_TRIES);
            }
        }
        Ok(exclusive)
    }
}

/// An exclusive lock on a database file; given back when dropped.
pub struct Exclusive<'c> {
    file: File<'c>,
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        if !self.file.connection.is_usable() {
            return;
        }
        // SAFETY: unlocking to SQLITE_LOCK_NONE (0) is allowed from any level.
        unsafe { self.file.methods().xUnlock.map(|f| f(self.file.raw.as_ptr(), 0)) };
    }
}

fn amounts(length: usize, offset: u64) -> Result<(c_int, i64)> {
    match (c_int::try_from(length), i64::try_from(offset)) {
        (Ok(length), Ok(offset)) => Ok((length, offset)),
        _ => Err(Error::new(Kind::Internal, format!("{length} bytes at {offset} are beyond what a file can hold"))),
    }
}
