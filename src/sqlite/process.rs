//! Living in somebody else's process: its end, its forks, its signals.

use std::ffi::{CString, c_int, c_void};
use std::fs;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::base::{Error, Result};

static LAST: Mutex<Option<fn()>> = Mutex::new(None);

/// Whether the host's `main` has returned.
static EXITING: AtomicBool = AtomicBool::new(false);

/// How long the end of the process waits for a thread. One that is inside a VFS of an interpreter
/// that has ended never comes back.
const LAST_PATIENCE: Duration = Duration::from_secs(3);
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

extern "C" fn run() {
    EXITING.store(true, SeqCst);
    let last = LAST.lock().ok().and_then(|mut last| last.take());
    if let Some(last) = last {
        let _ = super::guarded(|| {
            last();
            Ok(())
        });
    }
}

/// Has `last` called once at a normal end of the process. Later calls change nothing.
pub fn at_exit(last: fn()) {
    let Ok(mut slot) = LAST.lock() else { return };
    if slot.replace(last).is_none() {
        // SAFETY: atexit takes a function that lives as long as the process; the library is never unloaded.
        unsafe { libc::atexit(run) };
    }
}

/// Whether the process ends: nothing of the host may be called any more, neither its log callback
/// nor a VFS of its own.
pub fn is_exiting() -> bool {
    EXITING.load(SeqCst)
}

/// Waits for the end of a thread; at the end of the process for a bounded time.
pub fn join(thread: JoinHandle<()>) {
    let began = Instant::now();
    while is_exiting() && !thread.is_finished() {
        if began.elapsed() >= LAST_PATIENCE {
            return;
        }
        thread::sleep(BETWEEN_LOOKS);
    }
    let _ = thread.join();
}

/// Which file a path leads to: its device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file at `path`. None if there is none, or if that cannot be found out.
    pub fn at(path: &Path) -> Option<FileId> {
        FileId::find(path).ok().flatten()
    }

    /// The file at `path`, or None if there is none.
    ///
    /// # Errors
    /// The system does not tell, for an instant or for good: that says nothing about the file.
    pub fn find(path: &Path) -> io::Result<Option<FileId>> {
        match fs::metadata(path) {
            Ok(file) => Ok(Some(FileId::of(&file))),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The file that `metadata` describes.
    pub fn of(metadata: &fs::Metadata) -> FileId {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Whether this process may remove files from `folder`.
pub(super) fn is_writable(folder: &Path) -> bool {
    let Ok(name) = CString::new(folder.as_os_str().as_encoded_bytes()) else { return false };
    // SAFETY: access reads a NUL-terminated path that outlives the call.
    unsafe { libc::access(name.as_ptr(), libc::W_OK) == 0 }
}

/// Keeps the shared library that `address` is part of loaded until the end of the process. Whether that could be done.
pub fn keep_loaded(address: *const c_void) -> bool {
    // SAFETY: dladdr takes any address and fills the structure if it knows it. RTLD_NOLOAD loads nothing, and so runs nothing;
    // a program that has SQLite in itself, which is not found by that name, cannot be unloaded anyway.
    unsafe {
        let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
        if libc::dladdr(address, found.as_mut_ptr()) == 0 {
            return false;
        }
        let name = found.assume_init().dli_fname;
        !libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE).is_null()
    }
}

/// How many descriptors of this process are open on the file at `path`, 0 if there is none. None where the system does not tell.
pub fn count_open(path: &Path) -> Option<usize> {
    let Some(wanted) = FileId::at(path) else { return Some(0) };
    Some(open_on(wanted)?.count())
}

/// The names by which this process has a file open. None where the system does not tell.
pub fn names_of_open(file: FileId) -> Option<Vec<PathBuf>> {
    Some(open_on(file)?.filter_map(|link| fs::read_link(link).ok()).collect())
}

/// One of the descriptors of this process that are open on the file at `path`.
pub(super) fn find_open(path: &Path) -> Option<c_int> {
    open_on(FileId::at(path)?)?.next()?.file_name()?.to_str()?.parse().ok()
}

/// What leads to the descriptors that are open on a file.
fn open_on(wanted: FileId) -> Option<impl Iterator<Item = PathBuf>> {
    let open = fs::read_dir("/proc/self/fd").ok()?.flatten().map(|entry| entry.path());
    Some(open.filter(move |link| FileId::at(link) == Some(wanted)))
}

/// Starts a thread of the library's own, which takes no signal.
///
/// Signals are the host's: its handlers run on its threads. And a write to a connection that the other end has closed raises
/// SIGPIPE in the thread that writes, whose default is to end the process; blocked, the write just fails.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let run = move || {
        block_signals();
        body();
    };
    let spawned = thread::Builder::new().name(name.into()).spawn(run);
    spawned.map_err(|e| Error::io(format!("litestream: starting the thread {name}"), &e))
}

fn block_signals() {
    let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set; pthread_sigmask changes the mask of the calling thread only. Signals that a fault
    // of the thread itself raises are delivered all the same.
    unsafe {
        libc::sigfillset(signals.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), ptr::null_mut());
    }
}

/// How many file descriptors the process may have open.
pub fn open_files_limit() -> u64 {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: getrlimit fills in the struct when it returns 0, and is read only then.
    unsafe {
        match libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) {
            0 => limit.assume_init().rlim_cur,
            _ => u64::MAX,
        }
    }
}

/// A value of the process that made it. A child made by a fork does not see it, and may make its own.
///
/// Values are never freed and looking at one takes no lock: neither a fork nor the end of the process finds it half-way.
pub struct PerProcess<T: 'static> {
    current: AtomicPtr<(u32, T)>,
}

impl<T: Sync> Default for PerProcess<T> {
    fn default() -> PerProcess<T> {
        PerProcess::new()
    }
}

impl<T: Sync> PerProcess<T> {
    /// No value yet.
    pub const fn new() -> PerProcess<T> {
        PerProcess { current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The value this process made.
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: the pointer is null or from Box::leak in `make`, and never freed.
        let (process, value) = unsafe { self.current.load(SeqCst).as_ref()? };
        (*process == std::process::id()).then_some(value)
    }

    /// The value of the process that this one was forked from, and the id of that, while this one has made none.
    pub fn inherited(&self) -> Option<(u32, &'static T)> {
        // SAFETY: as in `get`.
        let (process, value) = unsafe { self.current.load(SeqCst).as_ref()? };
        (*process != std::process::id()).then_some((*process, value))
    }

    /// Makes the value of this process if there is none. Whether it did.
    pub fn make(&self, value: impl FnOnce() -> T) -> bool {
        let current = self.current.load(SeqCst);
        if self.get().is_some() {
            return false;
        }
        let made = Box::leak(Box::new((std::process::id(), value())));
        self.current.compare_exchange(current, made, SeqCst, SeqCst).is_ok()
    }
}
