//! A whole database into a new file, verified or not, and durable: beside `cp` and fsync of the same file, and beside peers.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::replication::serve;
use super::{Bench, files};
use crate::peers::litestream::{Archive, Pace};
use crate::peers::rsync;
use crate::support::content::{Content, Work};
use crate::support::table::{Goal, Unit};
use crate::support::worker::{Worker, number};
use crate::support::{Result, clock, scratch};

/// How often the time of `cp`, and how much memory beyond that of the map, a snapshot may take.
const TIMES_CP: f64 = 1.25;
const MEMORY: f64 = (32 << 20) as f64;
/// What a page takes in the map, in bytes, by `docs/design.md`.
const MAP: f64 = 16.0;

/// A way to make the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Cp,
    Pull,
    Snapshot,
    Backup,
    Rsync,
    Litestream,
}

const WAYS: [Way; 6] = [Way::Cp, Way::Pull, Way::Snapshot, Way::Backup, Way::Rsync, Way::Litestream];

impl Way {
    fn title(self) -> &'static str {
        match self {
            Way::Cp => "cp, then fsync of the copy",
            Way::Pull => "litestream_pull over loopback, then fsync of the replica",
            Way::Snapshot => "litestream_snapshot into a file",
            Way::Backup => "SQLite's backup API, then fsync of the copy",
            Way::Rsync => "sqlite3_rsync, then fsync of the copy",
            Way::Litestream => "Litestream: replicate -once and restore, then fsync of the copy",
        }
    }

    fn short(self) -> &'static str {
        match self {
            Way::Cp => "cp",
            Way::Pull => "litestream_pull",
            Way::Snapshot => "litestream_snapshot",
            Way::Backup => "backup API",
            Way::Rsync => "sqlite3_rsync",
            Way::Litestream => "Litestream: replicate, restore",
        }
    }

    fn is_of_a_peer(self) -> bool {
        matches!(self, Way::Rsync | Way::Litestream)
    }
}

