//! A VFS between SQLite and the default one, which fails calls as it is told and keeps a journal of all that reaches the
//! files of a database, so that what a power loss could leave of them can be looked at.
//!
//! Everything that the library does to a database and its WAL goes through the VFS of the host's connection. So a database
//! opened through this one has its storage in the hands of a [`Disk`].

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use rusqlite::{Connection, OpenFlags, ffi};

use super::crash::{Change, Journal};
use super::load;

const NAME: &CStr = c"faulty";

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Open,
    Read,
    Write,
    Truncate,
    Sync,
    Size,
    Lock,
    Delete,
    ShmMap,
    ShmLock,
}

impl Call {
    /// All of them.
    pub const ALL: [Call; 10] = [
        Call::Open,
        Call::Read,
        Call::Write,
        Call::Truncate,
        Call::Sync,
        Call::Size,
        Call::Lock,
        Call::Delete,
        Call::ShmMap,
        Call::ShmLock,
    ];

    /// The result code that a failure of it has.
    fn code(self) -> c_int {
        match self {
            Call::Open => ffi::SQLITE_CANTOPEN,
            Call::Read => ffi::SQLITE_IOERR_READ,
            Call::Write => ffi::SQLITE_IOERR_WRITE,
            Call::Truncate => ffi::SQLITE_IOERR_TRUNCATE,
            Call::Sync => ffi::SQLITE_IOERR_FSYNC,
            Call::Size => ffi::SQLITE_IOERR_FSTAT,
            Call::Lock => ffi::SQLITE_IOERR_LOCK,
            Call::Delete => ffi::SQLITE_IOERR_DELETE,
            Call::ShmMap => ffi::SQLITE_IOERR_SHMMAP,
            Call::ShmLock => ffi::SQLITE_IOERR_SHMLOCK,
        }
    }
}

/// Which of the files of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Database,
    Wal,
}

/// What is to go wrong.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub call: Call,
    /// Which of these calls, from 0.
    pub nth: usize,
    /// Whether all that follow fail as well.
    pub lasting: bool,
    /// Whether a write leaves its first half behind. An odd half: 512 bytes are not written as a whole, either.
    pub short: bool,
}

/// The storage of one database.
pub struct Disk {
    database: PathBuf,
    inner: Mutex<Inner>,
    /// Signals the end of a hold.
    released: Condvar,
    /// Set when something panicked where no panic may leave: in a call from C.
    broken: AtomicBool,
}

#[derive(Default)]
struct Inner {
    fault: Option<Fault>,
    calls: BTreeMap<Call, usize>,
    fired: usize,
    /// Calls that do not return for now.
    held: Option<Call>,
    /// How many wait for that.
    waiting: usize,
    journal: Option<Journal>,
}

/// Calls return again when this is dropped.
pub struct HeldCalls<'d>(&'d Disk);

impl HeldCalls<'_> {
    /// How many calls wait.
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting
    }
}

impl Drop for HeldCalls<'_> {
    fn drop(&mut self) {
        self.0.lock().held = None;
        self.0.released.notify_all();
    }
}

impl Disk {
    /// The storage of `database`, which no connection may have open yet.
    pub fn of(database: &Path) -> Arc<Disk> {
        register();
        let disk = Arc::new(Disk {
            database: database.to_path_buf(),
            inner: Mutex::default(),
            released: Condvar::new(),
            broken: AtomicBool::new(false),
        });
        let mut disks = disks();
        disks.retain(|disk| disk.strong_count() > 0);
        disks.push(Arc::downgrade(&disk));
        disk
    }

    /// A connection with the library loaded.
    pub fn open(&self) -> Connection {
        let name = NAME.to_str().expect("the name of a VFS");
        let opened = Connection::open_with_flags_and_vfs(&self.database, OpenFlags::default(), name);
        let connection = opened.unwrap_or_else(|e| panic!("opening {}: {e}", self.database.display()));
        load(&connection);
        connection
    }

    /// Has calls fail from now on. They are counted anew.
    pub fn fail(&self, fault: Fault) {
        let mut inner = self.lock();
        inner.fault = Some(fault);
        inner.calls.clear();
        inner.fired = 0;
    }

