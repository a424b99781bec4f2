//! What the process serves and follows, as it stands: the rows that the tables, the page and the metrics are made of.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::routes::{Refusal, blocking};
use crate::base::{Headway, Past, Position};
use crate::primary::{Counts, Primary, ReplicaRow};
use crate::replica::Progress;

/// Everything that is served and followed in this process, as the registry knows it.
#[derive(Default)]
pub struct Running {
    /// Databases served.
    pub served: Vec<Served>,
    /// Databases followed, or being brought up to date.
    pub followed: Vec<Followed>,
}

/// A database that is served.
pub struct Served {
    /// The database.
    pub primary: Arc<Primary>,
    /// Where.
    pub url: String,
    /// What is dangerous about serving it there, if anything is.
    pub warning: Option<&'static str>,
}

/// A database that is fed from an upstream.
#[derive(Clone)]
pub struct Followed {
    /// Its file.
    pub path: PathBuf,
    /// The URL of the upstream.
    pub url: String,
    /// What is dangerous about the way there, if anything is.
    pub warning: Option<String>,
    /// How far it has come.
    pub progress: Arc<Progress>,
}

/// Asks for that. May wait for those who begin to serve or follow.
pub type Source = fn() -> Running;

/// Who asks the source for all that come to one address.
pub struct Reporter {
    source: Source,
    turn: Mutex<()>,
}

impl Reporter {
    /// One that asks `source`.
    pub fn new(source: Source) -> Reporter {
        Reporter { source, turn: Mutex::new(()) }
    }

    /// What there is now. One asks at a time: it may have to wait for a database, and the threads that wait are those that streams
    /// are read on.
    pub async fn rows(&self) -> Result<Vec<Row>, Refusal> {
        let _turn = self.turn.lock().await;
        let source = self.source;
        blocking(move || source().rows()).await
    }
}

/// One database, as served or as followed.
pub struct Row {
    /// The database file.
    pub path: PathBuf,
    /// `primary`, `relay` or `replica`.
    pub role: &'static str,
    /// One of [`STATES`].
    pub state: &'static str,
    /// Why, where that is worth saying.
    pub reason: Option<String>,
    /// Where it is served, or followed from.
    pub url: String,
    /// Where it is.
    pub position: Option<Position>,
    /// Upper bound of how old it is, in seconds; none for what is served.
    pub lag: Option<f64>,
    /// Size of the database file in bytes.
    pub db_bytes: u64,
    /// Size of the WAL in bytes.
    pub wal_bytes: u64,
    /// Commits seen, or applied.
    pub commits: u64,
    /// Pages in them.
    pub pages: u64,
    /// Bytes put up for sending, or received.
    pub bytes: u64,
    /// Streams opened.
    pub connections: u64,
    /// How often pages were not as they should be.
    pub failures: u64,
    /// The last thing that went wrong.
    pub last_error: Option<Past>,
    /// How far the catch-up is, if one is under way.
    pub headway: Option<Headway>,
    /// What only one of the two has.
    pub part: Part,
}

/// What is known of a database that is served, or of one that is followed.
pub enum Part {
    /// What was counted, and who is connected.
    Served(Counts, Vec<ReplicaRow>),
    /// What was counted while it followed.
    Followed {
        /// How often the upstream was lost.
        reconnects: u64,
        /// How often content that differed was replaced.
        heals: u64,
        /// What was replaced last, and why.
        healed: Option<String>,
        /// Pages of the file that the audit read and compared.
        audited: u64,
    },
}

/// Every state that a database can be in.
pub const STATES: [&str; 5] = ["serving", "streaming", "catching up", "reconnecting", "stalled"];

impl Running {
    /// One row for each database served, then one for each that is followed, by path.
    pub fn rows(&self) -> Vec<Row> {
        let mut served: Vec<Row> = self.served.iter().map(of_served).collect();
        let mut followed: Vec<Row> = self.followed.iter().map(of_followed).collect();
        for rows in [&mut served, &mut followed] {
            rows.sort_by(|one, other| one.path.cmp(&other.path));
            // Two calls for one file: the second is about to be refused. A sample that comes twice would spoil a scrape.
            rows.dedup_by(|one, other| one.path == other.path);
        }
        served.append(&mut followed);
        served
    }
}

impl Row {
    /// Who is connected.
    pub fn replicas(&self) -> &[ReplicaRow] {
        match &self.part {
            Part::Served(_, replicas) => replicas,
            Part::Followed { .. } => &[],
        }
    }

    /// What was counted, if the database is served.
    pub fn counts(&self) -> Option<&Counts> {
        match &self.part {
            Part::Served(counts, _) => Some(counts),
            Part::Followed { .. } => None,
        }
    }
}

/// `live` or `catching up`.
pub fn state_of(replica: &ReplicaRow) -> &'static str {
    if replica.live { "live" } else { "catching up" }
}

fn of_served(Served { primary, url, warning }: &Served) -> Row {
    let status = primary.status();
    let failing = status.last_error.as_ref().filter(|_| status.failing).map(|error| error.text.clone());
    Row {
        path: primary.path().to_path_buf(),
        role: if primary.is_relay() { "relay" } else { "primary" },
        state: if status.failing || status.stalled.is_some() { "stalled" } else { "serving" },
        reason: failing.or(status.stalled).or_else(|| warning.map(str::to_string)),
        url: url.clone(),
        position: status.position,
        lag: None,
        db_bytes: status.db_bytes,
        wal_bytes: status.wal_bytes,
        commits: status.commits,
        pages: status.pages,
        bytes: status.bytes,
        connections: status.counts.connections,
        failures: status.counts.unexplained,
        last_error: status.last_error,
        headway: None,
        part: Part::Served(status.counts, primary.replicas()),
    }
}

fn of_followed(followed: &Followed) -> Row {
    let status = followed.progress.row();
    Row {
        path: followed.path.clone(),
        role: "replica",
        state: status.state,
        reason: status.reason.or_else(|| followed.warning.clone()),
        url: followed.url.clone(),
        position: status.position,
        lag: status.lag,
        db_bytes: status.db_bytes,
        wal_bytes: status.wal_bytes,
        commits: status.commits,
        pages: status.pages,
        bytes: status.bytes,
        connections: status.connections,
        failures: status.failures,
        last_error: status.last_error,
        headway: status.headway,
        part: Part::Followed {
            reconnects: status.reconnects,
            heals: status.heals,
            healed: status.healed,
            audited: status.audited,
        },
    }
}
