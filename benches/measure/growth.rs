//! What grows with the size of the database, and what does not: memory, lag, and the time until a primary serves. Three sizes, each ten times
//! the one before.
//!
//! Almost all pages are free ones, of zeros, and holes in the file: to the library they are pages like any others, and it takes little
//! of the disk to have many.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::replication::{SCHEMA, address_of, serve};
use super::{Bench, files, lag, startup, wal_of, watch};
use crate::support::stats::{Percentiles, differences, ratios};
use crate::support::table::{Goal, Table, Unit};
use crate::support::worker::Worker;
use crate::support::{Result, db};

/// Commits of one run, those at its start included that are not counted.
const COMMITS: u64 = 250;
/// Of the file format: where the header has the number of pages, then the first page of the free list, then how many pages are on that.
const AT_PAGES: u64 = 28;
/// How many free pages one page of the list names: what SQLite itself limits itself to.
const LEAVES: u64 = files::PAGE / 4 - 8;
/// The page that SQLite leaves out, for the locks at 1 GiB.
const LOCK_PAGE: u64 = (1 << 30) / files::PAGE + 1;
/// How long it may take to read and compare every page, in milliseconds.
const PATIENCE_MS: u64 = 120_000;
/// What a page may take in memory, in bytes: its entry in the map, and little on top of that.
const MAP: f64 = 16.0 + 0.5;
/// What the lag may grow by from the smallest to the largest, in nanoseconds: p50 and p99.
const FLAT: [f64; 2] = [0.1e6, 2e6];
/// What beginning to serve may take, times `cat` of the database: where the map is all that is read, and where each page may have to be.
const MAP_ONLY: f64 = 0.05;
const EVERY_PAGE: f64 = 2.0;

/// Figures of one size, one value for each run.
#[derive(Default)]
struct Figures {
    memory: Vec<f64>,
    lag: Percentiles,
    cat_ns: Vec<f64>,
    gone_ns: Vec<f64>,
    kept_ns: Vec<f64>,
    killed_ns: Vec<f64>,
}

/// A database, and a replica of it.
struct Pair {
    bytes: u64,
    primary: PathBuf,
    replica: PathBuf,
    /// Another one like the primary, whose server never ends in order.
    killed: PathBuf,
    address: String,
    figures: Figures,
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let folder = bench.scratch.fresh("growth")?;
    let size = bench.options.size;
    let mut pairs = Vec::new();
    for bytes in [size / 10, size, size * 10] {
        pairs.push(Pair::make(bench, &folder, bytes)?);
    }
    for _ in 0..bench.options.runs {
        for pair in &mut pairs {
            pair.run(&bench.options.library)?;
        }
    }
    report(&mut bench.table, &pairs);
    bench.scratch.remove("growth")
}

impl Pair {
    fn make(bench: &Bench, folder: &Path, bytes: u64) -> Result<Pair> {
        let [primary, replica, killed] =
            ["primary", "replica", "killed"].map(|name| folder.join(format!("{name}{bytes}.db")));
        // The replica begins as a copy, of which no page has to be sent.
        for path in [&primary, &replica, &killed] {
            fill(path, bytes)?;
        }
        let library = &bench.options.library;
        let (server, url) = serve(&primary, library)?;
        let mut puller = Worker::open_with(&replica, library)?;
        let options = json!({"overwrite": true, "timeout_ms": PATIENCE_MS});
        puller.sql(&format!("SELECT litestream_pull('{url}', '{options}')"))?;
        end(puller)?;
        end(server)?;
        Ok(Pair { bytes, primary, replica, killed, address: address_of(&url)?, figures: Figures::default() })
    }

