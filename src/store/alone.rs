//! Whether the locks on a database can be relied on: one SQLite in this process has it open, and its files are still there.
//!
//! Closing any descriptor of a file drops all locks that the process has on it, those of another SQLite library, too
//! (<https://www.sqlite.org/howtocorrupt.html>, 2.2.1). One SQLite opens the wal-index once for all its connections; so a
//! second descriptor is somebody else's. And when the locks are gone, the next process that closes the database takes itself for
//! the last one, and removes the WAL and its index.

use std::path::{Path, PathBuf};

use crate::base::{Error, Kind, Result};
use crate::sqlite::count_open;

/// Watches the wal-index of a database that is in use.
pub struct Alone {
    database: PathBuf,
    /// None where it is no file, or the system does not tell who has it open.
    index: Option<PathBuf>,
}

impl Alone {
    /// Begins to watch. A connection of ours must have read `database` in WAL mode. Fails if another SQLite has it open, too.
    pub fn begin(database: &Path) -> Result<Alone> {
        let index = index_of(database);
        match count_open(&index) {
            Some(0) | None => Ok(Alone { database: database.to_path_buf(), index: None }),
            Some(1) => Ok(Alone { database: database.to_path_buf(), index: Some(index) }),
            Some(_) => Err(opened_twice(database)),
        }
    }

    /// Fails if another SQLite of this process has come to have it open, or the file that is open is not there any more.
    pub fn check(&self) -> Result<()> {
        match self.index.as_deref().and_then(count_open) {
            Some(0) => Err(removed(&self.database)),
            Some(1) | None => Ok(()),
            Some(_) => Err(opened_twice(&self.database)),
        }
    }
}

fn index_of(database: &Path) -> PathBuf {
    let mut index = database.as_os_str().to_owned();
    index.push("-shm");
    PathBuf::from(index)
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
