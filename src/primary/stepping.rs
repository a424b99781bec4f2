//! A primary that a test steps by hand: the tail's work without its thread. There only in the unit
//! tests.

use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;

use super::tail::Tail;
use super::{Options, Primary};
use crate::base::{Error, Result};

/// A database being served, and its tail.
pub struct Stepped {
    primary: Arc<Primary>,
    tail: Tail,
}

impl Stepped {
    /// Begins to serve the database at `path`, opened through the VFS named `vfs`.
    pub fn start(path: &Path, vfs: &CStr, options: Options) -> Result<Stepped> {
        let (primary, tail) = Primary::prepare(path, vfs, options)?;
        Ok(Stepped { primary, tail })
    }

    /// What feeds are opened from.
    pub fn primary(&self) -> &Arc<Primary> {
        &self.primary
    }

    /// One turn of the tail.
    pub fn turn(&mut self) -> Result<()> {
        self.tail.turn().map(drop)
    }

    /// Lets go of the WAL until the next turn, as the tail does for writers that never pause.
    pub fn let_go(&self) -> Result<()> {
        self.primary.lock_core().let_go()
    }

    /// What a checkpoint or a feed does that has waited for the core.
    pub fn look(&self) -> Result<()> {
        self.primary.look(&mut self.primary.lock_core()).map(drop)
    }

    /// Ends serving for good, as the tail does when it finds that the file is not what it was.
    pub fn lose(&self, error: Error) {
        self.primary.lose(error);
    }

    /// Ends serving: in order, or as a killed process does.
    pub fn end(self, in_order: bool) -> Result<()> {
        self.primary.stop();
        if in_order { self.tail.end() } else { Ok(()) }
    }
}
