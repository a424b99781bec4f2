//! The server: which databases it takes, under which names and addresses, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use support::*;

#[test]
fn several_databases_share_an_address_and_are_told_apart() {
    let temp = Temp::new();
    let paths = [temp.folder("a").join("app.db"), temp.folder("b").join("app.db"), temp.path("other.db")];
    let mut shell = Shell::open(&paths[0]);
    shell.run(NEW);
    let first_url = shell.ask("SELECT litestream_serve('127.0.0.1:0')");
    let at = format!("http://{}", address(&first_url));
    assert_eq!(first_url, format!("{at}/app.db"));
    following(&temp.path("alone.db"), &at);
    assert_same_pages(&paths[0], &temp.path("alone.db"));
    for (n, path) in paths.iter().enumerate().skip(1) {
        shell.run(&format!("ATTACH '{}' AS db{n}; PRAGMA db{n}.journal_mode = wal", path.display()));
        shell.run(&format!("CREATE TABLE db{n}.t(x); INSERT INTO db{n}.t VALUES ({n})"));
        let url = shell.ask(&format!("SELECT litestream_serve('{}', '{{\"schema\": \"db{n}\"}}')", address(&at)));
        let wanted = if n == 1 { format!("{at}{}", path.display()) } else { format!("{at}/other.db") };
        assert_eq!(url, wanted, "the URL of {}", path.display());
    }
    let encoded = |path: &Path| path.display().to_string().replace('/', "%2F");
    for (n, path) in paths.iter().enumerate() {
        let by_path = temp.path(&format!("by-path-{n}.db"));
        following(&by_path, &format!("{at}{}", path.display()));
        assert_same_pages(path, &by_path);
        let by_query = temp.path(&format!("by-query-{n}.db"));
        following(&by_query, &format!("{at}/?path={}", encoded(path)));
        assert_same_pages(path, &by_query);
    }
    following(&temp.path("by-name.db"), &format!("{at}/other.db"));
    assert_same_pages(&paths[2], &temp.path("by-name.db"));
    let unnamed = get(&at, "/stream", &[]);
    assert_eq!((unnamed.status, unnamed.text().as_str()), (400, "Database name required\n"));
    let unknown = get(&at, "/stream?path=nothing.db", &[]);
    assert_eq!((unknown.status, unknown.text().as_str()), (404, "Database not found\n"));
}

#[test]
fn an_address_may_be_a_name_or_of_ipv6() {
    for address in ["localhost:0", "[::1]:0"] {
        if std::net::TcpListener::bind(address).is_err() {
            eprintln!("this machine has no address {address}");
            continue;
        }
        let temp = Temp::new();
        let mut primary = Shell::open(&temp.path("primary.db"));
        primary.run(NEW);
        let url = primary.ask(&format!("SELECT litestream_serve('{address}')"));
        let mut replica = following(&temp.path("replica.db"), &url);
        primary.run("INSERT INTO t(x) VALUES ('two')");
        catch_up(&mut primary, &mut replica);
        assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    }
}

#[test]
fn the_server_answers_health_checks_and_refuses_other_methods() {
    let temp = Temp::new();
    let (_primary, url) = serving(&temp.path("primary.db"));
    let health = get(&url, "/healthz", &[]);
    assert_eq!((health.status, health.text().as_str()), (200, "ok\n"));
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(request(method, &url, "/stream", &[("Content-Length", "0")]).status, 405, "{method} /stream");
    }
    assert_eq!(get(&url, "/nothing", &[]).status, 404);
}

#[test]
fn stopping_says_what_was_stopped_and_frees_it() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&temp.path("replica.db"), &url);
    assert_eq!(replica.ask("SELECT litestream_stop()"), format!("followed {url}"));
    assert_eq!(replica.ask("SELECT litestream_stop() IS NULL"), "1");
    assert_eq!(replica.ask("SELECT count(*) FROM litestream_status"), "0");
    assert!(replica.refused("INSERT INTO t(x) VALUES (1)").contains("readonly"), "it stays a replica");
    assert_eq!(primary.ask("SELECT litestream_stop()"), format!("served {url}"));
    assert_eq!(primary.ask("SELECT litestream_stop() IS NULL"), "1");
    std::net::TcpStream::connect(address(&url)).expect_err("nobody listens any more");
    // Another process may have both now.
    let mut other = Shell::open(&temp.path("primary.db"));
    assert_eq!(other.ask(&format!("SELECT litestream_serve('{}')", address(&url))), url);
    let mut follower = following(&temp.path("replica.db"), &url);
    other.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut other, &mut follower);
    assert_eq!(follower.ask("SELECT count(*) FROM t"), "2");
}

#[test]
fn stopping_one_database_leaves_the_others_on_its_address() {
    let temp = Temp::new();
    let first = loaded(&temp.path("first.db"));
    let second = loaded(&temp.path("second.db"));
    first.run(NEW);
    second.run(NEW);
    let url: String = first.ask("SELECT litestream_serve('127.0.0.1:0')");
    let other: String = second.ask(&format!("SELECT litestream_serve('{}')", address(&url)));
    first.ask::<String>("SELECT litestream_stop()");
    assert_eq!(get(&url, "/stream?path=first.db", &[]).status, 404);
    assert_eq!(get(&other, "/healthz", &[]).status, 200);
    following(&temp.path("replica.db"), &other);
    assert_same_pages(&temp.path("second.db"), &temp.path("replica.db"));
}

