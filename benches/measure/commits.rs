//! Commits of one small row, flat out: plain SQLite alone, and with a primary and a follower on the same cores.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::replication::{Processes, Setup};
use super::{Bench, wal_of, watch};
use crate::support::stats::{percentile, ratios};
use crate::support::table::{Goal, Unit};
use crate::support::worker::number;
use crate::support::{Result, clock, db};

/// How often the size of the WAL is looked at.
const WAL_LOOK: Duration = Duration::from_millis(20);

/// Figures of one set-up, one value for each run.
#[derive(Default)]
struct Figures {
    per_second: Vec<f64>,
    p50_ns: Vec<f64>,
    p99_ns: Vec<f64>,
    max_ns: Vec<f64>,
    wal_max: Vec<f64>,
    wal_end: Vec<f64>,
    behind_ns: Vec<f64>,
    behind_rows: Vec<f64>,
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let mut figures: [Figures; 3] = Default::default();
    for _ in 0..bench.options.runs {
        for (setup, figures) in Setup::ALL.into_iter().zip(&mut figures) {
            run(bench, setup, figures)?;
        }
    }
    report(bench, &figures);
    Ok(())
}

fn run(bench: &Bench, setup: Setup, figures: &mut Figures) -> Result<()> {
    let mut processes = Processes::start(bench, setup)?;
    let mut reader = processes.reader()?;
    processes.writer.begin(json!({"do": "commit flat out", "seconds": bench.options.seconds}))?;
    let wal = wal_of(&processes.primary);
    let size = || std::fs::metadata(&wal).map_or(0, |file| file.len());
    let done = AtomicBool::new(false);
    let (written, wal_max) = thread::scope(|scope| {
        let highest = scope.spawn(|| {
            let mut highest = 0;
            while !done.load(Ordering::Acquire) {
                highest = highest.max(size());
                thread::sleep(WAL_LOOK);
            }
            highest.max(size())
        });
        let written = processes.writer.answer();
        done.store(true, Ordering::Release);
        (written, highest.join().unwrap_or(0))
    });
    let written = written?;
    let (commits, ended_ns) = (number(&written, "commits")?, number(&written, "ended_ns")?);
    let seen = reader.ask(json!({"do": "watch", "until": commits}))?;
    let seen: watch::Seen = serde_json::from_value(seen)?;
    let (first, last) = (seen.first().ok_or("nothing was seen")?, seen.last().ok_or("nothing was seen")?);
    reader.close()?;
    figures.wal_end.push(size() as f64);
    processes.end_alike()?;

    figures.per_second.push(commits as f64 / number(&written, "ns")? as f64 * 1e9);
    figures.p50_ns.push(number(&written, "p50_ns")? as f64);
    figures.p99_ns.push(number(&written, "p99_ns")? as f64);
    figures.max_ns.push(number(&written, "max_ns")? as f64);
    figures.wal_max.push(wal_max as f64);
    figures.behind_ns.push(last.1.saturating_sub(ended_ns) as f64);
    figures.behind_rows.push((commits - first.0) as f64);
    Ok(())
}

fn report(bench: &mut Bench, figures: &[Figures; 3]) {
    let table = &mut bench.table;
    table.section(&format!(
        "Commits of one small row, flat out for {} s, synchronous = {}",
        bench.options.seconds,
        db::SYNCHRONOUS,
    ));
    let [alone, ..] = figures;
    for (setup, figures) in Setup::ALL.into_iter().zip(figures) {
        let who = if setup == Setup::Alone { "" } else { "one follower, " };
        table.line(&format!("{who}{}: commits", setup.title()), &figures.per_second, Unit::PerSecond);
        if setup != Setup::Alone {
            let share = ratios(&figures.per_second, &alone.per_second);
            table.goal("– as many as alone", &share, Unit::Times, Goal::AtLeast(0.8));
        }
        table.line("– p50 of a commit", &figures.p50_ns, Unit::MicrosOfNanos);
        table.line("– p99", &figures.p99_ns, Unit::MicrosOfNanos);
        if setup != Setup::Alone {
            let p99 = ratios(&figures.p99_ns, &alone.p99_ns);
            table.goal("– p99, times that of alone", &p99, Unit::Times, Goal::AtMost(1.1));
        }
        table.line("– longest", &figures.max_ns, Unit::MillisOfNanos);
        table.line("– WAL at its largest", &figures.wal_max, Unit::MiB);
        table.line("– WAL at the end", &figures.wal_end, Unit::MiB);
        if setup != Setup::Alone {
            table.line("– the follower has everything after another", &figures.behind_ns, Unit::MillisOfNanos);
            table.line("– commits it lacked when first looked at", &figures.behind_rows, Unit::Count);
        }
    }
}

/// Worker: commits single rows for some seconds, and answers with how many, the time of each by percentiles, and when it
/// ended.
pub fn commit_flat_out(request: &Value, connection: &mut Connection) -> Result<Value> {
    let mut insert = connection.prepare("INSERT INTO row(content) VALUES ('a small row, committed flat out')")?;
    let began = clock::monotonic_ns();
    let deadline = began + number(request, "seconds")? * 1_000_000_000;
    let mut times: Vec<u64> = Vec::new();
    let mut now = began;
    while now < deadline {
        insert.execute([])?;
        let then = clock::monotonic_ns();
        times.push(then - now);
        now = then;
    }
    times.sort_unstable();
    Ok(json!({
        "commits": times.len(), "ns": now - began, "ended_ns": now, "p50_ns": percentile(&times, 0.5),
        "p99_ns": percentile(&times, 0.99), "max_ns": percentile(&times, 1.0),
    }))
}
