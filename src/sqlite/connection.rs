//! A private connection of the library to a database the host has open.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

use sqlite3ext_sys::{sqlite3, sqlite3_file, sqlite3_stmt};

use super::api::{call, failure};
use super::file::File;
use super::place::Opened;
use super::process::is_exiting;
use super::shm::WalIndex;
use crate::base::{Error, Kind, Result};

const OK: c_int = 0;
const ROW: c_int = 100;
const DONE: c_int = 101;
const OPEN_READWRITE: c_int = 0x2;
const OPEN_CREATE: c_int = 0x4;
const OPEN_FULLMUTEX: c_int = 0x1_0000;
/// Where the host has switched on a cache shared by all connections, ours would read and lock through it, too.
const OPEN_PRIVATECACHE: c_int = 0x4_0000;
const FCNTL_FILE_POINTER: c_int = 7;
const FCNTL_HAS_MOVED: c_int = 20;
const FCNTL_JOURNAL_POINTER: c_int = 28;
pub(super) const FCNTL_PERSIST_WAL: c_int = 10;
pub(super) const DBCONFIG_NO_CKPT_ON_CLOSE: c_int = 1006;
const CHECKPOINT_PASSIVE: c_int = 0;

/// The VFS that SQLite brings along. Any other may be code of the host, written in any language.
const NATIVE_VFS: [&CStr; 6] = [c"unix", c"unix-excl", c"unix-none", c"unix-dotfile", c"win32", c"win32-longpath"];

/// How often a page is compared with its halves before they count as different.
const PLAIN_TRIES: u32 = 3;

/// Connections that could not be closed where they were dropped.
static LEFT_OPEN: Mutex<Vec<LeftOpen>> = Mutex::new(Vec::new());

/// Whether a missing file is an error or created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The file must exist.
    Existing,
    /// An empty file is made if there is none.
    Create,
}

/// What a checkpoint found: the frames in the WAL, and how many of them are in the database now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpointed {
    /// Frames in the WAL.
    pub frames: u32,
    /// Of those, how many are backfilled.
    pub backfilled: u32,
}

/// A connection that only this library uses, on the same file and through the same VFS as the host's.
///
/// Going through SQLite for every file is what keeps the POSIX locks of the process intact
/// (<https://www.sqlite.org/howtocorrupt.html>, 2.2).
pub struct Connection {
    db: *mut sqlite3,
    pin: Cell<*mut sqlite3_stmt>,
    pinned: Cell<bool>,
    /// The shared memory mapped so far. Asking SQLite for it takes a mutex that every lock of the process needs.
    regions: RefCell<Vec<NonNull<u8>>>,
    path: PathBuf,
    opened: Opened,
    is_native: bool,
    /// Whether the VFS is known to leave what it reads as it is.
    is_plain: Cell<bool>,
}

/// A connection whose files are not at their paths any more. SQLite says so in its log when it is
/// closed, and the host's log callback is only called from a call of the host.
struct LeftOpen {
    db: *mut sqlite3,
    pin: *mut sqlite3_stmt,
}

// SAFETY: as for `Connection`, whose handle and statement these were.
unsafe impl Send for LeftOpen {}

thread_local! {
    /// Whether this thread is just opening a connection of the library.
    static OPENING: Cell<bool> = const { Cell::new(false) };
}

/// Whether the connection that this thread opens is one of the library's own: where the host has every new connection load the library
/// (`sqlite3_auto_extension`), these do not.
pub(super) fn is_opening() -> bool {
    OPENING.get()
}

// SAFETY: the connection is opened with SQLITE_OPEN_FULLMUTEX and the open is refused when SQLite has no mutexes, so
// any one thread at a time may use it (<https://www.sqlite.org/threadsafe.html>); `&mut` and the owner's lock see to that.
unsafe impl Send for Connection {}

