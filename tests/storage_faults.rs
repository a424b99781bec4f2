//! An error of the storage at every single call: each read, write, short write, truncation, sync, lock and mapping of the
//! shared memory fails once, and once for good. The error reaches SQL or the status, readers see a state that the primary was in,
//! no lock stays behind, and once the storage works again so does the replica.
//!
//! `FAULTS=all` looks at every call where else some are passed over (`make faults`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use rusqlite::Connection;
use support::*;

/// What fails: each kind of call, once or for good, and writes by half.
fn kinds() -> Vec<(Call, bool, bool)> {
    let plain = Call::ALL.into_iter().flat_map(|call| [(call, false, false), (call, true, false)]);
    plain.chain([(Call::Write, false, true), (Call::Write, true, true)]).collect()
}

/// Steps that the number of the failing call takes: of frequent calls all of the first, then fewer and fewer.
fn next(nth: usize) -> usize {
    if std::env::var_os("FAULTS").is_some() || nth < 10 { nth + 1 } else { nth + nth / 3 }
}

/// The same where every case takes long.
fn next_but_few(nth: usize) -> usize {
    next(nth).max(nth * 4 + 1)
}

/// Does `case` with each fault in turn until the calls of its kind come to an end; it says whether the fault came about.
fn each_fault(case: impl FnMut(Fault, &str) -> bool) {
    each_fault_by(next, case);
}

fn each_fault_by(next: fn(usize) -> usize, mut case: impl FnMut(Fault, &str) -> bool) {
    let mut cases = 0;
    for (call, lasting, short) in kinds() {
        let mut nth = 0;
        loop {
            let what = format!(
                "{call:?} number {nth}{}{}",
                if lasting { " and after" } else { "" },
                if short { " by half" } else { "" }
            );
            // Shown when the case fails.
            println!("{what}");
            if !case(Fault { call, nth, lasting, short }, &what) {
                break;
            }
            cases += 1;
            nth = next(nth);
        }
    }
    println!("{cases} faults");
    assert!(cases > 8, "only {cases} faults came about");
}

/// The answer of a call, which is neither a panic nor any other accident of the library's own.
fn ask(connection: &Connection, sql: &str, what: &str) -> Result<String, String> {
    let answer = connection.query_row(sql, [], |row| row.get::<_, String>(0)).map_err(|e| e.to_string());
    if let Err(error) = &answer {
        assert!(!error.contains("panic") && !error.contains("internal"), "{what}: {error}");
    }
    answer
}

/// The state that another process sees, with every lock free; none when the replica is new and empty.
fn seen(origin: &Origin, path: &Path, what: &str) -> Option<usize> {
    let judged =
        stock(path, "PRAGMA integrity_check; SELECT count(*) FROM sqlite_schema; PRAGMA wal_checkpoint(TRUNCATE)");
    match judged.lines().collect::<Vec<_>>()[..] {
        ["ok", "0", "0|-1|-1" | "0|0|0"] => None,
        ["ok", _, "0|0|0"] => Some(origin.state_of(path, what)),
        _ => panic!("{what}: another process finds {judged}"),
    }
}

/// One fault during `operate` on a replica that `base` is copied for, then again without.
fn replica_survives(
    origin: &Origin,
    base: Option<&Path>,
    operate: impl Fn(&Connection, &str) -> Result<String, String>,
) {
    replica_survives_by(next, origin, base, operate);
}

fn replica_survives_by(
    next: fn(usize) -> usize,
    origin: &Origin,
    base: Option<&Path>,
    operate: impl Fn(&Connection, &str) -> Result<String, String>,
) {
    let temp = Temp::new();
    let path = temp.path("replica.db");
    each_fault_by(next, |fault, what| {
        remove(&path);
        if let Some(base) = base {
            copy_all(base, &path);
        }
        let before = base.map(|_| origin.state_of(&path, what));
        let disk = Disk::of(&path);
        let replica = disk.open();
        disk.fail(fault);
        let answer = operate(&replica, what);
        let fired = disk.heal();
        let state = seen(origin, &path, what);
        assert!(state >= before, "{what}: {before:?} before, {state:?} after {answer:?}");
        if let Ok(position) = &answer {
            assert_eq!(state, Some(origin.at(position)), "{what}: the state after {position} was reached");
        }
        let position = std::fs::read_to_string(with_suffix(&path, "-litestream").join("position"));
        if let Ok(position) = position {
            assert!(
                state >= Some(origin.at(position.trim())),
                "{what}: the sidecar is at {position}, {state:?} is there"
            );
        }
        operate(&replica, what).unwrap_or_else(|e| panic!("{what}: after {answer:?}, with the fault gone: {e}"));
        assert_eq!(seen(origin, &path, what), Some(origin.newest()), "{what}: in the end");
        fired > 0
    });
}