    /// Has no call of this kind return until the value is dropped.
    pub fn hold(&self, call: Call) -> HeldCalls<'_> {
        self.lock().held = Some(call);
        HeldCalls(self)
    }

    /// Has nothing fail any more. How many calls did.
    pub fn heal(&self) -> usize {
        assert!(!self.broken.load(SeqCst), "the VFS of the tests panicked; its message is above");
        let mut inner = self.lock();
        inner.fault = None;
        inner.fired
    }

    /// How many calls have failed so far.
    pub fn fired(&self) -> usize {
        self.lock().fired
    }

    /// How often each call was made since [`Disk::fail`].
    pub fn calls(&self) -> BTreeMap<Call, usize> {
        self.lock().calls.clone()
    }

    /// Begins a journal. What the files hold now is taken for durable.
    pub fn begin_journal(&self) {
        let journal = Journal::begin(&self.database);
        self.lock().journal = Some(journal);
    }

    /// Ends the journal.
    pub fn end_journal(&self) -> Journal {
        assert!(!self.broken.load(SeqCst), "the VFS of the tests panicked; its message is above");
        let journal = self.lock().journal.take().expect("a journal that was begun");
        journal.ended(&self.database)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn role(&self, path: &Path) -> Option<Role> {
        if path == self.database {
            return Some(Role::Database);
        }
        let rest = path.as_os_str().as_encoded_bytes().strip_prefix(self.database.as_os_str().as_encoded_bytes())?;
        (rest == b"-wal").then_some(Role::Wal)
    }

    /// What is to become of a call.
    fn verdict(&self, call: Call) -> Verdict {
        let mut inner = self.lock();
        inner.waiting += 1;
        inner =
            self.released.wait_while(inner, |inner| inner.held == Some(call)).unwrap_or_else(PoisonError::into_inner);
        inner.waiting -= 1;
        let count = inner.calls.entry(call).or_default();
        let n = *count;
        *count += 1;
        let Some(fault) = inner.fault.filter(|fault| fault.call == call) else { return Verdict::Goes };
        if n < fault.nth || (n > fault.nth && !fault.lasting) {
            return Verdict::Goes;
        }
        inner.fired += 1;
        if fault.short { Verdict::Half } else { Verdict::Fails }
    }

    fn note(&self, role: Role, change: Change) {
        let mut inner = self.lock();
        if let Some(journal) = &mut inner.journal {
            journal.note(&self.database, role, change);
        }
    }
}

#[derive(PartialEq, Eq)]
enum Verdict {
    Goes,
    Half,
    Fails,
}

fn disks() -> MutexGuard<'static, Vec<Weak<Disk>>> {
    static DISKS: Mutex<Vec<Weak<Disk>>> = Mutex::new(Vec::new());
    DISKS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn disk_of(path: &Path) -> Option<(Arc<Disk>, Role)> {
    let disks: Vec<_> = disks().iter().filter_map(Weak::upgrade).collect();
    disks.into_iter().rev().find_map(|disk| disk.role(path).map(|role| (disk, role)))
}

// --- the C side ------------------------------------------------------------------------------------------------------

/// A file of ours; the default VFS's own follows right behind.
#[repr(C)]
struct Shim {
    base: ffi::sqlite3_file,
    /// Leaked, and never freed: a few bytes for each file a test opens.
    disk: Option<&'static (Arc<Disk>, Role)>,
}

struct Default(*mut ffi::sqlite3_vfs);

// SAFETY: the default VFS lives as long as the process and is never changed; its routines may be called from any thread.
unsafe impl Send for Default {}
// SAFETY: as above.
unsafe impl Sync for Default {}

static DEFAULT: OnceLock<Default> = OnceLock::new();

fn register() {
    DEFAULT.get_or_init(|| {
        // SAFETY: sqlite3_vfs_find(NULL) gives the default VFS, a static; what is registered is leaked and so lives as long.
        unsafe {
            let default = ffi::sqlite3_vfs_find(std::ptr::null());
            assert!(!default.is_null(), "SQLite without a VFS");
            let mut vfs = *default;
            vfs.szOsFile += size_of::<Shim>() as c_int;
            vfs.pNext = std::ptr::null_mut();
            vfs.zName = NAME.as_ptr();
            vfs.xOpen = Some(open);
            vfs.xDelete = Some(delete);
            assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0), ffi::SQLITE_OK);
            Default(default)
        }
    });
}

fn default() -> *mut ffi::sqlite3_vfs {
    DEFAULT.get().expect("registered before any use").0
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// The file of the default VFS behind ours.
///
/// # Safety
/// `file` is one that SQLite allocated with `szOsFile` bytes for our VFS.
unsafe fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: the caller vouches for the size; a Shim is as aligned as any file.
    unsafe { file.cast::<Shim>().add(1).cast() }
}

/// Calls a method of the file behind. Must stand in an unsafe block of a function that SQLite called with an open file.
macro_rules! behind {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        let real = real($file);
        ((*(*real).pMethods).$method.expect("a method of the default VFS"))(real $(, $argument)*)
    }};
}

/// What is to become of a call on a file.
fn verdict(disk: Option<&(Arc<Disk>, Role)>, call: Call) -> Verdict {
    disk.map_or(Verdict::Goes, |(disk, _)| disk.verdict(call))
}

/// The disk that a file of ours is on.
///
/// # Safety
/// `file` is an open file of ours.
unsafe fn disk(file: *mut ffi::sqlite3_file) -> Option<&'static (Arc<Disk>, Role)> {
    // SAFETY: every file of ours begins with a Shim.
    unsafe { (*file.cast::<Shim>()).disk }
}

/// # Safety
/// `name` is null or NUL-terminated.
unsafe fn path_of(name: *const c_char) -> Option<PathBuf> {
    // SAFETY: the caller vouches for it.
    let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })?;
    name.to_str().ok().map(PathBuf::from)
}

/// Notes a change in the journal. No panic may go on from here into C.
fn note((disk, role): &(Arc<Disk>, Role), change: Change) {
    let noted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| disk.note(*role, change)));
    if noted.is_err() {
        disk.broken.store(true, SeqCst);
    }
}

