//! Commits of one small row: plain SQLite alone, and with a primary and followers on the same cores. Flat out; and at a pace that
//! leaves the cores something to spare, at which nobody should notice that there is a follower.

use std::fs;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::replication::{Processes, SCHEMA, Setup};
use super::{Bench, wal_of, watch};
use crate::support::sizes::largest_while;
use crate::support::stats::{Percentiles, percentile, ratios};
use crate::support::table::{Goal, Table, Unit, grouped};
use crate::support::worker::{Worker, number};
use crate::support::{Result, clock, db};

/// Commits a second of the writer that is not flat out.
const PACE: u64 = 20_000;
/// Twice the size that plain SQLite keeps its WAL to.
const WAL_GOAL: f64 = (8 << 20) as f64;
/// What counts as the same time.
const SAME: f64 = 1.05;

/// Who writes, and how many follow.
type Case = (Setup, usize);

const FLAT_OUT: [Case; 6] = [
    (Setup::Alone, 0),
    (Setup::AloneBeside, 0),
    (Setup::WriterServes, 1),
    (Setup::WriterApart, 1),
    (Setup::WriterServes, 10),
    (Setup::WriterApart, 10),
];
const AT_A_PACE: [Case; 3] = [(Setup::Alone, 0), (Setup::WriterServes, 1), (Setup::WriterApart, 1)];

/// How commits went, one value for each run.
#[derive(Default)]
pub struct Commits {
    /// How many a second there were.
    pub per_second: Vec<f64>,
    /// How long one took.
    pub took: Percentiles,
    /// Size of the WAL in bytes at its largest.
    pub wal_max: Vec<f64>,
}

impl Commits {
    /// Adds what the worker answered to `commit flat out`, and how large the WAL got.
    pub fn add(&mut self, written: &Value, wal_max: f64) -> Result<()> {
        self.per_second.push(number(written, "commits")? as f64 / number(written, "ns")? as f64 * 1e9);
        self.took.add_told(written)?;
        self.wal_max.push(wal_max);
        Ok(())
    }

    /// The lines of how long one took.
    pub fn report_times(&self, table: &mut Table) {
        table.line("– p50 of a commit", &self.took.p50, Unit::MicrosOfNanos);
        table.line("– p99", &self.took.p99, Unit::MicrosOfNanos);
        table.line("– longest", &self.took.max, Unit::MillisOfNanos);
    }
}

/// Figures of one case, one value for each run.
#[derive(Default)]
struct Figures {
    commits: Commits,
    wal_end: Vec<f64>,
    behind_ns: Vec<f64>,
    behind_rows: Vec<f64>,
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let mut flat_out: [Figures; FLAT_OUT.len()] = Default::default();
    let mut at_a_pace: [Figures; AT_A_PACE.len()] = Default::default();
    for run in 0..bench.options.runs {
        // Each is the first by turns.
        for turn in 0..FLAT_OUT.len() {
            let n = (run + turn) % FLAT_OUT.len();
            take_one(bench, FLAT_OUT[n], 0, bench.options.seconds, &mut flat_out[n])?;
        }
        for turn in 0..AT_A_PACE.len() {
            let n = (run + turn) % AT_A_PACE.len();
            take_one(bench, AT_A_PACE[n], PACE, paced_seconds(bench), &mut at_a_pace[n])?;
        }
    }
    report_flat_out(bench, &flat_out);
    report_at_a_pace(bench, &at_a_pace);
    Ok(())
}

/// At a pace there is less to be seen in more time.
fn paced_seconds(bench: &Bench) -> u64 {
    bench.options.seconds.div_ceil(2)
}

fn take_one(bench: &Bench, case: Case, pace: u64, seconds: u64, figures: &mut Figures) -> Result<()> {
    let mut processes = Processes::start_with(bench, case.0, case.1)?;
    let mut reader = processes.reader()?;
    let wal = wal_of(&processes.primary);
    let request = json!({"do": "commit flat out", "seconds": seconds, "pace": pace});
    let neighbour = if case.0 == Setup::AloneBeside { Some(neighbour(bench, &request)?) } else { None };
    let (written, wal_max) = largest_while(&wal, || processes.writer.ask(request));
    let written = written?;
    if let Some(mut neighbour) = neighbour {
        neighbour.answer()?;
        neighbour.close()?;
    }
    let (commits, ended_ns) = (number(&written, "commits")?, number(&written, "ended_ns")?);
    let seen = reader.ask(json!({"do": "watch", "until": commits}))?;
    let seen: watch::Seen = serde_json::from_value(seen)?;
    let (first, last) = (seen.first().ok_or("nothing was seen")?, seen.last().ok_or("nothing was seen")?);
    reader.close()?;
    figures.wal_end.push(fs::metadata(&wal).map_or(0, |file| file.len()) as f64);
    processes.end_alike()?;

    figures.commits.add(&written, wal_max)?;
    figures.behind_ns.push(last.1.saturating_sub(ended_ns) as f64);
    figures.behind_rows.push((commits - first.0) as f64);
    Ok(())
}

