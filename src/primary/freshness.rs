//! The age of what is known of a database, as replicas get it.
//!
//! A time that goes out with a position is when the look at the WAL began by which that was the
//! newest, and never when it was sent. So a tail that waits for its disk, fails, compares pages, or
//! does not run makes every replica's age grow.

use std::sync::TryLockError;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use super::Primary;
use super::core::Core;
use super::pages::Places;
use crate::base::{Result, limits};
use crate::sqlite::steady_since;

/// How long a status waits for the core. Pieces of a catch-up take some milliseconds, unless the
/// disk is slow.
const STATUS_PATIENCE: Duration = Duration::from_millis(500);

impl Primary {
    /// When the last look began by which the log ends with the newest commit, by this process'
    /// clock. A relay says what its upstream said. Looks itself where that needs neither a lock
    /// that is taken nor a file, so that it may be asked for anywhere; what has been committed
    /// since is left to the tail.
    ///
    /// The end of the log is to be asked for afterwards: what a look has found is put there before
    /// its time is known here.
    pub(super) fn known_at(&self) -> i64 {
        if let Some(time) = self.origin_known_at() {
            return time;
        }
        let core = match self.core.try_lock() {
            Ok(core) => Some(core),
            Err(TryLockError::Poisoned(core)) => Some(core.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(core) = core {
            self.glance(&core);
        }
        self.looked.load(Acquire)
    }

    /// Looks at shared memory only. If nothing is new that is a look as good as any; if something
    /// is, it is the tail's to take in.
    fn glance(&self, core: &Core) {
        let began = crate::sqlite::steady_ms();
        match core.is_up_to_date() {
            Ok(Some(true)) => drop(self.looked.fetch_max(began, Release)),
            Ok(Some(false)) => self.ring(),
            // A writer in the middle of publishing, or an error that the tail will meet, too.
            Ok(None) | Err(_) => {}
        }
    }

    /// Notes that all which the last look found is in the log.
    pub(super) fn note_looked(&self, core: &Core) {
        self.looked.fetch_max(core.looked, Release);
    }

    /// [`Core::reading`] for one of those who share the core with the tail.
    pub(super) fn reading<T>(&self, core: &mut Core, read: impl FnOnce(&mut Core, Places) -> Result<T>) -> Result<T> {
        core.reading(
            |core, news| self.publish(core, &news),
            |core, places| {
                self.note_looked(core);
                read(core, places)
            },
        )
    }

    /// Why replicas know nothing new, if no look has been completed for some heartbeats.
    pub(super) fn stalled(&self) -> Option<String> {
        if self.is_relay() || self.is_stopped() {
            return None;
        }
        let age = steady_since(self.known_at());
        (age > limits::STALLED.max(self.heartbeat() * 3)).then(|| {
            format!(
                "no look at the WAL was completed for {} s, and replicas know nothing newer: the disk is slow, or all pages are \
                 being compared",
                age.as_secs()
            )
        })
    }

    /// Does `with` the core, if it is free within what a healthy disk takes.
    pub(super) fn with_core_soon<T>(&self, with: impl FnOnce(&Core) -> T) -> Option<T> {
        let began = Instant::now();
        loop {
            match self.core.try_lock() {
                Ok(core) => return Some(with(&core)),
                Err(TryLockError::Poisoned(core)) => return Some(with(&core.into_inner())),
                Err(_) if began.elapsed() > STATUS_PATIENCE => return None,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}
