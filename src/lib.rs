//! Live read replication for SQLite over HTTP, as a loadable extension.
//!
//! The layers, each of which uses only those above it (`docs/design.md` says why):
//!
//! | layer | module | holds |
//! |---|---|---|
//! | 0 | [`base`] | pages, frames, positions, errors, limits |
//! | 1 | [`format`] | the bytes of the WAL, the wal-index and the stream |
//! | 2 | [`sqlite`] | everything that touches SQLite's C interface |
//! | 3 | [`store`] | reading and appending to a live WAL; the sidecar folder |
//! | 4 | [`primary`], [`replica`] | the two ends of a stream |
//! | 5 | [`net`] | HTTP |
//! | 6 | [`ext`] | SQL functions and tables |

#![warn(clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

use std::ffi::{c_char, c_int};

use sqlite3ext_sys::{sqlite3, sqlite3_api_routines};

pub mod base;
pub mod ext;
pub mod format;
pub mod net;
pub mod primary;
pub mod replica;
pub mod sqlite;
pub mod store;

#[cfg(test)]
#[path = "../tests/model/mod.rs"]
mod model;

/// What SQLite calls when it loads the extension (<https://www.sqlite.org/loadext.html>). The library stays loaded:
/// its threads outlive the connection that brought it in.
///
/// # Safety
/// SQLite passes a live connection, a place for an error message, and its routine table.
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the entry point is called by SQLite")]
pub unsafe extern "C" fn sqlite3_litestream_init(
    db: *mut sqlite3,
    message: *mut *mut c_char,
    routines: *mut sqlite3_api_routines,
) -> c_int {
    // SAFETY: the pointers are passed on as SQLite gave them, under the same promises.
    unsafe { sqlite::enter(db, message, routines, ext::register) }
}
