//! A second SQLite in this process: the shared library of the system, loaded at run time and closed again.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;

use super::library;

/// The system's SQLite, as a program has it that opens libraries when it needs them.
pub struct Second {
    handle: *mut c_void,
}

/// A connection of that SQLite.
pub struct SecondConnection<'s> {
    sqlite: &'s Second,
    db: *mut c_void,
}

type Open = unsafe extern "C" fn(*const c_char, *mut *mut c_void) -> c_int;
type OpenThrough = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, *const c_char) -> c_int;
type Close = unsafe extern "C" fn(*mut c_void) -> c_int;
type Allow = unsafe extern "C" fn(*mut c_void, c_int) -> c_int;
type Load = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char, *mut *mut c_char) -> c_int;
type Exec = unsafe extern "C" fn(*mut c_void, *const c_char, Option<Row>, *mut c_void, *mut *mut c_char) -> c_int;
type Row = unsafe extern "C" fn(*mut c_void, c_int, *mut *mut c_char, *mut *mut c_char) -> c_int;

#[allow(unsafe_code)]
impl Second {
    pub fn open_library() -> Second {
        // SAFETY: SQLite runs nothing when it is loaded; its own symbols stay its own (RTLD_LOCAL).
        let handle = unsafe { libc::dlopen(c"libsqlite3.so.0".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "no libsqlite3.so.0, the library of the sqlite3 shell");
        Second { handle }
    }

    /// A routine, whose type the caller says.
    pub(super) unsafe fn routine<F: Copy>(&self, name: &CStr) -> F {
        // SAFETY: the handle is open; what is found is a function, and F the type of it.
        unsafe {
            let found = libc::dlsym(self.handle, name.as_ptr());
            assert!(!found.is_null(), "SQLite has {name:?}");
            std::mem::transmute_copy(&found)
        }
    }

    pub fn connect(&self, database: &Path) -> SecondConnection<'_> {
        let name = c_text(database.to_str().expect("a path in UTF-8"));
        let mut db = ptr::null_mut();
        // SAFETY: sqlite3_open has this type, and fills `db`.
        let rc = unsafe { self.routine::<Open>(c"sqlite3_open")(name.as_ptr(), &mut db) };
        assert_eq!(rc, 0, "opening {}", database.display());
        SecondConnection { sqlite: self, db }
    }

    /// A connection through the VFS called `vfs`.
    pub(super) fn connect_through(&self, database: &Path, vfs: &CStr) -> SecondConnection<'_> {
        const READ_WRITE: c_int = 2;
        let name = c_text(database.to_str().expect("a path in UTF-8"));
        let mut db = ptr::null_mut();
        // SAFETY: sqlite3_open_v2 has this type, and fills `db`.
        let rc = unsafe {
            let open = self.routine::<OpenThrough>(c"sqlite3_open_v2");
            open(name.as_ptr(), &mut db, READ_WRITE, vfs.as_ptr())
        };
        assert_eq!(rc, 0, "opening {}", database.display());
        SecondConnection { sqlite: self, db }
    }

    /// Closes the library, as a program does that unloads the module which brought SQLite in.
    pub fn close_library(self) {
        // SAFETY: the handle is open, and no connection borrows it any more.
        assert_eq!(unsafe { libc::dlclose(self.handle) }, 0);
    }
}

#[allow(unsafe_code)]
impl SecondConnection<'_> {
    /// Loads the extension; the message if SQLite did not.
    pub fn load(&self) -> Result<(), String> {
        let name = c_text(library().to_str().expect("a path in UTF-8"));
        let mut message = ptr::null_mut();
        // SAFETY: both routines have these types; the message is null or text that SQLite allocated.
        unsafe {
            self.sqlite.routine::<Allow>(c"sqlite3_enable_load_extension")(self.db, 1);
            let load = self.sqlite.routine::<Load>(c"sqlite3_load_extension");
            match load(self.db, name.as_ptr(), ptr::null(), &mut message) {
                0 => Ok(()),
                rc => Err(text_or(message, rc)),
            }
        }
    }

    /// The last value that SQL gives, or the error.
    pub fn answer(&self, sql: &str) -> Result<String, String> {
        let (sql, mut message, mut found) = (c_text(sql), ptr::null_mut(), String::new());
        // SAFETY: sqlite3_exec has this type; `found` outlives the call, and `row` gets nothing else.
        unsafe {
            let exec = self.sqlite.routine::<Exec>(c"sqlite3_exec");
            match exec(self.db, sql.as_ptr(), Some(row), (&raw mut found).cast(), &mut message) {
                0 => Ok(found),
                rc => Err(text_or(message, rc)),
            }
        }
    }

    pub fn ask(&self, sql: &str) -> String {
        self.answer(sql).unwrap_or_else(|e| panic!("{sql}\nfailed: {e}"))
    }
}

impl Drop for SecondConnection<'_> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: sqlite3_close has this type; the connection is open.
        unsafe { self.sqlite.routine::<Close>(c"sqlite3_close")(self.db) };
    }
}

#[allow(unsafe_code)]
unsafe extern "C" fn row(found: *mut c_void, columns: c_int, values: *mut *mut c_char, _: *mut *mut c_char) -> c_int {
    // SAFETY: `found` is the string that `answer` passed; SQLite gives as many values as columns, null for NULL.
    unsafe {
        let value = if columns > 0 { *values } else { ptr::null_mut() };
        *found.cast::<String>() =
            if value.is_null() { String::new() } else { CStr::from_ptr(value).to_string_lossy().into_owned() };
    }
    0
}

fn c_text(text: &str) -> CString {
    CString::new(text).expect("no NUL")
}

#[allow(unsafe_code)]
unsafe fn text_or(message: *const c_char, rc: c_int) -> String {
    if message.is_null() {
        return format!("result code {rc}");
    }
    // SAFETY: not null, and NUL-terminated text of SQLite's.
    unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
}
