//! What replication costs the writer, beside peers: commits of one small row, flat out, by a process that has nothing to do with
//! the replication, on the same two cores. What ours should be, `commits` tells.

use serde_json::{Value, json};

use super::commits::Commits;
use super::replication::{Processes, SCHEMA, Setup};
use super::{Bench, wal_of};
use crate::peers::litestream::{Archive, Pace};
use crate::support::content::Content;
use crate::support::sizes::largest_while;
use crate::support::stats::ratios;
use crate::support::table::Unit;
use crate::support::worker::{Worker, number};
use crate::support::{Result, db, scratch};

/// Who replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nobody, or ours with a follower.
    Ours(Setup),
    /// Litestream's daemon.
    Litestream(Pace),
}

const WAYS: [Way; 5] = [
    Way::Ours(Setup::Alone),
    Way::Ours(Setup::WriterServes),
    Way::Ours(Setup::WriterApart),
    Way::Litestream(Pace::Defaults),
    Way::Litestream(Pace::Millis(10)),
];

impl Way {
    fn title(self) -> String {
        match self {
            Way::Ours(Setup::Alone) => "plain SQLite, nobody attached".to_owned(),
            Way::Ours(setup) => format!("liblitestream, one follower, {}", setup.title()),
            Way::Litestream(pace) => format!("Litestream's daemon {}, nobody follows", pace.title()),
        }
    }
}

/// Figures of one way, one value for each run.
#[derive(Default)]
struct Figures {
    commits: Commits,
    failed: bool,
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let mut figures: [Figures; WAYS.len()] = Default::default();
    for _ in 0..bench.options.runs {
        for (way, figures) in WAYS.into_iter().zip(&mut figures).filter(|(_, figures)| !figures.failed) {
            match (run(bench, way, figures), way) {
                (Ok(()), _) => {}
                (Err(error), Way::Litestream(_)) => {
                    bench.table.left_out(&format!("Commits beside {}", way.title()), &error.to_string());
                    figures.failed = true;
                }
                (Err(error), _) => return Err(error),
            }
        }
    }
    report(bench, &figures);
    Ok(())
}

fn run(bench: &Bench, way: Way, figures: &mut Figures) -> Result<()> {
    let (written, wal_max) = match way {
        Way::Ours(setup) => {
            let mut processes = Processes::start(bench, setup)?;
            let wal = wal_of(&processes.primary);
            let (written, wal_max) = largest_while(&wal, || commit_flat_out(bench, &mut processes.writer));
            let written = written?;
            let mut reader = processes.reader()?;
            reader.ask(json!({"do": "watch", "until": number(&written, "commits")?}))?;
            reader.close()?;
            processes.end_alike()?;
            (written, wal_max)
        }
        Way::Litestream(pace) => {
            let folder = bench.scratch.fresh("replication")?;
            let (primary, restored) = (folder.join("primary.db"), folder.join("restored.db"));
            db::open(&primary)?.execute_batch(SCHEMA)?;
            let archive = Archive::of(bench.peers.litestream()?, &primary, pace)?;
            let daemon = archive.replicate()?;
            let mut writer = Worker::open(&primary)?;
            scratch::settle()?;
            let (written, wal_max) = largest_while(&wal_of(&primary), || commit_flat_out(bench, &mut writer));
            // It ships what is left before it ends.
            daemon.end()?;
            archive.restore(&restored)?;
            Content::of(&restored)?.must_equal(&Content::seen_by(&mut writer)?)?;
            writer.close()?;
            (written?, wal_max)
        }
    };
    figures.commits.add(&written, wal_max)
}

fn commit_flat_out(bench: &Bench, writer: &mut Worker) -> Result<Value> {
    writer.ask(json!({"do": "commit flat out", "seconds": bench.options.seconds}))
}

fn report(bench: &mut Bench, figures: &[Figures; WAYS.len()]) {
    let table = &mut bench.table;
    table.section(&format!(
        "Commits beside peers: one small row each, flat out for {} s, synchronous = {}",
        bench.options.seconds,
        db::SYNCHRONOUS,
    ));
    let [Figures { commits: alone, .. }, ..] = figures;
    for (way, Figures { commits, .. }) in WAYS.into_iter().zip(figures).filter(|(_, figures)| !figures.failed) {
        table.line(&format!("{}: commits", way.title()), &commits.per_second, Unit::PerSecond);
        table.chart("commits", &way.title(), &commits.per_second, Unit::PerSecond);
        let share = ratios(&commits.per_second, &alone.per_second);
        let [p99, longest] = [ratios(&commits.took.p99, &alone.took.p99), ratios(&commits.took.max, &alone.took.max)];
        if way != Way::Ours(Setup::Alone) {
            table.line("– as many as alone", &share, Unit::Times);
            table.line("– p99, times that of alone", &p99, Unit::Times);
            table.line("– longest, times that of alone", &longest, Unit::Times);
        }
        table.line("– WAL at its largest", &commits.wal_max, Unit::MiB);
        commits.report_times(table);
    }
}
