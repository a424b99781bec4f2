//! Files that become replicas although something is in them already: databases that hold nothing,
//! and replicas whose pages are of another size than the primary's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use support::*;

/// SQL that makes a database which holds nothing.
const NOTHING: [&str; 6] = [
    "PRAGMA journal_mode = wal",
    "VACUUM",
    "BEGIN IMMEDIATE; COMMIT",
    "PRAGMA user_version = 1; PRAGMA user_version = 0",
    "CREATE TABLE gone(x); INSERT INTO gone VALUES (zeroblob(100000)); DROP TABLE gone",
    "PRAGMA journal_mode = wal; CREATE TABLE gone(x); INSERT INTO gone VALUES (zeroblob(100000)); DROP TABLE gone",
];

const COUNT: &str = "SELECT count(*) FROM t";

/// A primary with pages of a size, and its URL.
fn primary(temp: &Temp, size: u32) -> (Shell, String) {
    let mut shell = Shell::open(&temp.path("primary.db"));
    shell.run(&format!("PRAGMA page_size = {size}; {NEW}"));
    let url = shell.ask("SELECT litestream_serve('127.0.0.1:0')");
    (shell, url)
}

fn assert_equal(temp: &Temp, replica: &Path, what: &str) {
    assert_eq!(differing_pages(&temp.path("primary.db"), replica), Vec::<usize>::new(), "{what}");
    assert!(is_marked(replica), "{what}: it is a replica");
}

#[test]
fn a_database_that_holds_nothing_becomes_a_replica() {
    let temp = Temp::new();
    let (mut primary, url) = primary(&temp, 4096);
    for (n, sql) in NOTHING.into_iter().enumerate() {
        let path = temp.path(&format!("{n}.db"));
        stock(&path, sql);
        let mut replica = following(&path, &url);
        assert_eq!(replica.ask(COUNT), "1", "{sql}");
        primary.run("INSERT INTO t(x) VALUES ('more'); DELETE FROM t WHERE x = 'more'");
        catch_up(&mut primary, &mut replica);
        assert_equal(&temp, &path, sql);
    }
}

#[test]
fn those_who_have_a_database_open_that_holds_nothing_see_what_it_becomes() {
    let temp = Temp::new();
    let (mut primary, url) = primary(&temp, 4096);
    // SQLite tells by the number of changes alone that a schema is another one, so that of this one
    // is none that the others have.
    primary.run("CREATE TABLE u(x); CREATE TABLE v(x); CREATE TABLE w(x)");
    for (n, sql) in NOTHING.into_iter().enumerate() {
        let path = temp.path(&format!("{n}.db"));
        // The application's own connection, which loads the library late, and one of another
        // process.
        let own = plain(&path);
        own.run(sql);
        own.run("SELECT count(*) FROM sqlite_master; PRAGMA user_version");
        let mut other = Shell::stock(&path);
        other.run("SELECT count(*) FROM sqlite_master");
        load(&own);
        own.ask::<String>(&format!("SELECT litestream_follow('{url}')"));
        assert_eq!(own.ask::<i64>("SELECT count(*) FROM sqlite_master"), 4, "{sql}");
        assert_eq!(own.ask::<i64>(COUNT), 1, "{sql}");
        assert_eq!(other.ask(COUNT), "1", "{sql}");
        assert_eq!(other.ask("PRAGMA integrity_check"), "ok", "{sql}");
        assert!(other.refused("CREATE TABLE mine(x)").contains("readonly"), "{sql}");
        own.ask::<String>("SELECT litestream_stop()");
        assert_equal(&temp, &path, sql);
    }
}

