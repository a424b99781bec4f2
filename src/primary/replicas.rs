//! Who is connected, for `litestream_replicas`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::base::{Headway, Position};
use crate::sqlite::{steady_ms, steady_since};

/// What one connection has been sent.
pub(super) struct Replica {
    client: String,
    version: u32,
    since: i64,
    at: Mutex<At>,
    commits: AtomicU64,
    pages: AtomicU64,
    bytes: AtomicU64,
}

/// Where a connection is.
struct At {
    stage: Stage,
    position: Option<Position>,
}

enum Stage {
    /// Being sent what it lacks, since when, and how far that is.
    CatchingUp(i64, Option<Headway>),
    /// Being sent commits as they happen: the number of the log's entry that comes next.
    Live(u64),
}

/// The connections of one database.
#[derive(Default)]
pub(super) struct Replicas {
    all: Mutex<Vec<Weak<Replica>>>,
}

/// One connection, as the table shows it.
#[derive(Clone, Debug)]
pub struct ReplicaRow {
    /// Address and port of the other end.
    pub client: String,
    /// Version of the protocol spoken: 1 or 2.
    pub version: u32,
    /// Whether it is sent commits as they happen; otherwise it is catching up.
    pub live: bool,
    /// What it was last sent.
    pub position: Option<Position>,
    /// Seconds since the oldest commit was seen that was not handed to the connection yet; while it catches up, since that began.
    pub lag: f64,
    /// Commits of the primary sent.
    pub commits: u64,
    /// Page images sent.
    pub pages: u64,
    /// Bytes handed to the connection.
    pub bytes: u64,
    /// Seconds since it connected.
    pub seconds: f64,
    /// How far its catch-up is, if one is under way.
    pub headway: Option<Headway>,
}

impl Replica {
    /// It was sent all that it lacked, and all of the log before entry number `next`.
    pub fn set_live(&self, next: u64) {
        self.at().stage = Stage::Live(next);
    }

    /// It is sent what it lacks from here on.
    pub fn fell_behind(&self) {
        self.at().stage = Stage::CatchingUp(steady_ms(), None);
    }

    /// How far that is.
    pub fn set_headway(&self, headway: Headway) {
        if let Stage::CatchingUp(_, known) = &mut self.at().stage {
            *known = Some(headway);
        }
    }

    /// Counts what was handed to the connection.
    pub fn sent(&self, commits: u64, pages: u64, bytes: usize) {
        self.commits.fetch_add(commits, Relaxed);
        self.pages.fetch_add(pages, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub fn set_position(&self, position: Position) {
        self.at().position = Some(position);
    }

    fn row(&self, waiting: impl Fn(u32, u64) -> Duration) -> ReplicaRow {
        let at = self.at();
        let (lag, headway) = match at.stage {
            Stage::Live(next) => (waiting(self.version, next), None),
            Stage::CatchingUp(since, headway) => (steady_since(since), headway),
        };
        ReplicaRow {
            client: self.client.clone(),
            version: self.version,
            live: matches!(at.stage, Stage::Live(_)),
            position: at.position,
            lag: lag.as_secs_f64(),
            commits: self.commits.load(Relaxed),
            pages: self.pages.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            seconds: steady_since(self.since).as_secs_f64(),
            headway,
        }
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replicas {
    /// Adds a connection; it is gone when the last `Arc` is.
    pub fn add(&self, client: String, version: u32) -> Arc<Replica> {
        let since = steady_ms();
        let replica = Arc::new(Replica {
            client,
            version,
            since,
            at: Mutex::new(At { stage: Stage::CatchingUp(since, None), position: None }),
            commits: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&replica));
        replica
    }

    /// Whether anybody who speaks `version` is connected.
    pub fn any(&self, version: u32) -> bool {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).any(|replica| replica.version == version)
    }

    /// One row a connection. `waiting` says for how long an entry of the log for a version has been there to be sent.
    pub fn rows(&self, waiting: impl Fn(u32, u64) -> Duration) -> Vec<ReplicaRow> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).map(|replica| replica.row(&waiting)).collect()
    }
}
