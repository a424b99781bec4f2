//! Processes that are not plain: SQLite in them twice, unloaded, with shared caches, or forked; and the names of files.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use support::*;

/// Goes on in a process of its own, which must end as it says itself.
macro_rules! in_its_own_process {
    ($test:literal, |$folder:ident| $body:expr) => {
        if let Some($folder) = started_again() {
            $body;
            std::process::exit(7);
        }
        assert_eq!(again($test, &Temp::new()).code(), Some(7), "the process of {}", $test);
    };
}

#[test]
fn a_process_that_unloads_its_sqlite_before_it_ends_ends_in_order() {
    in_its_own_process!("a_process_that_unloads_its_sqlite_before_it_ends_ends_in_order", |folder| {
        let sqlite = Second::open_library();
        let db = sqlite.connect(&folder.join("app.db"));
        db.load().unwrap();
        db.ask("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
        let url = db.ask("SELECT litestream_serve('127.0.0.1:0')");
        let copy = sqlite.connect(&folder.join("copy.db"));
        copy.load().unwrap();
        copy.ask(&format!("SELECT litestream_follow('{url}')"));
        drop((db, copy));
        sqlite.close_library();
        assert_eq!(get(&url, "/healthz", &[]).text(), "ok\n", "it is served until the process ends");
    });
}

#[test]
fn a_second_sqlite_of_the_process_cannot_load_the_library() {
    in_its_own_process!("a_second_sqlite_of_the_process_cannot_load_the_library", |folder| {
        let first = loaded(&folder.join("app.db"));
        let second = Second::open_library();
        let other = second.connect(&folder.join("other.db"));
        let error = other.load().unwrap_err();
        assert!(error.contains("already loaded by another SQLite library in this process"), "{error}");
        assert_eq!(first.ask::<String>("SELECT litestream_version()"), env!("CARGO_PKG_VERSION"));
    });
}

#[test]
fn a_database_that_a_second_sqlite_of_the_process_has_open_is_neither_served_nor_followed() {
    in_its_own_process!(
        "a_database_that_a_second_sqlite_of_the_process_has_open_is_neither_served_nor_followed",
        |folder| {
            let second = Second::open_library();
            let app = loaded(&folder.join("app.db"));
            app.run("PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
            let other = second.connect(&folder.join("app.db"));
            assert_eq!(other.ask("SELECT x FROM t"), "1");
            let error = app.refused("SELECT litestream_serve('127.0.0.1:0')");
            assert!(error.contains("another SQLite library in this process has"), "{error}");
            drop(other);
            let url: String = app.ask("SELECT litestream_serve('127.0.0.1:0')");

            let copy = loaded(&folder.join("copy.db"));
            copy.ask::<String>(&format!("SELECT litestream_pull('{url}')"));
            let other = second.connect(&folder.join("copy.db"));
            assert_eq!(other.ask("SELECT x FROM t"), "1");
            for call in ["litestream_follow", "litestream_pull"] {
                let error = copy.refused(&format!("SELECT {call}('{url}')"));
                assert!(error.contains("another SQLite library in this process has"), "{call}: {error}");
            }
            drop(other);
            copy.ask::<String>(&format!("SELECT litestream_follow('{url}')"));
        }
    );
}

/// The storage of the process that is to end.
static DISK: OnceLock<Arc<Disk>> = OnceLock::new();

/// Ends the process with another code if its VFS was called.
extern "C" fn require_no_calls() {
    let calls = DISK.get().map(|disk| disk.calls()).unwrap_or_default();
    // A look of a thread that has not ended yet takes locks of the wal-index.
    let called: Vec<_> = calls.iter().filter(|(call, _)| !matches!(call, Call::ShmLock | Call::ShmMap)).collect();
    if !called.is_empty() {
        eprintln!("called at the end of the process: {called:?}");
        #[allow(unsafe_code)]
        // SAFETY: ends the process at once, and runs nothing of it.
        unsafe {
            libc::_exit(9)
        };
    }
}

#[test]
fn the_end_of_a_process_calls_no_vfs_of_the_host() {
    in_its_own_process!("the_end_of_a_process_calls_no_vfs_of_the_host", |folder| {
        #[allow(unsafe_code)]
        // SAFETY: the function lives as long as the process. What is registered first runs last,
        // after the library's.
        unsafe {
            libc::atexit(require_no_calls)
        };
        let disk = DISK.get_or_init(|| Disk::of(&folder.join("app.db")));
        let app = disk.open();
        app.run("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
        let own: String = app.ask("SELECT litestream_serve('127.0.0.1:0')");
        let mut copy = following(&folder.join("copy.db"), &own);
        app.run("INSERT INTO t VALUES (1)");
        let position: String = app.ask("SELECT litestream_position()");
        assert_eq!(copy.ask(&format!("SELECT litestream_wait('{position}', 60000)")), "1");
        // Nothing fails; from here on calls are counted.
        disk.fail(Fault { call: Call::Open, nth: usize::MAX, lasting: false, short: false });
        // Its connection stays open, as it does where an interpreter ends with it.
        std::mem::forget(app);
    });
}

/// Waits until the database is not served any more, and gives the reason.
fn until_stalled(app: &rusqlite::Connection) -> String {
    until("the primary is stalled", || match app.ask::<String>("SELECT state FROM litestream_status") {
        state if state == "stalled" => Ok(app.ask("SELECT reason FROM litestream_status")),
        state => Err(state),
    })
}

/// Has the wal-index open a second time, as another SQLite would. That one would also cut it short at once, under the feet of all who
/// have it mapped; what becomes of them then is a matter of luck, and nothing for a test.
fn opened_again(folder: &Path, name: &str) -> File {
    File::open(folder.join(name)).expect("the wal-index of a database in use")
}

#[test]
fn a_primary_that_a_second_sqlite_opens_later_stops_instead_of_missing_commits() {
    in_its_own_process!("a_primary_that_a_second_sqlite_opens_later_stops_instead_of_missing_commits", |folder| {
        let app = loaded(&folder.join("app.db"));
        app.run("PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
        let url: String = app.ask("SELECT litestream_serve('127.0.0.1:0')");
        let mut copy = following(&folder.join("copy.db"), &url);
        let other = opened_again(&folder, "app.db-shm");
        let reason = until_stalled(&app);
        assert!(reason.contains("another SQLite library in this process has"), "{reason}");
        assert!(app.refused("SELECT litestream_position()").contains("another SQLite library"));
        until_gives(&mut copy, "SELECT state FROM litestream_status", "reconnecting");
        let error = copy.ask("SELECT last_error FROM litestream_status");
        assert!(error.contains("another SQLite library"), "{error}");

        drop(other);
        assert_eq!(app.ask::<String>("SELECT litestream_stop()"), format!("served {url}"));
        app.ask::<String>(&format!("SELECT litestream_serve('{}')", address(&url)));
        app.run("INSERT INTO t VALUES (2)");
        let position: String = app.ask("SELECT litestream_position()");
        assert_eq!(copy.ask(&format!("SELECT litestream_wait('{position}', 60000)")), "1");
    });
}

#[test]
fn a_primary_whose_wal_is_removed_under_it_stops() {
    in_its_own_process!("a_primary_whose_wal_is_removed_under_it_stops", |folder| {
        let app = loaded(&folder.join("app.db"));
        app.run("PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
        app.ask::<String>("SELECT litestream_serve('127.0.0.1:0')");
        // What the next process does that closes the database, when the locks of this one are gone.
        for name in ["app.db-wal", "app.db-shm"] {
            std::fs::remove_file(folder.join(name)).unwrap();
        }
        let reason = until_stalled(&app);
        assert!(reason.contains("was removed or renamed while it was in use"), "{reason}");
    });
}

#[test]
fn a_replica_that_a_second_sqlite_opens_later_is_not_written_any_more() {
    in_its_own_process!("a_replica_that_a_second_sqlite_opens_later_is_not_written_any_more", |folder| {
        let (mut app, url) = serving(&folder.join("app.db"));
        let copy = loaded(&folder.join("copy.db"));
        copy.ask::<String>(&format!("SELECT litestream_follow('{url}')"));
        let other = opened_again(&folder, "copy.db-shm");
        until("the replica is stalled", || {
            app.run("INSERT INTO t(x) VALUES ('more')");
            match copy.ask::<String>("SELECT state FROM litestream_status") {
                state if state == "stalled" => Ok(()),
                state => Err(state),
            }
        });
        let reason: String = copy.ask("SELECT reason FROM litestream_status");
        assert!(reason.contains("another SQLite library in this process has"), "{reason}");
        drop(other);
        let position = app.ask("SELECT litestream_position()");
        assert_eq!(copy.ask::<i64>(&format!("SELECT litestream_wait('{position}', 60000)")), 1, "it goes on then");
    });
}

#[test]
fn a_cache_shared_by_all_connections_is_not_shared_with_ours() {
    in_its_own_process!("a_cache_shared_by_all_connections_is_not_shared_with_ours", |folder| {
        #[allow(unsafe_code)]
        // SAFETY: a switch for connections that are opened later; there is none yet.
        let rc = unsafe { rusqlite::ffi::sqlite3_enable_shared_cache(1) };
        assert_eq!(rc, rusqlite::ffi::SQLITE_OK);
        let app = loaded(&folder.join("app.db"));
        app.run("PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
        let url: String = app.ask("SELECT litestream_serve('127.0.0.1:0')");
        let copy = loaded(&folder.join("copy.db"));
        copy.ask::<String>(&format!("SELECT litestream_follow('{url}')"));
        for n in 2..200 {
            app.run(&format!("INSERT INTO t VALUES ({n})"));
            if n % 50 == 0 {
                assert_eq!(app.ask::<i64>("PRAGMA wal_checkpoint(TRUNCATE)"), 0);
            }
        }
        let position: String = app.ask("SELECT litestream_position()");
        assert_eq!(copy.ask::<i64>(&format!("SELECT litestream_wait('{position}', 60000)")), 1);
        assert_eq!(copy.ask::<i64>("SELECT max(x) FROM t"), 199);
        assert_eq!(copy.ask::<i64>("SELECT heals FROM litestream_status WHERE role = 'replica'"), 0);
        app.run("DROP TABLE t");
    });
}

#[test]
fn a_fork_does_not_get_at_what_its_parent_serves_and_follows() {
    in_its_own_process!("a_fork_does_not_get_at_what_its_parent_serves_and_follows", |folder| {
        let app = loaded(&folder.join("app.db"));
        app.run("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
        let url: String = app.ask("SELECT litestream_serve('127.0.0.1:0')");
        let copy = loaded(&folder.join("copy.db"));
        copy.ask::<String>(&format!("SELECT litestream_follow('{url}')"));
        let status = forked(|| {
            for (database, call) in [
                ("app.db", "litestream_serve('127.0.0.1:0')".to_string()),
                ("copy.db", format!("litestream_follow('{url}')")),
                ("copy.db", "litestream_promote()".to_string()),
            ] {
                let error = loaded(&folder.join(database)).refused(&format!("SELECT {call}"));
                assert!(error.contains("was forked from process"), "{call}: {error}");
            }
            let other = loaded(&folder.join("other.db"));
            other.ask::<String>(&format!("SELECT litestream_follow('{url}')"));
        });
        assert_eq!(status, 0, "the forked process");
        app.run("INSERT INTO t VALUES (1)");
        let position: String = app.ask("SELECT litestream_position()");
        assert_eq!(copy.ask::<i64>(&format!("SELECT litestream_wait('{position}', 60000)")), 1);
    });
}

#[test]
fn a_database_is_the_same_by_every_name_that_leads_to_it() {
    in_its_own_process!("a_database_is_the_same_by_every_name_that_leads_to_it", |folder| {
        let real = folder.join("real");
        std::fs::create_dir(&real).unwrap();
        symlink(&real, folder.join("by link")).unwrap();
        let name = "100%25 ünï?.db";
        symlink(real.join(name), folder.join("link.db")).unwrap();
        std::env::set_current_dir(&real).unwrap();
        let app = loaded(&real.join(name));
        app.run("PRAGMA journal_mode = wal; CREATE TABLE t(x)");
        let url: String = app.ask("SELECT litestream_serve('127.0.0.1:0')");
        let position: String = app.ask("SELECT litestream_position()");

        let absolute = folder.join("by link").display().to_string().replace(' ', "%20");
        for same in [
            format!("./{name}"),
            format!("../by link/{name}"),
            folder.join("link.db").display().to_string(),
            format!("file:{absolute}/100%2525%20%c3%bcn%C3%AF%3F.db"),
            "file:100%2525%20ünï%3f.db?mode=rw".to_string(),
            "file:../link.db?cache=shared".to_string(),
            "file:../link.db?mode=ro".to_string(),
        ] {
            let connection = loaded(same.as_ref());
            assert_eq!(connection.ask::<String>("SELECT litestream_position()"), position, "{same}");
        }
        let again: String = loaded("../link.db".as_ref()).ask("SELECT litestream_serve('127.0.0.1:0')");
        assert_eq!(again, url, "it is served already, and so nothing more is done");
        let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files.len(), 3, "nothing is made beside a link: {files:?}");
    });
}

#[test]
fn a_replica_is_the_same_by_every_name_that_leads_to_it() {
    in_its_own_process!("a_replica_is_the_same_by_every_name_that_leads_to_it", |folder| {
        let app = loaded(&folder.join("app.db"));
        app.run("PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES (1)");
        let url: String = app.ask("SELECT litestream_serve('127.0.0.1:0')");
        symlink("not there yet.db", folder.join("link.db")).unwrap();
        let copy = loaded(&folder.join("link.db"));
        copy.ask::<String>(&format!("SELECT litestream_follow('{url}')"));
        let direct = loaded(&folder.join("not there yet.db"));
        assert_eq!(direct.ask::<i64>("SELECT x FROM t"), 1);
        assert_eq!(direct.ask::<String>("SELECT litestream_stop()"), format!("followed {url}"));
        assert!(folder.join("not there yet.db-litestream").is_dir());

        // Who only reads may have it kept up to date all the same.
        let reader = loaded(format!("file:{}?mode=ro", folder.join("link.db").display()).as_ref());
        reader.ask::<String>(&format!("SELECT litestream_follow('{url}')"));
        app.run("INSERT INTO t VALUES (2)");
        let position: String = app.ask("SELECT litestream_position()");
        assert_eq!(reader.ask::<i64>(&format!("SELECT litestream_wait('{position}', 60000)")), 1);
        assert_eq!(reader.ask::<i64>("SELECT max(x) FROM t"), 2);
    });
}
