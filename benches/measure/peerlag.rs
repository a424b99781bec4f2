//! The lag at 100 commits a second beside that of peers: what a reader in another process sees, less what the same reader sees
//! on the primary's own file. What it should be, `lag` tells.
//!
//! `restore -f` of Litestream 0.5 applies nothing while anybody has its database open, and a connection that stays open
//! sees nothing new. So its reader opens the file anew for each look, and so does the one that it is compared with.

use std::path::Path;

use serde_json::json;

use super::lag::{COMMITS_A_SECOND, WARM_UP, lags_after};
use super::replication::{self, Processes, SCHEMA};
use super::{Bench, watch};
use crate::peers::litestream::{Archive, Pace};
use crate::peers::{rsync, vfs};
use crate::support::content::Content;
use crate::support::stats::{Percentiles, differences, percentile};
use crate::support::table::Unit;
use crate::support::worker::Worker;
use crate::support::{Result, db, scratch};

/// How a replica comes to be, and how it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// None: the primary's own file, or ours.
    Ours(replication::Setup),
    /// The primary's own file, opened anew for each look.
    OwnAnew,
    /// Litestream's daemon and `restore -f`, opened anew for each look.
    Follow(Pace),
    /// Litestream's daemon at this pace, and its VFS.
    Vfs(Pace),
    /// `sqlite3_rsync`, again and again.
    Rsync,
}

const OWN: usize = 0;
const OWN_ANEW: usize = 3;
const WAYS: [Way; 10] = [
    Way::Ours(replication::Setup::Alone),
    Way::Ours(replication::Setup::WriterServes),
    Way::Ours(replication::Setup::WriterApart),
    Way::OwnAnew,
    Way::Follow(Pace::Defaults),
    Way::Follow(Pace::Millis(10)),
    Way::Follow(Pace::Millis(1)),
    Way::Vfs(Pace::Defaults),
    Way::Vfs(Pace::Millis(1)),
    Way::Rsync,
];

impl Way {
    fn title(self) -> String {
        match self {
            Way::Ours(replication::Setup::Alone) => "primary's own file".to_owned(),
            Way::Ours(setup) => format!("liblitestream, {}", setup.title()),
            Way::OwnAnew => "primary's own file, opened anew for each look".to_owned(),
            Way::Follow(pace) => format!("Litestream {}, restore -f", pace.title()),
            Way::Vfs(pace) => format!("Litestream {}, its VFS", pace.title()),
            Way::Rsync => "sqlite3_rsync, again and again".to_owned(),
        }
    }

    /// The one whose reader is the same, on the primary's own file.
    fn baseline(self) -> usize {
        if matches!(self, Way::Follow(_)) { OWN_ANEW } else { OWN }
    }

    fn is_of_a_peer(self) -> bool {
        matches!(self, Way::Follow(_) | Way::Vfs(_) | Way::Rsync)
    }
}

/// Percentiles of one way, and the lags of all runs.
#[derive(Default)]
struct Lags {
    runs: Percentiles,
    all: Vec<i64>,
    failed: bool,
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let mut lags: [Lags; WAYS.len()] = Default::default();
    for _ in 0..bench.options.runs {
        for (way, lags) in WAYS.into_iter().zip(&mut lags).filter(|(_, lags)| !lags.failed) {
            match run(bench, way) {
                Ok(all) => {
                    lags.runs.add(&all);
                    lags.all.extend(all);
                }
                Err(error) if way.is_of_a_peer() => {
                    bench.table.left_out(&format!("Lag of {}", way.title()), &error.to_string());
                    lags.failed = true;
                }
                Err(error) => return Err(error),
            }
        }
    }
    report(bench, &mut lags);
    Ok(())
}

