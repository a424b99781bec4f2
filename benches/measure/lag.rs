//! The time from a commit on the primary to its being visible in another process on the replica, at 100 commits a second.
//!
//! The clock starts right after COMMIT returned in the writer and stops when the first poll that shows the row has
//! returned in the reader. A reader that gets there before COMMIT returns has a lag below zero. So that nothing hides within
//! COMMIT, the time from its call is shown as well.

use rusqlite::Connection;
use serde_json::{Value, json};

use super::files::Random;
use super::replication::{Processes, Setup};
use super::{Bench, watch};
use crate::support::stats::{Percentiles, differences};
use crate::support::table::{Goal, Unit};
use crate::support::worker::number;
use crate::support::{Result, clock, db};

/// Commits a second of the writer at a pace.
pub const COMMITS_A_SECOND: u64 = 100;
/// Commits at the start of a run that are not counted.
pub const WARM_UP: usize = 50;

/// Figures of one set-up.
#[derive(Default)]
struct Lags {
    /// From the call of COMMIT on.
    called: Percentiles,
    /// From its return on.
    returned: Percentiles,
}

/// Takes the measurement: as all others, and with commits that wait for the disk before they can be seen.
pub fn take(bench: &mut Bench) -> Result<()> {
    for synchronous in [db::SYNCHRONOUS, "FULL"] {
        take_with(bench, synchronous)?;
    }
    Ok(())
}

fn take_with(bench: &mut Bench, synchronous: &str) -> Result<()> {
    let mut lags: [Lags; 3] = Default::default();
    for _ in 0..bench.options.runs {
        for (setup, lags) in Setup::ALL.into_iter().zip(&mut lags) {
            let [called, returned] = run(bench, setup, synchronous)?;
            lags.called.add(&called);
            lags.returned.add(&returned);
        }
    }
    report(bench, synchronous, &lags);
    Ok(())
}

/// The lag of every commit of one run, in nanoseconds and sorted: from the call of COMMIT on, and from its return.
fn run(bench: &Bench, setup: Setup, synchronous: &str) -> Result<[Vec<i64>; 2]> {
    let mut processes = Processes::start(bench, setup)?;
    processes.writer.sql(&format!("PRAGMA synchronous = {synchronous}"))?;
    let mut reader = processes.reader()?;
    let commits = COMMITS_A_SECOND * bench.options.seconds + WARM_UP as u64;
    reader.begin(json!({"do": "watch", "until": commits}))?;
    let committed = processes.writer.ask(json!({"do": "commit at a pace", "commits": commits}))?;
    let seen = reader.answer()?;
    reader.close()?;
    processes.end_alike()?;
    let committed: Vec<(u64, u64)> = serde_json::from_value(committed)?;
    let seen: watch::Seen = serde_json::from_value(seen)?;
    let called = lags(committed.iter().map(|times| times.0), &seen);
    let returned = lags(committed.iter().map(|times| times.1), &seen);
    if called.len() as u64 != commits - WARM_UP as u64 {
        return Err("a commit was never seen".into());
    }
    Ok([called, returned])
}

/// Joins the time of each commit (row ids count from 1) with the time of the first look that showed it or a later one.
fn lags(committed: impl Iterator<Item = u64>, seen: &watch::Seen) -> Vec<i64> {
    lags_after(0, committed, seen)
}

/// The same, where there were rows up to `first` before. Nanoseconds, sorted; without the commits at the start of a run.
pub fn lags_after(first: u64, committed: impl Iterator<Item = u64>, seen: &watch::Seen) -> Vec<i64> {
    let lag_of = |(id, committed_ns): (u64, u64)| {
        let (_, seen_ns) = seen.get(seen.partition_point(|&(newest, _)| newest < id))?;
        Some(*seen_ns as i64 - committed_ns as i64)
    };
    let mut lags: Vec<i64> = (first + 1..).zip(committed).skip(WARM_UP).filter_map(lag_of).collect();
    lags.sort_unstable();
    lags
}

fn report(bench: &mut Bench, synchronous: &str, lags: &[Lags; 3]) {
    let table = &mut bench.table;
    table.section(&format!(
        "Lag of a polling reader in another process, at {COMMITS_A_SECOND} commits a second, synchronous = {synchronous}"
    ));
    let [Lags { returned: alone, .. }, ..] = lags;
    for (setup, Lags { called, returned }) in Setup::ALL.into_iter().zip(lags) {
        let where_read = if setup == Setup::Alone { "primary's own file" } else { "replica" };
        let who = format!("{where_read}, {}", setup.title());
        table.line(&format!("{who}: p50"), &returned.p50, Unit::MillisOfNanos);
        table.line("– p99", &returned.p99, Unit::MillisOfNanos);
        table.line("– longest", &returned.max, Unit::MillisOfNanos);
        table.line("– from the call of COMMIT: p50", &called.p50, Unit::MillisOfNanos);
        table.line("– from the call of COMMIT: p99", &called.p99, Unit::MillisOfNanos);
        if setup != Setup::Alone {
            let (p50, p99) = (differences(&returned.p50, &alone.p50), differences(&returned.p99, &alone.p99));
            table.goal("– p50, more than on the primary's own file", &p50, Unit::MillisOfNanos, Goal::AtMost(0.2e6));
            table.goal("– p99, more than on the primary's own file", &p99, Unit::MillisOfNanos, Goal::AtMost(2e6));
        }
    }
}

/// Worker: commits rows of `row` at a steady pace, each up to two tenths of the interval early or late, so that no
/// poller falls into step with it. Answers with the monotonic times in nanoseconds right before and after each COMMIT.
pub fn commit_at_a_pace(request: &Value, connection: &mut Connection) -> Result<Value> {
    let mut committed: Vec<(u64, u64)> = Vec::new();
    at_a_pace(connection, request, |called_ns, returned_ns| {
        committed.push((called_ns, returned_ns));
        Ok(())
    })?;
    Ok(json!(committed))
}

/// Worker: the same, by the connection that serves. Answers with the position after each commit, as text, and the monotonic time in
/// nanoseconds right after COMMIT.
pub fn commit_and_tell(request: &Value, connection: &mut Connection) -> Result<Value> {
    let mut position = connection.prepare("SELECT litestream_position()")?;
    let mut told: Vec<(String, u64)> = Vec::new();
    at_a_pace(connection, request, |_, returned_ns| {
        told.push((position.query_row([], |row| row.get(0))?, returned_ns));
        Ok(())
    })?;
    Ok(json!(told))
}

/// Calls `done` after each commit, with the monotonic times in nanoseconds right before and after it.
fn at_a_pace(connection: &Connection, request: &Value, mut done: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
    // There may be rows already.
    let after = request.get("after").and_then(Value::as_u64).unwrap_or(0);
    let mut insert =
        connection.prepare("INSERT INTO row(id, content) VALUES (?1, 'a small row, committed at a pace')")?;
    let interval_ns = 1_000_000_000 / COMMITS_A_SECOND;
    let began = clock::monotonic_ns();
    let mut random = Random(1);
    for n in 1..=number(request, "commits")? {
        clock::sleep_until_ns(began + n * interval_ns + random.below(interval_ns * 4 / 10));
        let called = clock::monotonic_ns();
        insert.execute([(after + n) as i64])?;
        done(called, clock::monotonic_ns())?;
    }
    Ok(())
}
