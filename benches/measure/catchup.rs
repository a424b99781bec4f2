//! A replica that was away while its primary changed a share of its pages, beside reading and writing no more than the pages
//! that differ; beside reading and hashing both files once and writing the pages that differ, in turn and in one process: what a
//! copier that compares files page by page does; and beside peers.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::files::{self, Random};
use super::replication::{address_of, serve, serve_at};
use super::{Bench, snapshot};
use crate::peers::litestream::{Archive, Pace};
use crate::peers::rsync;
use crate::support::content::{Content, Work};
use crate::support::hash::page_hash;
use crate::support::stats::ratios;
use crate::support::table::{Goal, Unit, grouped};
use crate::support::worker::{Worker, number, text};
use crate::support::{Result, clock, scratch};

/// What must be equal on both sides.
const CONTENT: &str = "SELECT count(*), sum(id * changed), sum(length(content)) FROM row";
/// Bytes that the request holds for each page the replica has, by `docs/protocol.md`.
const CHECKSUM: u64 = 8;
/// Bytes read at once by a plain process that does not read page by page.
const PIECE: u64 = 1 << 20;
/// How often it is looked whether the replica has counted what it received.
const LOOK: Duration = Duration::from_millis(1);

/// How the primary knows what the replica lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The primary went on running, so that its page map tells.
    Position,
    /// The primary was killed and has begun anew, so that the replica sends the checksums of its pages.
    Checksums,
}

impl Way {
    const ALL: [Way; 2] = [Way::Position, Way::Checksums];

    fn title(self) -> &'static str {
        match self {
            Way::Position => "by position, from a primary that went on running",
            Way::Checksums => "by checksums, from a primary that was killed and started again",
        }
    }
}

/// Figures of one way, one value for each run.
#[derive(Default)]
struct Figures {
    differing: Vec<f64>,
    received: Vec<f64>,
    sent: Vec<f64>,
    ours_ns: Vec<f64>,
    primary_cpu_ns: Vec<f64>,
    replica_cpu_ns: Vec<f64>,
    own_scan_ns: Vec<f64>,
    pieces_ns: Vec<f64>,
    hash_ns: Vec<f64>,
    copy_ns: Vec<f64>,
    known_ns: Vec<f64>,
}

/// What a peer does, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// Copies everything.
    Cp,
    /// Compares and copies what differs.
    Rsync,
    /// Applies what is in the archive.
    Follow,
    /// Makes the database anew from the archive.
    Restore,
}

impl Peer {
    const ALL: [Peer; 4] = [Peer::Cp, Peer::Rsync, Peer::Follow, Peer::Restore];

    fn title(self) -> &'static str {
        match self {
            Peer::Cp => "cp of everything, then fsync",
            Peer::Rsync => "sqlite3_rsync, then fsync",
            Peer::Follow => "Litestream every 10 ms: restore -f, taken up where it stood, then fsync",
            Peer::Restore => "Litestream every 10 ms: restore into a new file, then fsync",
        }
    }
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let source = bench.scratch.fresh("source")?.join("app.db");
    files::fill(&source, bench.options.size)?;
    let mut figures: [Figures; 2] = Default::default();
    let mut beside = Beside::default();
    for run in 0..bench.options.runs {
        for (way, figures) in Way::ALL.into_iter().zip(&mut figures) {
            let mut away = Away::begin(bench, way, &source)?;
            figures.differing.push((files::differing(&away.primary, &away.replica)? * files::PAGE) as f64);
            // By turns one is the first, in case the disk is still busy with what came before.
            if run % 2 == 0 {
                away.copy(figures)?;
                away.catch_up(bench, figures)?;
            } else {
                away.catch_up(bench, figures)?;
                away.copy(figures)?;
            }
            if way == Way::Position {
                beside.take(bench, &mut away, source.as_path())?;
            }
            if way == Way::Checksums {
                figures.sent.push((fs::metadata(&away.replica)?.len() / files::PAGE * CHECKSUM) as f64);
            }
            away.end_alike()?;
        }
    }
    report(bench, fs::metadata(&source)?.len(), &figures);
    beside.report(bench, &figures[0])?;
    bench.scratch.remove("source")?;
    bench.scratch.remove("catchup")
}