/// The lag of every commit of one run, in nanoseconds and sorted.
fn run(bench: &Bench, way: Way) -> Result<Vec<i64>> {
    if let Way::Ours(setup) = way {
        let mut processes = Processes::start(bench, setup)?;
        let mut reader = processes.reader()?;
        let lags = commit_and_watch(bench, &mut processes.writer, &mut reader, None)?;
        reader.close()?;
        processes.end_alike()?;
        return Ok(lags);
    }
    let folder = bench.scratch.fresh("replication")?;
    let (primary, replica) = (folder.join("primary.db"), folder.join("replica.db"));
    db::open(&primary)?.execute_batch(SCHEMA)?;
    let mut writer = Worker::open(&primary)?;
    let lags = match way {
        Way::Ours(_) | Way::OwnAnew => {
            let mut reader = Worker::open(&folder.join("unused.db"))?;
            commit_and_watch(bench, &mut writer, &mut reader, Some(&primary))?
        }
        Way::Follow(pace) => {
            let archive = Archive::of(bench.peers.litestream()?, &primary, pace)?;
            let daemon = archive.replicate()?;
            let follower = archive.follow(&replica)?;
            let mut reader = Worker::open(&folder.join("unused.db"))?;
            scratch::settle()?;
            let lags = commit_and_watch(bench, &mut writer, &mut reader, Some(&replica))?;
            follower.end()?;
            daemon.end()?;
            Content::of(&replica)?.must_equal(&Content::seen_by(&mut writer)?)?;
            lags
        }
        Way::Vfs(pace) => {
            let library = bench.peers.litestream_vfs()?;
            let archive = Archive::of(bench.peers.litestream()?, &primary, pace)?;
            let daemon = archive.replicate()?;
            let mut reader = vfs::open(&library, &archive.url())?;
            scratch::settle()?;
            let lags = commit_and_watch(bench, &mut writer, &mut reader, None)?;
            Content::seen_by(&mut reader)?.must_equal(&Content::seen_by(&mut writer)?)?;
            daemon.end()?;
            lags
        }
        Way::Rsync => {
            let again = rsync::Again::begin(bench.peers.rsync()?, primary, replica.clone())?;
            let mut reader = Worker::open(&replica)?;
            scratch::settle()?;
            let lags = commit_and_watch(bench, &mut writer, &mut reader, None)?;
            drop(again);
            Content::seen_by(&mut reader)?.must_equal(&Content::seen_by(&mut writer)?)?;
            lags
        }
    };
    writer.close()?;
    Ok(lags)
}

/// Lets the writer commit, and the reader look for it, at `anew` or at the database that it has open.
fn commit_and_watch(bench: &Bench, writer: &mut Worker, reader: &mut Worker, anew: Option<&Path>) -> Result<Vec<i64>> {
    let commits = COMMITS_A_SECOND * bench.options.seconds + WARM_UP as u64;
    reader.begin(match anew {
        Some(path) => json!({"do": "watch anew", "path": path, "until": commits}),
        None => json!({"do": "watch", "until": commits}),
    })?;
    let committed = writer.ask(json!({"do": "commit at a pace", "commits": commits}))?;
    let committed: Vec<(u64, u64)> = serde_json::from_value(committed)?;
    let seen: watch::Seen = serde_json::from_value(reader.answer()?)?;
    let lags = lags_after(0, committed.iter().map(|times| times.1), &seen);
    if lags.len() as u64 != commits - WARM_UP as u64 {
        return Err("a commit was never seen".into());
    }
    Ok(lags)
}

fn report(bench: &mut Bench, lags: &mut [Lags; WAYS.len()]) {
    let table = &mut bench.table;
    table.section(&format!(
        "Lag beside peers: a reader in another process, at {COMMITS_A_SECOND} commits a second, synchronous = {}",
        db::SYNCHRONOUS,
    ));
    for lags in lags.iter_mut() {
        lags.all.sort_unstable();
    }
    let lags = &*lags;
    for (way, Lags { runs, all, .. }) in WAYS.into_iter().zip(lags).filter(|(_, lags)| !lags.failed) {
        table.line(&format!("{}: p50", way.title()), &runs.p50, Unit::MillisOfNanos);
        table.line("– p99", &runs.p99, Unit::MillisOfNanos);
        table.line("– longest", &runs.max, Unit::MillisOfNanos);
        let percentiles: Vec<f64> = (0..=1000).map(|n| percentile(all, f64::from(n) / 1000.0) as f64).collect();
        table.chart("lag", &way.title(), &percentiles, Unit::MillisOfNanos);
        if matches!(way, Way::Ours(replication::Setup::Alone) | Way::OwnAnew) {
            continue;
        }
        let own = &lags[way.baseline()].runs;
        let (p50, p99) = (differences(&runs.p50, &own.p50), differences(&runs.p99, &own.p99));
        table.line("– p50, more than on the primary's own file", &p50, Unit::MillisOfNanos);
        table.line("– p99, more than on the primary's own file", &p99, Unit::MillisOfNanos);
    }
}
