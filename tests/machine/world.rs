//! What takes part: databases with their processes, the ways between them, and what is known of all.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::link::Link;
use super::process::{Failure, Process, Slot};

/// Length of a note in the list of what happened, in characters.
const LONGEST_NOTE: usize = 1000;

/// What a database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Primary,
    Follower,
    /// Follows, and serves the leaf.
    Relay,
}

/// A database, the process that serves or follows with it, and who reads it.
pub struct Node {
    pub name: &'static str,
    pub path: PathBuf,
    /// `host:port` where it is served, when it is.
    pub address: String,
    pub role: Mutex<Role>,
    /// Its way to its upstream.
    pub link: Link,
    pub host: Mutex<Option<Process>>,
    pub host_slot: Arc<Slot>,
    pub reader_slot: Arc<Slot>,
    /// Held by whoever uses the database; alone by who needs that nobody does.
    pub gate: RwLock<()>,
    /// Its own content may be overwritten: it was a primary, or lost what says whose replica it is.
    pub overwrite: AtomicBool,
    /// There is no database yet.
    pub fresh: AtomicBool,
    /// How often the disk under it was filled and is full still, or was a moment ago.
    pub full: AtomicU64,
    /// What `litestream_status` said last.
    pub status: Mutex<String>,
}

/// Everything.
pub struct World {
    pub seed: u64,
    pub nodes: Vec<Node>,
    /// Which node is the primary. Writers hold it while they write; alone it is held by who wants no writes.
    pub primary: RwLock<usize>,
    pub writer_slots: Vec<Arc<Slot>>,
    /// Counts up when a promotion begins and when all have followed it. Time may run backwards while it is odd.
    pub epoch: AtomicU64,
    /// The newest count that a writer was told is committed.
    pub acknowledged: AtomicI64,
    pub stop: AtomicBool,
    /// What went wrong first.
    pub failure: Mutex<Option<String>>,
    start: Instant,
    counts: Mutex<BTreeMap<String, u64>>,
    events: Mutex<Vec<String>>,
}

impl World {
    pub fn new(seed: u64, nodes: Vec<Node>, writer_slots: Vec<Arc<Slot>>) -> World {
        World {
            seed,
            nodes,
            primary: RwLock::new(0),
            writer_slots,
            epoch: AtomicU64::new(0),
            acknowledged: AtomicI64::new(0),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
            start: Instant::now(),
            counts: Mutex::default(),
            events: Mutex::default(),
        }
    }

    /// Seconds since the start.
    pub fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Counts something that happened.
    pub fn count(&self, what: &str, n: u64) {
        *self.counts.lock().unwrap().entry(what.to_string()).or_default() += n;
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap().clone()
    }

    /// Notes something that was done.
    pub fn note(&self, what: &str) {
        let short: String = what.chars().take(LONGEST_NOTE).collect();
        self.events.lock().unwrap().push(format!("{:7.2} {short}", self.now()));
    }

    pub fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }

    /// Something is wrong: everything ends.
    pub fn fail(&self, what: &str) {
        let mut failure = self.failure.lock().unwrap();
        if failure.is_none() && !self.stopped() {
            self.note(&format!("FAILED: {what}"));
            *failure = Some(format!("at {:.2} s: {what}", self.now()));
            self.stop.store(true, Ordering::SeqCst);
        }
    }

    /// Sleeps, and wakes early when all ends.
    pub fn rest(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.stopped() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5).min(time));
        }
    }

    /// The slots of all processes.
    pub fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.nodes.iter().flat_map(|node| [&node.host_slot, &node.reader_slot]).chain(&self.writer_slots)
    }
}

impl Node {
    /// Asks the process that serves or follows. No process counts as killed.
    pub fn ask(&self, sql: &str) -> Result<String, Failure> {
        match self.host.lock().unwrap().as_mut() {
            Some(host) => host.ask(sql),
            None => Err(Failure::Killed),
        }
    }

    pub fn role(&self) -> Role {
        *self.role.lock().unwrap()
    }

    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::SeqCst) > 0
    }

    pub fn sidecar(&self, name: &str) -> PathBuf {
        self.path.with_file_name("app.db-litestream").join(name)
    }

    /// Whether an error is one that a full disk excuses.
    pub fn excuses(&self, error: &str) -> bool {
        let of_disk =
            ["disk is full", "disk I/O error", "No space left", "unable to open database file", "os error 28"];
        self.is_full() && of_disk.iter().any(|text| error.contains(text))
    }
}