// SAFETY of all that follow: SQLite calls them as <https://www.sqlite.org/c3ref/io_methods.html> and
// <https://www.sqlite.org/c3ref/vfs.html> say, with files that `open` made, and every argument is passed on as it came.

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: as above; SQLite takes a file whose methods are null for one that is not open.
    unsafe {
        let shim = file.cast::<Shim>();
        (*shim).base.pMethods = std::ptr::null();
        (*shim).disk = path_of(name).and_then(|path| disk_of(&path)).map(|found| &*Box::leak(Box::new(found)));
        if verdict((*shim).disk, Call::Open) != Verdict::Goes {
            return Call::Open.code();
        }
        let rc = (*default()).xOpen.expect("a VFS opens files")(default(), name, real(file), flags, out);
        if !(*real(file)).pMethods.is_null() {
            (*shim).base.pMethods = &METHODS;
        }
        rc
    }
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: as above.
    unsafe {
        let found = path_of(name).and_then(|path| disk_of(&path));
        if verdict(found.as_ref(), Call::Delete) != Verdict::Goes {
            return Call::Delete.code();
        }
        let rc = (*default()).xDelete.expect("a VFS deletes files")(default(), name, sync);
        if let (Some(found), ffi::SQLITE_OK) = (found, rc) {
            note(&found, Change::Truncate(0));
        }
        rc
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: as above.
    unsafe { behind!(file, xClose) }
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, amount: c_int, at: i64) -> c_int {
    // SAFETY: as above.
    unsafe {
        if verdict(disk(file), Call::Read) != Verdict::Goes {
            return Call::Read.code();
        }
        behind!(file, xRead, to, amount, at)
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, amount: c_int, at: i64) -> c_int {
    // SAFETY: as above; `from` holds `amount` bytes.
    unsafe {
        let verdict = verdict(disk(file), Call::Write);
        let goes = match verdict {
            Verdict::Goes => amount,
            Verdict::Half => amount / 2,
            Verdict::Fails => return Call::Write.code(),
        };
        let rc = behind!(file, xWrite, from, goes, at);
        if let (Some(disk), ffi::SQLITE_OK) = (disk(file), rc) {
            let bytes = std::slice::from_raw_parts(from.cast::<u8>(), goes as usize).to_vec();
            note(disk, Change::Write(at as usize, bytes));
        }
        if verdict == Verdict::Goes { rc } else { ffi::SQLITE_FULL }
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: as above.
    unsafe {
        if verdict(disk(file), Call::Truncate) != Verdict::Goes {
            return Call::Truncate.code();
        }
        let rc = behind!(file, xTruncate, size);
        if let (Some(disk), ffi::SQLITE_OK) = (disk(file), rc) {
            note(disk, Change::Truncate(size as usize));
        }
        rc
    }
}

/// Nothing is really synced, which would only take time: the journal is what judges.
unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe {
        let Some(disk) = disk(file) else { return behind!(file, xSync, flags) };
        if verdict(Some(disk), Call::Sync) == Verdict::Goes {
            note(disk, Change::Sync);
            return ffi::SQLITE_OK;
        }
        note(disk, Change::FailedSync);
        Call::Sync.code()
    }
}

unsafe extern "C" fn size(file: *mut ffi::sqlite3_file, to: *mut i64) -> c_int {
    // SAFETY: as above.
    unsafe {
        if verdict(disk(file), Call::Size) != Verdict::Goes {
            return Call::Size.code();
        }
        behind!(file, xFileSize, to)
    }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as above.
    unsafe {
        if verdict(disk(file), Call::Lock) != Verdict::Goes {
            return Call::Lock.code();
        }
        behind!(file, xLock, level)
    }
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { behind!(file, xUnlock, level) }
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, to: *mut c_int) -> c_int {
    // SAFETY: as above.
    unsafe { behind!(file, xCheckReservedLock, to) }
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, op: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: as above.
    unsafe { behind!(file, xFileControl, op, argument) }
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: as above.
    unsafe { behind!(file, xSectorSize) }
}

/// That of a plain disk: SQLite may not count on anything beyond what the journal grants.
unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    0
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    to: *mut *mut c_void,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        if verdict(disk(file), Call::ShmMap) != Verdict::Goes {
            *to = std::ptr::null_mut();
            return Call::ShmMap.code();
        }
        behind!(file, xShmMap, region, size, extend, to)
    }
}

/// Only taking a lock can fail: SQLite itself does not look at what giving one back comes to.
unsafe extern "C" fn shm_lock(file: *mut ffi::sqlite3_file, first: c_int, n: c_int, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe {
        if flags & ffi::SQLITE_SHM_LOCK != 0 && verdict(disk(file), Call::ShmLock) != Verdict::Goes {
            return Call::ShmLock.code();
        }
        behind!(file, xShmLock, first, n, flags)
    }
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: as above.
    unsafe { behind!(file, xShmBarrier) }
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, remove: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { behind!(file, xShmUnmap, remove) }
}
