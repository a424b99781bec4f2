//! Either kind of SQLite behind one face, for tests that must hold for both.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::ValueRef;

use super::{Shell, loaded};

/// Which SQLite a test runs on.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The `sqlite3` shell of the system, a process of its own.
    Shell,
    /// The SQLite that rusqlite carries, in this process.
    Rusqlite,
}

/// A database open with the library loaded.
pub enum End {
    Shell(Shell),
    Rusqlite(Connection),
}

impl End {
    pub fn open(kind: Kind, database: &Path) -> End {
        match kind {
            Kind::Shell => End::Shell(Shell::open(database)),
            Kind::Rusqlite => End::Rusqlite(loaded(database)),
        }
    }

    /// What SQL that must not fail gives, columns separated by `|`.
    pub fn ask(&mut self, sql: &str) -> String {
        self.answer(sql).unwrap_or_else(|e| panic!("{sql}\nfailed: {e}"))
    }

    /// The error that SQL must end with.
    pub fn refused(&mut self, sql: &str) -> String {
        match self.answer(sql) {
            Err(error) => error,
            Ok(rows) => panic!("{sql}\ngave '{rows}' and should have been refused"),
        }
    }

    fn answer(&mut self, sql: &str) -> Result<String, String> {
        match self {
            End::Shell(shell) => shell.answer(sql),
            End::Rusqlite(connection) => rows(connection, sql).map_err(|e| e.to_string()),
        }
    }
}

fn rows(connection: &Connection, sql: &str) -> rusqlite::Result<String> {
    let mut lines = Vec::new();
    let mut statements = rusqlite::Batch::new(connection, sql);
    while let Some(mut statement) = statements.next()? {
        let columns = statement.column_count();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            let values: rusqlite::Result<Vec<_>> = (0..columns).map(|i| row.get_ref(i).map(text)).collect();
            lines.push(values?.join("|"));
        }
    }
    Ok(lines.join("\n"))
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => String::new(),
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Real(x) => x.to_string(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}
