//! Beginning to serve a database whose WAL is gone: every page is read and compared with the page map that the last run kept.
//! Beside `cat` of the file. And the memory that the map takes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use serde_json::Value;

use super::replication::serve;
use super::{Bench, files, wal_of};
use crate::support::stats::{Summary, ratios};
use crate::support::table::{Goal, Unit};
use crate::support::worker::Worker;
use crate::support::{Result, clock};

const SERVE: &str = "SELECT litestream_serve('127.0.0.1:0')";
const CHECKSUM: &str = "SELECT litestream_checksum()";
/// What a page takes in the map by `docs/design.md`, and what may come on top, in bytes.
const MAP: f64 = 16.0;
const SMALL: f64 = 4.0;

/// Figures, one value for each run.
#[derive(Default)]
struct Figures {
    cat: Vec<f64>,
    scan: Vec<f64>,
    memory: Vec<f64>,
    peak: Vec<f64>,
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let folder = bench.scratch.fresh("startup")?;
    let [large, small] =
        [("large.db", bench.options.size), ("small.db", bench.options.size / 8)].map(|(name, bytes)| {
            let path = folder.join(name);
            files::fill(&path, bytes).map(|()| path)
        });
    let (large, small) = (Kept::keep(bench, large?)?, Kept::keep(bench, small?)?);
    let (bytes, few) = (fs::metadata(&large.path)?.len() as f64, fs::metadata(&small.path)?.len() as f64);
    // What does not depend on the size, such as threads and buffers, is in the memory of both.
    let pages = (bytes - few) / files::PAGE as f64;
    let mut figures = Figures::default();
    for _ in 0..bench.options.runs {
        let base = small.serve(bench)?;
        files::warm(&large.path)?;
        figures.cat.push(bytes / cat(&large.path)? * 1e9);
        let served = large.serve(bench)?;
        figures.scan.push(bytes / served.ns * 1e9);
        figures.memory.push((served.grown - base.grown) / pages);
        figures.peak.push((served.peak - base.peak) / pages);
    }
    report(bench, bytes, &figures);
    bench.scratch.remove("startup")
}

/// A database with the page map of a run that ended in order, and without a WAL.
struct Kept {
    path: PathBuf,
    checksum: Value,
}

/// What beginning to serve took: nanoseconds, and bytes of memory afterwards and at the peak.
struct Served {
    ns: f64,
    grown: f64,
    peak: f64,
}

impl Kept {
    /// Serves the database for as long as it takes to know every page, and ends in order.
    fn keep(bench: &Bench, path: PathBuf) -> Result<Kept> {
        let (mut server, _) = serve(&path, &bench.options.library)?;
        let checksum = server.sql(CHECKSUM)?;
        end(server, &path)?;
        Ok(Kept { path, checksum })
    }

    /// Begins to serve it once more, and ends in order again.
    fn serve(&self, bench: &Bench) -> Result<Served> {
        let mut server = Worker::open_with(&self.path, &bench.options.library)?;
        let before = server.bytes("memory")?;
        let ns = server.time(SERVE)?;
        let (peak, after) = (server.bytes("peak")?, server.bytes("memory")?);
        if server.sql(CHECKSUM)? != self.checksum {
            return Err("the pages are not known to be what they were".into());
        }
        end(server, &self.path)?;
        Ok(Served { ns, grown: after - before, peak: peak - before })
    }
}

/// Ends serving in order, and checks what that leaves: the map, and no WAL.
fn end(mut server: Worker, database: &Path) -> Result<()> {
    server.sql("SELECT litestream_stop()")?;
    server.close()?;
    let map = PathBuf::from(format!("{}-litestream", database.display())).join("pages");
    match (fs::metadata(wal_of(database)), fs::metadata(&map)) {
        (Err(no_wal), Ok(_)) if no_wal.kind() == io::ErrorKind::NotFound => Ok(()),
        (Ok(_), _) => Err("a WAL was left behind".into()),
        (_, map) => Err(format!("no page map was left behind: {map:?}").into()),
    }
}

/// Nanoseconds that `cat` takes to read the file.
pub fn cat(path: &Path) -> Result<f64> {
    let began = clock::monotonic_ns();
    let done = Command::new("cat").arg(path).stdout(Stdio::null()).status()?;
    let ns = (clock::monotonic_ns() - began) as f64;
    if done.success() { Ok(ns) } else { Err("cat failed".into()) }
}

fn report(bench: &mut Bench, bytes: f64, figures: &Figures) {
    let table = &mut bench.table;
    table.section(&format!("Beginning to serve {} whose WAL is gone: every page is compared", Unit::MiB.show(bytes)));
    table.line("cat, from the page cache", &figures.cat, Unit::BytesPerSecond);
    let goal = Summary::of(&figures.cat).median.min(2e9);
    table.goal("litestream_serve", &figures.scan, Unit::BytesPerSecond, Goal::AtLeast(goal));
    table.line("– as fast as cat", &ratios(&figures.scan, &figures.cat), Unit::Times);
    table.goal("– memory for each page afterwards", &figures.memory, Unit::Bytes, Goal::AtMost(MAP + SMALL));
    table.line("– memory for each page at the peak", &figures.peak, Unit::Bytes);
}