impl Connection {
    /// Opens `path` through the VFS named `vfs`.
    pub fn open(path: &Path, vfs: &CStr, mode: OpenMode) -> Result<Connection> {
        let name = c_path(path)?;
        let create = if mode == OpenMode::Create { OPEN_CREATE } else { 0 };
        let mut connection = Connection {
            db: ptr::null_mut(),
            pin: Cell::new(ptr::null_mut()),
            pinned: Cell::new(false),
            regions: RefCell::default(),
            path: path.to_path_buf(),
            opened: Opened::new(path),
            is_native: NATIVE_VFS.contains(&vfs),
            is_plain: Cell::new(NATIVE_VFS.contains(&vfs)),
        };
        OPENING.set(true);
        // SAFETY: both strings are NUL-terminated and outlive the call; the handle is closed by Drop even when opening
        // fails, as sqlite3_open_v2 demands.
        let rc = unsafe {
            let flags = OPEN_READWRITE | create | OPEN_FULLMUTEX | OPEN_PRIVATECACHE;
            call!(open_v2(name.as_ptr(), &mut connection.db, flags, vfs.as_ptr()))
        };
        OPENING.set(false);
        if rc != OK {
            return Err(connection.failure("opening it", rc));
        }
        connection.require_mutexes()?;
        connection.opened.note_database();
        connection.check_unmoved()?;
        // SAFETY: the handle is open; sqlite3_busy_timeout takes any number of milliseconds.
        unsafe { call!(busy_timeout(connection.db, 1000)) };
        connection.execute(c"PRAGMA wal_autocheckpoint=0")?;
        Ok(connection)
    }

    /// SQLite without mutexes (built so, or configured so at run time) gives a connection none even when asked to.
    fn require_mutexes(&self) -> Result<()> {
        // SAFETY: the handle is open.
        let mutex = unsafe { call!(db_mutex(self.db)) };
        if mutex.is_null() {
            return Err(Error::usage(
                "litestream: this SQLite is single-threaded (SQLITE_THREADSAFE=0 or SQLITE_CONFIG_SINGLETHREAD); \
                 serving and following need threads, use a thread-safe build",
            ));
        }
        Ok(())
    }

    /// Path of the database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs statements that give no rows anybody wants.
    pub fn execute(&self, sql: &CStr) -> Result<()> {
        self.check_in_place()?;
        // SAFETY: the handle is open, the text NUL-terminated; no callback and no error string are asked for.
        let rc = unsafe { call!(exec(self.db, sql.as_ptr(), None, ptr::null_mut(), ptr::null_mut())) };
        if rc == OK { self.note_log() } else { Err(self.failure(sql.to_string_lossy(), rc)) }
    }

    /// First column of the first row of a query, as text.
    pub fn query_text(&self, sql: &CStr) -> Result<Option<String>> {
        self.check_in_place()?;
        let text = query_text(self.db, sql).map_err(|rc| self.failure(sql.to_string_lossy(), rc))?;
        self.note_log().map(|()| text)
    }

    /// Fails if the database, its WAL or its wal-index is not the file at its path any more; and at
    /// the end of the process, if SQLite might call something of the host.
    pub fn check_in_place(&self) -> Result<()> {
        if !self.is_usable() {
            return Err(Error::new(Kind::Refused, "litestream: the process ends"));
        }
        self.opened.check()
    }

    /// Whether SQLite may be called with it: at the end of the process, not if that might call
    /// something of the host.
    pub fn is_usable(&self) -> bool {
        !is_exiting() || self.can_close()
    }

