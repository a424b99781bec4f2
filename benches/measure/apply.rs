//! Applying a recorded WAL of small transactions, beside plain SQLite executing the same transactions and beside
//! write(2) of the same bytes.
//!
//! Every way ends with a checkpoint, or for write(2) an fdatasync, so that all of them leave the disk with the same
//! to do; the time of both the loop alone and the whole is taken.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::{Bench, wal_of};
use crate::support::stats::ratios;
use crate::support::table::{Goal, Unit, grouped};
use crate::support::wal::Recording;
use crate::support::worker::{Worker, number, text};
use crate::support::{Result, clock, db, scratch};

const ACCOUNTS: u64 = 10_000;
const SCHEMA: &str = "
    PRAGMA journal_mode = wal;
    CREATE TABLE account(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, owner TEXT NOT NULL);
    CREATE TABLE history(id INTEGER PRIMARY KEY, account INTEGER NOT NULL, amount INTEGER NOT NULL, note TEXT NOT NULL);
    CREATE INDEX history_account ON history(account);
    WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
    INSERT INTO account SELECT i, 0, 'owner of account ' || i FROM n;
    INSERT INTO history SELECT id, id, 0, 'the account is opened' FROM account;
    PRAGMA wal_checkpoint(TRUNCATE);";
/// What must be equal after the same transactions, by whatever way.
const CONTENT: &str = "SELECT (SELECT count(*) FROM history), (SELECT sum(amount * id) FROM history),
    (SELECT sum(balance * id) FROM account), (SELECT count(*) FROM history INDEXED BY history_account WHERE account > 0)";

/// One way to get the transactions into a database.
struct Way {
    title: &'static str,
    request: &'static str,
    how: &'static str,
}

const PLAIN: Way = Way { title: "plain SQLite executes them", request: "execute", how: "" };
const APPLIES: [Way; 4] = [
    Way { title: "litestream_apply_wal, a blob for each commit", request: "apply", how: "1" },
    Way { title: "litestream_apply_wal, a blob for each 1,000 commits", request: "apply", how: "1000" },
    Way { title: "litestream_apply_wal, the whole WAL at once", request: "apply", how: "whole" },
    Way { title: "litestream_apply_frame", request: "apply", how: "frame" },
];
const WRITE: Way = Way { title: "write(2) of the same bytes, a call for each commit", request: "write", how: "" };

/// Times of one way, in nanoseconds, one for each run.
#[derive(Default)]
struct Times {
    /// Until the last transaction was in.
    loops: Vec<f64>,
    /// Until it was checkpointed, or synced.
    wholes: Vec<f64>,
}

/// Takes the measurement.
pub fn take(bench: &mut Bench) -> Result<()> {
    let recorded = record(bench)?;
    let mut times: [Times; 6] = Default::default();
    for _ in 0..bench.options.runs {
        for (way, times) in [PLAIN].iter().chain(&APPLIES).chain(&[WRITE]).zip(&mut times) {
            let (loop_ns, whole_ns) = run(bench, way, &recorded)?;
            times.loops.push(loop_ns as f64);
            times.wholes.push(whole_ns as f64);
        }
    }
    report(bench, &recorded, &times)
}

/// A database before and after some transactions, and the WAL that holds them.
struct Recorded {
    base: PathBuf,
    wal: PathBuf,
    transactions: u64,
    frames: u64,
    bytes: u64,
    content: Value,
}

fn record(bench: &Bench) -> Result<Recorded> {
    let folder = bench.scratch.fresh("recorded")?;
    let (database, base) = (folder.join("source.db"), folder.join("base.db"));
    let connection = db::open(&database)?;
    connection.execute_batch(SCHEMA)?;
    fs::copy(&database, &base)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    let transactions = bench.options.transactions;
    execute_all(&connection, transactions)?;
    let wal = folder.join("recorded-wal");
    fs::copy(wal_of(&database), &wal)?;
    let recording = Recording::read(&wal)?;
    if recording.commits().len() as u64 != transactions {
        return Err("the recorded WAL does not hold one commit for each transaction".into());
    }
    let content = db::first_row(&connection, CONTENT)?.into();
    let (frames, bytes) = (recording.frames().count() as u64, recording.bytes.len() as u64);
    Ok(Recorded { base, wal, transactions, frames, bytes, content })
}

/// Lets a new process take one way, and checks where it led.
fn run(bench: &Bench, way: &Way, recorded: &Recorded) -> Result<(u64, u64)> {
    let folder = bench.scratch.fresh("apply")?;
    let database = folder.join("app.db");
    fs::copy(&recorded.base, &database)?;
    scratch::settle()?;
    let mut worker = match way.request {
        "apply" => Worker::open_with(&database, &bench.options.library)?,
        _ => Worker::open(&database)?,
    };
    let taken = worker.ask(json!({
        "do": way.request, "how": way.how, "wal": recorded.wal, "transactions": recorded.transactions,
        "to": folder.join("copy"),
    }))?;
    worker.close()?;
    if way.request != "write" && Worker::open(&database)?.sql(CONTENT)? != recorded.content {
        return Err(format!("{}: the content differs from the recorded one", way.title).into());
    }
    Ok((number(&taken, "loop_ns")?, number(&taken, "whole_ns")?))
}