#[test]
fn a_new_replica_survives_a_fault_at_any_call() {
    let origin = Origin::new(512);
    replica_survives(&origin, None, |replica, what| ask(replica, &origin.pull("{}"), what));
}

#[test]
fn catching_up_survives_a_fault_at_any_call() {
    let (origin, temp) = (Origin::new(512), Temp::new());
    let base = temp.path("base.db");
    origin.replicate(&base);
    origin.step(10);
    replica_survives(&origin, Some(&base), |replica, what| {
        ask(replica, &origin.pull("{\"checkpoint_frames\": 4}"), what)
    });
}

#[test]
fn being_compared_by_checksum_survives_a_fault_at_any_call() {
    let (origin, temp) = (Origin::new(512), Temp::new());
    let base = temp.path("base.db");
    origin.replicate(&base);
    std::fs::remove_file(with_suffix(&base, "-litestream").join("position")).unwrap();
    origin.step(10);
    replica_survives(&origin, Some(&base), |replica, what| ask(replica, &origin.pull("{}"), what));
}

#[test]
fn a_commit_larger_than_memory_survives_a_fault_at_any_call() {
    let (origin, temp) = (Origin::new(65536), Temp::new());
    let more = "WITH RECURSIVE i(n) AS (SELECT 21 UNION ALL SELECT n + 1 FROM i WHERE n < 400)";
    origin.does(&format!("{more} INSERT INTO ballast SELECT n, 0, randomblob(49152) FROM i"));
    let base = temp.path("base.db");
    origin.replicate(&base);
    // 25 MB, of which 16 MiB are kept in memory.
    origin.step(400);
    replica_survives_by(next_but_few, &origin, Some(&base), |replica, what| ask(replica, &origin.pull("{}"), what));
}

/// Ends what a replica is: the state it is left in, or the error.
fn promote(replica: &Connection, what: &str) -> Result<String, String> {
    ask(replica, "SELECT litestream_promote()", what)
}

#[test]
fn a_promotion_survives_a_fault_at_any_call() {
    let (origin, temp) = (Origin::new(512), Temp::new());
    let base = temp.path("base.db");
    origin.replicate(&base);
    let path = temp.path("replica.db");
    each_fault(|fault, what| {
        remove(&path);
        copy_all(&base, &path);
        let disk = Disk::of(&path);
        let replica = disk.open();
        disk.fail(fault);
        let answer = promote(&replica, what);
        let fired = disk.heal();
        assert_eq!(seen(&origin, &path, what), Some(0), "{what}: after {answer:?}");
        let sidecar = with_suffix(&path, "-litestream");
        match answer {
            Ok(_) => assert!(!is_marked(&path) && !sidecar.join("upstream").exists(), "{what}: promoted by half"),
            Err(error) => {
                assert!(sidecar.join("upstream").exists(), "{what}: no replica any more after {error}");
                promote(&replica, what).unwrap_or_else(|e| panic!("{what}: after {error}, with the fault gone: {e}"));
            }
        }
        drop(replica);
        stock(&path, &bank::step(1, 1));
        fired > 0
    });
}

