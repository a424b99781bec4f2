//! Arguments of SQL functions and tables.

use std::slice;

use sqlite3ext_sys::sqlite3_value;

use super::api::call;

/// One SQL value, borrowed from SQLite for the time of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// An INTEGER.
    Integer(i64),
    /// A REAL.
    Real(f64),
    /// A TEXT; bytes that are not UTF-8 make it a blob.
    Text(&'a str),
    /// A BLOB.
    Blob(&'a [u8]),
}

impl<'a> Value<'a> {
    /// Reads a value.
    ///
    /// # Safety
    /// `raw` is a protected value that SQLite keeps alive and unchanged for `'a`.
    pub(super) unsafe fn read(raw: *mut sqlite3_value) -> Value<'a> {
        // SAFETY: the caller vouches for the value. Blob and text pointers are asked for before their length and are
        // null when empty (<https://www.sqlite.org/c3ref/value_blob.html>).
        unsafe {
            match call!(value_type(raw)) {
                1 => Value::Integer(call!(value_int64(raw))),
                2 => Value::Real(call!(value_double(raw))),
                3 => {
                    let text = call!(value_text(raw));
                    let bytes = bytes(text, call!(value_bytes(raw)));
                    std::str::from_utf8(bytes).map_or(Value::Blob(bytes), Value::Text)
                }
                4 => {
                    let blob = call!(value_blob(raw));
                    Value::Blob(bytes(blob.cast(), call!(value_bytes(raw))))
                }
                _ => Value::Null,
            }
        }
    }

    /// The name of its type, for errors.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "NULL",
            Value::Integer(_) => "an integer",
            Value::Real(_) => "a real number",
            Value::Text(_) => "text",
            Value::Blob(_) => "a blob",
        }
    }
}

/// # Safety
/// `start` is null or points to `length` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *const u8, length: i32) -> &'a [u8] {
    match usize::try_from(length) {
        // SAFETY: the caller vouches for the bytes; null was ruled out.
        Ok(length) if !start.is_null() => unsafe { slice::from_raw_parts(start, length) },
        _ => &[],
    }
}