fn report(bench: &mut Bench, recorded: &Recorded, times: &[Times; 6]) -> Result<()> {
    let (transactions, frames) = (recorded.transactions as f64, recorded.frames as f64);
    let table = &mut bench.table;
    table.section(&format!(
        "Apply {} transactions of {:.1} frames, a WAL of {}, synchronous = {}",
        grouped(transactions),
        frames / transactions,
        Unit::MiB.show(recorded.bytes as f64),
        db::SYNCHRONOUS,
    ));
    let rate = |count: f64, ns: &[f64]| -> Vec<f64> { ns.iter().map(|ns| count / ns * 1e9).collect() };
    let [plain, applies @ .., write] = times;
    let plain_rate = rate(transactions, &plain.wholes);
    table.line(&format!("{}: transactions, checkpoints included", PLAIN.title), &plain_rate, Unit::PerSecond);
    table.line(&format!("{}: until synced", WRITE.title), &rate(transactions, &write.wholes), Unit::PerSecond);
    for (way, times) in APPLIES.iter().zip(applies) {
        let own_rate = rate(transactions, &times.wholes);
        table.line(&format!("{}: transactions", way.title), &own_rate, Unit::PerSecond);
        table.line("– frames", &rate(frames, &times.wholes), Unit::PerSecond);
        let against_plain = ratios(&own_rate, &plain_rate);
        let against_write = ratios(&times.wholes, &write.wholes);
        let loops_only = ratios(&times.loops, &write.loops);
        if way.how == "frame" {
            table.line("– as many transactions as plain SQLite", &against_plain, Unit::Times);
            table.line("– the time of write(2), both until synced", &against_write, Unit::Times);
        } else {
            table.goal("– as many transactions as plain SQLite", &against_plain, Unit::Times, Goal::AtLeast(10.0));
            table.goal("– the time of write(2), both until synced", &against_write, Unit::Times, Goal::AtMost(1.5));
        }
        table.line("– the same without the last sync of either", &loops_only, Unit::Times);
    }
    Ok(())
}

/// Worker: executes the transactions in plain SQLite.
pub fn execute(request: &Value, connection: &mut Connection) -> Result<Value> {
    let transactions = number(request, "transactions")?;
    timed(|| execute_all(connection, transactions), || checkpoint(connection))
}

/// Worker: applies the recorded WAL.
pub fn apply(request: &Value, connection: &mut Connection) -> Result<Value> {
    let recording = Recording::read(text(request, "wal")?.as_ref())?;
    let how = text(request, "how")?;
    let blobs = how.parse().map_or_else(|_| Vec::new(), |commits| recording.in_parts(commits));
    let mut apply_wal = db::Uncopied::prepare(connection, "SELECT litestream_apply_wal(?1)")?;
    let mut apply_frame = connection.prepare("SELECT litestream_apply_frame(?1, ?2, ?3)")?;
    let apply_all = || -> Result<()> {
        for blob in &blobs {
            apply_wal.run(blob)?;
        }
        match how.as_str() {
            "whole" => apply_wal.run(&recording.bytes)?,
            "frame" => {
                for (number, commit, page) in recording.frames() {
                    apply_frame.query_row(params![number, commit, page], |_| Ok(()))?;
                }
            }
            _ => {}
        }
        Ok(())
    };
    timed(apply_all, || checkpoint(connection))
}

/// Worker: writes the recorded WAL into a file, with a call for each commit.
pub fn write(request: &Value) -> Result<Value> {
    let recording = Recording::read(text(request, "wal")?.as_ref())?;
    let commits = recording.commits();
    let mut file = File::create(Path::new(&text(request, "to")?))?;
    let sync = file.try_clone()?;
    let write_all = || Ok(commits.into_iter().try_for_each(|commit| file.write_all(&recording.bytes[commit]))?);
    timed(write_all, || Ok(sync.sync_data()?))
}

fn timed(work: impl FnOnce() -> Result<()>, finish: impl FnOnce() -> Result<()>) -> Result<Value> {
    let began = clock::monotonic_ns();
    work()?;
    let worked = clock::monotonic_ns();
    finish()?;
    Ok(json!({"loop_ns": worked - began, "whole_ns": clock::monotonic_ns() - began}))
}

fn checkpoint(connection: &Connection) -> Result<()> {
    Ok(connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?)
}

/// The transactions, always the same ones: an amount is booked on an account and written down.
fn execute_all(connection: &Connection, transactions: u64) -> Result<()> {
    let mut begin = connection.prepare("BEGIN IMMEDIATE")?;
    let mut book = connection.prepare("UPDATE account SET balance = balance + ?2 WHERE id = ?1")?;
    let mut note = connection.prepare("INSERT INTO history(account, amount, note) VALUES (?1, ?2, ?3)")?;
    let mut commit = connection.prepare("COMMIT")?;
    let mut random = 1_u64;
    for transaction in 0..transactions {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let account = (random >> 33) % ACCOUNTS + 1;
        let amount = (random >> 20) % 1_000;
        begin.execute([])?;
        book.execute(params![account as i64, amount as i64])?;
        note.execute(params![
            account as i64,
            amount as i64,
            format!("transaction {transaction} books {amount} on {account}")
        ])?;
        commit.execute([])?;
    }
    Ok(())
}
