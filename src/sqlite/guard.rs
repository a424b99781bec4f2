//! A panic must not cross into C: every callback body runs in here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::base::{Error, Kind, Result};

/// Runs `body`; a panic inside comes back as an error that says what it said.
pub fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|s| s.to_string())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".into());
        Err(Error::new(Kind::Internal, format!("litestream: internal error, please report it: {text}")))
    })
}