/// A primary whose replica was away while it changed.
struct Away {
    server: Worker,
    url: String,
    primary: PathBuf,
    replica: PathBuf,
    /// What the replica was when it went away, as plain files.
    copy: PathBuf,
    known: PathBuf,
}

impl Away {
    /// Serves a copy of `source`, has a replica of it made, and changes it after the replica's process has ended.
    fn begin(bench: &Bench, way: Way, source: &Path) -> Result<Away> {
        let folder = bench.scratch.fresh("catchup")?;
        let [primary, replica, copy] = ["primary.db", "replica.db", "copy.db"].map(|name| folder.join(name));
        let known = folder.join("known.db");
        for old in [&primary, &copy, &known] {
            fs::copy(source, old)?;
        }
        let library = &bench.options.library;
        let (mut server, mut url) = serve(&primary, library)?;
        let mut puller = Worker::open_with(&replica, library)?;
        puller.sql(&format!("SELECT litestream_pull('{url}')"))?;
        puller.close()?;
        change(bench, &mut server)?;
        // So that all pages are in the file, where they can be compared.
        let checkpoint = server.sql("PRAGMA wal_checkpoint(PASSIVE)")?;
        if checkpoint.get(0) != Some(&json!(0)) || checkpoint.get(1) != checkpoint.get(2) {
            return Err(format!("not all of the WAL could be checkpointed: {checkpoint}").into());
        }
        if way == Way::Checksums {
            server.kill()?;
            (server, url) = serve_at(&address_of(&url)?, &primary, library)?;
        }
        Ok(Away { server, url, primary, replica, copy, known })
    }

    /// The replica comes back, in a new process: until it has everything and that is durable.
    fn catch_up(&mut self, bench: &Bench, figures: &mut Figures) -> Result<()> {
        let library = &bench.options.library;
        let mut alone = Worker::open_with(&self.replica, library)?;
        figures.own_scan_ns.push(alone.time("SELECT litestream_checksum()")?);
        alone.close()?;
        scratch::settle()?;

        let mut replica = Worker::open_with(&self.replica, library)?;
        let cpu = [self.server.cpu_ns()?, replica.cpu_ns()?];
        let began = clock::monotonic_ns();
        replica.sql(&format!("SELECT litestream_follow('{}')", self.url))?;
        // It has the commit then, but has not checkpointed it yet: that is part of the time.
        let received = received(&mut replica)?;
        replica.sql("SELECT litestream_stop()")?;
        figures.ours_ns.push((clock::monotonic_ns() - began) as f64);
        figures.received.push(received);
        figures.primary_cpu_ns.push(self.server.cpu_ns()? - cpu[0]);
        figures.replica_cpu_ns.push(replica.cpu_ns()? - cpu[1]);
        if replica.sql(CONTENT)? != self.server.sql(CONTENT)? {
            return Err("the replica's rows differ from the primary's".into());
        }
        replica.close()
    }

    /// The plain alternative, onto a file of its own.
    fn copy(&mut self, figures: &mut Figures) -> Result<()> {
        // A worker has a connection, which this one does not need.
        let mut worker = Worker::open(&self.copy.with_extension("unused"))?;
        scratch::settle()?;
        let hashed = worker.ask(json!({"do": "hash", "files": [self.primary, self.copy]}))?;
        figures.pieces_ns.push(number(&hashed, "ns")? as f64);
        let copied = worker.ask(json!({"do": "hash and copy", "from": self.primary, "to": self.copy}))?;
        figures.hash_ns.push(number(&copied, "hash_ns")? as f64);
        figures.copy_ns.push(number(&copied, "whole_ns")? as f64);
        let differing = differing(&self.primary, &self.known)?;
        scratch::settle()?;
        let copied = worker.ask(json!({
            "do": "copy pages", "from": self.primary, "to": self.known, "pages": differing,
        }))?;
        figures.known_ns.push(number(&copied, "ns")? as f64);
        worker.close()
    }

