//! A primary, a replica and a writer as processes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

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
    /// The same, with somebody on the other core who has nothing to do with it.
    AloneBeside,
    /// The writer is the connection that called `litestream_serve`.
    WriterServes,
    /// The writer is another process, without the extension.
    WriterApart,
}

impl Setup {
    /// Those that lag is measured in, the plain one first.
    pub const ALL: [Setup; 3] = [Setup::Alone, Setup::WriterServes, Setup::WriterApart];

    /// What the table calls it.
    pub fn title(self) -> &'static str {
        match self {
            Setup::Alone => "nobody attached",
            Setup::AloneBeside => "nobody attached, and another process commits to a database of its own",
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
    /// The database to read from: that of the first replica, or with nobody attached the primary's own.
    pub readable: PathBuf,
    /// The one that serves, where that is not the writer.
    server: Option<Worker>,
    followers: Vec<Worker>,
}

/// How long a follower may take to have what was written, in milliseconds.
const PATIENCE_MS: u64 = 60_000;
/// What must be equal on both sides.
const CONTENT: &str = "SELECT count(*), sum(id), sum(length(content)) FROM row";

impl Processes {
    /// Starts them in a fresh folder, with one follower that is caught up if anybody is attached at all.
    pub fn start(bench: &Bench, setup: Setup) -> Result<Processes> {
        Processes::start_with(bench, setup, if setup == Setup::Alone { 0 } else { 1 })
    }

    /// The same, with so many followers.
    pub fn start_with(bench: &Bench, setup: Setup, followers: usize) -> Result<Processes> {
        Processes::start_in("replication", bench, setup, followers)
    }

    /// The same in a folder of that name, beside others.
    pub fn start_in(name: &str, bench: &Bench, setup: Setup, followers: usize) -> Result<Processes> {
        let folder = bench.scratch.fresh(name)?;
        let primary = folder.join("primary.db");
        db::open(&primary)?.execute_batch(SCHEMA)?;
        let library = &bench.options.library;
        let (writer, server, url) = match setup {
            Setup::Alone | Setup::AloneBeside => (Worker::open(&primary)?, None, String::new()),
            Setup::WriterServes => {
                let (writer, url) = serve(&primary, library)?;
                (writer, None, url)
            }
            Setup::WriterApart => {
                let (server, url) = serve(&primary, library)?;
                (Worker::open(&primary)?, Some(server), url)
            }
        };
        let replica = |n: usize| folder.join(format!("replica{n}.db"));
        let readable = if followers == 0 { primary.clone() } else { replica(0) };
        let mut processes = Processes { writer, primary, readable, server, followers: Vec::new() };
        for n in 0..followers {
            let mut follower = Worker::open_with(&replica(n), library)?;
            follower.sql(&format!("SELECT litestream_follow('{url}')"))?;
            processes.followers.push(follower);
        }
        Ok(processes)
    }

    /// Starts a reader, without the extension, whose connection is open and has read once.
    pub fn reader(&self) -> Result<Worker> {
        let mut reader = Worker::open(&self.readable)?;
        reader.sql("SELECT max(id) FROM row")?;
        Ok(reader)
    }

    /// The process that serves: with nobody attached the writer.
    pub fn server(&mut self) -> &mut Worker {
        self.server.as_mut().unwrap_or(&mut self.writer)
    }

    /// That, and those that follow.
    pub fn server_and_followers(&mut self) -> (&mut Worker, &mut [Worker]) {
        (self.server.as_mut().unwrap_or(&mut self.writer), &mut self.followers)
    }

    /// Checks that the writer and each replica have the same rows, and ends all processes.
    pub fn end_alike(mut self) -> Result<()> {
        let written = self.writer.sql(CONTENT)?;
        if !self.followers.is_empty() {
            let at = self.server().sql("SELECT litestream_position()")?;
            let at = at.get(0).and_then(Value::as_str).ok_or("no position")?.to_owned();
            for follower in &mut self.followers {
                let has = follower.sql(&format!("SELECT litestream_wait('{at}', {PATIENCE_MS})"))?;
                if has.get(0) != Some(&json!(1)) || follower.sql(CONTENT)? != written {
                    return Err("a replica's rows differ from the primary's".into());
                }
            }
        }
        if self.reader()?.sql(CONTENT)? != written {
            return Err("what a reader sees differs from what was written".into());
        }
        // From the end of the line to its beginning, so that nobody ends with an error for a lost peer.
        for worker in self.followers.into_iter().chain(self.server) {
            worker.close()?;
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
    serve_with(address, &json!({}), database, library)
}

/// The same, with options of `litestream_serve`.
pub fn serve_with(address: &str, options: &Value, database: &Path, library: &Path) -> Result<(Worker, String)> {
    let mut worker = Worker::open_with(database, library)?;
    let row = worker.sql(&format!("SELECT litestream_serve('{address}', '{options}')"))?;
    let url = text(&json!({"url": row.get(0)}), "url")?;
    Ok((worker, url))
}

/// The address in a URL, host and port.
pub fn address_of(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").ok_or("a URL that does not begin with http://")?;
    Ok(rest.split('/').next().unwrap_or(rest).to_owned())
}
