//! Beginning a file anew: one that holds nothing, or whose pages are of another size than the
//! upstream's.

use std::fs;
use std::time::Duration;

use super::database::{Content, Database};
use super::feeder::Feeder;
use super::stage::is_in_wal_mode;
use crate::base::{Error, Kind, PageSize, Result};
use crate::sqlite::{Connection, OpenMode};
use crate::store::{beside, holds_nothing};

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
        self.alone = None;
        self.durable = None;
        Ok(())
    }

    /// Empties the file under a lock that keeps everybody out, if `check` says so under it.
    fn empty(&self, patience: Duration, check: impl FnOnce(&Database) -> Result<bool>) -> Result<bool> {
        let file = self.database.connection.database()?;
        let _lock = file.lock_exclusive(patience)?;
        if !check(&self.database)? {
            return Ok(false);
        }
        // What a crash leaves is an empty database, from which SQLite takes away what is left of a
        // WAL.
        file.truncate(0)?;
        file.sync()?;
        Ok(self.database.content()? == Content::Nothing)
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
