//! A whole database into a new replica over loopback, beside `cp` and fsync of the same file.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::replication::serve;
use super::{Bench, files};
use crate::support::stats::ratios;
use crate::support::table::{Goal, Unit};
use crate::support::worker::{Worker, number};
use crate::support::{Result, clock};

/// What must be equal on both sides.
const CONTENT: &str = "SELECT count(*), sum(id), sum(length(content)) FROM row";

/// Figures, one value for each run.
#[derive(Default)]
struct Figures {
    copy_ns: Vec<f64>,
    serve_ns: Vec<f64>,
    pull_ns: Vec<f64>,
    sync_ns: Vec<f64>,
    primary_cpu_ns: Vec<f64>,
    replica_cpu_ns: Vec<f64>,
    primary_bytes: Vec<f64>,
    replica_bytes: Vec<f64>,
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let source = bench.scratch.fresh("source")?.join("app.db");
    files::fill(&source, bench.options.size)?;
    let mut figures = Figures::default();
    for run in 0..bench.options.runs {
        // By turns one is the first, in case the disk is still busy with what came before.
        if run % 2 == 0 {
            copy(bench, &source, &mut figures)?;
            pull(bench, &source, &mut figures)?;
        } else {
            pull(bench, &source, &mut figures)?;
            copy(bench, &source, &mut figures)?;
        }
    }
    report(bench, fs::metadata(&source)?.len(), &figures);
    Ok(())
}

fn copy(bench: &Bench, source: &Path, figures: &mut Figures) -> Result<()> {
    let copy = bench.scratch.fresh("snapshot")?.join("copy.db");
    files::warm(source)?;
    let began = clock::monotonic_ns();
    let copied = Command::new("cp").args(PLAIN_COPY).arg(source).arg(&copy).status()?;
    File::open(&copy)?.sync_all()?;
    figures.copy_ns.push((clock::monotonic_ns() - began) as f64);
    if copied.success() { Ok(()) } else { Err("cp failed".into()) }
}

/// A copy that shares the blocks with the original would be no copy.
const PLAIN_COPY: &[&str] = if cfg!(target_os = "linux") { &["--reflink=never"] } else { &[] };

fn pull(bench: &Bench, source: &Path, figures: &mut Figures) -> Result<()> {
    let replica = bench.scratch.fresh("snapshot")?.join("replica.db");
    files::warm(source)?;
    let began = clock::monotonic_ns();
    let (mut primary, url) = serve(source, &bench.options.library)?;
    figures.serve_ns.push((clock::monotonic_ns() - began) as f64);
    let mut puller = Worker::open_with(&replica, &bench.options.library)?;
    let idle = [primary.bytes("memory")?, puller.bytes("memory")?];
    let primary_cpu = primary.cpu_ns()?;

    let pulled = puller.ask(json!({"do": "time", "sql": format!("SELECT litestream_pull('{url}')")}))?;
    // It should have synced by itself; if it has not, this is where the time goes.
    let synced = clock::monotonic_ns();
    File::open(&replica)?.sync_all()?;
    let sync_ns = (clock::monotonic_ns() - synced) as f64;

    figures.sync_ns.push(sync_ns);
    figures.pull_ns.push(number(&pulled, "ns")? as f64 + sync_ns);
    figures.replica_cpu_ns.push(number(&pulled, "cpu_ns")? as f64);
    figures.primary_cpu_ns.push(primary.cpu_ns()? - primary_cpu);
    figures.primary_bytes.push(primary.bytes("peak")? - idle[0]);
    figures.replica_bytes.push(puller.bytes("peak")? - idle[1]);
    if primary.sql(CONTENT)? != puller.sql(CONTENT)? {
        return Err("the replica's rows differ from the primary's".into());
    }
    puller.close()?;
    primary.close()?;
    files::same(source, &replica)
}

fn report(bench: &mut Bench, bytes: u64, figures: &Figures) {
    let table = &mut bench.table;
    table.section(&format!("Snapshot of a database of {} into a new replica", Unit::MiB.show(bytes as f64)));
    table.line("cp, then fsync of the copy", &figures.copy_ns, Unit::Seconds);
    table.line("litestream_pull over loopback, then fsync of the replica", &figures.pull_ns, Unit::Seconds);
    let ratio = ratios(&figures.pull_ns, &figures.copy_ns);
    table.goal("– the time of cp", &ratio, Unit::Times, Goal::AtMost(2.0));
    table.line("– of it the fsync after the pull", &figures.sync_ns, Unit::Seconds);
    table.line("– processor time of the primary", &figures.primary_cpu_ns, Unit::Seconds);
    table.line("– processor time of the replica", &figures.replica_cpu_ns, Unit::Seconds);
    table.line("– peak memory of the primary above idle", &figures.primary_bytes, Unit::MiB);
    table.line("– peak memory of the replica above idle", &figures.replica_bytes, Unit::MiB);
    table.line("– until the primary serves, from the start of its process", &figures.serve_ns, Unit::Seconds);
}