#[test]
fn a_reader_of_a_database_that_holds_nothing_ends_with_what_it_began() {
    let temp = Temp::new();
    let (_primary, url) = primary(&temp, 4096);
    let path = temp.path("replica.db");
    stock(&path, "PRAGMA journal_mode = wal");
    let mut reader = Shell::stock(&path);
    reader.run("BEGIN; SELECT count(*) FROM sqlite_master");
    let mut replica = following(&path, &url);
    assert_eq!(replica.ask(COUNT), "1");
    assert_eq!(reader.ask("SELECT count(*) FROM sqlite_master"), "0", "it reads what it began with");
    assert_eq!(reader.ask(&format!("COMMIT; {COUNT}")), "1");
    assert_equal(&temp, &path, "with a reader");
}

#[test]
fn what_an_application_has_put_there_is_something() {
    let temp = Temp::new();
    let (_primary, url) = primary(&temp, 4096);
    for (n, sql) in
        ["PRAGMA user_version = 7", "PRAGMA application_id = 7", "CREATE TABLE mine(x)"].into_iter().enumerate()
    {
        for mode in ["wal", "delete"] {
            let path = temp.path(&format!("{n}{mode}.db"));
            stock(&path, &format!("PRAGMA journal_mode = {mode}; {sql}"));
            let before = file_bytes(&path);
            let mut replica = Shell::open(&path);
            let error = replica.refused(&format!("SELECT litestream_follow('{url}')"));
            assert!(error.contains("has content") && error.contains("overwrite"), "{error}");
            assert!(file_bytes(&path) == before, "{mode}, {sql}: it changed");
        }
    }
    // What is only in the WAL is there all the same.
    let path = temp.path("in the wal.db");
    stock(&path, "PRAGMA journal_mode = wal");
    let mut writer = Shell::stock(&path);
    writer.run("CREATE TABLE mine(x)");
    writer.kill();
    assert_eq!(file_bytes(&path).len(), 4096);
    let mut replica = Shell::open(&path);
    assert!(replica.refused(&format!("SELECT litestream_follow('{url}')")).contains("has content"));
    assert_eq!(replica.ask("SELECT name FROM sqlite_master"), "mine");
}

#[test]
fn a_table_that_is_made_while_the_replica_comes_is_not_overwritten() {
    for late in [false, true] {
        let temp = Temp::new();
        let path = temp.path("replica.db");
        stock(&path, "PRAGMA journal_mode = wal");
        let (file, bytes) = (path.clone(), database(4096, 20));
        let upstream = Upstream::start(move |_, reply| {
            reply.stream_v2(4096);
            let records = stream::everything(FIRST, &bytes, 4096);
            let (last, others) = records.split_last().unwrap();
            if late {
                others.iter().for_each(|record| reply.send(&record.encode()));
            }
            stock(&file, "CREATE TABLE IF NOT EXISTS mine(x)");
            if !late {
                others.iter().for_each(|record| reply.send(&record.encode()));
            }
            reply.send(&last.encode());
            reply.hold();
        });
        // A connection has it open, so that it becomes a replica by a commit.
        let mut keeper = Shell::stock(&path);
        keeper.run("SELECT count(*) FROM sqlite_master");
        let mut replica = Shell::open(&path);
        let pull = format!("SELECT litestream_pull('{}/app.db')", upstream.url());
        let error = replica.refused(&pull);
        // Which of the two it is depends on when it was seen.
        assert!(error.contains("written to by somebody else") || error.contains("has content"), "{error}");
        assert!(replica.refused(&pull).contains("has content"));
        assert_eq!(keeper.ask("SELECT name FROM sqlite_master; PRAGMA integrity_check"), "mine\nok");
    }
}

#[test]
fn a_file_that_came_to_nothing_is_nobodys() {
    for call in ["pull", "follow"] {
        let temp = Temp::new();
        let path = temp.path("replica.db");
        let bytes = database(4096, 20);
        let upstream = Upstream::start(move |_, reply| {
            reply.stream_v2(4096);
            reply.send(&stream::everything(FIRST, &bytes, 4096)[0].encode());
        });
        let sql = format!("SELECT litestream_{call}('{}/app.db')", upstream.url());
        Shell::open(&path).refused(&sql);
        // A connection makes a database of its own in its place.
        stock(&path, NEW);
        let error = Shell::open(&path).refused(&sql);
        assert!(error.contains("has content") && error.contains("overwrite"), "{call}: {error}");
        assert_eq!(stock(&path, COUNT), "1");
    }
}

