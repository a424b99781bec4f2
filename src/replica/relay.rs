//! A replica that is served on to others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::{Position, Result};

/// Who serves the replica on.
pub trait Relay: Send + Sync {
    /// Keeps everybody from reading through it while the replica is written to.
    fn feeding(&self) -> Box<dyn Feeding + '_>;
}

/// The time in which the replica is written to.
pub trait Feeding {
    /// What has been written led to `position`, the newest there was at `time` (ms by this process'
    /// clock), if that is known.
    fn reached(&mut self, position: Position, time: Option<i64>) -> Result<()>;

    /// Allows the WAL to be restarted, if all of it is in the database.
    fn allow_restart(&mut self) -> Result<()>;
}

/// Where a relay comes and goes while the replica is being fed.
#[derive(Default)]
pub(super) struct RelaySlot {
    relay: Mutex<Option<Arc<dyn Relay>>>,
}

impl RelaySlot {
    /// The relay, which does not change while this is held.
    pub fn lock(&self) -> MutexGuard<'_, Option<Arc<dyn Relay>>> {
        self.relay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
