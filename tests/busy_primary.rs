//! Primaries that are written to by several processes, checkpointed and vacuumed meanwhile: nothing is missed, nobody waits,
//! and the WAL stays bounded.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Read;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};

use support::*;

/// `index` of a position `generation/index:offset`.
fn index(position: &str) -> u64 {
    u64::from_str_radix(&position[17..33], 16).unwrap_or_else(|e| panic!("{position}: {e}"))
}

/// Where each writer leaves a trace of each of its transactions.
const LOG: &str = "CREATE TABLE log(writer INTEGER, step INTEGER, PRIMARY KEY (writer, step)) WITHOUT ROWID";

/// Commits that the primary has seen.
fn commits(primary: &mut Shell) -> u64 {
    primary.ask("SELECT commits FROM litestream_status").parse().unwrap()
}

/// Waits for the replica and fails unless it has what the primary has. Gives the position.
fn assert_arrives(temp: &Temp, primary: &mut Shell, replica: &mut Shell) -> String {
    let position = catch_up(primary, replica);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    bank::Witness::default().see(&replica.ask(&bank::judge("integrity_check")));
    position
}

/// A stock shell that writes, checkpoints often by itself, and waits for other writers.
fn writer(temp: &Temp) -> Shell {
    let mut shell = Shell::stock(&temp.path("primary.db"));
    shell.run(".timeout 60000");
    shell.run("PRAGMA wal_autocheckpoint = 20");
    shell
}

/// SQL of one transaction of a writer, which leaves a trace of its own.
fn logged_step(writer: u64, step: u64) -> String {
    let mut sql = bank::step(writer * 1_000_000 + step, (step % 30) as u32);
    sql.insert_str(sql.len() - "COMMIT;".len(), &format!("INSERT INTO log VALUES ({writer}, {step}); "));
    sql
}

#[test]
fn nothing_is_missed_across_hundreds_of_wal_resets_with_several_writers_checkpoints_and_vacuum() {
    const ROUNDS: u64 = 220;
    const WRITERS: u64 = 3;
    const STEPS: u64 = 2;
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 60, "{\"checkpoint_frames\": 20}");
    primary.run(LOG);
    let mut replica = following(&temp.path("replica.db"), &url);
    let (began, before) = (primary.ask("SELECT litestream_position()"), commits(&mut primary));
    let mut writers: Vec<Shell> = (0..WRITERS).map(|_| writer(&temp)).collect();
    let mut checkpointer = writer(&temp);
    for round in 0..ROUNDS {
        // All at once: each writes its transactions while the others do, and a checkpoint gets in between.
        for (number, shell) in (0..).zip(&mut writers) {
            let mut sql: String = (0..STEPS).map(|step| logged_step(number, round * STEPS + step)).collect();
            if round % 50 == number {
                sql.push_str("VACUUM;");
            }
            shell.send(&sql);
        }
        checkpointer.send("PRAGMA wal_checkpoint(RESTART)");
        for shell in writers.iter_mut().chain([&mut checkpointer]) {
            shell.receive().unwrap();
        }
        // SQLite does not wait for a checkpoint that somebody else is running.
        until("a checkpoint empties the WAL", || match checkpointer.ask("PRAGMA wal_checkpoint(TRUNCATE)") {
            done if done == "0|0|0" => Ok(()),
            busy => Err(busy),
        });
    }
    let ended = assert_arrives(&temp, &mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT count(*) FROM log"), (ROUNDS * WRITERS * STEPS).to_string());
    let resets = index(&ended) - index(&began);
    assert!(resets >= ROUNDS, "the WAL was reset {resets} times");
    let vacuums = (0..ROUNDS).filter(|round| round % 50 < WRITERS).count() as u64;
    assert_eq!(commits(&mut primary) - before, ROUNDS * WRITERS * STEPS + vacuums, "commits seen of those made");
}

#[test]
fn nothing_is_missed_of_writers_that_never_pause() {
    const WRITERS: u64 = 3;
    const STEPS: u64 = 400;
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 60, "{\"checkpoint_frames\": 20}");
    primary.run(LOG);
    let mut replica = following(&temp.path("replica.db"), &url);
    let (began, before) = (primary.ask("SELECT litestream_position()"), commits(&mut primary));
    std::thread::scope(|threads| {
        for number in 0..WRITERS {
            let temp = &temp;
            threads.spawn(move || {
                let mut shell = writer(temp);
                (0..STEPS).for_each(|step| shell.run(&logged_step(number, step)));
            });
        }
    });
    let ended = assert_arrives(&temp, &mut primary, &mut replica);
    assert_eq!(primary.ask("SELECT last_error FROM litestream_status"), "");
    assert_eq!(replica.ask("SELECT count(*) FROM log"), (WRITERS * STEPS).to_string());
    assert_eq!(commits(&mut primary) - before, WRITERS * STEPS, "commits seen of those made");
    let resets = index(&ended) - index(&began);
    assert!(resets >= 20, "the WAL was reset {resets} times");
}