#[test]
fn all_that_is_served_at_an_address_has_one_write_timeout() {
    let temp = Temp::new();
    let (first, second) = (loaded(&temp.path("first.db")), loaded(&temp.path("second.db")));
    first.run(NEW);
    second.run(NEW);
    let url: String = first.ask("SELECT litestream_serve('127.0.0.1:0', '{\"write_timeout_ms\": 7000}')");
    let serve = |options: &str| format!("SELECT litestream_serve('{}', '{options}')", address(&url));
    let error = second.refused(&serve("{\"write_timeout_ms\": 5000}"));
    assert!(error.contains("write_timeout_ms") && error.contains("5000") && error.contains("7000"), "{error}");
    for options in ["{}", "{\"write_timeout_ms\": 7000}"] {
        second.ask::<String>(&serve(options));
        second.ask::<String>("SELECT litestream_stop()");
    }
}

#[test]
fn a_database_is_served_once_and_a_call_that_asks_for_anything_else_is_refused() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let otherwise = "SELECT litestream_serve('127.0.0.1:0', '{\"heartbeat_ms\": 50}')";
    let error = primary.refused(otherwise);
    assert!(error.contains(&url), "in the same connection: {error}");
    let mut other = Shell::open(&temp.path("primary.db"));
    let error = other.refused("SELECT litestream_serve('127.0.0.1:0')");
    assert!(error.contains("process"), "in another process: {error}");
    let first = loaded(&temp.path("second.db"));
    first.run(NEW);
    let url: String = first.ask("SELECT litestream_serve('127.0.0.1:0')");
    assert_eq!(loaded(&temp.path("second.db")).ask::<String>("SELECT litestream_serve('127.0.0.1:0')"), url);
    let error = loaded(&temp.path("second.db")).refused(otherwise);
    assert!(error.contains(&url), "in another connection: {error}");
    assert_eq!(get(&url, "/healthz", &[]).status, 200, "what was served still is");
}

#[test]
fn an_address_in_use_is_refused_by_name() {
    let temp = Temp::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut primary = Shell::open(&temp.path("primary.db"));
    primary.run(NEW);
    let error = primary.refused(&format!("SELECT litestream_serve('{address}')"));
    assert!(error.contains(&address) && error.contains("in use"), "{error}");
    drop(taken);
    // A shell that another test is just starting may have inherited the socket, until it has become a shell.
    until("the address is free", || primary.answer(&format!("SELECT litestream_serve('{address}')")));
}

/// Fails unless serving `connection`'s database is refused with an error that has each of `words` in it.
fn not_served(connection: &Connection, what: &str, words: &[&str]) {
    let error = connection.refused("SELECT litestream_serve('127.0.0.1:0')");
    for word in words {
        assert!(error.to_lowercase().contains(word), "{what}: the error does not say '{word}': {error}");
    }
}

#[test]
fn databases_that_cannot_be_served_are_refused_with_advice() {
    let temp = Temp::new();
    not_served(&loaded(":memory:".as_ref()), "a database in memory", &["memory"]);
    not_served(&loaded("".as_ref()), "a temporary database", &["temp"]);
    let shared = "file:shared?mode=memory&cache=shared";
    not_served(&loaded(shared.as_ref()), "a shared database in memory", &["memory"]);
    for mode in ["delete", "truncate", "persist"] {
        let database = temp.path(&format!("{mode}.db"));
        let connection = loaded(&database);
        connection.run(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t(x)"));
        let before = file_bytes(&database);
        not_served(&connection, &format!("journal mode {mode}"), &["journal_mode", "wal"]);
        assert_eq!(connection.ask::<String>("PRAGMA journal_mode"), mode);
        assert!(file_bytes(&database) == before, "the file of a database in mode {mode}");
    }
    let exclusive = loaded(&temp.path("exclusive.db"));
    exclusive.run("PRAGMA locking_mode = exclusive; PRAGMA journal_mode = wal; CREATE TABLE t(x)");
    not_served(&exclusive, "exclusive locking mode", &["locking_mode", "normal"]);
    plain(&temp.path("readonly.db")).run(NEW);
    let readonly = Connection::open_with_flags(temp.path("readonly.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    load(&readonly);
    not_served(&readonly, "a database opened read-only", &["read-only"]);
}

#[test]
fn what_is_served_no_more_is_checkpointed_and_its_wal_restarted_as_before() {
    // Locks are those of a process, and SQLite keeps them when one of several connections closes.
    let temp = Temp::new();
    let path = temp.path("app.db");
    let application = loaded(&path);
    application.run(NEW);
    for round in 0..6 {
        application.ask::<String>("SELECT litestream_serve('127.0.0.1:0')");
        application.run("INSERT INTO t(x) VALUES (zeroblob(9000))");
        if round % 2 == 1 {
            // The tail goes from one hold on the WAL to the other.
            application.run("PRAGMA wal_checkpoint(PASSIVE)");
            let allows = "PRAGMA wal_checkpoint(RESTART)";
            until("the WAL can be restarted", || match stock(&path, allows) {
                seen if seen.starts_with("0|") => Ok(()),
                seen => Err(seen),
            });
            application.run("INSERT INTO t(x) VALUES (zeroblob(9000))");
        }
        application.ask::<String>("SELECT litestream_stop()");
        application.run("INSERT INTO t(x) VALUES (zeroblob(9000))");
        assert_eq!(stock(&path, "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0", "round {round}");
    }
}