    /// Ends the primary, and checks that all files are the same.
    fn end_alike(self) -> Result<()> {
        self.server.close()?;
        files::same(&self.primary, &self.replica)?;
        files::same(&self.primary, &self.copy)?;
        files::same(&self.primary, &self.known)
    }
}

/// Runs of peers, and what ours led to in the same runs.
#[derive(Default)]
struct Beside {
    ours: Vec<Content>,
    peers: [Work; Peer::ALL.len()],
    failed: [bool; Peer::ALL.len()],
}

impl Beside {
    /// Lets each peer catch up with the same primary, or with one that changed in the same way.
    fn take(&mut self, bench: &mut Bench, away: &mut Away, source: &Path) -> Result<()> {
        let ours = Content::of(&away.replica)?;
        let mut shipped = None;
        for (peer, (work, failed)) in Peer::ALL.into_iter().zip(self.peers.iter_mut().zip(&mut self.failed)) {
            if *failed {
                continue;
            }
            let caught_up = catch_up_by(peer, bench, &away.primary, source, &mut shipped);
            match caught_up.and_then(|(ns, content)| content.must_equal(&ours).map(|()| (ns, content))) {
                Ok((ns, content)) => work.add(ns, content),
                Err(error) => {
                    bench.table.left_out(&format!("Catch up by {}", peer.title()), &error.to_string());
                    *failed = true;
                }
            }
        }
        self.ours.push(ours);
        if shipped.is_some() {
            bench.scratch.remove("shipped")?;
        }
        bench.scratch.remove("peer")
    }

    fn report(self, bench: &mut Bench, figures: &Figures) -> Result<()> {
        let table = &mut bench.table;
        table.section("Catch up beside peers: the same changes, the time until everything is there and durable");
        let mut ours = Work::default();
        for (ns, content) in figures.ours_ns.iter().zip(self.ours) {
            ours.add(*ns, content);
        }
        table.line("liblitestream, by position", &ours.figures, Unit::Seconds);
        table.chart("catchup", "liblitestream", &ours.figures, Unit::Seconds);
        for (peer, (work, failed)) in Peer::ALL.into_iter().zip(self.peers.iter().zip(self.failed)) {
            if !failed {
                table.line(peer.title(), &work.figures, Unit::Seconds);
                table.line("– times ours", &work.ratios(&ours)?, Unit::Times);
                table.chart("catchup", peer.title(), &work.figures, Unit::Seconds);
            }
        }
        Ok(())
    }
}

/// How long a peer takes, in nanoseconds, and what it leads to. Litestream's two ways share what was `shipped`.
fn catch_up_by(
    peer: Peer,
    bench: &Bench,
    primary: &Path,
    source: &Path,
    shipped: &mut Option<Archive>,
) -> Result<(f64, Content)> {
    let replica = bench.scratch.fresh("peer")?.join("replica.db");
    let ns = match peer {
        Peer::Cp => snapshot::cp(primary, &replica)?,
        Peer::Rsync => {
            let program = bench.peers.rsync()?;
            fs::copy(source, &replica)?;
            scratch::settle()?;
            rsync::sync(&program, primary, &replica)?.ns + snapshot::sync(&replica)?
        }
        Peer::Follow => take_up(shipped.insert(ship(bench, source, Some(&replica))?), &replica)?,
        Peer::Restore => {
            let archive = match shipped {
                Some(archive) => archive,
                None => shipped.insert(ship(bench, source, None)?),
            };
            archive.restore(&replica)?.ns + snapshot::sync(&replica)?
        }
    };
    Ok((ns, Content::of(&replica)?))
}

/// An archive of a database of its own, which has changed in the same way; the replica was there before, and then went away.
fn ship(bench: &Bench, source: &Path, replica: Option<&Path>) -> Result<Archive> {
    let program = bench.peers.litestream()?;
    let primary = bench.scratch.fresh("shipped")?.join("own.db");
    fs::copy(source, &primary)?;
    let archive = Archive::of(program, &primary, Pace::Millis(10))?;
    let daemon = archive.replicate()?;
    if let Some(replica) = replica {
        archive.follow(replica)?.end()?;
    }
    let mut writer = Worker::open(&primary)?;
    change(bench, &mut writer)?;
    // It ships what is left before it ends. So all of the way back is that of the replica.
    daemon.end()?;
    writer.close()?;
    scratch::settle()?;
    Ok(archive)
}

