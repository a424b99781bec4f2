//! SQLite connections as all measurements open them.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::types::Value;

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

/// Loads the extension into a connection.
#[allow(unsafe_code)]
pub fn load(connection: &Connection, library: &Path) -> Result<()> {
    // SAFETY: the library is the one this repository builds, or one that the person at the keyboard chose.
    unsafe {
        connection.load_extension_enable()?;
        connection.load_extension(library, Some("sqlite3_litestream_init"))?;
    }
    connection.load_extension_disable()?;
    Ok(())
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
