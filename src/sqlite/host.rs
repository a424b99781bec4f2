//! The connection of the host that called us: what may be asked of it, and the hook on its commits.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use sqlite3ext_sys::{sqlite3, sqlite3_vfs};

use super::api::{call, failure};
use super::connection::{
    CloseSettings, DBCONFIG_NO_CKPT_ON_CLOSE, FCNTL_PERSIST_WAL, checkpoint, has_moved, query_text,
};
use super::{Checkpointed, guarded};
use crate::base::{Error, Result};

const FCNTL_VFS_POINTER: c_int = 27;

/// A connection of the host, valid for the time of the call that it came with.
#[derive(Clone, Copy)]
pub struct Host {
    db: *mut sqlite3,
}

/// What is called after the commits on a host's connection, in its thread.
pub trait CommitHook: Sync {
    /// A commit to `schema` has led to a WAL of so many frames.
    fn committed(&self, host: Host, schema: &str, frames: u32);
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

    /// Whether the file that `schema` has open is not the one at its path any more.
    pub fn has_moved(self, schema: &str) -> Result<bool> {
        Ok(has_moved(self.db, &c_name(schema)?))
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

    /// Whether the application has asked for the end of what runs on this connection
    /// (`sqlite3_interrupt`), a function of ours included. To be asked in the thread of the call
    /// only.
    ///
    /// While a statement runs, SQLite refuses to run another one after that.
    /// `sqlite3_is_interrupted` says the same, from 3.41.0 on.
    pub fn is_interrupted(self) -> bool {
        const INTERRUPT: c_int = 9;
        query_text(self.db, c"SELECT 1").is_err_and(|rc| rc & 0xff == INTERRUPT)
    }

    /// A PASSIVE checkpoint of `schema` on this connection; None when another is running.
    pub fn checkpoint(self, schema: &str) -> Result<Option<Checkpointed>> {
        let name = c_name(schema)?;
        checkpoint(self.db, &name).map_err(|rc| failure(format!("litestream: checkpointing '{schema}'"), rc, None))
    }

    /// The auto-checkpoint of the connection in frames, if SQLite's own hook is in place; 0 if
    /// another is, or none.
    pub fn auto_checkpoint(self) -> Result<u32> {
        let frames = self.query_text("PRAGMA wal_autocheckpoint")?;
        Ok(frames.and_then(|frames| frames.parse().ok()).unwrap_or(0))
    }

    /// Has `hook` called after every commit on this connection, in place of whatever is there. Only
    /// to be used where that is SQLite's auto-checkpoint, which uses the same hook and which `hook`
    /// must therefore do itself.
    pub fn on_commit<H: CommitHook>(self, hook: &'static H) {
        // SAFETY: `run_hook::<H>` gets back what is passed here, which lives for ever and is shared
        // between threads by its bounds.
        unsafe { call!(wal_hook(self.db, Some(run_hook::<H>), ptr::from_ref(hook).cast_mut().cast::<c_void>())) };
    }

    /// Puts SQLite's own auto-checkpoint in place, at `frames` frames.
    pub fn set_auto_checkpoint(self, frames: u32) {
        // SAFETY: the connection is live. This may be called by a hook, which SQLite looks up anew
        // for each schema.
        unsafe { call!(wal_autocheckpoint(self.db, c_int::try_from(frames).unwrap_or(c_int::MAX))) };
    }

    /// Has the library's own connections to the file at `path` leave the WAL as this connection
    /// would leave that of `schema`: the last one to close decides for all, and that should be the
    /// application.
    pub fn share_close_settings(self, schema: &str, path: &Path) {
        let Ok(name) = c_name(schema) else { return };
        let (mut keeps_wal, mut no_checkpoint): (c_int, c_int) = (-1, 0);
        // SAFETY: the connection is live. Both calls write an integer each, which lives until they
        // return, and change nothing when asked with -1
        // (<https://www.sqlite.org/c3ref/c_fcntl_begin_atomic_write.html#sqlitefcntlpersistwal>,
        // <https://www.sqlite.org/c3ref/c_dbconfig_defensive.html>).
        unsafe {
            let asked = (&raw mut keeps_wal).cast::<c_void>();
            if call!(file_control(self.db, name.as_ptr(), FCNTL_PERSIST_WAL, asked)) != 0 {
                keeps_wal = 0;
            }
            call!(db_config(self.db, DBCONFIG_NO_CKPT_ON_CLOSE, -1 as c_int, &raw mut no_checkpoint));
        }
        let settings = CloseSettings { keeps_wal: keeps_wal == 1, no_checkpoint: no_checkpoint == 1 };
        settings.share(path);
    }
}

extern "C" fn run_hook<H: CommitHook>(
    hook: *mut c_void,
    db: *mut sqlite3,
    schema: *const c_char,
    frames: c_int,
) -> c_int {
    let _ = guarded(|| {
        // SAFETY: `hook` is what on_commit passed; SQLite passes the schema's name as a
        // NUL-terminated string.
        let (hook, schema) = unsafe { (&*hook.cast::<H>(), CStr::from_ptr(schema)) };
        hook.committed(Host::new(db), &schema.to_string_lossy(), u32::try_from(frames).unwrap_or(0));
        Ok(())
    });
    0
}

fn c_name(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::usage("litestream: a NUL in the name of a schema"))
}