/// How long a follower that was away takes until it has all of the archive.
fn take_up(archive: &Archive, replica: &Path) -> Result<f64> {
    let newest = archive.newest()?;
    let began = clock::monotonic_ns();
    let mut follower = archive.take_up(replica)?;
    follower.until("to have everything", || Ok(Archive::reached(replica) >= newest))?;
    let ns = (clock::monotonic_ns() - began) as f64 + snapshot::sync(replica)?;
    follower.end()?;
    Ok(ns)
}

/// Has a worker change the rows that the options say.
fn change(bench: &Bench, writer: &mut Worker) -> Result<()> {
    writer.ask(json!({
        "do": "change rows", "transactions": bench.options.changes,
        "rows": files::rows(bench.options.size), "percent": bench.options.spread,
    }))?;
    Ok(())
}

/// Bytes that came from the upstream, as soon as the follower has counted them.
fn received(follower: &mut Worker) -> Result<f64> {
    let deadline = clock::monotonic_ns() + 1_000_000_000;
    while clock::monotonic_ns() < deadline {
        let row = follower.sql("SELECT bytes FROM litestream_status WHERE role = 'replica'")?;
        match row.get(0).and_then(Value::as_f64) {
            Some(bytes) if bytes > 0.0 => return Ok(bytes),
            _ => std::thread::sleep(LOOK),
        }
    }
    Err("the replica received nothing".into())
}

fn report(bench: &mut Bench, bytes: u64, figures: &[Figures; 2]) {
    let table = &mut bench.table;
    for (way, figures) in Way::ALL.into_iter().zip(figures) {
        table.section(&format!(
            "Catch up {}: {}, {} transactions on {} % of the pages",
            way.title(),
            Unit::MiB.show(bytes as f64),
            grouped(bench.options.changes as f64),
            bench.options.spread,
        ));
        table.line("pages that differ", &figures.differing, Unit::MiB);
        table.line("received", &figures.received, Unit::MiB);
        let times = ratios(&figures.received, &figures.differing);
        table.goal("– times the pages that differ", &times, Unit::Times, Goal::AtMost(1.05));
        if way == Way::Checksums {
            table.line("sent: the checksums, 8 bytes for each page", &figures.sent, Unit::MiB);
        }
        table.line("litestream_follow until it has everything, and litestream_stop", &figures.ours_ns, Unit::Seconds);
        table.line("– processor time of the primary", &figures.primary_cpu_ns, Unit::Seconds);
        table.line("– processor time of the replica", &figures.replica_cpu_ns, Unit::Seconds);
        table.line(
            "the replica's pages read and hashed alone: litestream_checksum",
            &figures.own_scan_ns,
            Unit::Seconds,
        );
        table.line(
            "the pages that differ read and written by a plain process, and synced",
            &figures.known_ns,
            Unit::Seconds,
        );
        let times = ratios(&figures.ours_ns, &figures.known_ns);
        match way {
            Way::Position => {
                table.goal("– ours, applied and durable, times that", &times, Unit::Times, Goal::AtMost(1.5));
            }
            Way::Checksums => table.line("– ours, applied and durable, times that", &times, Unit::Times),
        }
        table.line("both files read page by page and hashed by a plain process", &figures.hash_ns, Unit::Seconds);
        let times = ratios(&figures.ours_ns, &figures.hash_ns);
        let goal = if way == Way::Position { Goal::Below(1.0) } else { Goal::AtMost(1.0) };
        table.goal("– ours, times that", &times, Unit::Times, goal);
        table.line("the same, and the pages that differ written and synced", &figures.copy_ns, Unit::Seconds);
        table.line("– ours, times that", &ratios(&figures.ours_ns, &figures.copy_ns), Unit::Times);
        table.line(
            "both files read in pieces of 1 MiB and hashed by a plain process",
            &figures.pieces_ns,
            Unit::Seconds,
        );
        table.line("– ours, times that", &ratios(&figures.ours_ns, &figures.pieces_ns), Unit::Times);
    }
}

