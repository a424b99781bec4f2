//! The way in: what the entry point does before anything can be registered.

use std::ffi::{CString, c_char, c_int};

use sqlite_loadable::ext::faux_sqlite_extension_init2;
use sqlite3ext_sys::{sqlite3, sqlite3_api_routines};

use super::api::{call, install};
use super::connection::is_opening;
use super::function::code;
use super::{Host, guarded};
use crate::base::Result;

const OK: c_int = 0;
const OK_LOAD_PERMANENTLY: c_int = 256;

/// Keeps the routine table, runs `register`, and answers SQLite.
///
/// # Safety
/// `db` is a live connection, `message` null or a place for a message, `routines` null or SQLite's routine table.
pub unsafe fn enter(
    db: *mut sqlite3,
    message: *mut *mut c_char,
    routines: *mut sqlite3_api_routines,
    register: impl FnOnce(Host) -> Result<()>,
) -> c_int {
    if is_opening() {
        return OK;
    }
    let entered = guarded(|| {
        let stays = install(routines)?;
        // SAFETY: the same table, checked by `install`; registration through sqlite-loadable needs it in a place of its own.
        unsafe { faux_sqlite_extension_init2(routines) };
        register(Host::new(db)).map(|()| stays)
    });
    match entered {
        // Where the host has every new connection load the library, SQLite takes any other code for a failure.
        Ok(true) => OK,
        Ok(false) => OK_LOAD_PERMANENTLY,
        Err(error) => {
            // Without a routine table there is nothing to allocate the message with.
            if let (Ok(text), false, false) = (CString::new(error.to_string()), message.is_null(), routines.is_null()) {
                // SAFETY: sqlite3_mprintf copies the text into memory that SQLite frees, as the entry point's contract says.
                unsafe { *message = call!(mprintf(c"%s".as_ptr(), text.as_ptr())) };
            }
            code(&error)
        }
    }
}
