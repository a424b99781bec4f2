//! A whole database into a new replica over a link of 1 Gbit/s: content that compresses, sent compressed. The link is all that it should wait
//! for, so what it takes stands beside what its bytes take on such a link.
//!
//! The link is a process between the two that passes on so many bytes a second and no more, and counts them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rusqlite::params;
use serde_json::{Value, json};

use super::Bench;
use super::files::{self, Random};
use super::replication::{address_of, serve};
use crate::support::stats::ratios;
use crate::support::table::{Goal, Unit};
use crate::support::worker::{Worker, number, text};
use crate::support::{Result, clock, db, scratch};

/// 1 Gbit/s.
const BYTES_A_SECOND: f64 = 125e6;
/// Passed on at once.
const PIECE: usize = 128 << 10;
/// How much time the link may make up for, in nanoseconds: it comes back from a sleep a little late each time.
const BURST_NS: u64 = 2_000_000;
/// What must be equal on both sides.
const CONTENT: &str = "SELECT count(*), sum(id), sum(length(content)) FROM row";
/// What the snapshot may take, times what its bytes take on the link.
const GOAL: f64 = 1.1;

/// Figures, one value for each run.
#[derive(Default)]
struct Figures {
    pull_ns: Vec<f64>,
    passed: Vec<f64>,
    needed_ns: Vec<f64>,
    plain_ns: Vec<f64>,
    /// Until the first bytes have passed, and from the last ones to the end.
    before_ns: Vec<f64>,
    after_ns: Vec<f64>,
    cpu_ns: [Vec<f64>; 3],
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let source = bench.scratch.fresh("source")?.join("app.db");
    fill(&source, bench.options.size)?;
    let bytes = fs::metadata(&source)?.len() as f64;
    let mut figures = Figures::default();
    for _ in 0..bench.options.runs {
        run(bench, &source, &mut figures)?;
        figures.plain_ns.push(bytes / BYTES_A_SECOND * 1e9);
    }
    report(bench, bytes, &figures);
    bench.scratch.remove("source")?;
    bench.scratch.remove("throttled")
}

fn run(bench: &Bench, source: &Path, figures: &mut Figures) -> Result<()> {
    let folder = bench.scratch.fresh("throttled")?;
    let replica = folder.join("replica.db");
    let library = &bench.options.library;
    files::warm(source)?;
    let (mut primary, url) = serve(source, library)?;
    // A worker has a connection, which this one does not need.
    let mut link = Worker::open(&folder.join("unused.db"))?;
    let address = link.ask(json!({"do": "be a link", "to": address_of(&url)?}))?;
    let address = address.as_str().ok_or("a link without an address")?;
    let mut puller = Worker::open_with(&replica, library)?;
    scratch::settle()?;

    let cpu = [primary.cpu_ns()?, link.cpu_ns()?, puller.cpu_ns()?];
    let pull = format!("SELECT litestream_pull('http://{address}', '{{\"compression\": \"lz4\"}}')");
    let began = clock::monotonic_ns();
    puller.sql(&pull)?;
    // It should have synced by itself; if it has not, this is where the time goes.
    File::open(&replica)?.sync_all()?;
    let ended = clock::monotonic_ns();
    figures.pull_ns.push((ended - began) as f64);
    for ((worker, before), cpu_ns) in
        [&mut primary, &mut link, &mut puller].into_iter().zip(cpu).zip(&mut figures.cpu_ns)
    {
        cpu_ns.push(worker.cpu_ns()? - before);
    }
    let told = link.ask(json!({"do": "tell of the link"}))?;
    let passed = number(&told, "bytes")? as f64;
    figures.before_ns.push(number(&told, "first_ns")?.saturating_sub(began) as f64);
    figures.after_ns.push(ended.saturating_sub(number(&told, "last_ns")?) as f64);
    figures.passed.push(passed);
    figures.needed_ns.push(passed / BYTES_A_SECOND * 1e9);
    if primary.sql(CONTENT)? != puller.sql(CONTENT)? {
        return Err("the replica's rows differ from the primary's".into());
    }
    puller.close()?;
    link.close()?;
    primary.close()?;
    files::same(source, &replica)
}

fn report(bench: &mut Bench, bytes: f64, figures: &Figures) {
    let table = &mut bench.table;
    table.section(&format!("Snapshot of a database of {} over a link of 1 Gbit/s, LZ4", Unit::MiB.show(bytes)));
    table.line("bytes on the link", &figures.passed, Unit::MiB);
    table.line("– what they take at 125 MB/s", &figures.needed_ns, Unit::Seconds);
    table.line("litestream_pull, then fsync of the replica", &figures.pull_ns, Unit::Seconds);
    let times = ratios(&figures.pull_ns, &figures.needed_ns);
    table.goal("– times what the bytes take", &times, Unit::Times, Goal::AtMost(GOAL));
    table.line("– of it before the first bytes have passed", &figures.before_ns, Unit::Seconds);
    table.line("– of it after the last ones", &figures.after_ns, Unit::Seconds);
    let times = ratios(&figures.pull_ns, &figures.plain_ns);
    table.line("– times what they would take if they were not compressed", &times, Unit::Times);
    for (who, cpu_ns) in ["primary", "link", "replica"].into_iter().zip(&figures.cpu_ns) {
        table.line(&format!("– processor time of the {who}"), cpu_ns, Unit::Seconds);
    }
}

