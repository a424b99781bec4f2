//! Beginning a file anew: one that holds nothing, or whose pages are of another size than the
//! upstream's.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use super::database::{Content, Database};
use super::feeder::Feeder;
use super::stage::is_in_wal_mode;
use crate::base::{Error, Kind, PageSize, Result};
use crate::sqlite::{Connection, Exclusive, OpenMode};
use crate::store::{HeaderWatch, beside, holds_nothing, sync_folder_of};

/// How long others that have the file open are waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the file is looked at: closing what looked may bring what was in the WAL into the
/// file.
const LOOKS: usize = 2;

impl Feeder<'_> {
    /// Whether the database holds nothing, as a reader sees it. One that cannot be read holds
    /// something.
    pub(super) fn holds_nothing(&self) -> Result<bool> {
        if self.is_new()? {
            return Ok(true);
        }
        match holds_nothing(|sql| self.database.connection.query_text(sql)) {
            Err(error) if error.kind() == Kind::Corrupt => Ok(false),
            found => found,
        }
    }

    /// Empties a file that holds nothing if no other connection has it open, so that it can become
    /// a replica with pages of any size. If others do, it is left as it is, and becomes a replica
    /// by a commit, which they see. So does one in rollback mode: who reads it now and then only
    /// holds no lock, and tells by a few numbers in the header alone that it is another one.
    pub(super) fn begin_anew_if_alone(&mut self) -> Result<()> {
        self.reopen()?;
        let path = self.database.connection.path().to_path_buf();
        for _ in 0..LOOKS {
            let seen = self.database.header()?;
            let reader = Connection::open(&path, &self.vfs, OpenMode::Existing)?;
            let has_nothing = holds_nothing(|sql| reader.query_text(sql))?;
            drop(reader);
            if !has_nothing || !is_in_wal_mode(&seen) {
                return Ok(());
            }
            // A connection that makes a table changes the header, in the file or in a WAL.
            let is_as_seen = |database: &Database| Ok(database.header()? == seen && !has_wal(database));
            match self.empty(Duration::ZERO, is_as_seen) {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                Err(error) if error.kind() == Kind::Busy => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Empties a file whose pages are of another size than those of the upstream, which sends
    /// everything.
    pub(super) fn begin_anew(&mut self, size: PageSize) -> Result<()> {
        let own = self.database.page_size()?;
        let emptied = match self.options.overwrite {
            true => self.reopen().and_then(|()| self.empty(PATIENCE, |database| Ok(!has_wal(database)))),
            false => self.begin_anew_if_alone().and_then(|()| self.is_new()),
        };
        if !self.may_be_replaced()? {
            return Err(self.belongs_to_another());
        }
        let name = self.database.connection.path().display();
        match emptied {
            Ok(true) => {
                log::info!("{name}: begun anew, with pages of {} bytes instead of {}", size.get(), own.get());
                Ok(())
            }
            Err(error) if error.kind() != Kind::Busy => Err(error),
            _ => Err(Error::new(
                Kind::Busy,
                format!(
                    "litestream: {name} has pages of {} bytes and its upstream pages of {}, so that it must be made anew, which needs \
                     the file for itself: close all other connections to it, those of this process included",
                    own.get(),
                    size.get()
                ),
            )),
        }
    }

    /// A connection that has read nothing, and so keeps no one from the file. What the last one
    /// brings into it is brought.
    fn reopen(&mut self) -> Result<()> {
        let path = self.database.connection.path().to_path_buf();
        self.database = Database::open(&path, &self.vfs, self.options.checkpoint_frames)?;
        // Its connection, too, has the file open.
        self.audit = None;
        // A header of the file that was is none of the file that comes.
        self.header = HeaderWatch::default();
        self.alone = None;
        self.durable = None;
        Ok(())
    }

    /// Has SQLite bring a file that is to become a replica to the state that others see: it rolls back the transaction of a
    /// process that died, which it would do to the replica otherwise, and removes a WAL beside an empty file. Fails while a
    /// transaction is under way.
    pub(super) fn settle(&self) -> Result<()> {
        let database = &self.database;
        let path = database.connection.path();
        if database.connection.database()?.size()? > 0 {
            check_empty(database)?;
            check_no_wal(database)?;
        }
        let has_files = has_wal(database) || has_hot_journal(database)?;
        // A connection that stays would keep page 1 of a placeholder in memory.
        let reader = Connection::open(path, &self.vfs, OpenMode::Existing)?;
        match reader.query_text(c"PRAGMA main.schema_version") {
            // The header of the file says so as well.
            Err(error) if error.kind() == Kind::Corrupt => {}
            read => drop(read.map_err(needs_the_file)?),
        }
        drop(reader);
        if has_files {
            // A journal that a power loss brings back would be rolled back into the replica.
            let failed = |e| Error::io(format!("litestream: syncing the folder of {}", path.display()), &e);
            sync_folder_of(path).map_err(failed)?;
        }
        Ok(())
    }

    /// Empties the file under a lock that keeps everybody out, if `check` says so under it.
    fn empty(&self, patience: Duration, check: impl FnOnce(&Database) -> Result<bool>) -> Result<bool> {
        let file = self.database.connection.database()?;
        let (_lock, may_be_emptied) = lock_checked(&self.database, patience, check)?;
        if !may_be_emptied {
            return Ok(false);
        }
        // What a crash leaves is an empty database, from which SQLite takes away what is left of a
        // WAL.
        file.truncate(0)?;
        file.sync()?;
        Ok(self.database.content()? == Content::Nothing)
    }
}

/// Locks the file of `database` against all others, and returns what `check` returns under that lock.
pub(super) fn lock_checked<T>(
    database: &Database,
    patience: Duration,
    check: impl FnOnce(&Database) -> Result<T>,
) -> Result<(Exclusive<'_>, T)> {
    let lock = database.connection.database()?.lock_exclusive(patience).map_err(needs_the_file)?;
    let checked = check(database)?;
    Ok((lock, checked))
}

/// Fails unless the file holds nothing, and nothing beside it that SQLite would bring into it.
pub(super) fn check_new(database: &Database) -> Result<()> {
    check_empty(database)?;
    check_no_wal(database)?;
    match has_hot_journal(database)? {
        true => Err(Error::new(
            Kind::Busy,
            format!(
                "litestream: a process that wrote to {} died; its transaction must be rolled back first, try again",
                database.connection.path().display()
            ),
        )),
        false => Ok(()),
    }
}

fn check_empty(database: &Database) -> Result<()> {
    match database.content()? {
        Content::Nothing => Ok(()),
        Content::Database => Err(Error::new(
            Kind::Refused,
            format!(
                "litestream: another connection made a database of {} while it was to become a replica; pass \
                 {{\"overwrite\": true}} to replace it",
                database.connection.path().display()
            ),
        )),
    }
}

fn check_no_wal(database: &Database) -> Result<()> {
    match has_wal(database) {
        false => Ok(()),
        true => Err(Error::new(
            Kind::Refused,
            format!(
                "litestream: {} holds nothing, and {} has content; remove both files if no program needs that content",
                database.connection.path().display(),
                beside(database.connection.path(), "-wal").display()
            ),
        )),
    }
}

fn needs_the_file(error: Error) -> Error {
    match error.kind() {
        Kind::Busy => error.within(
            "litestream: a new replica needs its file for itself; end transactions and statements that read from this \
             connection (one that reads a table, even a virtual one, does), and close other connections to it",
        ),
        _ => error,
    }
}

/// Whether a journal is beside the database that SQLite would roll back. It clears the first byte of one that it is done with.
fn has_hot_journal(database: &Database) -> Result<bool> {
    let path: PathBuf = beside(database.connection.path(), "-journal");
    let mut first = [0];
    match File::open(&path).and_then(|mut file| file.read(&mut first)) {
        Ok(read) => Ok(read > 0 && first != [0]),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(format!("litestream: reading {}", path.display()), &error)),
    }
}

/// Whether something may be in the WAL. There is none where everybody who had the database open
/// closed it.
fn has_wal(database: &Database) -> bool {
    match fs::metadata(beside(database.connection.path(), "-wal")) {
        Ok(file) => file.len() > 0,
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}
