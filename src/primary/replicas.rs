//! Who is connected, for `litestream_replicas`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use crate::base::Position;

/// What one connection has been sent.
pub(super) struct Replica {
    client: String,
    version: u32,
    since: Instant,
    live: AtomicBool,
    position: Mutex<Option<Position>>,
    commits: AtomicU64,
    pages: AtomicU64,
    bytes: AtomicU64,
}

/// The connections of one database.
#[derive(Default)]
pub(super) struct Replicas {
    all: Mutex<Vec<Weak<Replica>>>,
}

/// One connection, as the table shows it.
pub struct ReplicaRow {
    /// Address and port of the other end.
    pub client: String,
    /// Version of the protocol spoken: 1 or 2.
    pub version: u32,
    /// Whether it is sent commits as they happen; otherwise it is catching up.
    pub live: bool,
    /// What it was last sent.
    pub position: Option<Position>,
    /// Commits of the primary sent.
    pub commits: u64,
    /// Page images sent.
    pub pages: u64,
    /// Bytes handed to the connection.
    pub bytes: u64,
    /// Seconds since it connected.
    pub seconds: f64,
}

impl Replica {
    pub fn set_live(&self, live: bool) {
        self.live.store(live, Relaxed);
    }

    /// Counts what was handed to the connection.
    pub fn sent(&self, commits: u64, pages: u64, bytes: usize) {
        self.commits.fetch_add(commits, Relaxed);
        self.pages.fetch_add(pages, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub fn set_position(&self, position: Position) {
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = Some(position);
    }

    fn row(&self) -> ReplicaRow {
        ReplicaRow {
            client: self.client.clone(),
            version: self.version,
            live: self.live.load(Relaxed),
            position: *self.position.lock().unwrap_or_else(PoisonError::into_inner),
            commits: self.commits.load(Relaxed),
            pages: self.pages.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            seconds: self.since.elapsed().as_secs_f64(),
        }
    }
}

impl Replicas {
    /// Adds a connection; it is gone when the last `Arc` is.
    pub fn add(&self, client: String, version: u32) -> Arc<Replica> {
        let replica = Arc::new(Replica {
            client,
            version,
            since: Instant::now(),
            live: AtomicBool::new(false),
            position: Mutex::default(),
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

    /// One row a connection.
    pub fn rows(&self) -> Vec<ReplicaRow> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).map(|replica| replica.row()).collect()
    }
}