/// Makes a database of `bytes` of lines such as a program logs: a row of them to each page.
fn fill(path: &Path, bytes: u64) -> Result<()> {
    let mut connection = db::open(path)?;
    connection.execute_batch("PRAGMA journal_mode = off; PRAGMA synchronous = off")?;
    connection.execute_batch("CREATE TABLE row(id INTEGER PRIMARY KEY, content TEXT NOT NULL)")?;
    let transaction = connection.transaction()?;
    let mut insert = transaction.prepare("INSERT INTO row(id, content) VALUES (?1, ?2)")?;
    let mut random = Random(1);
    for id in 1..=files::rows(bytes) {
        insert.execute(params![id as i64, lines(id, &mut random)])?;
    }
    drop(insert);
    transaction.commit()?;
    connection.execute_batch("PRAGMA journal_mode = wal")?;
    Ok(())
}

/// Some 3,900 bytes of text.
fn lines(id: u64, random: &mut Random) -> String {
    const LEVELS: [&str; 3] = ["debug", "info", "warning"];
    const PATHS: [&str; 4] = ["/api/orders", "/api/customers", "/static/style.css", "/healthz"];
    let mut text = String::with_capacity(4000);
    while text.len() < 3750 {
        let level = LEVELS[random.below(3) as usize];
        let path = PATHS[random.below(4) as usize];
        let (millis, took, request) = (random.below(1000), random.below(100_000), random.below(1 << 31));
        text.push_str(&format!(
            "{{\"second\":{id},\"ms\":{millis},\"level\":\"{level}\",\"path\":\"{path}/{request}\",\"took_us\":{took}}}\n"
        ));
    }
    text
}

/// Worker: passes on between whoever connects and the address `to`, at the speed of the link towards who connected. Answers with its own address.
pub fn be_a_link(request: &Value) -> Result<Value> {
    let to = text(request, "to")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let link = Arc::new(Link { free_ns: Mutex::new(0) });
    thread::spawn(move || {
        for near in listener.incoming() {
            let pair = near.and_then(|near| TcpStream::connect(&to).map(|far| (near, far)));
            match pair.and_then(|(near, far)| link.join(near, far)) {
                Ok(()) => {}
                Err(error) => eprintln!("bench: the link fails: {error}"),
            }
        }
    });
    Ok(json!(address))
}

/// Worker: tells how many bytes were passed on to who connected, and when the first and the last of them were, in monotonic nanoseconds.
pub fn tell_of_the_link() -> Value {
    let told = |what: &AtomicU64| what.load(Ordering::Relaxed);
    json!({"bytes": told(&PASSED), "first_ns": told(&FIRST_NS), "last_ns": told(&LAST_NS)})
}

static PASSED: AtomicU64 = AtomicU64::new(0);
static FIRST_NS: AtomicU64 = AtomicU64::new(0);
static LAST_NS: AtomicU64 = AtomicU64::new(0);

/// What all connections share.
struct Link {
    /// When the link has carried what it was given so far.
    free_ns: Mutex<u64>,
}

impl Link {
    /// Passes on in both directions until one end goes.
    fn join(self: &Arc<Link>, near: TcpStream, far: TcpStream) -> std::io::Result<()> {
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let (near_too, far_too) = (near.try_clone()?, far.try_clone()?);
        thread::spawn(move || pass_on(near_too, far_too, |_| ()));
        let link = self.clone();
        thread::spawn(move || pass_on(far, near, |bytes| link.carry(bytes)));
        Ok(())
    }

    /// Waits for as long as the link needs for some bytes, after those that it was given before.
    fn carry(&self, bytes: usize) {
        let takes_ns = (bytes as f64 / BYTES_A_SECOND * 1e9) as u64;
        let mut free_ns = self.free_ns.lock().unwrap_or_else(PoisonError::into_inner);
        *free_ns = (*free_ns).max(clock::monotonic_ns().saturating_sub(BURST_NS)) + takes_ns;
        let then = *free_ns;
        drop(free_ns);
        clock::sleep_until_ns(then);
        let now = clock::monotonic_ns();
        if PASSED.fetch_add(bytes as u64, Ordering::Relaxed) == 0 {
            FIRST_NS.store(now, Ordering::Relaxed);
        }
        LAST_NS.store(now, Ordering::Relaxed);
    }
}

/// Copies until there is no more, or nobody to take it.
fn pass_on(mut from: TcpStream, mut to: TcpStream, carry: impl Fn(usize)) {
    let mut bytes = vec![0; PIECE];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        carry(read);
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    // Either end may be gone already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