/// A process that does the same to a database of its own.
fn neighbour(bench: &Bench, request: &Value) -> Result<Worker> {
    let database = bench.scratch.fresh("neighbour")?.join("own.db");
    db::open(&database)?.execute_batch(SCHEMA)?;
    let mut worker = Worker::open(&database)?;
    worker.begin(request.clone())?;
    Ok(worker)
}

fn report_flat_out(bench: &mut Bench, figures: &[Figures; FLAT_OUT.len()]) {
    let table = &mut bench.table;
    table.section(&format!(
        "Commits of one small row, flat out for {} s, synchronous = {}",
        bench.options.seconds,
        db::SYNCHRONOUS,
    ));
    let [Figures { commits: alone, .. }, ..] = figures;
    for (case, figures) in FLAT_OUT.into_iter().zip(figures) {
        table.line(&format!("{}: commits", title(case)), &figures.commits.per_second, Unit::PerSecond);
        let share = ratios(&figures.commits.per_second, &alone.per_second);
        match case.1 {
            0 if case.0 == Setup::Alone => {}
            0 => table.line("– as many as alone", &share, Unit::Times),
            1 => table.goal("– as many as alone", &share, Unit::Times, Goal::AtLeast(0.85)),
            _ => table.goal("– as many as alone", &share, Unit::Times, Goal::AtLeast(0.6)),
        }
        report_times(table, case, &figures.commits, alone, false);
        match case.1 {
            0 => table.line("– WAL at its largest", &figures.commits.wal_max, Unit::MiB),
            _ => table.goal("– WAL at its largest", &figures.commits.wal_max, Unit::MiB, Goal::AtMost(WAL_GOAL)),
        }
        table.line("– WAL at the end", &figures.wal_end, Unit::MiB);
        report_behind(table, case, figures);
    }
}

fn report_at_a_pace(bench: &mut Bench, figures: &[Figures; AT_A_PACE.len()]) {
    let seconds = paced_seconds(bench);
    let table = &mut bench.table;
    table.section(&format!(
        "Commits of one small row, {} a second for {seconds} s, synchronous = {}",
        grouped(PACE as f64),
        db::SYNCHRONOUS,
    ));
    let [Figures { commits: alone, .. }, ..] = figures;
    for (case, figures) in AT_A_PACE.into_iter().zip(figures) {
        table.line(&format!("{}: commits", title(case)), &figures.commits.per_second, Unit::PerSecond);
        if case.1 > 0 {
            let held = ratios(&figures.commits.per_second, &alone.per_second);
            table.goal("– as many as alone", &held, Unit::Times, Goal::AtLeast(0.99));
        }
        report_times(table, case, &figures.commits, alone, true);
        report_behind(table, case, figures);
    }
}

fn title((setup, followers): Case) -> String {
    match followers {
        0 => setup.title().to_owned(),
        1 => format!("one follower, {}", setup.title()),
        _ => format!("{followers} followers, {}", setup.title()),
    }
}

/// How long a commit took. The goals are those for one follower: ten have the cores to themselves most of the time. Flat out, a median
/// that is not what it was shows in the rate.
fn report_times(table: &mut Table, case: Case, commits: &Commits, alone: &Commits, is_paced: bool) {
    commits.report_times(table);
    let (took, alone) = (&commits.took, &alone.took);
    let p50 = ratios(&took.p50, &alone.p50);
    let p99 = ratios(&took.p99, &alone.p99);
    let longest = ratios(&took.max, &alone.max);
    match case.1 {
        0 if case.0 == Setup::Alone => {}
        1 => {
            match is_paced {
                true => table.goal("– p50, times that of alone", &p50, Unit::Times, Goal::AtMost(SAME)),
                false => table.line("– p50, times that of alone", &p50, Unit::Times),
            }
            table.goal("– p99, times that of alone", &p99, Unit::Times, Goal::AtMost(SAME));
            table.goal("– longest, times that of alone", &longest, Unit::Times, Goal::AtMost(2.0));
        }
        _ => {
            table.line("– p99, times that of alone", &p99, Unit::Times);
            table.line("– longest, times that of alone", &longest, Unit::Times);
        }
    }
}

fn report_behind(table: &mut Table, case: Case, figures: &Figures) {
    if case.1 > 0 {
        table.line("– the first follower has everything after another", &figures.behind_ns, Unit::MillisOfNanos);
        table.line("– commits it lacked when first looked at", &figures.behind_rows, Unit::Count);
    }
}

/// Worker: commits single rows for some seconds, flat out or `pace` a second if there is one, and answers with how many, the time of each by
/// percentiles, and when it ended. A commit that is due while the one before it goes on begins right after that.
pub fn commit_flat_out(request: &Value, connection: &mut Connection) -> Result<Value> {
    let mut insert = connection.prepare("INSERT INTO row(content) VALUES ('a small row, committed by itself')")?;
    let pace = request.get("pace").and_then(Value::as_u64).unwrap_or(0);
    let interval_ns = 1_000_000_000_u64.checked_div(pace);
    let began = clock::monotonic_ns();
    let deadline = began + number(request, "seconds")? * 1_000_000_000;
    let mut times: Vec<u64> = Vec::new();
    let mut now = began;
    while now < deadline {
        if let Some(interval_ns) = interval_ns {
            clock::sleep_until_ns(began + times.len() as u64 * interval_ns);
            now = clock::monotonic_ns();
        }
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
