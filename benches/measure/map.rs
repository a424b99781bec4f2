//! What the page map costs a primary: commits that each change a page of their own, flat out, with nobody connected, when
//! nothing is read or hashed; with a subscriber that reads its stream and does nothing with it; and with a follower.
//!
//! What hashing takes of this cannot be had by leaving it out. So it is counted: the pages hashed, times what hashing one takes,
//! of the time; and that must be little even if all of it were taken from the writer. With another build of the library, from
//! before there was a map, the difference is measured.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::files::{self, Random};
use super::replication::{address_of, serve};
use super::{Bench, startup};
use crate::support::hash::page_hash;
use crate::support::stats::ratios;
use crate::support::table::{Goal, Unit};
use crate::support::worker::{Worker, number};
use crate::support::{Result, clock, db, scratch};

/// Size of the database whose pages change: so many that a page rarely changes twice between two looks of the primary.
const BYTES: u64 = 64 << 20;
/// Pages hashed to see what one takes.
const HASHED: u32 = 1 << 17;
/// How long the primary may take to send a subscriber everything, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(5);
/// How many commits the map must leave, of those there would be without.
const LEFT: f64 = 0.97;
/// What must be equal on both sides.
const CONTENT: &str = "SELECT count(*), sum(id * changed) FROM row";

/// Who is connected to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connected {
    Nobody,
    Drain,
    /// The same, with the other build of the library.
    DrainBefore,
    Follower,
}

impl Connected {
    const ALL: [Connected; 4] = [Connected::Nobody, Connected::Drain, Connected::DrainBefore, Connected::Follower];

    fn title(self) -> &'static str {
        match self {
            Connected::Nobody => "nobody connected",
            Connected::Drain => "a subscriber that only reads",
            Connected::DrainBefore => "the same with the library that --before names",
            Connected::Follower => "one follower",
        }
    }
}

/// Figures of one set-up, one value for each run.
#[derive(Default)]
struct Figures {
    per_second: Vec<f64>,
    cpu_ns: Vec<f64>,
    pages_per_second: Vec<f64>,
    hashing: Vec<f64>,
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let source = bench.scratch.fresh("source")?.join("app.db");
    files::fill(&source, BYTES)?;
    let mut figures: [Figures; 4] = Default::default();
    let mut page_ns = Vec::new();
    for run in 0..bench.options.runs {
        let one = Worker::open(&source)?.ask(json!({"do": "hash pages"}))?;
        page_ns.push(one.as_f64().ok_or("no time")?);
        // Each is the first by turns.
        for turn in 0..Connected::ALL.len() {
            let n = (run + turn) % Connected::ALL.len();
            if Connected::ALL[n] != Connected::DrainBefore || bench.options.before.is_some() {
                take_one(bench, &source, Connected::ALL[n], &page_ns, &mut figures[n])?;
            }
        }
    }
    report(bench, &page_ns, &figures);
    startup::take(bench)
}

fn take_one(bench: &Bench, source: &Path, connected: Connected, page_ns: &[f64], figures: &mut Figures) -> Result<()> {
    let folder = bench.scratch.fresh("map")?;
    let (database, replica) = (folder.join("primary.db"), folder.join("replica.db"));
    std::fs::copy(source, &database)?;
    let library = match (connected, &bench.options.before) {
        (Connected::DrainBefore, Some(before)) => before,
        _ => &bench.options.library,
    };
    let (mut server, url) = serve(&database, library)?;
    let drain = match connected {
        Connected::Drain | Connected::DrainBefore => Some(Drain::connect(&url, &mut server)?),
        Connected::Nobody | Connected::Follower => None,
    };
    let mut follower = match connected {
        Connected::Follower => Some(Worker::open_with(&replica, library)?),
        _ => None,
    };
    if let Some(follower) = &mut follower {
        follower.sql(&format!("SELECT litestream_follow('{url}')"))?;
    }
    scratch::settle()?;
    let before = (pages(&mut server)?, server.cpu_ns()?);
    let request = json!({"do": "change flat out", "seconds": bench.options.seconds, "rows": files::rows(BYTES)});
    let written = server.ask(request)?;
    let (commits, ns) = (number(&written, "commits")? as f64, number(&written, "ns")? as f64);
    let (pages, cpu_ns) = (pages(&mut server)? - before.0, server.cpu_ns()? - before.1);
    figures.per_second.push(commits / ns * 1e9);
    figures.cpu_ns.push(cpu_ns / commits);
    figures.pages_per_second.push(pages / ns * 1e9);
    figures.hashing.push(pages * page_ns.last().unwrap_or(&0.0) / ns);
    if (pages > 0.0) != (connected != Connected::Nobody) {
        return Err(format!("{}: {pages} pages were sent", connected.title()).into());
    }
    drop(drain);
    if let Some(follower) = follower {
        end_alike(&mut server, follower)?;
    }
    server.close()
}

