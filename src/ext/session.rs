//! What belongs to one connection of the host, and goes with it.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::commits::Commits;
use crate::replica::ManualApply;

/// The state of one connection.
#[derive(Default)]
pub struct Session {
    inner: Mutex<Inner>,
}

#[derive(Default)]
pub struct Inner {
    /// What frames are applied to by hand, once one was.
    pub manual: Option<Manual>,
    /// What our hook on its commits does, once there was one.
    pub commits: Option<&'static Commits>,
}

/// A database that frames are applied to by hand.
pub struct Manual {
    /// The name SQLite has for its file.
    pub name: PathBuf,
    /// The path it goes by in the registry. Kept, since finding it out takes longer than applying a frame.
    pub path: PathBuf,
    /// Applies the frames, and holds those that are staged.
    pub apply: ManualApply,
}

impl Session {
    /// The state; one call at a time has it.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