/// Figures of one way: nanoseconds, and what else there is to tell, one value for each run.
#[derive(Default)]
struct Figures {
    work: Work,
    more: Vec<(&'static str, Unit, Vec<f64>)>,
    failed: bool,
}

impl Figures {
    fn tell(&mut self, what: &'static str, unit: Unit, figure: f64) {
        match self.more.iter_mut().find(|(known, ..)| *known == what) {
            Some((.., figures)) => figures.push(figure),
            None => self.more.push((what, unit, vec![figure])),
        }
    }
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let source = bench.scratch.fresh("source")?.join("app.db");
    files::fill(&source, bench.options.size)?;
    let original = Content::of(&source)?;
    let mut figures: [Figures; WAYS.len()] = Default::default();
    for run in 0..bench.options.runs {
        // Each is the first by turns, in case the disk is still busy with what came before.
        for turn in 0..WAYS.len() {
            let n = (run + turn) % WAYS.len();
            let (way, figures) = (WAYS[n], &mut figures[n]);
            if figures.failed {
                continue;
            }
            match copy(bench, way, &source, &original, figures) {
                Err(error) if way.is_of_a_peer() => {
                    bench.table.left_out(&format!("Snapshot by {}", way.short()), &error.to_string());
                    figures.failed = true;
                }
                done => done?,
            }
        }
    }
    report(bench, fs::metadata(&source)?.len(), &figures)?;
    bench.scratch.remove("source")?;
    bench.scratch.remove("snapshot")
}

/// Makes one copy, and checks that it holds what the original does.
fn copy(bench: &Bench, way: Way, source: &Path, original: &Content, figures: &mut Figures) -> Result<()> {
    let copy = bench.scratch.fresh("snapshot")?.join("copy.db");
    let ns = match way {
        Way::Cp => cp(source, &copy)?,
        Way::Pull => pull(bench, source, &copy, figures)?,
        Way::Snapshot => snapshot(bench, source, &copy, figures)?,
        Way::Backup => backup(source, &copy, figures)?,
        Way::Rsync => {
            files::warm(source)?;
            let ran = rsync::sync(&bench.peers.rsync()?, source, &copy)?;
            figures.tell("– peak memory of one of its two processes", Unit::MiB, ran.peak);
            ran.ns + sync(&copy)?
        }
        Way::Litestream => litestream(bench, source, &copy, figures)?,
    };
    let content = Content::of(&copy)?;
    content.must_equal(original)?;
    figures.work.add(ns, content);
    Ok(())
}

/// Nanoseconds that an fsync takes.
pub fn sync(copy: &Path) -> Result<f64> {
    let began = clock::monotonic_ns();
    File::open(copy)?.sync_all()?;
    Ok((clock::monotonic_ns() - began) as f64)
}

/// Nanoseconds of `cp` and fsync.
pub fn cp(source: &Path, copy: &Path) -> Result<f64> {
    files::warm(source)?;
    let began = clock::monotonic_ns();
    let copied = Command::new("cp").args(PLAIN_COPY).arg(source).arg(copy).status()?;
    let ns = (clock::monotonic_ns() - began) as f64 + sync(copy)?;
    if copied.success() { Ok(ns) } else { Err("cp failed".into()) }
}

/// A copy that shares the blocks with the original would be no copy.
const PLAIN_COPY: &[&str] = if cfg!(target_os = "linux") { &["--reflink=never"] } else { &[] };

fn pull(bench: &Bench, source: &Path, replica: &Path, figures: &mut Figures) -> Result<f64> {
    files::warm(source)?;
    let began = clock::monotonic_ns();
    let (mut primary, url) = serve(source, &bench.options.library)?;
    figures.tell("– until the primary serves, from the start of its process", Unit::Seconds, since(began));
    let mut puller = Worker::open_with(replica, &bench.options.library)?;
    let idle = [primary.bytes("memory")?, puller.bytes("memory")?];
    let primary_cpu = primary.cpu_ns()?;

    let pulled = puller.ask(json!({"do": "time", "sql": format!("SELECT litestream_pull('{url}')")}))?;
    // It should have synced by itself; if it has not, this is where the time goes.
    let sync_ns = sync(replica)?;

    figures.tell("– of it the fsync after the pull", Unit::Seconds, sync_ns);
    figures.tell("– processor time of the primary", Unit::Seconds, primary.cpu_ns()? - primary_cpu);
    figures.tell("– processor time of the replica", Unit::Seconds, number(&pulled, "cpu_ns")? as f64);
    figures.tell(PRIMARY_MEMORY, Unit::MiB, primary.bytes("peak")? - idle[0]);
    figures.tell(REPLICA_MEMORY, Unit::MiB, puller.bytes("peak")? - idle[1]);
    puller.close()?;
    primary.close()?;
    files::same(source, replica)?;
    Ok(number(&pulled, "ns")? as f64 + sync_ns)
}

const PRIMARY_MEMORY: &str = "– peak memory of the primary above idle";
const REPLICA_MEMORY: &str = "– peak memory of the replica above idle";
const OWN_MEMORY: &str = "– peak memory of the process above idle";

fn snapshot(bench: &Bench, source: &Path, copy: &Path, figures: &mut Figures) -> Result<f64> {
    files::warm(source)?;
    let mut worker = Worker::open_with(source, &bench.options.library)?;
    let idle = worker.bytes("memory")?;
    let ns = worker.time(&format!("SELECT litestream_snapshot('{}')", copy.display()))?;
    figures.tell(OWN_MEMORY, Unit::MiB, worker.bytes("peak")? - idle);
    worker.close()?;
    Ok(ns + sync(copy)?)
}

fn backup(source: &Path, copy: &Path, figures: &mut Figures) -> Result<f64> {
    files::warm(source)?;
    let mut worker = Worker::open(source)?;
    let idle = worker.bytes("memory")?;
    let done = worker.ask(json!({"do": "back up", "to": copy}))?;
    figures.tell(OWN_MEMORY, Unit::MiB, worker.bytes("peak")? - idle);
    worker.close()?;
    Ok(number(&done, "ns")? as f64)
}

/// It writes tables of its own into the database, and so gets a copy of it.
fn litestream(bench: &Bench, source: &Path, copy: &Path, figures: &mut Figures) -> Result<f64> {
    let program = bench.peers.litestream()?;
    let own = copy.with_file_name("own.db");
    fs::copy(source, &own)?;
    scratch::settle()?;
    files::warm(&own)?;
    let archive = Archive::of(program, &own, Pace::Defaults)?;
    let shipped = archive.replicate_once()?;
    let restored = archive.restore(copy)?;
    let restored_ns = restored.ns + sync(copy)?;
    figures.tell("– of it restore, from an archive that is there", Unit::Seconds, restored_ns);
    figures.tell("– peak memory of replicate", Unit::MiB, shipped.peak);
    figures.tell("– peak memory of restore", Unit::MiB, restored.peak);
    Ok(shipped.ns + restored_ns)
}

fn since(began: u64) -> f64 {
    (clock::monotonic_ns() - began) as f64
}

fn report(bench: &mut Bench, bytes: u64, figures: &[Figures; WAYS.len()]) -> Result<()> {
    let table = &mut bench.table;
    table.section(&format!("Snapshot of a database of {} into a new file", Unit::MiB.show(bytes as f64)));
    let memory = MEMORY + MAP * (bytes / files::PAGE) as f64;
    let [cp, ..] = figures;
    for (way, of) in WAYS.into_iter().zip(figures).filter(|(_, of)| !of.failed) {
        table.line(way.title(), &of.work.figures, Unit::Seconds);
        table.chart("snapshot", way.short(), &of.work.figures, Unit::Seconds);
        let times = of.work.ratios(&cp.work)?;
        match way {
            Way::Cp => {}
            Way::Pull => table.goal("– the time of cp", &times, Unit::Times, Goal::AtMost(TIMES_CP)),
            _ => table.line("– the time of cp", &times, Unit::Times),
        }
        for (what, unit, figures) in &of.more {
            match *what {
                PRIMARY_MEMORY | REPLICA_MEMORY => table.goal(what, figures, *unit, Goal::AtMost(memory)),
                _ => table.line(what, figures, *unit),
            }
        }
    }
    Ok(())
}