/// Checks that the follower comes to have the same rows, and ends it.
fn end_alike(server: &mut Worker, mut follower: Worker) -> Result<()> {
    let at = server.sql("SELECT litestream_position()")?;
    let at = at.get(0).and_then(Value::as_str).ok_or("no position")?;
    follower.sql(&format!("SELECT litestream_wait('{at}')"))?;
    if follower.sql(CONTENT)? != server.sql(CONTENT)? {
        return Err("the replica's rows differ from the primary's".into());
    }
    follower.close()
}

/// Pages that the primary has read, hashed and sent so far.
fn pages(server: &mut Worker) -> Result<f64> {
    let row = server.sql("SELECT coalesce(sum(pages), 0) FROM litestream_replicas")?;
    Ok(row.get(0).and_then(Value::as_f64).ok_or("no number of pages")?)
}

/// A subscriber that reads its stream and does nothing with it: no replica shares the processor with the writer.
struct Drain {
    connection: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl Drain {
    /// Subscribes, and waits until everything that was there before was read.
    fn connect(url: &str, server: &mut Worker) -> Result<Drain> {
        let address = address_of(url)?;
        let mut connection = TcpStream::connect(&address)?;
        write!(connection, "GET /stream HTTP/1.1\r\nHost: {address}\r\nLitestream-Stream-Version: 2\r\n\r\n")?;
        let mut stream = connection.try_clone()?;
        let thread = thread::spawn(move || {
            let mut bytes = vec![0; 1 << 18];
            while stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
        });
        let drain = Drain { connection, thread: Some(thread) };
        let deadline = Instant::now() + PATIENCE;
        while server.sql("SELECT state FROM litestream_replicas")?.get(0) != Some(&json!("live")) {
            if Instant::now() > deadline {
                return Err("the primary did not send a subscriber everything".into());
            }
            thread::sleep(LOOK);
        }
        Ok(drain)
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        // Ends the read of the thread, whatever state the connection is in.
        let _ = self.connection.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn report(bench: &mut Bench, page_ns: &[f64], figures: &[Figures; 4]) {
    let table = &mut bench.table;
    table.section(&format!(
        "Price of the page map: commits of one random page each, flat out for {} s, synchronous = {}",
        bench.options.seconds,
        db::SYNCHRONOUS,
    ));
    table.line("hashing a page that is in the cache", page_ns, Unit::Nanos);
    let [nobody, drain, before, _] = figures;
    for (connected, figures) in Connected::ALL.into_iter().zip(figures).filter(|(_, of)| !of.per_second.is_empty()) {
        table.line(&format!("{}: commits", connected.title()), &figures.per_second, Unit::PerSecond);
        table.line("– processor time of the primary's process, for each", &figures.cpu_ns, Unit::MicrosOfNanos);
        if connected == Connected::Nobody {
            continue;
        }
        let share = ratios(&figures.per_second, &nobody.per_second);
        table.line("– as many as with nobody connected", &share, Unit::Times);
        table.line("– pages read and sent", &figures.pages_per_second, Unit::PerSecond);
        if connected == Connected::DrainBefore {
            let now = ratios(&drain.per_second, &before.per_second);
            table.goal("– as many with this library as with that", &now, Unit::Times, Goal::AtLeast(LEFT));
        } else {
            // Were it taken from the writer, this is what would be left.
            let left: Vec<f64> = figures.hashing.iter().map(|share| 1.0 - share).collect();
            table.goal("– what hashing them leaves of one core", &left, Unit::Thousandths, Goal::AtLeast(LEFT));
        }
    }
}

/// Worker: updates random rows for some seconds, each in a transaction of its own.
pub fn change_flat_out(request: &Value, connection: &mut Connection) -> Result<Value> {
    let rows = number(request, "rows")?;
    let mut update = connection.prepare("UPDATE row SET changed = ?2 WHERE id = ?1")?;
    let (mut random, mut commits) = (Random(1), 0_u64);
    let began = clock::monotonic_ns();
    let deadline = began + number(request, "seconds")? * 1_000_000_000;
    let mut now = began;
    while now < deadline {
        commits += 1;
        update.execute(params![(random.below(rows) + 1) as i64, commits as i64])?;
        now = clock::monotonic_ns();
    }
    Ok(json!({"commits": commits, "ns": now - began}))
}

/// Worker: hashes pages, a mebibyte over and over, and answers with the nanoseconds that one takes.
pub fn hash_pages() -> Value {
    let pages: Vec<u8> = (0..1 << 20).map(|n: u32| (n >> 12) as u8).collect();
    let began = clock::monotonic_ns();
    let mut hashed = 0;
    while hashed < HASHED {
        for page in pages.chunks(files::PAGE as usize) {
            std::hint::black_box(page_hash(std::hint::black_box(page)));
            hashed += 1;
        }
    }
    json!((clock::monotonic_ns() - began) as f64 / f64::from(hashed))
}
