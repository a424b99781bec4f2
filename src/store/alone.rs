//! Whether the locks on a database can be relied on: one SQLite in this process has it open, and its files are still there.
//!
//! Closing any descriptor of a file drops all locks that the process has on it, those of another SQLite library, too
//! (<https://www.sqlite.org/howtocorrupt.html>, 2.2.1). One SQLite opens the wal-index once for all its connections; so a
//! second descriptor is somebody else's. And when the locks are gone, the next process that closes the database takes itself for
//! the last one, and removes the WAL and its index.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::sidecar::beside;
use crate::base::{Error, Kind, Result};
use crate::sqlite::count_open;

/// How often it is looked whether the locks still hold.
const EVERY: Duration = Duration::from_secs(1);

/// Watches the wal-index of a database that is in use.
pub struct Alone {
    database: PathBuf,
    index: PathBuf,
    /// When the locks were last known to hold. None once they were found not to.
    held_at: Option<Instant>,
}

impl Alone {
    /// Begins to watch. A connection of ours must have read `database` in WAL mode. None where the wal-index is no file, or the
    /// system does not tell who has it open. Fails if another SQLite of this process has it open, too.
    pub fn begin(database: &Path) -> Result<Option<Alone>> {
        let index = beside(database, "-shm");
        match count_open(&index) {
            Some(0) | None => Ok(None),
            Some(1) => Ok(Some(Alone { database: database.to_path_buf(), index, held_at: Some(Instant::now()) })),
            Some(_) => Err(opened_twice(database)),
        }
    }

    /// Fails if another SQLite of this process has come to have it open, or the file that is open is not there any more. Looks once a
    /// second, and each time after it failed.
    pub fn check(&mut self) -> Result<()> {
        if self.held_at.is_some_and(|at| at.elapsed() < EVERY) {
            return Ok(());
        }
        self.held_at = None;
        match count_open(&self.index) {
            Some(0) => return Err(removed(&self.database)),
            Some(1) | None => {}
            Some(_) => return Err(opened_twice(&self.database)),
        }
        self.held_at = Some(Instant::now());
        Ok(())
    }
}

fn opened_twice(database: &Path) -> Error {
    Error::new(
        Kind::Refused,
        format!(
            "litestream: another SQLite library in this process has {} open, and closing it there drops the locks that are held \
             here; use one SQLite for each file in a process",
            database.display()
        ),
    )
}

fn removed(database: &Path) -> Error {
    Error::new(
        Kind::Refused,
        format!(
            "litestream: the WAL of {} was removed while it was in use: the locks on it were lost, as they are when another SQLite \
             library in this process closes the file, or somebody removed it; close all connections to it and begin anew",
            database.display()
        ),
    )
}
