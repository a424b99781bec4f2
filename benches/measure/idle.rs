//! What it costs to be ready when nothing is written: processor time and wake-ups of a primary alone, of one with ten followers, and of a
//! follower.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use super::Bench;
use super::replication::{Processes, Setup};
use crate::support::table::{Goal, Unit};
use crate::support::worker::Worker;
use crate::support::{Result, clock};

const FOLLOWERS: usize = 10;
/// After the last write there is something to do for a while: a checkpoint, the positions to be stored.
const CALM: Duration = Duration::from_secs(2);
/// What the primary with its followers may take: of a core, and times that one of its threads goes to sleep, a second.
const CPU: f64 = 0.003;
const WAKE_UPS: f64 = 5.0;

/// Figures of a process, one value for each run.
#[derive(Default)]
struct Figures {
    cpu: Vec<f64>,
    wake_ups: Vec<f64>,
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let [mut alone, mut primary, mut follower]: [Figures; 3] = Default::default();
    for _ in 0..bench.options.runs {
        // Both at once: they have nothing to do with each other, and the cores are idle.
        let mut with_none = start("alone", bench, 0)?;
        let mut with_some = start("followed", bench, FOLLOWERS)?;
        thread::sleep(CALM);
        let (server, followers) = with_some.server_and_followers();
        let one = followers.first_mut().ok_or("no follower")?;
        watch(bench, vec![(with_none.server(), &mut alone), (server, &mut primary), (one, &mut follower)])?;
        with_none.end_alike()?;
        with_some.end_alike()?;
    }
    report(bench, [&alone, &primary, &follower]);
    Ok(())
}

/// A primary that something was written to.
fn start(folder: &str, bench: &Bench, followers: usize) -> Result<Processes> {
    let mut processes = Processes::start_in(folder, bench, Setup::WriterServes, followers)?;
    processes.writer.sql("INSERT INTO row(content) VALUES ('the last row')")?;
    Ok(processes)
}

/// Lets some time pass, and notes what each process did in it.
fn watch(bench: &Bench, mut of: Vec<(&mut Worker, &mut Figures)>) -> Result<()> {
    let mut before = Vec::new();
    for (worker, _) in &mut of {
        before.push(worker.cpu_ns()?);
    }
    // Within what is counted of processor time, so that the question for that is no wake-up.
    let waits_before: Result<Vec<_>> = of.iter().map(|(worker, _)| waits(worker.pid())).collect();
    let began = clock::monotonic_ns();
    thread::sleep(Duration::from_secs(bench.options.seconds));
    let seconds = (clock::monotonic_ns() - began) as f64 / 1e9;
    for (((worker, figures), waits_before), cpu_before) in of.into_iter().zip(waits_before?).zip(before) {
        let after = waits(worker.pid())?;
        let more = after.iter().map(|(task, waits)| waits - waits_before.get(task).unwrap_or(&0));
        figures.wake_ups.push(more.sum::<u64>() as f64 / seconds);
        figures.cpu.push((worker.cpu_ns()? - cpu_before) / 1e9 / seconds);
    }
    Ok(())
}

/// How often each thread of a process has waited for something so far; it was woken as often.
fn waits(process: u32) -> Result<BTreeMap<String, u64>> {
    let mut waits = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?;
        // A thread that ends meanwhile counts for nothing.
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        if let Some(count) = line.and_then(|count| count.trim().parse().ok()) {
            waits.insert(task.file_name().to_string_lossy().into_owned(), count);
        }
    }
    if waits.is_empty() { Err(format!("the system tells nothing of process {process}").into()) } else { Ok(waits) }
}

fn report(bench: &mut Bench, [alone, primary, follower]: [&Figures; 3]) {
    let table = &mut bench.table;
    table.section(&format!("Nothing is written for {} s", bench.options.seconds));
    table.line("primary that nobody follows: share of a core", &alone.cpu, Unit::Percent);
    table.line("– wake-ups of its threads", &alone.wake_ups, Unit::PerSecond);
    let who = format!("primary with {FOLLOWERS} followers: share of a core");
    table.goal(&who, &primary.cpu, Unit::Percent, Goal::AtMost(CPU));
    table.goal("– wake-ups of its threads", &primary.wake_ups, Unit::PerSecond, Goal::AtMost(WAKE_UPS));
    table.line("a follower: share of a core", &follower.cpu, Unit::Percent);
    table.line("– wake-ups of its threads", &follower.wake_ups, Unit::PerSecond);
}
