//! Notices that a program other than SQLite has written to a database file, such as `cp`.
//!
//! In WAL mode only checkpoints write to the database file, and the wal-index says when they do. So
//! a header that has changed while no checkpoint ran was not written by SQLite. Where a checkpoint
//! ran as well, or the header is what it was, the content of the pages tells: each has a checksum.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::walindex::state;
use crate::base::{Error, Kind, Result};
use crate::format::wal::Salts;
use crate::sqlite::Connection;

/// Bytes at the start of a database that describe it
/// (<https://www.sqlite.org/fileformat2.html#the_database_header>).
const HEADER: usize = 100;

/// Watches the header of a database file. It knows nothing at first.
#[derive(Default)]
pub struct HeaderWatch {
    known: Option<Known>,
}

/// How the database file began, when it was written, and what had been checkpointed by then.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Known {
    written: Written,
    header: [u8; HEADER],
    checkpointed: Checkpointed,
}

/// When the file was written last, and its size in bytes.
type Written = (Option<SystemTime>, u64);

/// The salts of the WAL, and how many of its frames are in the database.
type Checkpointed = (Salts, u32);

impl HeaderWatch {
    /// Fails if the file was written to by anything but a checkpoint.
    ///
    /// # Errors
    /// `Refused`: the header is another one, and no checkpoint has run since the last call.
    pub fn check(&mut self, connection: &Connection) -> Result<()> {
        let path = connection.path();
        let is_known = |known: &Known, now| known.written == written(path) && known.checkpointed == now;
        let Some(checkpointed) = checkpointed(connection)? else { return Ok(()) };
        if self.known.as_ref().is_some_and(|known| is_known(known, checkpointed)) {
            return Ok(());
        }
        let Some(now) = look(connection)? else { return Ok(()) };
        match self.known {
            Some(known) if known.checkpointed == now.checkpointed && known.header != now.header => {
                Err(overwritten(path))
            }
            _ => {
                self.known = Some(now);
                Ok(())
            }
        }
    }
}

/// What the file holds. None while a checkpoint writes to it.
fn look(connection: &Connection) -> Result<Option<Known>> {
    // In this order: what is written meanwhile shows in the time of the next look.
    let written = written(connection.path());
    let Some(before) = checkpointed(connection)? else { return Ok(None) };
    let mut header = [0; HEADER];
    connection.database()?.read(0, &mut header)?;
    let same = checkpointed(connection)? == Some(before);
    Ok(same.then_some(Known { written, header, checkpointed: before }))
}

/// What is in the database. None while a checkpoint copies more, or it is not known.
fn checkpointed(connection: &Connection) -> Result<Option<Checkpointed>> {
    let now = state(&connection.wal_index()?)?.filter(|now| !now.is_being_backfilled());
    Ok(now.map(|now| (now.header.salts, now.backfilled)))
}

fn written(path: &Path) -> Written {
    let file = fs::metadata(path).ok();
    (file.as_ref().and_then(|file| file.modified().ok()), file.map_or(0, |file| file.len()))
}

fn overwritten(path: &Path) -> Error {
    let name = path.display();
    Error::new(
        Kind::Refused,
        format!(
            "litestream: {name} was overwritten while it was in use, by a program other than SQLite; call litestream_stop(), \
             close all connections to it, see to it that it is whole, and begin again"
        ),
    )
}
