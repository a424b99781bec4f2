//! The routine table that SQLite hands to an extension, through which every call goes
//! (<https://www.sqlite.org/loadext.html>).

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use once_cell::sync::OnceCell;
use sqlite3ext_sys::sqlite3_api_routines;

use super::process::keep_loaded;
use crate::base::{Error, Kind, Result};

/// First version with `SQLITE_DIRECTONLY`; every routine used here is older.
const OLDEST: c_int = 3_031_000;

struct Table(*const sqlite3_api_routines);

// SAFETY: the table is a constant of the SQLite library; its routines are thread-safe in a thread-safe build, and
// workers on other threads are refused in any other (see `Connection::open`).
unsafe impl Send for Table {}
// SAFETY: as above; nothing ever writes to it.
unsafe impl Sync for Table {}

static TABLE: OnceCell<Table> = OnceCell::new();

/// Keeps the routine table for the life of the process. A second SQLite library in the same process is refused:
/// POSIX locks would not protect their connections from each other (<https://www.sqlite.org/howtocorrupt.html>, 2.2.1).
///
/// `table` is what SQLite passed to the entry point. Whether this library stays loaded whatever SQLite does with it.
pub fn install(table: *mut sqlite3_api_routines) -> Result<bool> {
    if table.is_null() {
        return Err(Error::usage("litestream: this SQLite was built without loadable extensions"));
    }
    let kept = TABLE.get_or_init(|| Table(table));
    if !std::ptr::eq(kept.0, table) {
        return Err(Error::usage(
            "litestream: already loaded by another SQLite library in this process; two of them must not share a process",
        ));
    }
    let (version, number) = version();
    if number < OLDEST {
        return Err(Error::usage(format!("litestream: SQLite {version} is too old; expected 3.31.0 or newer")));
    }
    // Our threads and `at_exit` call SQLite when the host has let go of it: an interpreter closes its modules before it ends, and with
    // them what only they had opened. And SQLite lets go of us when loading fails, where what was begun may run already.
    api().libversion.map(|routine| keep_loaded(routine as *const c_void));
    Ok(keep_loaded((&raw const TABLE).cast::<c_void>()))
}

/// The routine table.
///
/// # Panics
/// When no entry point ran, which no caller can bring about from SQL.
#[expect(clippy::expect_used, reason = "nothing runs before the entry point")]
pub(super) fn api() -> &'static sqlite3_api_routines {
    let table = TABLE.get().expect("the entry point ran");
    // SAFETY: SQLite passes a pointer to a static structure, valid while the library is loaded, and checked not null.
    unsafe { &*table.0 }
}

/// Calls a routine of the table by name. Must stand in an unsafe block of its caller.
macro_rules! call {
    ($routine:ident($($argument:expr),* $(,)?)) => {
        match $crate::sqlite::api::api().$routine {
            Some(routine) => routine($($argument),*),
            None => unreachable!(concat!("SQLite has ", stringify!($routine))),
        }
    };
}
pub(super) use call;

/// Version of the SQLite in use, as text and as number.
pub fn version() -> (String, c_int) {
    // SAFETY: sqlite3_libversion returns a static string, sqlite3_libversion_number takes nothing.
    unsafe {
        let text = CStr::from_ptr(call!(libversion()));
        (text.to_string_lossy().into_owned(), call!(libversion_number()))
    }
}

/// Whether this version of SQLite rebuilds a damaged wal-index only while no one has a lock on it,
/// readers included: those before 3.33. Later ones pass over the read locks that they cannot get.
pub fn needs_all_locks_to_recover(version: c_int) -> bool {
    version < 3_033_000
}

/// Whether SQLite of this version number (3.40.1 is 3040001) has the WAL-reset bug: a checkpoint that begins while a writer
/// restarts the WAL can take what is written next for what is in the database already
/// (<https://www.sqlite.org/wal.html#walresetbug>).
pub fn has_wal_reset_bug(version: c_int) -> bool {
    let mended = (3_044_006..3_045_000).contains(&version) || (3_050_007..3_051_000).contains(&version);
    (3_007_000..3_051_003).contains(&version) && !mended
}

/// Fills `out` from SQLite's random number generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    // SAFETY: sqlite3_randomness writes exactly N bytes to the buffer of N bytes.
    unsafe { call!(randomness(N as c_int, out.as_mut_ptr().cast::<c_void>())) };
    out
}

/// Writes one line to SQLite's error log (<https://www.sqlite.org/errlog.html>).
pub fn log_to_sqlite(code: c_int, line: &str) {
    let (Ok(text), true) = (CString::new(line), TABLE.get().is_some()) else { return };
    // SAFETY: the format is a static "%s" and its argument a NUL-terminated string that outlives the call.
    unsafe { call!(log(code, c"%s".as_ptr(), text.as_ptr())) };
}

/// An error for result code `code` of an operation on `what`, with SQLite's own words for it.
pub(super) fn failure(what: impl std::fmt::Display, code: c_int, message: Option<&CStr>) -> Error {
    let kind = match code & 0xff {
        5 | 6 => Kind::Busy,
        8 => Kind::ReadOnly,
        10 | 13 => Kind::Io,
        11 | 26 => Kind::Corrupt,
        14 => Kind::CantOpen,
        _ => Kind::Usage,
    };
    // SAFETY: sqlite3_errstr returns a static string for any code.
    let general = unsafe { CStr::from_ptr(call!(errstr(code)) as *const c_char) };
    let text = message.unwrap_or(general).to_string_lossy();
    // A primary code reaches SQL beside the message anyway; an extended one would be lost.
    let extended = if code > 0xff { format!(" (SQLite code {code})") } else { String::new() };
    Error::new(kind, format!("{what}: {text}{extended}"))
}

#[cfg(test)]
mod tests {
    use super::{has_wal_reset_bug, needs_all_locks_to_recover};

    #[test]
    fn only_old_versions_need_all_locks_to_recover() {
        assert!(needs_all_locks_to_recover(3_031_001) && !needs_all_locks_to_recover(3_033_000));
    }

    #[test]
    fn the_versions_with_the_wal_reset_bug_are_known() {
        for version in [3_007_000, 3_040_001, 3_044_005, 3_045_000, 3_050_006, 3_051_000, 3_051_002] {
            assert!(has_wal_reset_bug(version), "{version}");
        }
        for version in [3_006_023, 3_044_006, 3_050_007, 3_051_003, 3_053_000] {
            assert!(!has_wal_reset_bug(version), "{version}");
        }
    }
}