    fn run(&mut self, library: &Path) -> Result<()> {
        files::warm(&self.primary)?;
        self.figures.cat_ns.push(startup::cat(&self.primary)?);

        // The last run ended in order, and nobody had the database open then.
        let primary = self.primary.clone();
        if wal_of(&primary).exists() {
            return Err("a WAL was left behind".into());
        }
        let (mut server, idle, ns) = self.serve(&primary, library)?;
        self.figures.gone_ns.push(ns);
        let mut other = Worker::open(&primary)?;
        other.sql("SELECT max(id) FROM row")?;
        self.lag(&mut server, library)?;
        self.figures.memory.push(server.bytes("memory")? - idle);
        end(server)?;

        // It ended in order again, but somebody has the database open, so that the WAL was kept.
        let (server, _, ns) = self.serve(&primary, library)?;
        self.figures.kept_ns.push(ns);
        other.close()?;
        end(server)?;

        let killed = self.killed.clone();
        let (mut server, ..) = self.serve(&killed, library)?;
        server.sql("INSERT INTO row(content) VALUES ('a row, committed before the end')")?;
        server.kill()?;
        let (server, _, ns) = self.serve(&killed, library)?;
        self.figures.killed_ns.push(ns);
        server.kill()
    }

    /// Begins to serve in a new process. That, its memory in bytes before, and how long it takes, in nanoseconds.
    fn serve(&self, database: &Path, library: &Path) -> Result<(Worker, f64, f64)> {
        let mut server = Worker::open_with(database, library)?;
        server.sql("SELECT max(id) FROM row")?;
        let idle = server.bytes("memory")?;
        let ns = server.time(&format!("SELECT litestream_serve('{}')", self.address))?;
        Ok((server, idle, ns))
    }

    /// Lets the server write at a pace, and notes when a reader of the replica sees what.
    fn lag(&mut self, server: &mut Worker, library: &Path) -> Result<()> {
        let mut follower = Worker::open_with(&self.replica, library)?;
        follower.sql(&format!("SELECT litestream_follow('http://{}')", self.address))?;
        let first = server.sql("SELECT coalesce(max(id), 0) FROM row")?;
        let first = first.get(0).and_then(Value::as_u64).ok_or("no newest row")?;
        let mut reader = Worker::open(&self.replica)?;
        reader.begin(json!({"do": "watch", "until": first + COMMITS}))?;
        let committed = server.ask(json!({"do": "commit at a pace", "commits": COMMITS, "after": first}))?;
        let seen: watch::Seen = serde_json::from_value(reader.answer()?)?;
        let committed: Vec<(u64, u64)> = serde_json::from_value(committed)?;
        let lags = lag::lags_after(first, committed.iter().map(|times| times.1), &seen);
        if lags.is_empty() || follower.sql(CONTENT)? != server.sql(CONTENT)? {
            return Err("the replica's rows differ from the primary's".into());
        }
        self.figures.lag.add(&lags);
        reader.close()?;
        end(follower)
    }

    fn title(&self) -> String {
        Unit::MiB.show(self.bytes as f64)
    }

    fn pages(&self) -> f64 {
        (self.bytes / files::PAGE) as f64
    }
}

/// What must be equal on both sides.
const CONTENT: &str = "SELECT count(*), sum(id), sum(length(content)) FROM row";

/// Ends serving or following in order, and the process.
fn end(mut worker: Worker) -> Result<()> {
    worker.sql("SELECT litestream_stop()")?;
    worker.close()
}

