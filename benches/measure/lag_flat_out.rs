//! How old what a reader of the replica sees is, while the writer commits flat out on the same two cores; and whether the follower
//! keeps up for good, or only until the run ends.
//!
//! The reader looks every millisecond: one that polled all the time would take a core. What it sees is as old as the first commit that it
//! does not see, at the time when the look has returned.

use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::Bench;
use super::replication::{Processes, Setup};
use crate::support::stats::{Percentiles, differences, percentile};
use crate::support::table::{Goal, Unit};
use crate::support::worker::number;
use crate::support::{Result, clock, db};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(1);
/// The last row that is written, by which the reader knows that there is no more to come.
const LAST: i64 = 1 << 40;
/// How long the last row may take, in nanoseconds.
const PATIENCE_NS: u64 = 60_000_000_000;
/// Share of a run, at its middle and at its end, of which the lags are compared.
const PART: usize = 5;
/// What the median lag at the end may be above that at the middle, in nanoseconds. A follower slower than its primary by a hundredth is
/// further behind by ten times as much, after a second.
const NO_LARGER_NS: f64 = 1e6;

/// Figures of one set-up, one value for each run.
#[derive(Default)]
struct Figures {
    commits: Vec<f64>,
    lag: Percentiles,
    middle: Vec<f64>,
    end: Vec<f64>,
    caught_up: Vec<f64>,
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
    reader.begin(json!({"do": "look now and then"}))?;
    let committed = processes.writer.ask(json!({"do": "commit and note", "seconds": bench.options.seconds}))?;
    let looks = reader.answer()?;
    reader.close()?;
    processes.end_alike()?;

    let committed: Vec<u64> = serde_json::from_value(committed)?;
    let looks: Vec<(i64, u64)> = serde_json::from_value(looks)?;
    let (&ended, &(_, seen)) = committed.last().zip(looks.last()).ok_or("nothing was written, or nothing was seen")?;
    // A second more or less than that the writer ran is not what is asked about: while it writes, from its first commit on.
    let during = looks.iter().filter(|(_, ns)| committed.first() < Some(ns) && *ns < ended);
    let lags: Vec<i64> = during.map(|&(id, ns)| age(&committed, id, ns)).collect();
    let sorted = |lags: &[i64]| {
        let mut lags = lags.to_vec();
        lags.sort_unstable();
        lags
    };
    let part = lags.len() / PART;
    let middle = sorted(lags.get(part * (PART / 2)..part * (PART / 2 + 1)).unwrap_or(&[]));
    let end = sorted(lags.get(part * (PART - 1)..).unwrap_or(&[]));
    figures.commits.push(committed.len() as f64 / (ended - committed[0]) as f64 * 1e9);
    figures.lag.add(&sorted(&lags));
    figures.middle.push(percentile(&middle, 0.5) as f64);
    figures.end.push(percentile(&end, 0.5) as f64);
    figures.caught_up.push(seen.saturating_sub(ended) as f64);
    Ok(())
}

/// How old a state with the rows up to `id` is at `ns`: as old as the commit after it, if that was made by then. Rows count from 1,
/// and so does the one after `id` stand at that place.
fn age(committed: &[u64], id: i64, ns: u64) -> i64 {
    let next = usize::try_from(id).ok().and_then(|id| committed.get(id));
    next.map_or(0, |next| ns.saturating_sub(*next) as i64)
}

fn report(bench: &mut Bench, figures: &[Figures; 3]) {
    let table = &mut bench.table;
    table.section(&format!(
        "Lag of a reader that looks every {} ms, writer flat out for {} s, synchronous = {}",
        LOOK.as_millis(),
        bench.options.seconds,
        db::SYNCHRONOUS,
    ));
    for (setup, figures) in Setup::ALL.into_iter().zip(figures) {
        let where_read = if setup == Setup::Alone { "primary's own file" } else { "replica" };
        table.line(&format!("{where_read}, {}: p50", setup.title()), &figures.lag.p50, Unit::MillisOfNanos);
        match setup {
            Setup::Alone => table.line("– p99", &figures.lag.p99, Unit::MillisOfNanos),
            _ => table.goal("– p99", &figures.lag.p99, Unit::MillisOfNanos, Goal::AtMost(20e6)),
        }
        table.line("– longest", &figures.lag.max, Unit::MillisOfNanos);
        table.line("– commits meanwhile", &figures.commits, Unit::PerSecond);
        if setup != Setup::Alone {
            table.line("– p50 in the fifth of the run at its middle", &figures.middle, Unit::MillisOfNanos);
            table.line("– p50 in its last fifth", &figures.end, Unit::MillisOfNanos);
            let more = differences(&figures.end, &figures.middle);
            let goal = Goal::AtMost(NO_LARGER_NS);
            table.goal("– how much larger that is", &more, Unit::MillisOfNanos, goal);
            table.line("– everything is there after another", &figures.caught_up, Unit::MillisOfNanos);
        }
    }
}

/// Worker: commits rows from id 1 on for some seconds, and then the last one. Answers with the monotonic time in nanoseconds right after
/// each COMMIT.
pub fn commit_and_note(request: &Value, connection: &mut Connection) -> Result<Value> {
    let mut insert =
        connection.prepare("INSERT INTO row(id, content) VALUES (?1, 'a small row, committed flat out')")?;
    let deadline = clock::monotonic_ns() + number(request, "seconds")? * 1_000_000_000;
    let mut committed: Vec<u64> = Vec::new();
    let mut now = 0;
    while now < deadline {
        insert.execute([committed.len() as i64 + 1])?;
        now = clock::monotonic_ns();
        committed.push(now);
    }
    insert.execute([LAST])?;
    committed.push(clock::monotonic_ns());
    Ok(json!(committed))
}

/// Worker: looks for the newest row every now and then, until it is the last one. Answers with the id, and the monotonic time in nanoseconds
/// at which the look had returned, of each look.
pub fn look_now_and_then(connection: &mut Connection) -> Result<Value> {
    let mut newest = connection.prepare("SELECT coalesce(max(id), 0) FROM row")?;
    let mut looks: Vec<(i64, u64)> = Vec::new();
    let (mut last, mut changed) = (0, clock::monotonic_ns());
    while last != LAST {
        let id: i64 = newest.query_row([], |row| row.get(0))?;
        let now = clock::monotonic_ns();
        looks.push((id, now));
        if id < last {
            return Err(format!("row {id} is the newest after row {last} was").into());
        }
        if id != last {
            (last, changed) = (id, now);
        }
        if now - changed > PATIENCE_NS {
            return Err(format!("the last row did not arrive: the newest is {last}").into());
        }
        thread::sleep(LOOK);
    }
    Ok(json!(looks))
}
