//! SQLite connections as all measurements open them.

use std::ffi::CString;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, ffi};

use super::Result;

/// The level that every connection is set to: the usual one in WAL mode, which syncs at checkpoints only.
pub const SYNCHRONOUS: &str = "NORMAL";

/// Opens a database file, or a place for one, leaving the file as it is.
pub fn open(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "synchronous", SYNCHRONOUS)?;
    Ok(connection)
}

/// Opens what a VFS shows for reading, after the library that registers it was loaded.
pub fn open_through(library: &Path, vfs: &str) -> Result<Connection> {
    let loader = Connection::open_in_memory()?;
    load_with(&loader, library, "sqlite3_litestreamvfs_init")?;
    let uri = format!("file:replica.db?vfs={vfs}");
    let connection = Connection::open_with_flags(uri, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    // The library must stay for as long as anything of it is used: until the process ends.
    std::mem::forget(loader);
    Ok(connection)
}

/// Loads the extension into a connection.
pub fn load(connection: &Connection, library: &Path) -> Result<()> {
    load_with(connection, library, "sqlite3_litestream_init")
}

#[allow(unsafe_code)]
fn load_with(connection: &Connection, library: &Path, entry: &str) -> Result<()> {
    // SAFETY: the library is the one this repository builds, or one that the person at the keyboard chose.
    unsafe {
        connection.load_extension_enable()?;
        connection.load_extension(library, Some(entry))?;
    }
    connection.load_extension_disable()?;
    Ok(())
}

/// A prepared statement with one parameter, a blob that is not copied: a C program can bind one so, and most drivers copy it.
pub struct Uncopied<'c> {
    statement: *mut ffi::sqlite3_stmt,
    connection: &'c Connection,
}

#[allow(unsafe_code)]
impl<'c> Uncopied<'c> {
    /// Prepares `sql`.
    pub fn prepare(connection: &'c Connection, sql: &str) -> Result<Uncopied<'c>> {
        let (sql, mut statement) = (CString::new(sql)?, ptr::null_mut());
        // SAFETY: the connection is open for 'c; the text ends with a zero and is not kept (sqlite3_prepare_v2).
        unsafe {
            ffi::sqlite3_prepare_v2(connection.handle(), sql.as_ptr(), -1, &mut statement, ptr::null_mut());
        }
        let prepared = Uncopied { statement, connection };
        if statement.is_null() { Err(prepared.error()) } else { Ok(prepared) }
    }

    /// Runs it to its end.
    pub fn run(&mut self, blob: &[u8]) -> Result<()> {
        // SAFETY: the statement is one of an open connection; the blob outlives its binding, which another one without a
        // value replaces before this returns (sqlite3_bind_blob64, SQLITE_STATIC).
        let ended = unsafe {
            ffi::sqlite3_bind_blob64(
                self.statement,
                1,
                blob.as_ptr().cast(),
                blob.len() as ffi::sqlite3_uint64,
                ffi::SQLITE_STATIC(),
            );
            while ffi::sqlite3_step(self.statement) == ffi::SQLITE_ROW {}
            let ended = ffi::sqlite3_reset(self.statement);
            ffi::sqlite3_clear_bindings(self.statement);
            ended
        };
        if ended == ffi::SQLITE_OK { Ok(()) } else { Err(self.error()) }
    }

    fn error(&self) -> Box<dyn std::error::Error> {
        // SAFETY: the connection is open; the text is copied before anything else is called on it (sqlite3_errmsg).
        let text = unsafe { std::ffi::CStr::from_ptr(ffi::sqlite3_errmsg(self.connection.handle())) };
        text.to_string_lossy().into()
    }
}

#[allow(unsafe_code)]
impl Drop for Uncopied<'_> {
    fn drop(&mut self) {
        // SAFETY: nobody else has the statement; a null pointer is passed over (sqlite3_finalize).
        unsafe { ffi::sqlite3_finalize(self.statement) };
    }
}

/// Runs a statement and returns its first row, a JSON value for each column; empty when there is no row.
pub fn first_row(connection: &Connection, sql: &str) -> Result<Vec<serde_json::Value>> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else { return Ok(Vec::new()) };
    (0..columns).map(|column| Ok(to_json(row.get(column)?))).collect()
}

fn to_json(value: Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Integer(number) => number.into(),
        Value::Real(number) => number.into(),
        Value::Text(text) => text.into(),
        Value::Blob(bytes) => bytes.len().into(),
    }
}