#[test]
fn nothing_is_missed_of_a_wal_that_is_restarted_unwatched() {
    const WRITERS: u64 = 2;
    const STEPS: u64 = 600;
    let temp = Temp::new();
    let path = temp.path("primary.db");
    let (mut primary, url) = serving_bank(&path, 60, "{\"checkpoint_frames\": 20, \"wal_limit\": 1}");
    primary.run(LOG);
    let mut replica = following(&temp.path("replica.db"), &url);
    let mut witness = bank::Witness::default();
    let mut reader = Shell::stock(&temp.path("replica.db"));
    let (done, pid) = (AtomicBool::new(false), primary.pid());
    std::thread::scope(|threads| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let temp = &temp;
                threads.spawn(move || {
                    let mut shell = writer(temp);
                    for step in 0..STEPS {
                        shell.run(&logged_step(number, step));
                        // In the hands of whatever it is doing, and for longer than the WAL is restarted once.
                        if number == 0 && step % 50 == 25 {
                            signal(pid, Signal::Stop);
                        }
                        if number == 0 && step % 50 == 35 {
                            signal(pid, Signal::Continue);
                        }
                    }
                })
            })
            .collect();
        let _done = StopOnDrop(&done);
        threads.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                witness.see(&reader.ask(&bank::judge("quick_check")));
            }
        });
        for writer in writers {
            writer.join().expect("a writer");
        }
    });
    assert_arrives(&temp, &mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT count(*) FROM log"), (WRITERS * STEPS).to_string());
    assert_eq!(primary.ask("SELECT last_error FROM litestream_status"), "");
    assert_eq!(replica.ask("SELECT heals, healed FROM litestream_status"), "0|");
    let checksum = replica.ask("SELECT litestream_checksum()");
    assert_eq!(primary.ask("SELECT litestream_checksum()"), checksum, "what the primary knows, and what is there");
}

#[test]
fn the_wal_stays_bounded_under_a_writer_without_the_library_that_never_pauses() {
    const COMMITS: u32 = 60_000;
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&temp.path("replica.db"), &url);
    let writer = plain(&temp.path("primary.db"));
    writer.run("PRAGMA synchronous = NORMAL");
    let mut insert = writer.prepare("INSERT INTO t(x) VALUES (hex(randomblob(50)))").expect("an INSERT");
    let mut largest = 0;
    for n in 0..COMMITS {
        insert.execute([]).unwrap_or_else(|e| panic!("commit {n}: {e}"));
        if n % 100 == 0 {
            let size = std::fs::metadata(temp.path("primary.db-wal")).expect("the WAL").len();
            largest = largest.max(size >> 20);
        }
    }
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    // All commits together are some 500 MiB of WAL. The limit is 16, and what comes while the writer checkpoints.
    assert!(largest < 100, "the WAL grew to {largest} MiB");
}

#[test]
fn writers_that_never_pause_and_checkpoints_of_the_application_get_through() {
    const WRITERS: u64 = 3;
    const STEPS: u64 = 300;
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 60, "{\"checkpoint_frames\": 20}");
    primary.run(LOG);
    let mut replica = following(&temp.path("replica.db"), &url);
    let before = commits(&mut primary);
    std::thread::scope(|threads| {
        let temp = &temp;
        let write = move |number| {
            let mut shell = writer(temp);
            (0..STEPS).for_each(|step| shell.run(&logged_step(number, step)));
        };
        let writers: Vec<_> = (0..WRITERS).map(|number| threads.spawn(move || write(number))).collect();
        let mut shell = writer(temp);
        while !writers.iter().all(|writer| writer.is_finished()) {
            // They may find the database busy; what counts is that they end, and do no harm.
            shell.run("PRAGMA wal_checkpoint(TRUNCATE)");
            shell.run("PRAGMA wal_checkpoint(RESTART)");
        }
    });
    assert_arrives(&temp, &mut primary, &mut replica);
    assert_eq!(commits(&mut primary) - before, WRITERS * STEPS, "commits seen of those made");
}

/// Has system calls of a process fail, or lie, from now on: as [strace](https://strace.io) calls it.
fn tamper(process: u32, what: &str) -> Child {
    let arguments = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=inotify_init1,inotify_add_watch", "-e"];
    let mut strace = Command::new("strace");
    strace.args(arguments).arg(format!("inject={what}")).args(["-p", &process.to_string()]);
    let strace = strace.spawn().expect("strace");
    until("it is traced", || {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
        if status.contains("TracerPid:\t0\n") { Err("nobody traces it") } else { Ok(()) }
    });
    strace
}