#[test]
fn pages_of_another_size_need_the_file_for_itself() {
    let temp = Temp::new();
    let (_primary, url) = primary(&temp, 8192);
    for sql in ["PRAGMA journal_mode = wal", "VACUUM"] {
        let path = temp.path("alone.db");
        stock(&path, sql);
        assert_eq!(following(&path, &url).ask(COUNT), "1", "{sql}");
        assert_equal(&temp, &path, sql);
        remove(&path);
    }
    let path = temp.path("open.db");
    stock(&path, "PRAGMA journal_mode = wal");
    let mut other = Shell::stock(&path);
    other.run("SELECT count(*) FROM sqlite_master");
    let mut replica = Shell::open(&path);
    let follow = format!("SELECT litestream_follow('{url}')");
    let error = replica.refused(&follow);
    assert!(error.contains("pages of 4096") && error.contains("8192") && error.contains("close all other"), "{error}");
    assert_eq!(other.ask("SELECT count(*) FROM sqlite_master; PRAGMA integrity_check"), "0\nok");
    drop(other);
    replica.run(&follow);
    assert_eq!(replica.ask(COUNT), "1");
    assert_equal(&temp, &path, "after the other had closed it");
}

/// Gives the pages of a database that no one serves another size.
fn resize(path: &Path, size: u32) {
    stock(path, &format!("PRAGMA journal_mode = delete; PRAGMA page_size = {size}; VACUUM; PRAGMA journal_mode = wal"));
}

#[test]
fn a_replica_follows_a_primary_to_another_page_size_when_it_may_be_overwritten() {
    for (version, size) in [(2, 8192), (2, 512), (1, 8192)] {
        let temp = Temp::new();
        let (shell, url) = primary(&temp, 4096);
        let path = temp.path("replica.db");
        following(&path, &url).quit();
        shell.quit();
        resize(&temp.path("primary.db"), size);
        let mut shell = Shell::open(&temp.path("primary.db"));
        let url = shell.ask(&format!("INSERT INTO t(x) VALUES ('two'); SELECT litestream_serve('{}')", address(&url)));
        let old = strip_version(&format!("http://{}", address(&url)));
        let url = if version == 2 { url } else { format!("{}/primary.db", old.url()) };
        let before = file_bytes(&path);
        let mut replica = Shell::open(&path);
        if version == 2 {
            let error = replica.refused(&format!("SELECT litestream_pull('{url}')"));
            assert!(error.contains("of 4096 bytes") && error.contains("overwrite"), "{error}");
            assert!(file_bytes(&path) == before, "it was left as it is");
        }
        let overwrite = format!("SELECT litestream_pull('{url}', '{{\"overwrite\": true}}')");
        let mut reader = Shell::stock(&path);
        reader.run(COUNT);
        let error = replica.refused(&overwrite);
        assert!(error.contains("close all other connections"), "{error}");
        assert_eq!(reader.ask(&format!("{COUNT}; PRAGMA integrity_check")), "1\nok");
        drop(reader);
        replica.run(&overwrite);
        assert_eq!(replica.ask(COUNT), "2", "version {version}, {size}");
        assert_equal(&temp, &path, "after it was overwritten");
        // From here on it is a replica as any.
        shell.run("INSERT INTO t(x) VALUES ('three')");
        replica.run(&format!("SELECT litestream_pull('{url}')"));
        assert_eq!(replica.ask(COUNT), "3");
    }
}

