//! The connection of the host that called us: what may be asked of it, and the hook on its commits.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr;

use sqlite3ext_sys::{sqlite3, sqlite3_vfs};

use super::api::{call, failure};
use super::connection::{checkpoint, query_text};
use super::{Checkpointed, guarded};
use crate::base::{Error, Result};

const FCNTL_VFS_POINTER: c_int = 27;

/// A connection of the host, valid for the time of the call that it came with.
#[derive(Clone, Copy)]
pub struct Host {
    db: *mut sqlite3,
}

/// Called after a commit on a host's connection, in its thread, with the frames in the WAL.
pub type CommitHook = Box<dyn Fn(Host, u32) + Send + Sync>;

struct HookState {
    schema: CString,
    hook: CommitHook,
}

impl Host {
    /// Wraps the connection that SQLite passed to a callback or to the entry point.
    pub fn new(db: *mut sqlite3) -> Host {
        Host { db }
    }

    pub(super) fn raw(self) -> *mut sqlite3 {
        self.db
    }

    /// Which connection this is: equal for equal connections while they are open.
    pub fn id(self) -> usize {
        self.db.addr()
    }

    /// The file of `schema`; None for a database in memory or a temporary one.
    pub fn file(self, schema: &str) -> Result<Option<PathBuf>> {
        let name = c_name(schema)?;
        // SAFETY: the connection is live; the string returned lives as long as the schema is attached and is copied here.
        let path = unsafe {
            let path = call!(db_filename(self.db, name.as_ptr()));
            (!path.is_null()).then(|| CStr::from_ptr(path).to_owned())
        };
        let Some(path) = path else {
            return Err(Error::usage(format!("litestream: this connection has no schema named '{schema}'")));
        };
        let path = path.into_string().map_err(|e| {
            Error::usage(format!("litestream: the path {:?} is not UTF-8; rename the file", e.into_cstring()))
        })?;
        Ok((!path.is_empty()).then(|| PathBuf::from(path)))
    }

    /// Whether `schema` was opened read-only.
    pub fn is_read_only(self, schema: &str) -> Result<bool> {
        let name = c_name(schema)?;
        // SAFETY: the connection is live, the name NUL-terminated.
        Ok(unsafe { call!(db_readonly(self.db, name.as_ptr())) } == 1)
    }

    /// Name of the VFS that `schema` is opened through.
    pub fn vfs(self, schema: &str) -> Result<CString> {
        let name = c_name(schema)?;
        let mut vfs: *mut sqlite3_vfs = ptr::null_mut();
        // SAFETY: this file control writes one pointer; VFS objects and their names live as long as they are registered.
        unsafe {
            let rc = call!(file_control(self.db, name.as_ptr(), FCNTL_VFS_POINTER, (&raw mut vfs).cast::<c_void>()));
            match vfs.as_ref() {
                Some(vfs) if rc == 0 && !vfs.zName.is_null() => Ok(CStr::from_ptr(vfs.zName).to_owned()),
                _ => Err(failure(format!("litestream: the VFS of schema '{schema}'"), rc, None)),
            }
        }
    }

    /// First column of the first row of a query, as text.
    pub fn query_text(self, sql: &str) -> Result<Option<String>> {
        let text = c_name(sql)?;
        query_text(self.db, &text).map_err(|rc| {
            // SAFETY: the connection is live; the message is copied before the next call on it.
            let message = unsafe { CStr::from_ptr(call!(errmsg(self.db))) };
            failure(format!("litestream: {sql}"), rc, Some(message))
        })
    }

    /// A PASSIVE checkpoint of `schema` on this connection; None when another is running.
    pub fn checkpoint(self, schema: &str) -> Result<Option<Checkpointed>> {
        let name = c_name(schema)?;
        checkpoint(self.db, &name).map_err(|rc| failure(format!("litestream: checkpointing '{schema}'"), rc, None))
    }

    /// Has `hook` called after every commit to `schema` on this connection, in place of SQLite's auto-checkpoint, which
    /// uses the same hook and which `hook` must therefore do itself. A later `PRAGMA wal_autocheckpoint` takes it out again.
    ///
    /// The few bytes of the hook are never freed: SQLite does not tell when another takes its place.
    pub fn on_commit(self, schema: &str, hook: CommitHook) -> Result<()> {
        let state = Box::leak(Box::new(HookState { schema: c_name(schema)?, hook }));
        // SAFETY: the state lives for ever and is only read.
        unsafe { call!(wal_hook(self.db, Some(run_hook), ptr::from_ref(state).cast_mut().cast::<c_void>())) };
        Ok(())
    }

    /// Puts SQLite's own auto-checkpoint back, at `frames` frames.
    pub fn auto_checkpoint(self, frames: u32) {
        // SAFETY: the connection is live.
        unsafe { call!(wal_autocheckpoint(self.db, c_int::try_from(frames).unwrap_or(c_int::MAX))) };
    }
}

extern "C" fn run_hook(state: *mut c_void, db: *mut sqlite3, schema: *const c_char, frames: c_int) -> c_int {
    let _ = guarded(|| {
        // SAFETY: `state` is what on_commit leaked; SQLite passes the schema's name as a NUL-terminated string.
        let (state, schema) = unsafe { (&*state.cast::<HookState>(), CStr::from_ptr(schema)) };
        if schema == state.schema.as_c_str() {
            (state.hook)(Host::new(db), u32::try_from(frames).unwrap_or(0));
        }
        Ok(())
    });
    0
}

fn c_name(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::usage("litestream: a NUL in the name of a schema"))
}