#[test]
fn commits_of_others_are_found_where_the_system_does_not_tell_of_writes() {
    if !can_trace() {
        println!("left out: strace is missing, or may not trace here");
        return;
    }
    for what in ["inotify_init1:error=EMFILE", "inotify_add_watch:error=ENOSPC", "inotify_add_watch:retval=1"] {
        let temp = Temp::new();
        let path = temp.path("primary.db");
        let mut primary = Shell::open(&path);
        let mut strace = tamper(primary.pid(), what);
        primary.run(NEW);
        let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
        let mut replica = following(&temp.path("replica.db"), &url);
        let mut writer = Shell::stock(&path);
        for n in 0..8 {
            writer.run(&format!("INSERT INTO t(x) VALUES ('{what} {n}')"));
            let count = writer.ask("SELECT count(*) FROM t");
            until_gives(&mut replica, "SELECT count(*) FROM t", &count);
        }
        assert_same_pages(&path, &temp.path("replica.db"));
        drop(primary);
        strace.wait().expect("strace, which ends with what it traces");
    }
}

#[test]
fn a_lone_writer_never_finds_the_database_locked() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 4000, "{}");
    let mut replica = following(&temp.path("replica.db"), &url);
    // Without a busy timeout, as SQLite comes: 16 MB a transaction, one after another, in another process.
    let mut lone = Shell::stock(&temp.path("primary.db"));
    for step in 0..30 {
        lone.run(&bank::step(step, 4000));
    }
    assert_arrives(&temp, &mut primary, &mut replica);
}

#[test]
fn commits_of_the_serving_connection_itself_are_checkpointed_and_replicated() {
    let temp = Temp::new();
    let primary = loaded(&temp.path("primary.db"));
    primary.run(&format!("PRAGMA journal_mode = wal; {}", bank::create(60, 4096)));
    primary.run("PRAGMA wal_autocheckpoint = 100");
    let url: String = primary.ask("SELECT litestream_serve('127.0.0.1:0', '{\"checkpoint_frames\": 100}')");
    let began: String = primary.ask("SELECT litestream_position()");
    let replica = loaded(&temp.path("replica.db"));
    replica.ask::<String>(&format!("SELECT litestream_follow('{url}')"));
    for step in 0..1500 {
        primary.run(&bank::step(step, 20));
    }
    let ended: String = primary.ask("SELECT litestream_position()");
    assert_eq!(replica.ask::<i64>(&format!("SELECT litestream_wait('{ended}', 60000)")), 1);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    assert!(index(&ended) > index(&began) + 10, "the WAL was reset from {began} to {ended}");
    let frames = primary.ask::<i64>("SELECT wal_bytes FROM litestream_status WHERE role = 'primary'") / (4096 + 24);
    assert!(frames < 5000, "the WAL has {frames} frames");
}

#[test]
fn a_replica_that_reads_nothing_holds_nobody_up_and_the_wal_stays_bounded() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 2000, "{}");
    let mut stuck = get(&url, "/stream", &[("Litestream-Stream-Version", "2")]);
    assert_eq!(stuck.status, 200);
    let mut other = writer(&temp);
    let mut largest = 0;
    for step in 0..60 {
        // 8 MB each, by turns from the serving process and from another one.
        let shell = if step % 2 == 0 { &mut primary } else { &mut other };
        shell.run(&bank::step(step, 2000));
        largest = largest.max(std::fs::metadata(temp.path("primary.db-wal")).unwrap().len());
    }
    assert!(largest < 160 << 20, "the WAL grew to {largest} bytes while 480 MB were written");
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_pull('{url}')"));
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    let mut first = [0; 40];
    stuck.read_exact(&mut first).unwrap();
    assert_eq!(first[..4], stream::BEGIN.to_be_bytes(), "the slow one still finds its stream");
}

#[test]
fn a_snapshot_that_is_read_slowly_holds_no_wal_back() {
    const COMMITS: u32 = 20_000;
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 10_000, "{}");
    primary.run("PRAGMA wal_checkpoint(TRUNCATE); CREATE TABLE t(x)");
    let mut slow = get(&url, "/stream", &[("Litestream-Stream-Version", "2")]);
    let writer = plain(&temp.path("primary.db"));
    writer.run("PRAGMA synchronous = NORMAL");
    let mut insert = writer.prepare("INSERT INTO t(x) VALUES (hex(randomblob(50)))").expect("an INSERT");
    let (mut largest, mut part) = (0, vec![0; 64 << 10]);
    for n in 0..COMMITS {
        insert.execute([]).unwrap_or_else(|e| panic!("commit {n}: {e}"));
        if n % 100 == 0 {
            // Some 13 MB of 40 in all this time.
            slow.read_exact(&mut part).expect("more of the snapshot");
            largest = largest.max(std::fs::metadata(temp.path("primary.db-wal")).expect("the WAL").len() >> 20);
        }
    }
    assert_eq!(primary.ask("SELECT state FROM litestream_replicas"), "catching up");
    // All commits together are some 170 MiB of WAL.
    assert!(largest < 60, "the WAL grew to {largest} MiB");
}

