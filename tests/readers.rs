//! Readers of a replica, in other processes, while commits arrive: they never see an error, half a commit, or an older
//! state after a newer one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use support::bank::Witness;
use support::*;

/// Rows of ballast, of about a page each: a transaction that changes all of them has some 5,000 pages.
const BALLAST: u32 = 5_000;
/// Pages changed by one commit after another.
const SIZES: [u32; 8] = [1, 2, 10, 100, 1000, 3, 5000, 30];
/// Different states that each reader must have seen.
const STATES: u32 = 40;

/// A reader at work, and how many states it has seen.
struct Reader<'s> {
    states: Arc<AtomicU32>,
    thread: ScopedJoinHandle<'s, Witness>,
}

/// Starts a reader with its own way of looking; it looks until told to stop.
fn watch<'s>(
    threads: &'s Scope<'s, '_>,
    stop: &'s AtomicBool,
    mut look: impl FnMut() -> String + Send + 's,
) -> Reader<'s> {
    let states = Arc::new(AtomicU32::new(0));
    let told = Arc::clone(&states);
    let thread = threads.spawn(move || {
        let mut witness = Witness::default();
        while !stop.load(Ordering::Relaxed) {
            witness.see(&look());
            told.store(witness.states, Ordering::Relaxed);
        }
        witness
    });
    Reader { states, thread }
}

/// A reader that keeps one connection open in a process of its own.
fn steady(database: &Path, check: &'static str) -> impl FnMut() -> String + Send + use<> {
    let mut shell = Shell::stock(database);
    move || shell.ask(&bank::judge(check))
}

/// A reader that is a new process each time.
fn fleeting(database: &Path) -> impl FnMut() -> String + Send + use<> {
    let database = database.to_path_buf();
    move || stock(&database, &bank::judge("quick_check"))
}

/// A reader in this process, which is not the one that applies, with a current SQLite. It checks little, and so looks often.
fn hasty(database: &Path) -> impl FnMut() -> String + Send + use<> {
    let connection = plain(database);
    connection.busy_timeout(Duration::ZERO).unwrap();
    move || {
        connection.run("BEGIN");
        let (count, sum): (i64, i64) = (connection.ask("SELECT n FROM counter"), connection.ask(bank::SUM));
        connection.run("COMMIT");
        format!("{count}\n{sum}\nok")
    }
}

#[test]
fn readers_in_other_processes_see_whole_commits_in_their_order() {
    let temp = Temp::new();
    let database = temp.path("replica.db");
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), BALLAST, "{}");
    let mut replica = following(&database, &url);
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let _stop = StopOnDrop(&stop);
        let readers = [
            watch(threads, &stop, steady(&database, "integrity_check")),
            watch(threads, &stop, steady(&database, "quick_check")),
            watch(threads, &stop, fleeting(&database)),
            watch(threads, &stop, hasty(&database)),
        ];
        let mut commits = 0;
        until("every reader has seen enough states while commits arrive", || {
            for pages in SIZES {
                commits += 1;
                primary.run(&bank::step(commits, pages));
            }
            let seen: Vec<u32> = readers.iter().map(|reader| reader.states.load(Ordering::Relaxed)).collect();
            let failed = readers.iter().any(|reader| reader.thread.is_finished());
            if failed || seen.iter().all(|n| *n >= STATES) { Ok(()) } else { Err(format!("{seen:?} of {commits}")) }
        });
        catch_up(&mut primary, &mut replica);
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.thread.join().unwrap();
        }
        let mut last = Witness::default();
        last.see(&replica.ask(&bank::judge("integrity_check")));
        assert_eq!(last.newest, commits as i64, "the last commit is there");
    });
    assert_same_pages(&temp.path("primary.db"), &database);
}

#[test]
fn a_read_transaction_keeps_its_state_however_much_arrives() {
    let temp = Temp::new();
    let database = temp.path("replica.db");
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 200, "{}");
    let mut replica = following(&database, &url);
    let mut readers: Vec<(Shell, u64)> = Vec::new();
    for commit in 1..=120 {
        primary.run(&bank::step(commit, 200));
        if commit % 20 == 0 {
            catch_up(&mut primary, &mut replica);
            let mut reader = Shell::stock(&database);
            assert_eq!(reader.ask("BEGIN; SELECT n FROM counter"), commit.to_string());
            readers.push((reader, commit));
        }
    }
    for (reader, commit) in &mut readers {
        assert_eq!(reader.ask("SELECT n FROM counter"), commit.to_string(), "still the state it began with");
        assert_eq!(reader.ask("SELECT min(version), max(version) FROM ballast"), format!("{commit}|{commit}"));
        assert_eq!(reader.ask("PRAGMA integrity_check"), "ok");
        assert_eq!(reader.ask("COMMIT; SELECT n FROM counter"), "120", "and the newest when it ends");
    }
    drop(readers);
    assert_same_pages(&temp.path("primary.db"), &database);
}