#[test]
fn loading_the_library_takes_a_database_that_holds_nothing_for_a_new_one() {
    let temp = Temp::new();
    for (n, sql) in NOTHING.into_iter().enumerate() {
        let path = temp.path(&format!("{n}.db"));
        stock(&path, sql);
        let mut primary = Shell::told(&path, &[("LITESTREAM_ADDR", "127.0.0.1:0")]);
        primary.run("CREATE TABLE t(x); INSERT INTO t VALUES (1)");
        let url = primary.ask("SELECT url FROM litestream_status");
        let copied = temp.path(&format!("copy of {n}.db"));
        stock(&copied, sql);
        let mut replica = Shell::told(&copied, &[("LITESTREAM_UPSTREAM", &url)]);
        catch_up(&mut primary, &mut replica);
        assert_eq!(replica.ask(COUNT), "1", "{sql}");
    }
}

#[test]
fn a_position_that_no_primary_can_have_is_none() {
    let (temp, origin) = (Temp::new(), Origin::new(4096));
    let path = temp.path("replica.db");
    origin.replicate(&path);
    let generation = "1111111111111111";
    for position in ["ffffffffffffffff:0000000000000020", "0000000000000001:8000000000000000"] {
        std::fs::write(temp.path("replica.db-litestream/position"), format!("{generation}/{position}\n")).unwrap();
        origin.step(3);
        let replica = loaded(&path);
        let reached: String = replica.ask(&origin.pull("{}"));
        assert_eq!(origin.at(&reached), origin.newest());
        assert_eq!(origin.state_of(&path, position), origin.newest());
        assert!(
            replica.refused(&format!("SELECT litestream_wait('{generation}/{position}')")).contains("not a position")
        );
    }
}

#[test]
fn a_primary_that_does_not_take_a_position_is_asked_to_compare() {
    let bytes = database(4096, 20);
    let upstream = Upstream::start(move |request, reply| {
        if request.line.contains("generation=") {
            return reply.text("400 Bad Request", "text/plain", "Invalid index");
        }
        reply.stream_v2(4096);
        reply.send(&stream::encode(&stream::everything(LATER, &bytes, 4096)));
        reply.hold();
    });
    let temp = Temp::new();
    let pull = format!("SELECT litestream_pull('{}/app.db')", upstream.url());
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&pull);
    assert_eq!(replica.ask(&pull), LATER.to_string());
    let asked: Vec<_> = upstream.requests().iter().map(|r| r.line.split('?').next().unwrap().to_string()).collect();
    assert_eq!(asked, ["GET /stream", "GET /stream", "POST /stream"]);
}

/// SQL that begins the first transaction of a database: one of which a part is in the file before
/// it ends, and page 1 is not, and one that is in memory alone.
const TRANSACTIONS: [&str; 2] = [
    "PRAGMA cache_size = 10; BEGIN IMMEDIATE; CREATE TABLE mine(x); WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL \
     SELECT i + 1 FROM n LIMIT 3000) INSERT INTO mine SELECT zeroblob(1000) FROM n",
    "BEGIN IMMEDIATE; CREATE TABLE mine(x); INSERT INTO mine VALUES (1)",
];

#[test]
fn a_first_transaction_that_ends_while_the_replica_waits_for_the_file_is_not_overwritten() {
    for sql in TRANSACTIONS {
        let temp = Temp::new();
        let path = temp.path("app.db");
        let bytes = database(4096, 20);
        let may_answer = Arc::new(AtomicBool::new(false));
        let may = Arc::clone(&may_answer);
        let upstream = Upstream::start(move |_, reply| {
            until("the answer may come", || if may.load(SeqCst) { Ok(()) } else { Err("not yet") });
            reply.stream_v2(4096);
            reply.send(&stream::encode(&stream::everything(FIRST, &bytes, 4096)));
            reply.end();
        });
        let disk = Disk::of(&path);
        let replica = disk.open();
        let pull = format!("SELECT litestream_pull('{}/app.db')", upstream.url());
        let pulled = std::thread::spawn(move || replica.refused(&pull));
        until("the upstream is asked", || {
            assert!(!pulled.is_finished(), "the pull ended");
            if upstream.requests().is_empty() { Err("not yet") } else { Ok(()) }
        });
        let mut writer = Shell::stock(&path);
        writer.run(sql);
        let held = disk.hold(Call::Lock);
        may_answer.store(true, SeqCst);
        until("the file is to be locked", || if held.waiting() > 0 { Ok(()) } else { Err("not yet") });
        writer.run("COMMIT");
        drop(held);
        let error = pulled.join().unwrap();
        assert!(error.contains("made a database of") && error.contains("overwrite"), "{error}");
        assert_eq!(stock(&path, "PRAGMA integrity_check; SELECT name FROM sqlite_master"), "ok\nmine");
        assert!(!temp.path("app.db-litestream/upstream").exists(), "it is no replica");
    }
}