#[test]
fn a_replica_that_reads_slowly_ends_with_the_same() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 2000, "{}");
    let mut replica = following(&temp.path("replica.db"), &url);
    for round in 0..4u64 {
        // It stands still while more is written than the primary keeps ready for it.
        signal(replica.pid(), Signal::Stop);
        for step in 0..8 {
            primary.run(&bank::step(round * 8 + step, 2000));
        }
        primary.run("DELETE FROM ballast WHERE id > 1990; VACUUM");
        signal(replica.pid(), Signal::Continue);
        assert_arrives(&temp, &mut primary, &mut replica);
    }
    assert_eq!(replica.ask("SELECT reconnects FROM litestream_status"), "0", "all in one stream");
}

#[test]
fn a_replica_made_while_the_primary_is_written_to_is_whole() {
    let temp = Temp::new();
    let database = temp.path("primary.db");
    let (mut primary, url) = serving_bank(&database, 8000, "{}");
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let _stop = StopOnDrop(&stop);
        threads.spawn(|| {
            let mut shell = writer(&temp);
            for step in 0.. {
                // Pages all over the file, which must be of one state wherever they are.
                let spread = "UPDATE ballast SET version = (SELECT n FROM counter) WHERE id % 100 = 0; COMMIT;";
                shell.run(&bank::step(step, 0).replace("COMMIT;", spread));
                if stop.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        for round in 0..6 {
            let made = temp.path(&format!("made-{round}.db"));
            let mut replica = Shell::open(&made);
            replica.run(&format!("SELECT litestream_pull('{url}')"));
            bank::Witness::default().see(&replica.ask(&bank::judge("integrity_check")));
            let states = "SELECT version = n, count(*) FROM ballast, counter WHERE id % 100 = 0 GROUP BY 1";
            assert_eq!(replica.ask(states), "1|80", "rows of the newest state");
        }
    });
    let mut replica = following(&temp.path("replica.db"), &url);
    assert_arrives(&temp, &mut primary, &mut replica);
}

#[test]
fn a_raw_client_sees_every_state_with_its_money_in_place() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 10, "{\"checkpoint_frames\": 50}");
    let mut stream = get(&url, "/stream?path=primary.db", &[("Litestream-Stream-Version", "2")]);
    assert_eq!((stream.status, stream.header("Litestream-Stream-Version")), (200, Some("2")));
    assert_eq!(stream.header("Litestream-Page-Size"), Some("4096"));
    let mut pages: Vec<Vec<u8>> = Vec::new();
    let (mut positions, mut newest): (Vec<String>, i64) = (Vec::new(), 0);
    const STEPS: i64 = 40;
    for step in 0..STEPS {
        primary.run(&bank::step(step as u64, (step % 10) as u32));
        // One state a commit record: the records of a commit may come with others, but never in parts.
        while newest < step + 1 {
            let at = next_state(&mut stream, &mut pages);
            let file = temp.path("state.db");
            std::fs::write(&file, pages.concat()).unwrap();
            let mut witness = bank::Witness::default();
            witness.see(&stock(&file, &bank::judge("integrity_check")));
            assert!(witness.newest >= newest, "count {} after {newest}", witness.newest);
            newest = witness.newest;
            positions.push(at.to_string());
        }
        assert_eq!(positions.last(), Some(&primary.ask("SELECT litestream_position()")), "of the state at step {step}");
    }
    assert!(positions.is_sorted(), "{positions:?}");
    assert!(positions.len() > STEPS as usize / 2, "{} states in {STEPS} commits", positions.len());
}

/// Takes in records up to the next commit and gives its position.
fn next_state(stream: &mut Response, database: &mut Vec<Vec<u8>>) -> stream::At {
    loop {
        let record = stream::Record::read(stream).expect("the stream goes on");
        match record.kind {
            stream::BEGIN | stream::HEARTBEAT => {}
            stream::PAGES => {
                let word = |n: usize| u32::from_be_bytes(record.payload[n * 4..n * 4 + 4].try_into().unwrap()) as usize;
                let images = record.payload[4 + 4 * word(0)..].chunks_exact(4096);
                for (n, image) in images.enumerate() {
                    let pgno = word(1 + n);
                    database.resize_with(database.len().max(pgno), || vec![0; 4096]);
                    database[pgno - 1] = image.to_vec();
                }
            }
            stream::COMMIT => {
                database.truncate(u32::from_be_bytes(record.payload[..4].try_into().unwrap()) as usize);
                return record.at();
            }
            other => panic!("record of type {other}"),
        }
    }
}
