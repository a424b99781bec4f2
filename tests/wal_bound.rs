//! The WAL of a primary has a bound, whatever its readers and writers do, and keeping to it delays
//! no commit on its way to a replica.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Read;
use std::path::Path;

use rusqlite::Connection;
use support::*;

const MIB: u64 = 1 << 20;

fn wal_bytes(database: &Path) -> u64 {
    std::fs::metadata(with_suffix(database, "-wal")).expect("the WAL").len()
}

/// Writes 1 MiB in ten commits that follow each other without a pause. The size of the WAL then.
fn write_one_mib(writer: &Connection, database: &Path) -> u64 {
    for _ in 0..10 {
        writer.run(
            "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 50) \
             INSERT INTO t(x) SELECT randomblob(2000) FROM n",
        );
    }
    wal_bytes(database)
}

/// A connection without the library that waits for others, and for no disk.
fn writer(database: &Path, auto_checkpoint: u32) -> Connection {
    let writer = plain(database);
    writer.busy_timeout(DEADLINE).expect("a busy timeout");
    writer.run(&format!("PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = {auto_checkpoint}"));
    writer
}

#[test]
fn a_client_of_2022_that_reads_nothing_holds_the_wal_no_longer_than_to_its_limit() {
    let temp = Temp::new();
    let path = temp.path("primary.db");
    let (mut primary, url) = serving_bank(&path, 10_000, "{}");
    primary.run("CREATE TABLE t(x); PRAGMA wal_checkpoint");
    let writer = writer(&path, 1000);
    let mut stuck = get(&url, "/stream", &[]);
    stuck.read_exact(&mut [0; 40]).expect("the begin of a snapshot");
    // A transaction that reads the database file only lets the WAL be restarted once.
    let (began, mut largest) = (index(&primary.ask("SELECT litestream_position()")), 0);
    while index(&primary.ask("SELECT litestream_position()")) < began + 2 {
        largest = largest.max(write_one_mib(&writer, &path));
        assert!(largest < 1024 * MIB, "the WAL grew to {largest} bytes");
    }
    assert!(largest > 48 * MIB, "the WAL grew to {largest} bytes only: the snapshot held nothing");
    let mut replica = following(&temp.path("replica.db"), &url);
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&path, &temp.path("replica.db"));
}

/// The index of a position.
fn index(position: &str) -> u64 {
    let index = position.split(['/', ':']).nth(1).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    index.unwrap_or_else(|| panic!("{position} is no position"))
}

#[test]
fn the_wal_is_restarted_again_and_again_under_a_writer_that_never_pauses_nor_checkpoints() {
    let temp = Temp::new();
    let path = temp.path("primary.db");
    let (mut primary, url) = serving(&path);
    let mut replica = following(&temp.path("replica.db"), &url);
    let writer = writer(&path, 0);
    let began = index(&primary.ask("SELECT litestream_position()"));
    while index(&primary.ask("SELECT litestream_position()")) < began + 3 {
        // Its limit is 16 MiB; this many are written while a checkpoint waits for a slow disk.
        let bytes = write_one_mib(&writer, &path);
        assert!(bytes < 1024 * MIB, "the WAL grew to {bytes} bytes");
    }
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&path, &temp.path("replica.db"));
    assert_eq!(replica.ask("SELECT heals FROM litestream_status"), "0");
}

#[test]
fn a_checkpoint_that_waits_for_the_disk_delays_no_commit() {
    let temp = Temp::new();
    let path = temp.path("primary.db");
    let disk = Disk::of(&path);
    let primary = disk.open();
    primary.run(NEW);
    let url: String = primary.ask("SELECT litestream_serve('127.0.0.1:0', '{\"checkpoint_frames\": 20}')");
    let mut replica = following(&temp.path("replica.db"), &url);
    let mut writer = Shell::stock(&path);
    writer.run("PRAGMA wal_autocheckpoint = 0");
    let held = disk.hold(Call::Sync);
    writer.run("INSERT INTO t(x) VALUES (zeroblob(200000))");
    until("a checkpoint of the primary waits for the disk", || match held.waiting() {
        0 => Err("none does"),
        _ => Ok(()),
    });
    writer.run("INSERT INTO t(x) VALUES ('found')");
    until_gives(&mut replica, "SELECT max(id) FROM t", "3");
    assert_eq!(held.waiting(), 1, "it still waits");
    drop(held);
    until("the WAL is restarted", || {
        writer.run("INSERT INTO t(x) VALUES ('more')");
        match index(&primary.ask::<String>("SELECT litestream_position()")) {
            0 => Err("it is the first still"),
            _ => Ok(()),
        }
    });
}

#[test]
fn a_primary_whose_looks_fail_for_ever_lets_go_of_a_wal_past_its_limit() {
    let temp = Temp::new();
    let path = temp.path("primary.db");
    let disk = Disk::of(&path);
    let primary = disk.open();
    primary.run(NEW);
    primary.ask::<String>("SELECT litestream_serve('127.0.0.1:0', '{\"wal_limit\": 1000000}')");
    let mut writer = Shell::stock(&path);
    let begun_anew = |writer: &mut Shell| match writer.ask("PRAGMA wal_checkpoint(RESTART)") {
        done if done.starts_with("0|") => Ok(()),
        busy => Err(busy),
    };
    until("the WAL may be restarted", || begun_anew(&mut writer));
    // It has seen all of the WAL, and needs another lock to look at the next one.
    disk.fail(Fault { call: Call::ShmLock, nth: 0, lasting: true, short: false });
    writer.run("INSERT INTO t(x) VALUES (zeroblob(2000000))");
    until("a WAL that nobody looks at may be restarted", || begun_anew(&mut writer));
    assert!(disk.heal() > 0, "no look failed");
}