#[test]
fn a_first_transaction_that_is_under_way_stays_the_applications() {
    for sql in TRANSACTIONS {
        let temp = Temp::new();
        let (_primary, url) = primary(&temp, 4096);
        let path = temp.path("app.db");
        let mut writer = Shell::stock(&path);
        writer.run(sql);
        let mut replica = Shell::open(&path);
        let error = replica.refused(&format!("SELECT litestream_pull('{url}')"));
        assert!(error.contains("end transactions") && error.contains("locked"), "{error}");
        writer.run("COMMIT");
        assert!(replica.refused(&format!("SELECT litestream_pull('{url}')")).contains("has content"));
        assert_eq!(stock(&path, "PRAGMA integrity_check; SELECT name FROM sqlite_master"), "ok\nmine");
    }
}

#[test]
fn the_journal_of_a_process_that_died_is_not_rolled_back_into_the_replica() {
    let temp = Temp::new();
    let (_primary, url) = primary(&temp, 4096);
    let path = temp.path("replica.db");
    let mut writer = Shell::stock(&path);
    writer.run(TRANSACTIONS[0]);
    writer.kill();
    assert!(file_bytes(&path).len() > 4096 && !file_bytes(&temp.path("replica.db-journal")).is_empty());
    let mut replica = Shell::open(&path);
    replica.run(&format!("SELECT litestream_pull('{url}')"));
    assert_eq!(stock(&path, &format!("PRAGMA integrity_check; {COUNT}")), "ok\n1");
    assert_equal(&temp, &path, "after the journal was rolled back");
}

#[test]
fn a_replica_that_follows_to_another_page_size_goes_on_following() {
    let temp = Temp::new();
    let (shell, url) = primary(&temp, 4096);
    let path = temp.path("replica.db");
    let replica = loaded(&path);
    replica.ask::<String>(&format!("SELECT litestream_follow('{url}', '{{\"overwrite\": true}}')"));
    // The file is made anew only where no connection reads it.
    drop(replica);
    let looker = loaded(":memory:".as_ref());
    let status = |column: &str| -> Option<String> {
        // Other tests of this process have replicas, too.
        looker.ask(&format!("SELECT {column} FROM litestream_status WHERE database = '{}'", path.display()))
    };
    shell.quit();
    resize(&temp.path("primary.db"), 1024);
    let mut shell = Shell::open(&temp.path("primary.db"));
    shell.run(&format!("SELECT litestream_serve('{}')", address(&url)));
    until("it follows again", || match status("state").as_deref() {
        Some("streaming") => Ok(()),
        state => Err(format!("{state:?}: {:?}", status("last_error"))),
    });
    shell.run("INSERT INTO t(x) VALUES ('two')");
    let position = shell.ask("SELECT litestream_position()");
    until("the commit comes", || match status("position") {
        Some(here) if here == position => Ok(()),
        here => Err(format!("{here:?}: {:?}", status("last_error"))),
    });
    assert_eq!(stock(&path, COUNT), "2");
    assert_equal(&temp, &path, "after the other page size");
}