    /// Fails unless `other` has the same database and the same WAL open.
    pub fn check_same(&self, other: &Connection) -> Result<()> {
        self.check_in_place()?;
        match self.opened.is_same(&other.opened) {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Refused,
                format!("litestream: {} was replaced by another file while it was in use", self.path.display()),
            )),
        }
    }

    /// Fails if SQLite says that the file it opened is not the one at the path. A VFS may not know.
    fn check_unmoved(&self) -> Result<()> {
        if !has_moved(self.db, c"main") {
            return Ok(());
        }
        let name = self.path.display();
        Err(Error::new(Kind::Busy, format!("litestream: {name} was replaced while it was being opened; try again")))
    }

    /// Notes which WAL was opened, if one was just now.
    fn note_log(&self) -> Result<()> {
        if self.opened.has_log() || self.wal().is_err() {
            return Ok(());
        }
        self.opened.note_log();
        // The WAL was opened by name, after the database.
        self.check_unmoved()
    }

    /// Fails if the VFS changes what it reads, such as one that encrypts pages or gives each a
    /// checksum. SQLite reads such a file page by page, and this library reads and writes many
    /// pages, or a part of one, at once.
    pub fn require_plain_pages(&self, page_bytes: usize) -> Result<()> {
        if self.is_plain.get() {
            return Ok(());
        }
        let (file, mut whole, mut parts) = (self.database()?, vec![0; page_bytes], vec![0; page_bytes]);
        let half = page_bytes / 2;
        // A checkpoint may write the page in between.
        for _ in 0..PLAIN_TRIES {
            file.read(0, &mut whole)?;
            let mut halves = (0..).zip(parts.chunks_mut(half));
            let read = halves.try_for_each(|(i, part)| file.read(i * half as u64, part));
            read.map_err(|e| e.within("litestream: reading half a page, which not every VFS can that checks pages"))?;
            if whole == parts {
                self.is_plain.set(true);
                return Ok(());
            }
        }
        let name = self.path.display();
        Err(Error::usage(format!(
            "litestream: {name} is opened through a VFS that changes what it reads, by encryption or checksums; it can neither \
             be served nor followed, open it through the VFS of the system"
        )))
    }

    /// Whether closing calls nothing but SQLite's own code.
    fn can_close(&self) -> bool {
        self.is_native && self.opened.can_close_silently()
    }

    /// Starts a read transaction at the newest commit and keeps it until [`Connection::unpin`]. In WAL mode this takes
    /// a read lock: while it is held, no frame it can see is overwritten and no newer frame is copied into the database.
    pub fn pin(&self) -> Result<()> {
        if self.pinned.get() {
            return Ok(());
        }
        self.check_in_place()?;
        if self.pin.get().is_null() {
            // The statement reads page 1 and no schema, and holds its transaction until it is reset.
            let statement = prepare(self.db, c"PRAGMA main.user_version");
            self.pin.set(statement.map_err(|rc| self.failure("preparing to read", rc))?);
        }
        // SAFETY: the statement belongs to this open connection and was reset when last used.
        let rc = unsafe { call!(step(self.pin.get())) };
        if rc != ROW {
            // SAFETY: as above; resetting after an error is always allowed.
            unsafe { call!(reset(self.pin.get())) };
            return Err(self.failure("reading it", rc));
        }
        self.pinned.set(true);
        self.note_log().inspect_err(|_| self.unpin())
    }

    /// Whether a read transaction is kept.
    pub fn is_pinned(&self) -> bool {
        self.pinned.get()
    }

    /// Ends the read transaction of [`Connection::pin`].
    pub fn unpin(&self) {
        if self.pinned.get() {
            // SAFETY: the statement belongs to this open connection.
            unsafe { call!(reset(self.pin.get())) };
            self.pinned.set(false);
        }
    }

    /// Runs a PASSIVE checkpoint, which waits for nobody (<https://www.sqlite.org/c3ref/wal_checkpoint_v2.html>).
    /// None when another checkpoint is running.
    pub fn checkpoint(&self) -> Result<Option<Checkpointed>> {
        // What is copied to a file that is not there any more would count as copied to the one that
        // is.
        self.check_in_place()?;
        checkpoint(self.db, c"main").map_err(|rc| self.failure("checkpointing", rc))
    }

    /// Has the connection leave the WAL as it is when it is closed, even if it takes itself for the last one.
    pub fn leave_wal_on_close(&self) {
        // SAFETY: the handle is open; this option takes an integer and a pointer to one, which may be null.
        unsafe { call!(db_config(self.db, DBCONFIG_NO_CKPT_ON_CLOSE, 1 as c_int, ptr::null_mut::<c_int>())) };
    }

    /// The database file.
    pub fn database(&self) -> Result<File<'_>> {
        self.file(FCNTL_FILE_POINTER, "the database file")
    }

    /// The WAL file, once the connection has read the database in WAL mode.
    pub fn wal(&self) -> Result<File<'_>> {
        self.file(FCNTL_JOURNAL_POINTER, "the WAL file")
    }

    /// The wal-index, once the connection has read the database in WAL mode.
    pub fn wal_index(&self) -> Result<WalIndex<'_>> {
        self.database().and_then(|file| WalIndex::new(file, &self.regions))
    }

    fn file(&self, which: c_int, name: &'static str) -> Result<File<'_>> {
        let mut file: *mut sqlite3_file = ptr::null_mut();
        // SAFETY: both file controls write one sqlite3_file pointer to the address given
        // (<https://www.sqlite.org/c3ref/c_fcntl_begin_atomic_write.html>).
        let rc = unsafe { call!(file_control(self.db, c"main".as_ptr(), which, (&raw mut file).cast::<c_void>())) };
        if rc != OK {
            return Err(self.failure(name, rc));
        }
        // SAFETY: the pointer belongs to this connection's pager, which lives as long as the borrow of `self`.
        unsafe { File::new(file, self, name) }
            .ok_or_else(|| Error::usage(format!("{}: {name} is not open", self.path.display())))
    }

    fn failure(&self, doing: impl std::fmt::Display, code: c_int) -> Error {
        // SAFETY: sqlite3_errmsg returns a string that stays valid until the next call on this handle, and copes with null.
        let message = unsafe { CStr::from_ptr(call!(errmsg(self.db))) };
        failure(format!("litestream: {}: {doing}", self.path.display()), code, Some(message))
    }
}

