//! Checkpoints of a [`Second`] SQLite that stand still where they have read the header of the
//! wal-index, and have done nothing yet.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use rusqlite::ffi;

use super::{Second, SecondConnection};

const NAME: &CStr = c"stalling";

/// What checkpoints do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Go,
    Stop,
    Stands,
}

static STAGE: Mutex<Stage> = Mutex::new(Stage::Go);
static CHANGED: Condvar = Condvar::new();
static OPEN: OnceLock<Open> = OnceLock::new();

type Open = unsafe extern "C" fn(
    *mut ffi::sqlite3_vfs,
    ffi::sqlite3_filename,
    *mut ffi::sqlite3_file,
    c_int,
    *mut c_int,
) -> c_int;
type Find = unsafe extern "C" fn(*const c_char) -> *mut ffi::sqlite3_vfs;
type Register = unsafe extern "C" fn(*mut ffi::sqlite3_vfs, c_int) -> c_int;

/// The next checkpoint of a connection of [`Second::connect_stalling`] stands still until this is
/// dropped. One at a time.
pub struct Stall(());

impl Stall {
    pub fn begin() -> Stall {
        set(Stage::Stop);
        Stall(())
    }

    /// Waits until a checkpoint stands still.
    pub fn wait(&self) {
        let (stage, waited) = CHANGED
            .wait_timeout_while(stage(), super::DEADLINE, |stage| *stage != Stage::Stands)
            .unwrap_or_else(PoisonError::into_inner);
        drop(stage);
        assert!(!waited.timed_out(), "no checkpoint has read the header of the wal-index");
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        set(Stage::Go);
    }
}

fn stage() -> MutexGuard<'static, Stage> {
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set(to: Stage) {
    *stage() = to;
    CHANGED.notify_all();
}

impl Second {
    /// A connection whose checkpoints stand still when a [`Stall`] says so.
    pub fn connect_stalling(&self, database: &Path) -> SecondConnection<'_> {
        OPEN.get_or_init(|| {
            // SAFETY: the routines have these types; the default VFS lives as long as the library,
            // and what is registered for ever.
            unsafe {
                let mut vfs = *self.routine::<Find>(c"sqlite3_vfs_find")(std::ptr::null());
                let default = vfs.xOpen.expect("a VFS opens files");
                vfs.xOpen = Some(open);
                (vfs.zName, vfs.pNext) = (NAME.as_ptr(), std::ptr::null_mut());
                let register = self.routine::<Register>(c"sqlite3_vfs_register");
                assert_eq!(register(Box::leak(Box::new(vfs)), 0), ffi::SQLITE_OK);
                default
            }
        });
        self.connect_through(database, NAME)
    }
}

/// Opens a file as the default VFS does, with a method of ours in place of one of its own.
unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite calls it as it would call the default VFS's own, of which `vfs` is a copy.
    unsafe {
        let rc = OPEN.get().expect("registered before any use")(vfs, name, file, flags, out);
        if rc == ffi::SQLITE_OK && flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
            let mut methods = *(*file).pMethods;
            methods.xUnfetch = Some(unfetch);
            (*file).pMethods = Box::leak(Box::new(methods));
        }
        rc
    }
}

/// Without memory mapping, only a checkpoint calls this: when it has read a header that is new to
/// it.
unsafe extern "C" fn unfetch(_: *mut ffi::sqlite3_file, _: i64, _: *mut c_void) -> c_int {
    let mut stage = stage();
    if *stage == Stage::Stop {
        *stage = Stage::Stands;
        CHANGED.notify_all();
        drop(CHANGED.wait_while(stage, |stage| *stage != Stage::Go).unwrap_or_else(PoisonError::into_inner));
    }
    ffi::SQLITE_OK
}
