//! Connections of the SQLite that rusqlite carries, in this process.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::types::FromSql;

use super::library;

/// A connection to `database` without the library.
pub fn plain(database: &Path) -> Connection {
    Connection::open(database).unwrap_or_else(|e| panic!("opening {}: {e}", database.display()))
}

/// A connection to `database` with the library loaded.
pub fn loaded(database: &Path) -> Connection {
    let connection = plain(database);
    load(&connection);
    connection
}

/// Loads the library into `connection`.
pub fn load(connection: &Connection) {
    try_load(connection).unwrap_or_else(|e| panic!("loading {}: {e}", library().display()));
}

/// The same, where it may fail.
pub fn try_load(connection: &Connection) -> rusqlite::Result<()> {
    // SAFETY: the library is the one under test, and no SQL from elsewhere runs while loading is allowed.
    #[allow(unsafe_code)]
    let loaded =
        unsafe { connection.load_extension_enable().and_then(|()| connection.load_extension(library(), None::<&str>)) };
    connection.load_extension_disable().expect("forbidding to load extensions");
    loaded
}

/// Asking a database, short and with the SQL in every failure.
pub trait Sql {
    /// Runs statements.
    fn run(&self, sql: &str);
    /// The one value that `sql` gives.
    fn ask<T: FromSql>(&self, sql: &str) -> T;
    /// The error that `sql` must end with.
    fn refused(&self, sql: &str) -> String;
}

impl Sql for Connection {
    fn run(&self, sql: &str) {
        self.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}\nfailed: {e}"));
    }

    fn ask<T: FromSql>(&self, sql: &str) -> T {
        self.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|e| panic!("{sql}\nfailed: {e}"))
    }

    fn refused(&self, sql: &str) -> String {
        match self.query_row(sql, [], |row| row.get::<_, rusqlite::types::Value>(0)) {
            Err(error) => error.to_string(),
            Ok(value) => panic!("{sql}\ngave {value:?} and should have been refused"),
        }
    }
}
