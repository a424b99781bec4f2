//! Whether the files of a database are still the ones that were opened, and the locks on them hold.
//!
//! Closing any descriptor of a file drops all locks that the process has on it, those of another SQLite library, too
//! (<https://www.sqlite.org/howtocorrupt.html>, 2.2.1). One SQLite opens the wal-index once for all its connections; so a
//! second descriptor belongs to another library. And when the locks are gone, the next process that
//! closes the database takes itself for the last one, and removes the WAL and its index.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::sidecar::beside;
use crate::base::{Error, Kind, Result};
use crate::sqlite::{Connection, count_open};

/// How often the files are looked at, at most.
const LOOK: Duration = Duration::from_millis(20);
/// How often the descriptors of this process are counted.
const COUNT: Duration = Duration::from_secs(1);

/// Watches the files of a database that is in use.
pub struct Alone {
    database: PathBuf,
    index: PathBuf,
    /// When the files were last looked at. None if the next call must.
    looked_at: Option<Instant>,
    /// When the locks were last known to hold. None once they were found not to.
    held_at: Option<Instant>,
}

impl Alone {
    /// Begins to watch the files of `connection`, which must have read the database in WAL mode.
    /// None where the wal-index is no file, or the system does not tell who has it open.
    ///
    /// # Errors
    /// Another SQLite of this process has the database open, or a file was replaced.
    pub fn begin(connection: &Connection) -> Result<Option<Alone>> {
        let database = connection.path();
        let index = beside(database, "-shm");
        match count_open(&index) {
            Some(0) | None => return Ok(None),
            Some(1) => {}
            Some(_) => return Err(opened_twice(database)),
        }
        connection.check_in_place()?;
        let now = Some(Instant::now());
        Ok(Some(Alone { database: database.into(), index, looked_at: now, held_at: now }))
    }

    /// Fails if a file is not the one at its path any more, or another SQLite of this process has
    /// come to have it open. Looks at most every 20 ms and counts descriptors once a second, but
    /// both at once after a failure.
    pub fn check(&mut self, connection: &Connection) -> Result<()> {
        if self.looked_at.is_some_and(|at| at.elapsed() < LOOK) {
            return Ok(());
        }
        self.looked_at = None;
        connection.check_in_place()?;
        if self.held_at.is_none_or(|at| at.elapsed() >= COUNT) {
            self.held_at = None;
            if count_open(&self.index).is_some_and(|open| open > 1) {
                return Err(opened_twice(&self.database));
            }
            self.held_at = Some(Instant::now());
        }
        self.looked_at = Some(Instant::now());
        Ok(())
    }

    /// Has the next check look at once: something failed, and this may be why.
    pub fn doubt(&mut self) {
        (self.looked_at, self.held_at) = (None, None);
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
