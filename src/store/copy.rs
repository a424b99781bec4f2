//! Copies of a database as files of their own.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::Written;
use super::lookup::{page_size, read_all};
use super::sidecar::{beside, sync_folder_of};
use crate::base::{Error, Kind, PageSize, Pgno, Result};
use crate::sqlite::{Connection, random_bytes};

/// Where page 1 says which versions of SQLite may write and read the database, and what it says there in WAL mode. On a replica
/// the first of them is the mark that keeps it from being written; a copy is nobody's replica.
const VERSIONS: (usize, [u8; 2]) = (18, [2, 2]);

/// A file that a database is copied into, page by page. One that comes twice is there in its later version.
pub struct Copy {
    file: File,
    size: PageSize,
    written: Written,
}

impl Copy {
    /// A copy with pages of `size` into a file that is empty.
    pub fn new(file: File, size: PageSize) -> Copy {
        Copy { file, size, written: Written::new(size) }
    }

    /// Writes the consecutive pages from `first` on.
    pub fn write(&mut self, first: Pgno, images: &[u8]) -> Result<()> {
        self.written.add(first, images)?;
        self.put(first.file_offset(self.size), images)?;
        if first == Pgno::ONE {
            self.put(VERSIONS.0 as u64, &VERSIONS.1)?;
        }
        Ok(())
    }

    /// Gives the file the size of a database of `pages` pages, and returns it.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if a page was not written, or the pages do not sum up to `expected`.
    pub fn finish(self, pages: u32, expected: Option<u64>) -> Result<File> {
        let found = self.written.whole(pages)?.total();
        if expected.is_some() && found != expected {
            let [found, expected] = [found, expected].map(Option::unwrap_or_default);
            return Err(Error::corrupt(format!(
                "litestream: a copy of the database sums up to {found:016x}, and the database to {expected:016x}"
            )));
        }
        let done = self.file.set_len(u64::from(pages) * u64::from(self.size.get()));
        done.map(|()| self.file).map_err(|e| Error::io("litestream: writing a copy of the database", &e))
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|e| Error::io("litestream: writing a copy of the database", &e))
    }
}

/// Copies what the database of `connection` holds now into `file`, within one read transaction.
pub fn copy(connection: &Connection, file: File) -> Result<File> {
    let size = page_size(connection)?;
    let mut copy = Copy::new(file, size);
    let (pages, _) = read_all(connection, size, |first, images| copy.write(first, images))?;
    copy.finish(pages, None)
}

/// A file that comes to be under its name when it is whole, and is gone if it never is.
pub struct NewFile {
    path: PathBuf,
    beside: PathBuf,
    file: File,
}

impl NewFile {
    /// Begins one that will be at `path`, with the permissions of `like`.
    pub fn begin(path: &Path, like: &Path) -> Result<NewFile> {
        let beside = beside(path, &format!(".{:016x}.tmp", u64::from_le_bytes(random_bytes())));
        let file = private(&beside).map_err(|e| {
            Error::new(Kind::CantOpen, format!("litestream: {} cannot be written: {e}", path.display()))
        })?;
        let begun = NewFile { path: path.to_path_buf(), beside, file };
        let permissions: io::Result<Permissions> = fs::metadata(like).map(|of| of.permissions());
        permissions.and_then(|permissions| begun.file.set_permissions(permissions)).map_err(|e| begun.failure(&e))?;
        Ok(begun)
    }

    /// A handle to write with.
    pub fn handle(&self) -> Result<File> {
        self.file.try_clone().map_err(|e| self.failure(&e))
    }

    /// Gives it its name, when all of it is durable. What has that name already is replaced, or left if it must not be.
    pub fn finish(self, replace: bool) -> Result<()> {
        let named = self.file.sync_all().and_then(|()| match replace {
            true => fs::rename(&self.beside, &self.path),
            false => name_new(&self.beside, &self.path),
        });
        named.and_then(|()| sync_folder_of(&self.path)).map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => taken(&self.path),
            _ => self.failure(&e),
        })
    }

    fn failure(&self, error: &io::Error) -> Error {
        Error::io(format!("litestream: writing {}", self.path.display()), error)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Gone already if it was renamed.
        let _ = fs::remove_file(&self.beside);
    }
}

/// Fails unless a copy of the database at `source` may be put at `path`. A log or a folder that belongs to another database of that
/// name would be taken for the copy's.
pub fn check_target(path: &Path, source: &Path, replace: bool) -> Result<()> {
    let refused = |why: String| Err(Error::new(Kind::Refused, format!("litestream: {} {why}", path.display())));
    if fs::canonicalize(path).is_ok_and(|path| path == source) {
        return refused("is the database itself; choose another name".into());
    }
    if path.is_dir() {
        return refused("is a folder; name a file in it".into());
    }
    for suffix in ["-wal", "-journal", "-litestream"] {
        let beside = beside(path, suffix);
        if fs::symlink_metadata(&beside).is_ok() {
            let beside = beside.display();
            return refused(format!(
                "has {beside} beside it, of a database that is in use or was not closed; remove that, or choose another name"
            ));
        }
    }
    if !replace && fs::symlink_metadata(path).is_ok() { Err(taken(path)) } else { Ok(()) }
}

/// Gives the file `beside` the name `path`, unless that is taken. It may keep its own.
fn name_new(beside: &Path, path: &Path) -> io::Result<()> {
    // Unlike a rename, this fails if the name is taken.
    match fs::hard_link(beside, path) {
        // A file system without links.
        Err(e) if e.kind() != ErrorKind::AlreadyExists && fs::symlink_metadata(path).is_err() => {
            fs::rename(beside, path)
        }
        done => done,
    }
}

fn taken(path: &Path) -> Error {
    let shown = path.display();
    Error::new(
        Kind::Refused,
        format!("litestream: {shown} is there already; pass {{\"overwrite\": true}} to replace it"),
    )
}

/// A new file that only this user can read.
pub(super) fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
