//! Which files a connection has open, and whether they are still the ones at their paths.
//!
//! SQLite opens the WAL and the wal-index by name when it first reads, and removes them by name
//! when the last connection closes. By then the name can mean the files of another database. And a
//! wal-index that stayed behind at its path connects the old database with the one that took its
//! place: a checkpoint would mark frames as copied that went into the old file
//! (<https://www.sqlite.org/howtocorrupt.html>, 2.4).

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::process::{FileId, is_writable};
use crate::base::{Error, Kind, Result};

/// Added to the name of the database: the database itself, its WAL, its wal-index.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// The files that a connection has opened, by path. Files of a VFS that keeps them elsewhere are
/// not known.
pub(super) struct Opened {
    paths: [PathBuf; 3],
    files: Cell<[Option<FileId>; 3]>,
}

/// The file at `path`, or None if there is none.
fn find(path: &Path) -> Result<Option<FileId>> {
    FileId::find(path).map_err(|e| Error::io(format!("litestream: looking for {}", path.display()), &e))
}

impl Opened {
    /// The files of the database at `path`, none of them open yet.
    pub fn new(path: &Path) -> Opened {
        let paths = SUFFIXES.map(|suffix| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        });
        Opened { paths, files: Cell::default() }
    }

    /// Notes which file the database is. Call it when the connection has just opened it.
    pub fn note_database(&self) {
        let [database, ..] = &self.paths;
        self.files.set([FileId::at(database), None, None]);
    }

    /// Notes which files WAL and wal-index are. Call it when the connection has just opened them.
    pub fn note_log(&self) {
        let ([database, ..], [_, wal, index]) = (self.files.get(), &self.paths);
        self.files.set([database, FileId::at(wal), FileId::at(index)]);
    }

    /// Whether the WAL is known.
    pub fn has_log(&self) -> bool {
        let [_, wal, _] = self.files.get();
        wal.is_some()
    }

    /// Whether two connections have the same database and the same WAL open.
    pub fn is_same(&self, other: &Opened) -> bool {
        self.files.get() == other.files.get()
    }

    /// Fails with the first file that is not the one at its path any more, or with
    /// [`Kind::Io`] where the system does not tell.
    pub fn check(&self) -> Result<()> {
        for (path, file) in self.paths.iter().zip(self.files.get()) {
            let Some(file) = file else { continue };
            match find(path)? {
                Some(now) if now == file => {}
                now => return Err(self.not_in_place(path, now.is_some())),
            }
        }
        Ok(())
    }

    /// Whether SQLite has nothing to complain about when it closes the database: the files are in
    /// place, the database has one name, and the WAL can be removed.
    pub fn can_close_silently(&self) -> bool {
        let [database, ..] = &self.paths;
        let has_one_name = fs::metadata(database).is_ok_and(|file| file.nlink() == 1);
        has_one_name && self.check().is_ok() && database.parent().is_some_and(is_writable)
    }

    fn not_in_place(&self, path: &Path, is_replaced: bool) -> Error {
        let [database, ..] = &self.paths;
        let what = if is_replaced { "replaced by another file" } else { "removed or renamed" };
        let why = match path == database {
            true => "",
            false => {
                ", by hand or by a process that took itself for the last one, as after another SQLite library in this \
                 process has dropped the locks by closing the database"
            }
        };
        let (path, database) = (path.display(), database.display());
        Error::new(
            Kind::Refused,
            format!(
                "litestream: {path} was {what} while it was in use{why}; call litestream_stop(), close all connections to \
                 {database}, and begin again"
            ),
        )
    }
}