#[test]
fn readers_wait_for_a_new_replica_and_never_see_part_of_it() {
    let temp = Temp::new();
    let database = temp.path("replica.db");
    let (_primary, url) = serving_bank(&temp.path("primary.db"), BALLAST, "{}");
    for _ in 0..5 {
        let mut reader = Shell::stock(&database);
        reader.run(".timeout 60000");
        let mut replica = Shell::open(&database);
        replica.send(&format!("SELECT litestream_pull('{url}')"));
        let tables = until("the reader sees the replica", || match reader.ask("SELECT count(*) FROM sqlite_schema") {
            none if none == "0" => Err("an empty database"),
            some => Ok(some),
        });
        assert_eq!(tables, "5", "tables and indexes seen at the first look that shows any");
        Witness::default().see(&reader.ask(&bank::judge("integrity_check")));
        replica.receive().unwrap();
        drop((reader, replica));
        std::fs::remove_dir_all(temp.path("replica.db-litestream")).unwrap();
        for name in ["replica.db", "replica.db-wal", "replica.db-shm"] {
            let _ = std::fs::remove_file(temp.path(name));
        }
    }
}

#[test]
fn the_wal_is_started_anew_although_readers_never_pause() {
    const COMMITS: u64 = 1_500;
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 1000, "{}");
    let path = temp.path("replica.db");
    let mut replica = Shell::open(&path);
    replica.run(&format!("SELECT litestream_follow('{url}', '{{\"checkpoint_frames\": 400}}')"));
    // The header of the WAL says how often it was.
    let started = || {
        let mut head = [0; 16];
        let read = File::open(with_suffix(&path, "-wal")).and_then(|mut log| log.read_exact(&mut head));
        read.map_or(0, |()| u32::from_be_bytes([head[12], head[13], head[14], head[15]]))
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let _stop = StopOnDrop(&stop);
        for _ in 0..2 {
            threads.spawn(|| {
                let reader = plain(&path);
                while !stop.load(Ordering::Relaxed) {
                    reader.ask::<i64>("SELECT sum(length(bytes)) FROM ballast");
                }
            });
        }
        let commits = (0..COMMITS).take_while(|step| {
            primary.run(&bank::step(*step, 50));
            catch_up(&mut primary, &mut replica);
            started() < 3
        });
        assert!((commits.count() as u64) < COMMITS, "it was not, by {COMMITS} commits");
    });
    assert_same_pages(&temp.path("primary.db"), &path);
}

/// What a user who may read the files of a database, and write none of them, gets from it.
fn as_another_user(database: &Path, sql: &str) -> Result<String, String> {
    const NOBODY: u32 = 65534;
    let mut command = Command::new("sqlite3");
    command.arg("-batch").arg(database).arg(sql).uid(NOBODY).gid(NOBODY);
    let output = command.output().expect("running sqlite3 as another user");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_string();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

#[test]
fn a_user_who_may_only_read_the_files_reads_a_replica_after_each_commit() {
    // Only root can become another user.
    if !std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
        return eprintln!("left out: it takes root");
    }
    let temp = Temp::new();
    let copied = temp.path("replica.db");
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&copied, &url);
    let count = "SELECT count(*) FROM t";
    for rows in 2..6 {
        primary.run("INSERT INTO t(x) VALUES ('more')");
        catch_up(&mut primary, &mut replica);
        assert_eq!(as_another_user(&copied, count), Ok(rows.to_string()));
        // Puts the WAL into the database, and the next commit begins it anew.
        assert_eq!(stock(&copied, "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
    }
    drop(replica);
    let mut replica = following(&copied, &url);
    for rows in 6..8 {
        primary.run("INSERT INTO t(x) VALUES ('more')");
        catch_up(&mut primary, &mut replica);
        assert_eq!(as_another_user(&copied, count), Ok(rows.to_string()), "after a restart of the replica");
    }
}