/// A copy of a database, and the WAL of three transactions more, applied to it with a fault by `apply`, which says how many of
/// them it has applied; all or none of them if it does so `at_once`.
fn applying_survives(at_once: bool, apply: impl Fn(&Connection, &[u8]) -> rusqlite::Result<i64>) {
    let (temp, base) = (Temp::new(), Temp::new());
    let source = plain(&temp.path("source.db"));
    source.run(&format!("PRAGMA page_size = 512; {}; PRAGMA journal_mode = wal", bank::create(20, 512)));
    copy(&temp.path("source.db"), &base.path("base.db"));
    (0..3).for_each(|seed| source.run(&bank::step(seed, 10)));
    let log = file_bytes(&temp.path("source.db-wal"));
    let path = temp.path("replica.db");
    each_fault(|fault, what| {
        remove(&path);
        copy_all(&base.path("base.db"), &path);
        let disk = Disk::of(&path);
        let replica = disk.open();
        let mut reader = Shell::stock(&path);
        let mut witness = bank::Witness::default();
        witness.see(&reader.ask(&bank::judge("integrity_check")));
        disk.fail(fault);
        let answer = apply(&replica, &log);
        let fired = disk.heal();
        for look in [&mut reader, &mut Shell::stock(&path)] {
            witness.see(&look.ask(&bank::judge("integrity_check")));
            if at_once || answer.is_ok() {
                assert_eq!(witness.newest, *answer.as_ref().unwrap_or(&0), "{what}: after {answer:?}");
            }
        }
        assert_eq!(stock(&path, "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0", "{what}: the locks");
        assert_eq!(apply(&replica, &log).unwrap_or_else(|e| panic!("{what}: after {answer:?}: {e}")), 3);
        assert_same_pages(&temp.path("source.db"), &path);
        fired > 0
    });
}

#[test]
fn applying_a_wal_by_hand_survives_a_fault_at_any_call() {
    applying_survives(true, |replica, log| {
        replica.query_row("SELECT litestream_apply_wal(?1)", [log], |row| row.get(0))
    });
}

#[test]
fn applying_frames_by_hand_survives_a_fault_at_any_call() {
    applying_survives(false, |replica, log| {
        let (mut commits, mut apply) = (0, replica.prepare("SELECT litestream_apply_frame(?1, ?2, ?3)")?);
        for frame in wal::parse(log).1 {
            apply.query_row((frame.pgno, frame.commit, &frame.page), |_| Ok(()))?;
            commits += i64::from(frame.commit > 0);
        }
        Ok(commits)
    });
}

/// What the status says of the database at `path` went wrong last.
fn last_error(connection: &Connection, path: &Path) -> Option<String> {
    connection.ask(&format!("SELECT max(last_error) FROM litestream_status WHERE database = '{}'", path.display()))
}

fn wait(replica: &Connection, position: &str, what: &str) {
    let reached: i64 = replica.ask(&format!("SELECT litestream_wait('{position}', 60000)"));
    assert_eq!(reached, 1, "{what}: waiting for {position}");
}

#[test]
fn following_survives_a_fault_at_any_call() {
    let (origin, temp) = (Origin::new(512), Temp::new());
    let base = temp.path("base.db");
    origin.replicate(&base);
    let path = temp.path("replica.db");
    each_fault(|fault, what| {
        remove(&path);
        copy_all(&base, &path);
        let disk = Disk::of(&path);
        // The connection that asks has a storage that works.
        let (host, healthy) = (disk.open(), loaded(&path));
        host.ask::<String>(&origin.follow("{\"checkpoint_frames\": 12}"));
        disk.fail(fault);
        for pages in [2, 10] {
            let position = origin.step(pages);
            let reached = format!("SELECT litestream_wait('{position}', 0)");
            until(&format!("{what}: {position} is reached, or cannot be"), || {
                let error = last_error(&healthy, &path).filter(|_| fault.lasting && disk.fired() > 0);
                if let Some(error) = &error {
                    assert!(error.contains("replica.db"), "{what}: which file that was about: {error}");
                }
                if error.is_some() || healthy.ask::<bool>(&reached) {
                    Ok(())
                } else {
                    Err(format!("{} failed", disk.fired()))
                }
            });
        }
        assert_eq!(stock(&path, "PRAGMA integrity_check"), "ok", "{what}");
        let before = origin.state_of(&path, what);
        let fired = disk.heal();
        wait(&healthy, &origin.step(1), what);
        assert_eq!(origin.state_of(&path, what), origin.newest(), "{what}: it was {before} with the fault");
        let heals = format!("SELECT heals FROM litestream_status WHERE database = '{}'", path.display());
        assert_eq!(healthy.ask::<i64>(&heals), 0, "{what}: nothing was to be mended");
        healthy.ask::<String>("SELECT litestream_stop()");
        fired > 0
    });
}

/// A primary whose storage fails while `write` commits; in the end its follower has all of it.
fn primary_survives(fault: Fault, what: &str, write: impl Fn(&Connection)) -> bool {
    let temp = Temp::new();
    let (path, copied) = (temp.path("primary.db"), temp.path("replica.db"));
    let writer = plain(&path);
    writer.run(&format!("PRAGMA page_size = 512; PRAGMA journal_mode = wal; {}", bank::create(20, 512)));
    writer.run("PRAGMA wal_autocheckpoint = 0; PRAGMA wal_checkpoint(TRUNCATE)");
    let disk = Disk::of(&path);
    let (host, healthy) = (disk.open(), loaded(&path));
    let url: String =
        host.ask("SELECT litestream_serve('127.0.0.1:0', '{\"checkpoint_frames\": 50, \"heartbeat_ms\": 100}')");
    let replica = loaded(&copied);
    replica.ask::<String>(&format!("SELECT litestream_follow('{url}')"));
    disk.fail(fault);
    write(&writer);
    // One look at least was taken with the fault, or it is not coming about.
    until("the tail has looked", || {
        let commits = format!("SELECT commits > 0 FROM litestream_status WHERE database = '{}'", path.display());
        if disk.fired() > 0 || healthy.ask::<bool>(&commits) { Ok(()) } else { Err("not yet") }
    });
    if fault.lasting && disk.fired() > 0 && fault.call == Call::Read {
        until("the status says what went wrong", || last_error(&healthy, &path).ok_or("nothing"));
    }
    let fired = disk.heal();
    writer.run(&bank::step(1000, 1));
    wait(&replica, &healthy.ask::<String>("SELECT litestream_position()"), what);
    let differing = differing_pages(&path, &copied);
    assert!(differing.is_empty(), "{what}: pages {differing:?} differ, and both are at the same position");
    assert_eq!(
        replica.ask::<i64>(&format!("SELECT heals FROM litestream_status WHERE database = '{}'", copied.display())),
        0,
        "{what}"
    );
    replica.ask::<String>("SELECT litestream_stop()");
    healthy.ask::<String>("SELECT litestream_stop()");
    assert_eq!(stock(&path, "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0", "{what}: the locks");
    fired > 0
}

#[test]
fn a_primary_that_could_not_map_the_wal_index_for_a_moment_misses_no_page() {
    for (nth, lasting) in [(0, false), (1, false), (2, false), (0, true)] {
        let fault = Fault { call: Call::ShmMap, nth, lasting, short: false };
        let fired = primary_survives(fault, &format!("mapping {nth}"), |writer| {
            let id = "(SELECT max(id) FROM ballast)";
            let more = "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 5000)";
            writer.run(&format!("{more} INSERT INTO ballast SELECT n + {id}, 0, randomblob(380) FROM i"));
            writer.run("UPDATE ballast SET version = 5");
        });
        assert!(fired || nth > 0, "mapping {nth} of the wal-index was never asked for");
    }
}

/// A primary that was served before, and its replica, which has not got the latest: nobody has them open.
fn line(temp: &Temp) {
    let path = temp.path("primary.db");
    let primary = loaded(&path);
    primary.run(&format!("PRAGMA page_size = 512; PRAGMA journal_mode = wal; {}", bank::create(20, 512)));
    let url: String = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    loaded(&temp.path("replica.db")).ask::<String>(&format!("SELECT litestream_pull('{url}')"));
    primary.ask::<String>("SELECT litestream_stop()");
    primary.run(&bank::step(0, 5));
}

fn pull(replica: &Connection, url: &str, what: &str) -> Result<String, String> {
    ask(replica, &format!("SELECT litestream_pull('{url}', '{{\"overwrite\": true}}')"), what)
}

#[test]
fn beginning_to_serve_catching_a_replica_up_and_stopping_survive_a_fault_at_any_call() {
    let (base, temp) = (Temp::new(), Temp::new());
    line(&base);
    let (path, copied) = (temp.path("primary.db"), temp.path("replica.db"));
    each_fault(|fault, what| {
        for (name, path) in [("primary.db", &path), ("replica.db", &copied)] {
            remove(path);
            copy_all(&base.path(name), path);
        }
        let (writer, replica, disk) = (plain(&path), loaded(&copied), Disk::of(&path));
        let host = disk.open();
        disk.fail(fault);
        let same = |url: &str, what: &str| {
            let pulled = pull(&replica, url, what);
            if let Ok(position) = &pulled {
                let differing = differing_pages(&path, &copied);
                assert!(differing.is_empty(), "{what}: at {position}, pages {differing:?} differ");
            }
            pulled
        };
        if let Ok(url) = ask(&host, "SELECT litestream_serve('127.0.0.1:0', '{\"checkpoint_frames\": 10}')", what) {
            for seed in 1..4 {
                writer.run(&bank::step(seed, 20));
                let _ = same(&url, what);
            }
            let _ = ask(&host, "SELECT litestream_stop()", what);
        }
        let fired = disk.heal();
        writer.run(&bank::step(4, 1));
        let healthy = loaded(&path);
        // It is served still if it could not be stopped.
        let _ = healthy.query_row("SELECT litestream_stop()", [], |_| Ok(()));
        let url: String = healthy.ask("SELECT litestream_serve('127.0.0.1:0')");
        let pulled = same(&url, what).unwrap_or_else(|e| panic!("{what}: with the fault gone: {e}"));
        assert_eq!(pulled, healthy.ask::<String>("SELECT litestream_position()"), "{what}");
        healthy.ask::<String>("SELECT litestream_stop()");
        drop((host, healthy, writer));
        assert_eq!(stock(&path, "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA integrity_check"), "0|0|0\nok", "{what}");
        fired > 0
    });
}

#[test]
fn a_primary_survives_a_fault_at_any_call() {
    each_fault(|fault, what| {
        primary_survives(fault, what, |writer| (0..3).for_each(|seed| writer.run(&bank::step(seed, 20))))
    });
}
