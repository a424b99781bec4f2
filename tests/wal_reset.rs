//! Checkpoints of others at full speed while the WAL is restarted, with a SQLite that can lose what is written then
//! (<https://www.sqlite.org/wal.html#walresetbug>): the system's, if it is old enough.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use support::*;

/// Runs `body` while three stock shells checkpoint `database` without a pause.
fn with_checkpoints(database: &std::path::Path, body: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let _done = StopOnDrop(&done);
        for _ in 0..3 {
            threads.spawn(|| {
                let mut shell = Shell::stock(database);
                // The disk would make it slow.
                shell.run("PRAGMA synchronous = OFF");
                let many = "PRAGMA wal_checkpoint(PASSIVE);".repeat(50);
                while !done.load(Ordering::SeqCst) {
                    shell.run(&many);
                }
            });
        }
        body();
    });
}

#[test]
fn a_served_database_stands_checkpoints_at_full_speed() {
    let temp = Temp::new();
    let path = temp.path("primary.db");
    let (mut primary, url) = serving_bank(&path, 100, "{\"wal_limit\": 0, \"checkpoint_frames\": 50}");
    let mut replica = following(&temp.path("replica.db"), &url);
    let mut writer = Shell::stock(&path);
    writer.run(".timeout 60000");
    writer.run("PRAGMA synchronous = OFF");
    let mut witness = bank::Witness::default();
    with_checkpoints(&path, || {
        for seed in 0..300 {
            writer.run(&bank::step(seed, 3));
            if seed % 20 == 0 {
                witness.see(&writer.ask(&bank::judge("integrity_check")));
            }
        }
    });
    assert_eq!(writer.ask("SELECT n FROM counter"), "300");
    witness.see(&writer.ask(&bank::judge("integrity_check")));
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&path, &temp.path("replica.db"));
    assert_eq!(replica.ask("SELECT heals FROM litestream_status"), "0");
}

#[test]
fn a_replica_stands_checkpoints_at_full_speed() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 100, "{}");
    let path = temp.path("replica.db");
    let mut replica = Shell::open(&path);
    replica.run(&format!("SELECT litestream_follow('{url}', '{{\"checkpoint_frames\": 20}}')"));
    let mut reader = Shell::stock(&path);
    let mut witness = bank::Witness::default();
    with_checkpoints(&path, || {
        for seed in 0..300 {
            primary.run(&bank::step(seed, 3));
            if seed % 20 == 0 {
                witness.see(&reader.ask(&bank::judge("integrity_check")));
            }
        }
        catch_up(&mut primary, &mut replica);
    });
    assert_eq!(reader.ask("SELECT n FROM counter"), "300");
    assert_eq!(replica.ask("SELECT litestream_verify() ->> 'equal'"), "1");
    assert_same_pages(&temp.path("primary.db"), &path);
}

/// Waits until all of the WAL is in the database and the next writer may restart it.
fn until_restartable(shell: &mut Shell) {
    until("the WAL may be restarted", || match shell.ask("PRAGMA wal_checkpoint(RESTART)") {
        done if done.starts_with("0|") => Ok(()),
        busy => Err(busy),
    });
}

/// A shell without the library that waits for others and leaves checkpoints to them.
fn patient(database: &std::path::Path) -> Shell {
    let mut shell = Shell::stock(database);
    shell.run(".timeout 60000");
    shell.run("PRAGMA wal_autocheckpoint = 0");
    shell
}

#[test]
fn a_checkpoint_that_stands_still_while_the_wal_is_restarted_takes_nothing_from_a_served_database() {
    let temp = Temp::new();
    let path = temp.path("primary.db");
    let (mut primary, url) = serving_bank(&path, 100, "{\"wal_limit\": 0}");
    let mut replica = following(&temp.path("replica.db"), &url);
    let mut writer = patient(&path);
    let (stall, written) = (Stall::begin(), Barrier::new(2));
    std::thread::scope(|threads| {
        let stalling = threads.spawn(|| {
            let second = Second::open_library();
            let checkpointer = second.connect_stalling(&path);
            assert_eq!(checkpointer.ask("SELECT n FROM counter"), "0");
            written.wait();
            written.wait();
            checkpointer.ask("PRAGMA wal_checkpoint(PASSIVE)")
        });
        written.wait();
        writer.run(&bank::step(0, 100));
        until_restartable(&mut writer);
        written.wait();
        stall.wait();
        let seen = "SELECT commits FROM litestream_status";
        let before: u64 = primary.ask(seen).parse().expect("a number");
        writer.run(&bank::step(1, 3));
        until_gives(&mut primary, seen, &(before + 1).to_string());
        // Nothing that could be waited for comes while it stands still, however long.
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(stall);
        stalling.join().expect("a checkpoint");
    });
    (2..5).for_each(|seed| writer.run(&bank::step(seed, 3)));
    until_restartable(&mut writer);
    writer.run(&bank::step(5, 3));
    assert_eq!(stock(&path, "SELECT n FROM counter"), "6");
    bank::Witness::default().see(&stock(&path, &bank::judge("integrity_check")));
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&path, &temp.path("replica.db"));
    assert_eq!(replica.ask("SELECT heals FROM litestream_status"), "0");
}

#[test]
fn a_checkpoint_that_keeps_writers_out_is_let_through() {
    let temp = Temp::new();
    let path = temp.path("primary.db");
    let (mut primary, _) = serving_bank(&path, 100, "{\"wal_limit\": 0}");
    let (mut writer, mut truncating) = (patient(&path), patient(&path));
    writer.run(&bank::step(0, 100));
    until_restartable(&mut writer);
    // It has what lets the WAL be restarted, and sees the restart only when the checkpoint has
    // begun.
    signal(primary.pid(), Signal::Stop);
    writer.run(&bank::step(1, 3));
    truncating.send("PRAGMA wal_checkpoint(TRUNCATE)");
    let mut asking = Shell::stock(&path);
    until("a checkpoint keeps writers out", || match asking.answer("BEGIN IMMEDIATE; ROLLBACK") {
        Ok(_) => Err("one can write"),
        Err(_) => Ok(()),
    });
    signal(primary.pid(), Signal::Continue);
    assert_eq!(truncating.receive().expect("a checkpoint"), "0|0|0");
    assert_eq!(primary.ask("SELECT n FROM counter"), "2");
}

#[test]
fn the_status_says_whether_this_sqlite_has_the_bug() {
    let temp = Temp::new();
    let (mut primary, _) = serving(&temp.path("primary.db"));
    let said = primary.ask("SELECT wal_reset_bug FROM litestream_status");
    let version = primary.ask("SELECT sqlite_version()");
    let number: Vec<u32> = version.split('.').map(|part| part.parse().expect("a number")).collect();
    let mended = match number[..] {
        [3, 44, patch] => patch >= 6,
        [3, 50, patch] => patch >= 7,
        _ => number >= vec![3, 51, 3],
    };
    assert_eq!(said, if mended { "0" } else { "1" }, "SQLite {version}");
}
