//! What belongs to one connection of the host, and goes with it.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::replica::ManualApply;

/// The state of one connection.
#[derive(Default)]
pub struct Session {
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub struct Inner {
    /// Frames staged by `litestream_apply_frame`, and for which file.
    pub manual: Option<(PathBuf, ManualApply)>,
    /// What the auto-checkpoint was that our hook took the place of.
    pub auto_checkpoint: Option<u32>,
}

impl Session {
    /// The state; one call at a time has it.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
