//! What a served database counts, for those who ask. Nobody waits for a counter: they are added to where the work is done, and read
//! one by one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::base::Result;

/// What something is sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Commits as they happen.
    Live,
    /// What a replica lacks.
    CatchUp,
    /// Everything: a new replica, or a copy of the database.
    Snapshot,
}

impl Sending {
    /// Every kind.
    pub const ALL: [Sending; 3] = [Sending::Live, Sending::CatchUp, Sending::Snapshot];

    /// Its name, as in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Sending::Live => "live",
            Sending::CatchUp => "catch_up",
            Sending::Snapshot => "snapshot",
        }
    }
}

/// What was counted since serving began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Pages and bytes sent, in the order of [`Sending::ALL`].
    pub sent: [(u64, u64); 3],
    /// Looks at the WAL.
    pub syncs: Effort,
    /// Checkpoints run by the tail, or in the commit hook in place of SQLite's own.
    pub checkpoints: Effort,
    /// Bytes of the WAL seen.
    pub wal_bytes: u64,
    /// Streams opened.
    pub connections: u64,
    /// Copies of the database begun, for `GET /snapshot` and `litestream_snapshot()`.
    pub snapshots: u64,
    /// Pages that were found to have changed without a commit.
    pub unexplained: u64,
}

/// How often something was done, how often it failed, and how long it took altogether.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effort {
    /// How often, failures included.
    pub count: u64,
    /// How often it failed.
    pub errors: u64,
    /// Seconds.
    pub seconds: f64,
}

#[derive(Default)]
pub(super) struct Counters {
    sent: [(AtomicU64, AtomicU64); 3],
    pub syncs: Timer,
    pub checkpoints: Timer,
    pub wal_bytes: AtomicU64,
    pub connections: AtomicU64,
    pub snapshots: AtomicU64,
}

/// Counts and times something.
#[derive(Default)]
pub(super) struct Timer {
    count: AtomicU64,
    errors: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Counters {
    /// Counts what was handed to a connection.
    pub fn sent(&self, what: Sending, pages: u64, bytes: u64) {
        let (all_pages, all_bytes) = match (&self.sent, what) {
            ([live, _, _], Sending::Live) => live,
            ([_, catch_up, _], Sending::CatchUp) => catch_up,
            ([_, _, snapshot], Sending::Snapshot) => snapshot,
        };
        all_pages.fetch_add(pages, Relaxed);
        all_bytes.fetch_add(bytes, Relaxed);
    }

    /// All of it now; what others count is for the caller to add.
    pub fn read(&self) -> Counts {
        Counts {
            sent: self.sent.each_ref().map(|(pages, bytes)| (pages.load(Relaxed), bytes.load(Relaxed))),
            syncs: self.syncs.read(),
            checkpoints: self.checkpoints.read(),
            wal_bytes: self.wal_bytes.load(Relaxed),
            connections: self.connections.load(Relaxed),
            snapshots: self.snapshots.load(Relaxed),
            unexplained: 0,
        }
    }
}

impl Timer {
    /// Does `work`, and counts it.
    pub fn time<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let done = work();
        self.count.fetch_add(1, Relaxed);
        self.errors.fetch_add(u64::from(done.is_err()), Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX), Relaxed);
        done
    }

    fn read(&self) -> Effort {
        Effort {
            count: self.count.load(Relaxed),
            errors: self.errors.load(Relaxed),
            seconds: self.nanoseconds.load(Relaxed) as f64 / 1e9,
        }
    }
}
