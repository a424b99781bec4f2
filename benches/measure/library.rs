//! The library itself: its size, and what loading it takes and leaves behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::Bench;
use crate::support::stats::percentile;
use crate::support::table::{Goal, Unit};
use crate::support::worker::{Worker, number, text};
use crate::support::{Result, clock, db};

/// New processes of one run.
const LOADS: usize = 40;
/// What the stripped library may weigh, in bytes, and take to load, in nanoseconds.
const SIZE: f64 = (5 << 20) as f64;
const LOAD: f64 = 3e6;

/// Figures, one value for each run; but for the times, whose values are percentiles, those of all loads of a run added up.
#[derive(Default)]
struct Figures {
    p50: Vec<f64>,
    max: Vec<f64>,
    threads: Vec<f64>,
    files: Vec<f64>,
    memory: Vec<f64>,
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let folder = bench.scratch.fresh("library")?;
    let library = folder.join(bench.options.library.file_name().ok_or("a library without a name")?);
    fs::copy(&bench.options.library, &library)?;
    let whole = fs::metadata(&library)?.len() as f64;
    if !Command::new("strip").arg(&library).status()?.success() {
        return Err("strip failed".into());
    }
    let stripped = fs::metadata(&library)?.len() as f64;
    let mut figures = Figures::default();
    for _ in 0..bench.options.runs {
        run(&folder, &library, &mut figures)?;
    }
    let table = &mut bench.table;
    table.section("The library");
    table.line("size as it was built", &[whole], Unit::MiB);
    table.goal("– stripped", &[stripped], Unit::MiB, Goal::AtMost(SIZE));
    table.goal("time to load that into a new process: p50", &figures.p50, Unit::MillisOfNanos, Goal::AtMost(LOAD));
    table.line("– longest", &figures.max, Unit::MillisOfNanos);
    table.line("– memory of the process, more than before", &figures.memory, Unit::MiB);
    table.goal("– threads that it starts", &figures.threads, Unit::Count, Goal::AtMost(0.0));
    table.goal("– files that it opens and keeps", &figures.files, Unit::Count, Goal::AtMost(0.0));
    Ok(())
}

fn run(folder: &Path, library: &Path, figures: &mut Figures) -> Result<()> {
    let (mut times, mut memory, mut threads, mut files) = (Vec::new(), Vec::new(), 0, 0);
    for _ in 0..LOADS {
        let mut process = Worker::open(&folder.join("app.db"))?;
        // Opened and read, as the database of any program is before something is loaded.
        process.sql("SELECT count(*) FROM sqlite_schema")?;
        let before = process.bytes("memory")?;
        let loaded = process.ask(json!({"do": "load and count", "library": library}))?;
        memory.push((process.bytes("memory")? - before).max(0.0) as u64);
        times.push(number(&loaded, "ns")?);
        threads += number(&loaded, "threads")?;
        files += number(&loaded, "files")?;
        if process.sql("SELECT litestream_version()")?.get(0).is_none_or(|version| !version.is_string()) {
            return Err("the library was loaded and does not tell its version".into());
        }
        process.close()?;
    }
    times.sort_unstable();
    memory.sort_unstable();
    figures.p50.push(percentile(&times, 0.5) as f64);
    figures.max.push(percentile(&times, 1.0) as f64);
    figures.memory.push(percentile(&memory, 0.5) as f64);
    figures.threads.push(threads as f64);
    figures.files.push(files as f64);
    Ok(())
}

/// Worker: loads the library, and answers with how long that took, and how many threads and open files there are more than before.
pub fn load_and_count(request: &Value, connection: &mut Connection) -> Result<Value> {
    let library = text(request, "library")?;
    let entries = |folder| -> Result<u64> { Ok(fs::read_dir(folder)?.count() as u64) };
    let before = (entries("/proc/self/task")?, entries("/proc/self/fd")?);
    let began = clock::monotonic_ns();
    db::load(connection, library.as_ref())?;
    let ns = clock::monotonic_ns() - began;
    let after = (entries("/proc/self/task")?, entries("/proc/self/fd")?);
    Ok(json!({
        "ns": ns, "threads": after.0.saturating_sub(before.0), "files": after.1.saturating_sub(before.1),
    }))
}
