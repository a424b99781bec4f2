//! One error for the whole library: what went wrong in words a user can act on, and of which kind.
//!
//! The kind decides the SQLite result code the error reaches SQL with; `src/sqlite` maps it in one place.

use std::time::Duration;
use std::{fmt, io};

/// What sort of thing went wrong. Each maps to one SQLite primary result code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A wrong argument, option or state (`SQLITE_ERROR`).
    Usage,
    /// Somebody else holds a lock; trying again may help (`SQLITE_BUSY`).
    Busy,
    /// Another process, or another call, serves or feeds the database (`SQLITE_BUSY`).
    Taken,
    /// The database or the file system refuses to be written (`SQLITE_READONLY`).
    ReadOnly,
    /// The file system or the network failed (`SQLITE_IOERR`).
    Io,
    /// A file or a stream does not hold what its format prescribes (`SQLITE_CORRUPT`).
    Corrupt,
    /// A file could not be opened (`SQLITE_CANTOPEN`).
    CantOpen,
    /// The value is of the wrong type (`SQLITE_MISMATCH`).
    Mismatch,
    /// The upstream and this database do not belong together (`SQLITE_CONSTRAINT`).
    Refused,
    /// A replica was changed by somebody else (`SQLITE_CORRUPT`).
    Diverged,
    /// The application asked for the end of what it had called for (`SQLITE_INTERRUPT`).
    Interrupted,
    /// A panic was caught, or SQLite answered what it never should (`SQLITE_INTERNAL`).
    Internal,
}

/// A message for a person and a [`Kind`] for the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
    retry_after: Option<Duration>,
}

/// An error that is over, as it is kept for the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// What it said.
    pub text: String,
    /// When, in ms since 1970.
    pub at: i64,
}

/// The result of everything in this library that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), retry_after: None }
    }

    /// A wrong argument, option or state.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(Kind::Usage, message)
    }

    /// A file or stream that is not what its format prescribes.
    pub fn corrupt(message: impl Into<String>) -> Error {
        Error::new(Kind::Corrupt, message)
    }

    /// An I/O failure, told with what was being done.
    pub fn io(doing: impl fmt::Display, error: &io::Error) -> Error {
        Error::new(Kind::Io, format!("{doing}: {error}"))
    }

    /// Which kind this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How long whoever failed us asks to be left alone, if it does.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The same error, with such a time.
    pub fn with_retry_after(self, time: Option<Duration>) -> Error {
        Error { retry_after: time, ..self }
    }

    /// The same error with `context: ` before its message.
    pub fn within(self, context: impl fmt::Display) -> Error {
        Error { message: format!("{context}: {}", self.message), ..self }
    }
}

impl Past {
    /// An error that comes now and says `text`.
    pub fn now(text: impl Into<String>) -> Past {
        Past { text: text.into(), at: super::unix_ms() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