/// What a connection does with the WAL when it is the last one to be closed, where that is not
/// SQLite's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CloseSettings {
    /// Leaves the file there (`SQLITE_FCNTL_PERSIST_WAL`).
    pub keeps_wal: bool,
    /// Leaves it as it is (`SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE`).
    pub no_checkpoint: bool,
}

/// Those of the application's connections, by the path that the library's own are opened with.
static CLOSE_SETTINGS: Mutex<BTreeMap<PathBuf, CloseSettings>> = Mutex::new(BTreeMap::new());

impl CloseSettings {
    /// Has the library's own connections to the file at `path` close so.
    pub fn share(self, path: &Path) {
        let mut all = CLOSE_SETTINGS.lock().unwrap_or_else(PoisonError::into_inner);
        match self == CloseSettings::default() {
            true => all.remove(path),
            false => all.insert(path.to_path_buf(), self),
        };
    }

    fn of(path: &Path) -> CloseSettings {
        CLOSE_SETTINGS.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied().unwrap_or_default()
    }
}

impl Connection {
    /// Has the connection leave the WAL as the application's would.
    fn close_as_the_application(&self) {
        let settings = CloseSettings::of(&self.path);
        if self.db.is_null() {
            return;
        }
        if settings.no_checkpoint {
            self.leave_wal_on_close();
        }
        if settings.keeps_wal {
            let mut on: c_int = 1;
            // SAFETY: the handle is open; this file control reads one integer, and SQLite passes it
            // on to the VFS, which may not know it.
            unsafe {
                call!(file_control(self.db, c"main".as_ptr(), FCNTL_PERSIST_WAL, (&raw mut on).cast::<c_void>()))
            };
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let left = LeftOpen { db: self.db, pin: self.pin.get() };
        match is_exiting() {
            // The end of the process gives its locks back.
            true if !self.can_close() => {}
            false if self.opened.check().is_err() => {
                LEFT_OPEN.lock().unwrap_or_else(PoisonError::into_inner).push(left);
            }
            _ => {
                self.close_as_the_application();
                left.close();
            }
        }
    }
}

impl LeftOpen {
    fn close(self) {
        // SAFETY: the statement and the handle are this struct's own; finalizing and closing null is harmless.
        unsafe {
            call!(finalize(self.pin));
            call!(close_v2(self.db));
        }
    }