fn report(table: &mut Table, pairs: &[Pair]) {
    let [small, middle, large] = pairs else { return };
    table.section(&format!("Growth: databases of {}, {} and {}", small.title(), middle.title(), large.title()));
    let what = "memory of a primary with a follower, for each page more than the smallest has";
    let (middle_page, large_page) = (for_each_page(small, middle), for_each_page(small, large));
    table.line(&format!("{what}: {}", middle.title()), &middle_page, Unit::Bytes);
    table.goal(&format!("– {}", large.title()), &large_page, Unit::Bytes, Goal::AtMost(MAP));
    for pair in pairs {
        let lag = &pair.figures.lag;
        table.line(&format!("lag of a polling reader, {}: p50", pair.title()), &lag.p50, Unit::MillisOfNanos);
        table.line("– p99", &lag.p99, Unit::MillisOfNanos);
    }
    let (more, less) = (&large.figures.lag, &small.figures.lag);
    let (p50, p99) = (differences(&more.p50, &less.p50), differences(&more.p99, &less.p99));
    table.goal("– p50, more than with the smallest", &p50, Unit::MillisOfNanos, Goal::AtMost(FLAT[0]));
    table.goal("– p99, more than with the smallest", &p99, Unit::MillisOfNanos, Goal::AtMost(FLAT[1]));
    for pair in pairs {
        let Figures { cat_ns, kept_ns, gone_ns, killed_ns, .. } = &pair.figures;
        table.line(&format!("beginning to serve {}: cat of it", pair.title()), cat_ns, Unit::MillisOfNanos);
        table.line("– after an end in order, the WAL still there", kept_ns, Unit::MillisOfNanos);
        table.line("– after an end in order, the WAL gone: every page is compared", gone_ns, Unit::MillisOfNanos);
        table.line("– after the process was killed", killed_ns, Unit::MillisOfNanos);
    }
    // What does not depend on the size, such as syncs, is in the time of both.
    let more = |of: fn(&Figures) -> &Vec<f64>| differences(of(&large.figures), of(&small.figures));
    let cat_ns = more(|figures| &figures.cat_ns);
    for (what, ns, goal) in [
        ("the WAL still there", more(|figures| &figures.kept_ns), MAP_ONLY),
        ("the WAL gone", more(|figures| &figures.gone_ns), EVERY_PAGE),
        ("killed", more(|figures| &figures.killed_ns), EVERY_PAGE),
    ] {
        let what = format!("{what}: more for the largest than for the smallest, times that of cat");
        table.goal(&what, &ratios(&ns, &cat_ns), Unit::Thousandths, Goal::AtMost(goal));
    }
}

/// Bytes of memory for each page that one has more than another.
fn for_each_page(from: &Pair, to: &Pair) -> Vec<f64> {
    let more = differences(&to.figures.memory, &from.figures.memory);
    more.iter().map(|bytes| bytes / (to.pages() - from.pages())).collect()
}

/// Makes a database of `bytes`, with the table that is written to and else free pages.
fn fill(path: &Path, bytes: u64) -> Result<()> {
    db::open(path)?.execute_batch(SCHEMA)?;
    let file = File::options().read(true).write(true).open(path)?;
    let (used, pages) = (file.metadata()?.len() / files::PAGE, bytes / files::PAGE);
    let free: Vec<u64> = (used + 1..=pages).filter(|page| *page != LOCK_PAGE).collect();
    let lists: Vec<&[u64]> = free.chunks(LEAVES as usize + 1).collect();
    for (n, list) in lists.iter().enumerate() {
        // A page of the list: the next one, how many pages follow here, and these.
        let next = lists.get(n + 1).and_then(|list| list.first()).unwrap_or(&0);
        let (own, leaves) = list.split_first().ok_or("an empty list")?;
        let words = [*next, leaves.len() as u64].into_iter().chain(leaves.iter().copied());
        let bytes: Vec<u8> = words.flat_map(|word| (word as u32).to_be_bytes()).collect();
        file.write_all_at(&bytes, (own - 1) * files::PAGE)?;
    }
    let header = [pages, *free.first().ok_or("a database too small")?, free.len() as u64];
    let header: Vec<u8> = header.into_iter().flat_map(|word| (word as u32).to_be_bytes()).collect();
    file.write_all_at(&header, AT_PAGES)?;
    file.set_len(pages * files::PAGE)?;
    drop(file);
    match db::first_row(&db::open(path)?, "PRAGMA integrity_check")?.first().and_then(Value::as_str) {
        Some("ok") => Ok(()),
        wrong => Err(format!("a database made by hand is not in order: {wrong:?}").into()),
    }
}