/// Worker: commits small transactions, each an update of a random row of those that change: one row, and so one page, of each
/// stretch of the table, at random within it.
pub fn change_rows(request: &Value, connection: &mut Connection) -> Result<Value> {
    let (rows, percent) = (number(request, "rows")?, number(request, "percent")?);
    let changing = (rows * percent / 100).max(1);
    let mut random = Random(1);
    let ids: Vec<u64> = (0..changing).map(|n| n * rows / changing + random.below(rows / changing) + 1).collect();
    let mut update = connection.prepare("UPDATE row SET changed = ?2 WHERE id = ?1")?;
    for transaction in 1..=number(request, "transactions")? {
        let id = ids.get(random.below(changing) as usize).ok_or("no row to change")?;
        update.execute(params![*id as i64, transaction as i64])?;
    }
    Ok(json!({}))
}

/// Worker: reads both files page by page and hashes each page, then writes the pages that differ.
pub fn hash_and_copy(request: &Value) -> Result<Value> {
    let from = File::open(text(request, "from")?)?;
    let to = File::options().read(true).write(true).open(text(request, "to")?)?;
    let began = clock::monotonic_ns();
    let (ours, theirs) = (hashes(&from, files::PAGE)?, hashes(&to, files::PAGE)?);
    let hashed = clock::monotonic_ns();
    let mut page = [0; files::PAGE as usize];
    for (n, hash) in ours.iter().enumerate() {
        if theirs.get(n) != Some(hash) {
            let at = n as u64 * files::PAGE;
            from.read_exact_at(&mut page, at)?;
            to.write_all_at(&page, at)?;
        }
    }
    to.set_len(ours.len() as u64 * files::PAGE)?;
    to.sync_data()?;
    Ok(json!({"hash_ns": hashed - began, "whole_ns": clock::monotonic_ns() - began}))
}

/// Worker: reads the pages of these numbers from one file, writes them into the other, and syncs that.
pub fn copy_pages(request: &Value) -> Result<Value> {
    let pages: Vec<u64> = serde_json::from_value(request["pages"].clone())?;
    let from = File::open(text(request, "from")?)?;
    let to = File::options().write(true).open(text(request, "to")?)?;
    let began = clock::monotonic_ns();
    let mut page = [0; files::PAGE as usize];
    for n in pages {
        from.read_exact_at(&mut page, n * files::PAGE)?;
        to.write_all_at(&page, n * files::PAGE)?;
    }
    to.sync_data()?;
    Ok(json!({"ns": clock::monotonic_ns() - began}))
}

/// The pages, counted from 0, in which two files of the same length differ.
fn differing(one: &Path, other: &Path) -> Result<Vec<u64>> {
    let (one, other) = (hashes(&File::open(one)?, PIECE)?, hashes(&File::open(other)?, PIECE)?);
    if one.len() != other.len() {
        return Err("the primary is not as long as it was, and all of its pages would have to be known".into());
    }
    let pairs = (0..).zip(one.iter().zip(&other));
    Ok(pairs.filter(|(_, (ours, theirs))| ours != theirs).map(|(page, _)| page).collect())
}

/// Worker: reads files in pieces of many pages and hashes each page.
pub fn hash(request: &Value) -> Result<Value> {
    let files: Vec<PathBuf> = serde_json::from_value(request["files"].clone())?;
    let began = clock::monotonic_ns();
    for file in files {
        hashes(&File::open(file)?, PIECE)?;
    }
    Ok(json!({"ns": clock::monotonic_ns() - began}))
}

/// A hash of every page of a file that is read in pieces of so many bytes.
fn hashes(file: &File, piece: u64) -> Result<Vec<u64>> {
    let size = file.metadata()?.len();
    let mut hashes = Vec::with_capacity((size / files::PAGE) as usize);
    let mut pages = vec![0; piece as usize];
    for at in (0..size).step_by(piece as usize) {
        let some = &mut pages[..piece.min(size - at) as usize];
        file.read_exact_at(some, at)?;
        hashes.extend(some.chunks(files::PAGE as usize).map(page_hash));
    }
    Ok(hashes)
}
