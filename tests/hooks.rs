//! What an application has set on its connections stays as it is, while a database is served and
//! after.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::ffi::{c_char, c_int, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use rusqlite::{Connection, ffi};
use support::*;

const SERVE: &str = "SELECT litestream_serve('127.0.0.1:0')";
const STOP: &str = "SELECT litestream_stop()";
const AUTO_CHECKPOINT: &str = "PRAGMA wal_autocheckpoint";

unsafe extern "C" fn count(calls: *mut c_void, _: *mut ffi::sqlite3, _: *const c_char, _: c_int) -> c_int {
    // SAFETY: `hook` passed a counter that outlives the connection.
    unsafe { &*calls.cast::<AtomicU32>() }.fetch_add(1, SeqCst);
    0
}

/// Puts a hook of the application's own on the commits of `connection`, which counts its calls.
fn hook(connection: &Connection, calls: &AtomicU32) {
    // SAFETY: the connection is open, and the tests keep the counter for longer than it.
    unsafe { ffi::sqlite3_wal_hook(connection.handle(), Some(count), std::ptr::from_ref(calls).cast_mut().cast()) };
}

/// Fails unless a commit on `connection` calls the hook that counts in `calls`.
fn assert_called(connection: &Connection, calls: &AtomicU32, when: &str) {
    let before = calls.load(SeqCst);
    connection.run("INSERT INTO t(x) VALUES (1)");
    assert_eq!(calls.load(SeqCst) - before, 1, "calls of the application's hook {when}");
}

fn new(path: &Path) -> Connection {
    let connection = loaded(path);
    connection.run(NEW);
    connection
}

/// Commits of 25 pages each to a table `t` of `schema`, 7,500 pages in all.
fn fill(connection: &Connection, schema: &str) {
    let insert = format!("INSERT INTO {schema}.t(x) VALUES (zeroblob(100000))");
    (0..300).for_each(|_| connection.run(&insert));
}

/// Fails unless the WAL of the database at `path` has been checkpointed and restarted while it was
/// filled.
fn assert_bounded(path: &Path, what: &str) {
    let frames = file_bytes(&with_suffix(path, "-wal")).len() / 4120;
    assert!((1..3000).contains(&frames), "{what}: a WAL of {frames} frames, expected some 1,000");
}

#[test]
fn every_schema_of_a_connection_that_serves_is_checkpointed_as_before() {
    for served in ["main", "aux"] {
        let temp = Temp::new();
        let connection = new(&temp.path("main.db"));
        connection.run(&format!("ATTACH '{}' AS aux", temp.path("aux.db").display()));
        connection.run("PRAGMA aux.journal_mode = wal; CREATE TABLE aux.t(x)");
        connection.ask::<String>(&format!("SELECT litestream_serve('127.0.0.1:0', '{{\"schema\": \"{served}\"}}')"));
        for schema in ["main", "aux"] {
            fill(&connection, schema);
            assert_bounded(&temp.path(&format!("{schema}.db")), &format!("{schema}, while {served} is served"));
        }
    }
}

#[test]
fn a_hook_of_the_application_is_called_whenever_it_was_set() {
    let temp = Temp::new();
    let [early, late, between] = [const { AtomicU32::new(0) }; 3];
    let connection = new(&temp.path("early.db"));
    hook(&connection, &early);
    connection.ask::<String>(SERVE);
    assert_called(&connection, &early, "set before serving, while it is served");
    connection.ask::<String>(STOP);
    assert_called(&connection, &early, "set before serving, after it");
    drop(connection);

    let connection = new(&temp.path("late.db"));
    connection.ask::<String>(SERVE);
    hook(&connection, &late);
    assert_called(&connection, &late, "set while it is served");
    connection.ask::<String>(STOP);
    assert_called(&connection, &late, "set while it was served, after it");
    connection.ask::<String>(SERVE);
    assert_called(&connection, &late, "set while it was served, and served again");
    drop(connection);

    let connection = new(&temp.path("between.db"));
    connection.ask::<String>(SERVE);
    connection.ask::<String>(STOP);
    hook(&connection, &between);
    connection.ask::<String>(SERVE);
    assert_called(&connection, &between, "set between two times of serving, in the second");
}

#[test]
fn an_auto_checkpoint_of_the_application_stays_as_it_set_it() {
    let temp = Temp::new();
    for (frames, when) in [0, 77].into_iter().flat_map(|frames| (0..3).map(move |when| (frames, when))) {
        let connection = new(&temp.path(&format!("{frames}-{when}.db")));
        let set = |at: i32| {
            if at == when {
                connection.run(&format!("{AUTO_CHECKPOINT} = {frames}"))
            }
        };
        set(0);
        connection.ask::<String>(SERVE);
        set(1);
        connection.run("INSERT INTO t(x) VALUES (1)");
        connection.ask::<String>(STOP);
        set(2);
        connection.run("INSERT INTO t(x) VALUES (1)");
        assert_eq!(connection.ask::<u32>(AUTO_CHECKPOINT), frames, "set to it before, while or after serving: {when}");
    }
}

#[test]
fn the_auto_checkpoint_of_sqlite_is_back_after_serving() {
    let temp = Temp::new();
    let path = temp.path("app.db");
    let (connection, other) = (new(&path), loaded(&path));
    for stops in [&connection, &other] {
        connection.ask::<String>(SERVE);
        fill(&connection, "main");
        assert_bounded(&path, "while it is served");
        stops.ask::<String>(STOP);
        fill(&connection, "main");
        assert_bounded(&path, "after it");
        assert_eq!(connection.ask::<u32>(AUTO_CHECKPOINT), 1000);
    }
    // One that is closed takes its hook along, and the database is served on.
    let url: String = connection.ask(SERVE);
    drop(connection);
    let mut replica = following(&temp.path("replica.db"), &url);
    fill(&other, "main");
    let position: String = other.ask("SELECT litestream_position()");
    assert_eq!(replica.ask(&format!("SELECT litestream_wait('{position}', 60000)")), "1");
    assert_bounded(&path, "with the connection closed that began it");
}

/// The connections of the library are closed after those of the application, and so they are the
/// ones that find themselves last.
#[test]
fn the_wal_is_left_as_the_application_wants_it_left() {
    for begin in ["serve", "follow"] {
        let temp = Temp::new();
        let path = temp.path("app.db");
        let (mut primary, url) = serving(&temp.path("primary.db"));
        let ending_with = |settings: &str| {
            let mut shell = Shell::open(&path);
            match begin {
                "serve" => shell.run(&format!("PRAGMA journal_mode = wal; {SERVE}")),
                _ => shell.run(&format!("SELECT litestream_follow('{url}')")),
            }
            if !settings.is_empty() {
                shell.run("SELECT litestream_stop()");
                shell.run(settings);
                match begin {
                    "serve" => shell.run(SERVE),
                    _ => shell.run(&format!("SELECT litestream_follow('{url}')")),
                }
            }
            match begin {
                "serve" => shell.run("CREATE TABLE IF NOT EXISTS t(x); INSERT INTO t(x) VALUES (1)"),
                _ => {
                    primary.run("INSERT INTO t(x) VALUES (1)");
                    catch_up(&mut primary, &mut shell);
                }
            }
            assert!(shell.quit().success());
            std::fs::metadata(with_suffix(&path, "-wal")).ok().map(|file| file.len() > 0)
        };
        let mut ending_with = ending_with;
        assert_eq!(ending_with(".dbconfig no_ckpt_on_close on"), Some(true), "{begin}: not checkpointed");
        assert!(ending_with(".filectrl persist_wal 1").is_some(), "{begin}: the file stays");
    }
}
