//! A primary, a replica and a writer as processes.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Bench;
use crate::support::Result;
use crate::support::db;
use crate::support::worker::{Worker, text};

/// The one table that lag and commits write to.
pub const SCHEMA: &str =
    "PRAGMA journal_mode = wal; CREATE TABLE row(id INTEGER PRIMARY KEY, content TEXT NOT NULL) STRICT;";

/// Who writes, and who is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// Plain SQLite, without the extension.
    Alone,
    /// The writer is the connection that called `litestream_serve`.
    WriterServes,
    /// The writer is another process, without the extension.
    WriterApart,
}

impl Setup {
    /// All of them, the plain one first.
    pub const ALL: [Setup; 3] = [Setup::Alone, Setup::WriterServes, Setup::WriterApart];

    /// What the table calls it.
    pub fn title(self) -> &'static str {
        match self {
            Setup::Alone => "nobody attached",
            Setup::WriterServes => "writer is the serving connection",
            Setup::WriterApart => "writer is another process, without the extension",
        }
    }
}

/// The processes of one run.
pub struct Processes {
    /// The one that writes.
    pub writer: Worker,
    /// The database that the writer writes to.
    pub primary: PathBuf,
    /// The database to read from: the replica's, or with nobody attached the primary's own.
    pub readable: PathBuf,
    /// Those that serve and follow, the follower last.
    others: Vec<Worker>,
}

impl Processes {
    /// Starts them in a fresh folder, with the replica caught up.
    pub fn start(bench: &Bench, setup: Setup) -> Result<Processes> {
        let folder = bench.scratch.fresh("replication")?;
        let (primary, replica) = (folder.join("primary.db"), folder.join("replica.db"));
        db::open(&primary)?.execute_batch(SCHEMA)?;
        let library = &bench.options.library;
        let (writer, mut others, url) = match setup {
            Setup::Alone => (Worker::open(&primary)?, Vec::new(), None),
            Setup::WriterServes => {
                let (writer, url) = serve(&primary, library)?;
                (writer, Vec::new(), Some(url))
            }
            Setup::WriterApart => {
                let (server, url) = serve(&primary, library)?;
                (Worker::open(&primary)?, vec![server], Some(url))
            }
        };
        let Some(url) = url else {
            return Ok(Processes { writer, readable: primary.clone(), primary, others });
        };
        let mut follower = Worker::open_with(&replica, library)?;
        follower.sql(&format!("SELECT litestream_follow('{url}')"))?;
        others.push(follower);
        Ok(Processes { writer, primary, readable: replica, others })
    }

    /// Starts a reader, without the extension, whose connection is open and has read once.
    pub fn reader(&self) -> Result<Worker> {
        let mut reader = Worker::open(&self.readable)?;
        reader.sql("SELECT max(id) FROM row")?;
        Ok(reader)
    }

    /// Checks that writer and replica have the same rows, and ends all processes.
    pub fn end_alike(mut self) -> Result<()> {
        const CONTENT: &str = "SELECT count(*), sum(id), sum(length(content)) FROM row";
        let written = self.writer.sql(CONTENT)?;
        if self.reader()?.sql(CONTENT)? != written {
            return Err("the replica's rows differ from the primary's".into());
        }
        // From the end of the line to its beginning, so that nobody ends with an error for a lost peer.
        while let Some(other) = self.others.pop() {
            other.close()?;
        }
        self.writer.close()
    }
}

/// Starts a process that serves the database, and tells the URL.
pub fn serve(database: &Path, library: &Path) -> Result<(Worker, String)> {
    serve_at("127.0.0.1:0", database, library)
}

/// The same, at an address.
pub fn serve_at(address: &str, database: &Path, library: &Path) -> Result<(Worker, String)> {
    let mut worker = Worker::open_with(database, library)?;
    let row = worker.sql(&format!("SELECT litestream_serve('{address}')"))?;
    let url = text(&json!({"url": row.get(0)}), "url")?;
    Ok((worker, url))
}

/// The address in a URL, host and port.
pub fn address_of(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").ok_or("a URL that does not begin with http://")?;
    Ok(rest.split('/').next().unwrap_or(rest).to_owned())
}