    /// Has the connection remove and copy nothing when it is closed: it would do so by names that
    /// mean other files now.
    fn leave_files(&self) {
        let mut persist: c_int = 1;
        // SAFETY: the handle is open; the option takes an integer and a pointer to one, which may
        // be null, and the file control reads and writes one integer.
        unsafe {
            call!(db_config(self.db, DBCONFIG_NO_CKPT_ON_CLOSE, 1 as c_int, ptr::null_mut::<c_int>()));
            let argument = (&raw mut persist).cast::<c_void>();
            call!(file_control(self.db, c"main".as_ptr(), FCNTL_PERSIST_WAL, argument));
        }
    }
}

/// Closes the connections whose files are not at their paths any more. Only from a call of the
/// host, since SQLite logs what it finds then.
pub fn close_left_open() {
    let left = std::mem::take(&mut *LEFT_OPEN.lock().unwrap_or_else(PoisonError::into_inner));
    for connection in left {
        connection.leave_files();
        connection.close();
    }
}

/// Whether SQLite says that the file of a schema of an open connection is not the one at its path.
/// A VFS may not know.
pub(super) fn has_moved(db: *mut sqlite3, schema: &CStr) -> bool {
    let mut moved: c_int = 0;
    // SAFETY: the handle is open, the name NUL-terminated; this file control writes one integer, or
    // nothing where the VFS does not know it.
    let rc = unsafe { call!(file_control(db, schema.as_ptr(), FCNTL_HAS_MOVED, (&raw mut moved).cast::<c_void>())) };
    rc == OK && moved != 0
}

/// A path as SQLite takes it.
fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Error::usage(format!("litestream: {} has a NUL in its name", path.display())))
}

/// Prepares one statement. The caller owns it. `db` must be open.
fn prepare(db: *mut sqlite3, sql: &CStr) -> std::result::Result<*mut sqlite3_stmt, c_int> {
    let mut statement = ptr::null_mut();
    // SAFETY: the text is NUL-terminated (length -1), the handle open as the caller promises.
    let rc = unsafe { call!(prepare_v2(db, sql.as_ptr(), -1, &mut statement, ptr::null_mut())) };
    if rc == OK { Ok(statement) } else { Err(rc) }
}

/// First column of the first row of a query on an open connection, as text.
pub(super) fn query_text(db: *mut sqlite3, sql: &CStr) -> std::result::Result<Option<String>, c_int> {
    let statement = prepare(db, sql)?;
    // SAFETY: the statement is ours until finalized; column text is copied before that.
    unsafe {
        let stepped = call!(step(statement));
        let text = if stepped == ROW { call!(column_text(statement, 0)) } else { ptr::null() };
        let text = (!text.is_null()).then(|| CStr::from_ptr(text.cast()).to_string_lossy().into_owned());
        let rc = call!(finalize(statement));
        if stepped == ROW || stepped == DONE { Ok(text) } else { Err(rc) }
    }
}

/// A PASSIVE checkpoint of one schema of an open connection; None when another is running.
pub(super) fn checkpoint(db: *mut sqlite3, schema: &CStr) -> std::result::Result<Option<Checkpointed>, c_int> {
    let (mut frames, mut backfilled) = (-1, -1);
    // SAFETY: the handle is open, the name NUL-terminated, both results go to integers on this stack.
    let rc = unsafe { call!(wal_checkpoint_v2(db, schema.as_ptr(), CHECKPOINT_PASSIVE, &mut frames, &mut backfilled)) };
    match rc {
        OK => Ok(Some(Checkpointed {
            frames: u32::try_from(frames).unwrap_or(0),
            backfilled: u32::try_from(backfilled).unwrap_or(0),
        })),
        5 => Ok(None),
        rc => Err(rc),
    }
}
