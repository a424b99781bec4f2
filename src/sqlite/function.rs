//! SQL functions: registration through `sqlite-loadable`, with a guard against panics and the error codes it lacks.

use std::ffi::c_int;

use sqlite_loadable::{FunctionFlags, api as loadable, define_scalar_function};
use sqlite3ext_sys::{sqlite3, sqlite3_context, sqlite3_value};

use super::api::call;
use super::{Host, Value, guarded};
use crate::base::{Error, Kind, Result};

/// What a function or a column of a table gives back.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// NULL.
    Null,
    /// An INTEGER.
    Integer(i64),
    /// A REAL.
    Real(f64),
    /// A TEXT.
    Text(String),
    /// A BLOB.
    Blob(Vec<u8>),
}

impl Output {
    pub(super) fn give(&self, context: *mut sqlite3_context) -> sqlite_loadable::Result<()> {
        match self {
            Output::Null => loadable::result_null(context),
            Output::Integer(n) => loadable::result_int64(context, *n),
            Output::Real(x) => loadable::result_double(context, *x),
            Output::Text(text) => loadable::result_text(context, text)?,
            Output::Blob(bytes) => loadable::result_blob(context, bytes),
        }
        Ok(())
    }
}

impl<T: Into<Output>> From<Option<T>> for Output {
    fn from(value: Option<T>) -> Output {
        value.map_or(Output::Null, Into::into)
    }
}

impl From<String> for Output {
    fn from(text: String) -> Output {
        Output::Text(text)
    }
}

impl From<&str> for Output {
    fn from(text: &str) -> Output {
        Output::Text(text.to_string())
    }
}

impl From<f64> for Output {
    fn from(x: f64) -> Output {
        Output::Real(x)
    }
}

impl From<u64> for Output {
    fn from(n: u64) -> Output {
        Output::Integer(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

/// One call of a function.
pub struct Call<'a> {
    host: Host,
    values: &'a [*mut sqlite3_value],
}

impl<'a> Call<'a> {
    /// The connection that called.
    pub fn host(&self) -> Host {
        self.host
    }

    /// Argument `i`, from 0. One that was left out is NULL.
    pub fn value(&self, i: usize) -> Value<'a> {
        match self.values.get(i) {
            // SAFETY: SQLite keeps the arguments alive and protected for the time of the call.
            Some(raw) => unsafe { Value::read(*raw) },
            None => Value::Null,
        }
    }

    /// How many arguments there are.
    pub fn count(&self) -> usize {
        self.values.len()
    }
}

/// Registers `name` with `arguments` arguments on the connection `host`. It can be called from top-level SQL only, never
/// from a view, trigger or other part of a schema (<https://www.sqlite.org/c3ref/c_deterministic.html#sqlitedirectonly>).
pub fn define_function(
    host: Host,
    name: &str,
    arguments: c_int,
    body: impl Fn(&Call) -> Result<Output> + 'static,
) -> Result<()> {
    let run = move |context: *mut sqlite3_context, values: &[*mut sqlite3_value]| {
        // SAFETY: SQLite calls this with a live context, whose connection outlives the call.
        let db: *mut sqlite3 = unsafe { call!(context_db_handle(context)) };
        let call = Call { host: Host::new(db), values };
        match guarded(|| body(&call)) {
            Ok(output) => output.give(context),
            Err(error) => {
                loadable::result_error(context, &error.to_string())?;
                loadable::result_error_code(context, code(&error));
                Ok(())
            }
        }
    };
    let flags = FunctionFlags::UTF8 | FunctionFlags::DIRECTONLY;
    define_scalar_function(host.raw(), name, arguments, run, flags)
        .map_err(|e| Error::usage(format!("litestream: registering {name}: {e:?}")))
}

/// The SQLite result code an error reaches SQL with (<https://www.sqlite.org/rescode.html>).
pub(super) fn code(error: &Error) -> c_int {
    match error.kind() {
        Kind::Usage => 1,
        Kind::Internal => 2,
        Kind::Busy | Kind::Taken => 5,
        Kind::ReadOnly => 8,
        Kind::Interrupted => 9,
        Kind::Io => 10,
        Kind::Corrupt | Kind::Diverged => 11,
        Kind::CantOpen => 14,
        Kind::Refused => 19,
        Kind::Mismatch => 20,
    }
}
