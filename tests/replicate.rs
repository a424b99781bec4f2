//! A primary and its replicas, each a process or a connection as users have them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use support::*;

/// A database in WAL mode with one table, not served yet.
const NEW: &str =
    "PRAGMA journal_mode = wal; CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t(x) VALUES ('one')";

/// A served database in a shell, and its URL.
fn serving(database: &Path) -> (Shell, String) {
    let mut primary = Shell::open(database);
    primary.run(NEW);
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    (primary, url)
}

fn following(database: &Path, url: &str) -> Shell {
    let mut replica = Shell::open(database);
    replica.run(&format!("SELECT litestream_follow('{url}')"));
    replica
}

/// Waits until the replica has what the primary has now.
fn catch_up(primary: &mut Shell, replica: &mut Shell) {
    let position = primary.ask("SELECT litestream_position()");
    assert_eq!(replica.ask(&format!("SELECT litestream_wait('{position}', 60000)")), "1", "waiting for {position}");
}

/// `127.0.0.1:port` of a URL.
fn address(url: &str) -> &str {
    url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap()
}

/// Waits until `sql` gives `wanted`.
fn until_gives(shell: &mut Shell, sql: &str, wanted: &str) {
    until(&format!("{sql} gives {wanted}"), || match shell.ask(sql) {
        seen if seen == wanted => Ok(()),
        seen => Err(seen),
    });
}

#[test]
fn commits_arrive_whichever_sqlite_is_on_either_end() {
    for (primary_kind, replica_kind) in [
        (Kind::Shell, Kind::Shell),
        (Kind::Shell, Kind::Rusqlite),
        (Kind::Rusqlite, Kind::Shell),
        (Kind::Rusqlite, Kind::Rusqlite),
    ] {
        let temp = Temp::new();
        let mut primary = End::open(primary_kind, &temp.path("primary.db"));
        primary.ask(NEW);
        let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
        let mut replica = End::open(replica_kind, &temp.path("replica.db"));
        let reached = replica.ask(&format!("SELECT litestream_follow('{url}')"));
        assert_eq!(reached, primary.ask("SELECT litestream_position()"), "{primary_kind:?} to {replica_kind:?}");
        let mut reader = Shell::stock(&temp.path("replica.db"));
        for n in 2..=20 {
            primary.ask(&format!("INSERT INTO t(x) VALUES ('row {n}'); UPDATE t SET x = x || '.' WHERE id = 1"));
            let position = primary.ask("SELECT litestream_position()");
            assert_eq!(replica.ask(&format!("SELECT litestream_wait('{position}', 60000)")), "1");
            assert_eq!(reader.ask("SELECT count(*), max(id) FROM t"), format!("{n}|{n}"));
            assert_eq!(replica.ask("SELECT litestream_position()"), position);
        }
        primary.ask("CREATE TABLE u AS SELECT * FROM t; DROP TABLE t; ALTER TABLE u ADD COLUMN y DEFAULT 7");
        let position = primary.ask("SELECT litestream_position()");
        assert_eq!(replica.ask(&format!("SELECT litestream_wait('{position}', 60000)")), "1");
        assert_eq!(reader.ask("SELECT count(*), sum(y) FROM u"), "20|140", "a changed schema");
        let error = replica.refused("INSERT INTO u(x) VALUES ('local')");
        assert!(error.contains("attempt to write a readonly database"), "{error}");
        assert!(reader.refused("DELETE FROM u").contains("attempt to write a readonly database"));
        assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    }
}

#[test]
fn a_replica_starts_from_a_missing_or_an_empty_file() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    std::fs::write(temp.path("empty.db"), b"").unwrap();
    for name in ["missing.db", "empty.db"] {
        for call in ["pull", "follow"] {
            let database = temp.folder(call).join(name);
            if name == "empty.db" {
                std::fs::write(&database, b"").unwrap();
            }
            let mut replica = Shell::open(&database);
            let position = replica.ask(&format!("SELECT litestream_{call}('{url}')"));
            assert_eq!(position, primary.ask("SELECT litestream_position()"));
            assert_eq!(replica.ask("SELECT x FROM t"), "one");
            assert_eq!(replica.ask("PRAGMA journal_mode"), "wal");
            assert_eq!(stock(&database, "PRAGMA integrity_check"), "ok");
            assert!(is_marked(&database));
            assert_same_pages(&temp.path("primary.db"), &database);
        }
    }
}

#[test]
fn every_page_size_is_replicated() {
    for page_size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let temp = Temp::new();
        let mut primary = Shell::open(&temp.path("primary.db"));
        primary.run(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal; {}",
            bank::create(20, page_size)
        ));
        let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
        let mut replica = following(&temp.path("replica.db"), &url);
        for step in 0..10 {
            primary.run(&bank::step(step, 20));
        }
        catch_up(&mut primary, &mut replica);
        bank::Witness::default().see(&replica.ask(&bank::judge("integrity_check")));
        assert_eq!(replica.ask("PRAGMA page_size"), page_size.to_string());
        assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    }
}

#[test]
fn a_database_and_a_transaction_larger_than_every_buffer_arrive_whole() {
    let temp = Temp::new();
    let mut primary = Shell::open(&temp.path("primary.db"));
    primary.run(&format!("PRAGMA journal_mode = wal; {}", bank::create(12_000, 4096)));
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    let mut replica = following(&temp.path("replica.db"), &url);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    primary.run("UPDATE ballast SET bytes = randomblob(3000)");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("PRAGMA integrity_check"), "ok");
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    primary.run("DELETE FROM ballast WHERE id > 100; VACUUM");
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
}

#[test]
fn a_replica_goes_on_from_where_it_was() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let replica = temp.path("replica.db");
    for n in 2..6 {
        let position = primary.ask("SELECT litestream_position()");
        let mut shell = Shell::open(&replica);
        assert_eq!(shell.ask(&format!("SELECT litestream_pull('{url}')")), position);
        assert_eq!(shell.ask(&format!("SELECT litestream_pull('{url}')")), position, "nothing new");
        assert_eq!(shell.ask("SELECT count(*) FROM t"), (n - 1).to_string());
        assert!(shell.quit().success());
        assert_same_pages(&temp.path("primary.db"), &replica);
        primary.run(&format!("INSERT INTO t(x) VALUES ({n})"));
    }
    let mut shell = following(&replica, &url);
    assert_eq!(shell.ask("SELECT count(*) FROM t"), "5", "following goes on from what was pulled");
    assert_eq!(shell.ask("SELECT litestream_stop()"), format!("followed {url}"));
    primary.run("INSERT INTO t(x) VALUES (6)");
    assert_eq!(shell.ask(&format!("SELECT litestream_pull('{url}')")), primary.ask("SELECT litestream_position()"));
    assert_eq!(shell.ask("SELECT count(*) FROM t"), "6", "pulling goes on from what was followed");
}

#[test]
fn a_replica_asks_for_what_follows_its_position() {
    let temp = Temp::new();
    let (_primary, url) = serving(&temp.path("primary.db"));
    let mut replica = Shell::open(&temp.path("replica.db"));
    let position = replica.ask(&format!("SELECT litestream_pull('{url}')"));
    let silent = Upstream::start(|_, reply| reply.text("503 Service Unavailable", "text/plain", "not today\n"));
    let error = replica.refused(&format!("SELECT litestream_pull('{}/primary.db')", silent.url()));
    assert!(error.contains("not today"), "{error}");
    let (generation, rest) = position.split_once('/').unwrap();
    let (index, offset) = rest.split_once(':').unwrap();
    let asked = silent.requests().first().unwrap().clone();
    for part in ["path=primary.db", &format!("generation={generation}"), "index=", "offset="] {
        assert!(asked.line.contains(part), "{part} is not in {}", asked.line);
    }
    let number = |name: &str| {
        let value = asked.line.split(['?', '&']).find_map(|pair| pair.strip_prefix(name)).unwrap();
        u64::from_str_radix(value, 16).unwrap()
    };
    assert_eq!(number("index="), u64::from_str_radix(index, 16).unwrap());
    assert_eq!(number("offset="), u64::from_str_radix(offset, 16).unwrap());
    assert_eq!(asked.header("Litestream-Stream-Version"), Some("2"));
}

#[test]
fn a_database_with_content_of_its_own_is_not_overwritten_unless_asked_for() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    for mode in ["wal", "delete"] {
        for call in ["pull", "follow"] {
            let database = temp.path(&format!("{mode}-{call}.db"));
            stock(
                &database,
                &format!("PRAGMA journal_mode = {mode}; CREATE TABLE mine(x); INSERT INTO mine VALUES (7)"),
            );
            let before = file_bytes(&database);
            let mut shell = Shell::open(&database);
            let error = shell.refused(&format!("SELECT litestream_{call}('{url}')"));
            assert!(error.contains("overwrite"), "{call} into a database in mode {mode}: {error}");
            assert!(file_bytes(&database) == before, "{call} into a database in mode {mode} changed the file");
            assert_eq!(shell.ask("SELECT x FROM mine"), "7");
            shell.run("INSERT INTO mine VALUES (8)");
        }
    }
    for call in ["pull", "follow"] {
        let database = temp.path(&format!("wal-{call}.db"));
        let mut shell = Shell::open(&database);
        let position = shell.ask(&format!("SELECT litestream_{call}('{url}', '{{\"overwrite\": true}}')"));
        assert_eq!(position, primary.ask("SELECT litestream_position()"));
        assert_eq!(shell.ask("SELECT name FROM sqlite_schema"), "t");
        assert_same_pages(&temp.path("primary.db"), &database);
    }
}

#[test]
fn a_replica_of_another_database_is_not_overwritten_unless_asked_for() {
    let temp = Temp::new();
    let (_first, url) = serving(&temp.path("first.db"));
    let (mut second, other_url) = serving(&temp.path("second.db"));
    second.run("INSERT INTO t(x) VALUES ('second')");
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_pull('{url}')"));
    let error = replica.refused(&format!("SELECT litestream_pull('{other_url}')"));
    assert!(error.contains("overwrite"), "{error}");
    assert_same_pages(&temp.path("first.db"), &temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_pull('{other_url}', '{{\"overwrite\": true}}')"));
    assert_same_pages(&temp.path("second.db"), &temp.path("replica.db"));
}

#[test]
fn a_writable_replica_takes_local_writes() {
    let temp = Temp::new();
    let (_primary, url) = serving(&temp.path("primary.db"));
    let database = temp.path("replica.db");
    let mut replica = Shell::open(&database);
    replica.run(&format!("SELECT litestream_pull('{url}', '{{\"writable\": true}}')"));
    assert!(!is_marked(&database));
    replica.run("INSERT INTO t(x) VALUES ('local')");
    assert_eq!(stock(&database, "SELECT count(*) FROM t"), "2");
}

#[test]
fn a_writable_replica_stays_writable_while_commits_arrive() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{url}', '{{\"writable\": true}}')"));
    primary.run("CREATE TABLE u(x)");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT name FROM sqlite_schema WHERE name = 'u'"), "u");
    assert!(!is_marked(&temp.path("replica.db")), "a commit with page 1 does not mark it");
}

#[test]
fn promoting_ends_following_and_makes_the_replica_a_database_of_its_own() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let database = temp.path("replica.db");
    let mut replica = following(&database, &url);
    let position = primary.ask("SELECT litestream_position()");
    assert!(Shell::stock(&database).refused("INSERT INTO t(x) VALUES ('two')").contains("readonly"));
    assert_eq!(replica.ask("SELECT litestream_promote()"), position);
    assert!(!is_marked(&database));
    assert_eq!(replica.ask("SELECT count(*) FROM litestream_status WHERE role = 'replica'"), "0");
    stock(&database, "INSERT INTO t(x) VALUES ('two')");
    primary.run("INSERT INTO t(x) VALUES ('only there')");
    assert_eq!(replica.ask("SELECT group_concat(x) FROM t"), "one,two");
    assert!(!temp.path("replica.db-litestream/upstream").exists(), "the upstream is forgotten");
    let error = replica.refused(&format!("SELECT litestream_follow('{url}')"));
    assert!(error.contains("overwrite"), "{error}");
    // It can be a primary now.
    let own_url = replica.ask("SELECT litestream_serve('127.0.0.1:0')");
    let mut second = following(&temp.path("second.db"), &own_url);
    assert_eq!(second.ask("SELECT group_concat(x) FROM t"), "one,two");
}

#[test]
fn promoting_what_is_no_replica_is_refused() {
    let temp = Temp::new();
    let (mut primary, _) = serving(&temp.path("primary.db"));
    primary.refused("SELECT litestream_promote()");
    let mut plain = Shell::open(&temp.path("plain.db"));
    plain.run(NEW);
    plain.refused("SELECT litestream_promote()");
    assert_eq!(plain.ask("SELECT x FROM t"), "one");
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
fn stopping_does_not_wait_for_an_upstream_that_is_silent() {
    let temp = Temp::new();
    let source = temp.path("source.db");
    stock(&source, NEW);
    let snapshot = stream::encode(&stream::everything(stream::At(1, 0, 32), &file_bytes(&source), 4096));
    let upstream = Upstream::start(move |_, reply| {
        reply.stream_v2(4096);
        reply.send(&snapshot);
        reply.hold();
    });
    let mut replica = Shell::open(&temp.path("replica.db"));
    // The time after which it counts as dead is far beyond what this test waits for an answer of the shell.
    let options = "{\"timeout_ms\": 3600000}";
    replica.run(&format!("SELECT litestream_follow('{}', '{options}')", upstream.url()));
    assert_eq!(replica.ask("SELECT litestream_stop()"), format!("followed {}", upstream.url()));
    replica.run(&format!("SELECT litestream_follow('{}', '{options}')", upstream.url()));
    assert!(replica.quit().success(), "and a process ends");
}

#[test]
fn stopping_does_not_wait_for_an_upstream_that_never_answers() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{url}', '{{\"timeout_ms\": 3600000}}')"));
    primary.run("SELECT litestream_stop()");
    let listener = std::net::TcpListener::bind(address(&url)).unwrap();
    let (_connection, _) = listener.accept().unwrap();
    assert_eq!(replica.ask("SELECT litestream_stop()"), format!("followed {url}"));
}

#[test]
fn positions_are_the_same_on_both_ends_and_move_with_commits_of_any_process() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&temp.path("replica.db"), &url);
    let first = primary.ask("SELECT litestream_position()");
    assert_eq!(replica.ask("SELECT litestream_position()"), first);
    stock(&temp.path("primary.db"), "INSERT INTO t(x) VALUES ('by another process')");
    let second = primary.ask("SELECT litestream_position()");
    assert!(second > first, "{second} after {first}");
    assert_eq!(second.split('/').next(), first.split('/').next(), "the generation stays");
    assert_eq!(replica.ask(&format!("SELECT litestream_wait('{second}', 60000)")), "1");
    assert_eq!(replica.ask("SELECT litestream_position()"), second);
    assert_eq!(replica.ask(&format!("SELECT litestream_wait('{first}')")), "1", "what is past is reached");
    let plain = Shell::open(&temp.path("plain.db")).ask("SELECT litestream_position() IS NULL");
    assert_eq!(plain, "1", "neither served nor a replica");
    let reopened = Shell::open(&temp.path("replica.db")).ask("SELECT litestream_position()");
    assert_eq!(reopened, second, "as another process knows it");
}

#[test]
fn waiting_ends_in_time_for_what_does_not_come() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&temp.path("replica.db"), &url);
    let position = primary.ask("SELECT litestream_position()");
    let future = format!("{}:00000000ffffffff", position.split(':').next().unwrap());
    assert_eq!(replica.ask(&format!("SELECT litestream_wait('{future}', 50)")), "0");
    assert_eq!(replica.ask(&format!("SELECT litestream_wait('{future}', 0)")), "0");
    let other = format!("0123456789abcdef{}", &position[16..]);
    let error = replica.refused(&format!("SELECT litestream_wait('{other}', 50)"));
    assert!(error.contains("generation"), "{error}");
}

#[test]
fn waiting_is_woken_by_the_commit_that_arrives() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&temp.path("replica.db"), &url);
    primary.run("BEGIN IMMEDIATE; INSERT INTO t(x) VALUES ('two')");
    let position = primary.ask("SELECT litestream_position()");
    let (start, offset) = position.split_once(':').unwrap();
    // One frame of the WAL further on.
    let next = format!("{start}:{:016x}", u64::from_str_radix(offset, 16).unwrap() + 24 + 4096);
    replica.send(&format!("SELECT litestream_wait('{next}', 100000)"));
    primary.run("COMMIT");
    assert_eq!(primary.ask("SELECT litestream_position()"), next);
    assert_eq!(replica.receive().unwrap(), "1");
    assert_eq!(replica.ask("SELECT count(*) FROM t"), "2");
}

#[test]
fn the_lag_is_small_while_following_and_grows_when_the_primary_is_silent() {
    let temp = Temp::new();
    let (mut primary, _) = serving(&temp.path("primary.db"));
    primary.run("SELECT litestream_stop()");
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0', '{\"heartbeat_ms\": 50}')");
    assert_eq!(primary.ask("SELECT litestream_lag() IS NULL"), "1", "of a primary");
    let mut replica = following(&temp.path("replica.db"), &url);
    assert_eq!(replica.ask("SELECT typeof(litestream_lag()), litestream_lag() >= 0"), "real|1");
    signal(primary.pid(), Signal::Stop);
    until_gives(&mut replica, "SELECT litestream_lag() > 1", "1");
    assert_eq!(replica.ask("SELECT lag > 1 FROM litestream_status"), "1");
    signal(primary.pid(), Signal::Continue);
    until_gives(&mut replica, "SELECT litestream_lag() < 1", "1");
    replica.run("SELECT litestream_stop()");
    assert_eq!(replica.ask("SELECT litestream_lag() IS NULL"), "1", "of what is not followed");
}

#[test]
fn the_status_tells_what_runs() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&temp.path("replica.db"), &url);
    let columns = "database, role, state, url, position";
    let position = primary.ask("SELECT litestream_position()");
    assert_eq!(
        primary.ask(&format!("SELECT {columns}, replicas, wal_bytes, sqlite_version FROM litestream_status")),
        format!(
            "{}|primary|serving|{url}|{position}|1|{}|{}",
            temp.path("primary.db").display(),
            u64::from_str_radix(position.split(':').nth(1).unwrap(), 16).unwrap(),
            primary.ask("SELECT sqlite_version()")
        )
    );
    until_gives(&mut replica, "SELECT state FROM litestream_status", "streaming");
    assert_eq!(
        replica.ask(&format!("SELECT {columns}, reconnects, last_error IS NULL FROM litestream_status")),
        format!("{}|replica|streaming|{url}|{position}|0|1", temp.path("replica.db").display())
    );
    let counts =
        "SELECT commits FROM litestream_status UNION ALL SELECT pages > 0 AND bytes > 0 FROM litestream_status";
    let before: i64 = primary.ask(counts).lines().next().unwrap().parse().unwrap();
    for n in 0..5 {
        primary.run(&format!("INSERT INTO t(x) VALUES ({n})"));
    }
    catch_up(&mut primary, &mut replica);
    assert_eq!(primary.ask(counts), format!("{}\n1", before + 5), "commits seen");
    assert_eq!(replica.ask("SELECT position = litestream_position() FROM litestream_status"), "1");
}

#[test]
fn the_primary_lists_its_replicas() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    assert_eq!(primary.ask("SELECT count(*) FROM litestream_replicas"), "0");
    let mut first = following(&temp.path("first.db"), &url);
    let mut second = following(&temp.path("second.db"), &url);
    let live = "SELECT count(*), count(DISTINCT client), min(version), max(version)
                FROM litestream_replicas WHERE state = 'live' AND position = litestream_position()";
    until_gives(&mut primary, live, "2|2|2|2");
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut first);
    catch_up(&mut primary, &mut second);
    until_gives(&mut primary, live, "2|2|2|2");
    let row = primary.ask(
        "SELECT DISTINCT database, client GLOB '127.0.0.1:*', commits >= 1, pages > 0, bytes > 4096, seconds >= 0 FROM litestream_replicas",
    );
    assert_eq!(row, format!("{}|1|1|1|1|1", temp.path("primary.db").display()));
    first.kill();
    until_gives(&mut primary, "SELECT count(*) FROM litestream_replicas", "1");
    assert_eq!(primary.ask("SELECT replicas FROM litestream_status"), "1");
    second.run("SELECT litestream_stop()");
    until_gives(&mut primary, "SELECT count(*) FROM litestream_replicas", "0");
}

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
fn serving_a_database_that_is_served_is_refused() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let error = primary.refused("SELECT litestream_serve('127.0.0.1:0')");
    assert!(error.contains(&url), "in the same connection: {error}");
    let mut other = Shell::open(&temp.path("primary.db"));
    let error = other.refused("SELECT litestream_serve('127.0.0.1:0')");
    assert!(error.contains("process"), "in another process: {error}");
    let first = loaded(&temp.path("second.db"));
    first.run(NEW);
    let url: String = first.ask("SELECT litestream_serve('127.0.0.1:0')");
    let error = loaded(&temp.path("second.db")).refused("SELECT litestream_serve('127.0.0.1:0')");
    assert!(error.contains(&url), "in another connection: {error}");
    assert_eq!(get(&url, "/healthz", &[]).status, 200, "what was served still is");
}

#[test]
fn a_replica_is_fed_by_one_process_at_a_time() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&temp.path("replica.db"), &url);
    let mut other = Shell::open(&temp.path("replica.db"));
    for call in ["follow", "pull"] {
        let error = other.refused(&format!("SELECT litestream_{call}('{url}')"));
        assert!(error.contains("process"), "{call}: {error}");
    }
    replica.refused(&format!("SELECT litestream_follow('{url}')"));
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    replica.kill();
    other.run(&format!("SELECT litestream_follow('{url}')"));
    assert_eq!(other.ask("SELECT count(*) FROM t"), "2");
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
    primary.run(&format!("SELECT litestream_serve('{address}')"));
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
fn databases_that_cannot_be_replicas_are_refused_with_advice() {
    let temp = Temp::new();
    let (_primary, url) = serving(&temp.path("primary.db"));
    let refused = |connection: &Connection, what: &str, word: &str| {
        for call in ["pull", "follow"] {
            let error = connection.refused(&format!("SELECT litestream_{call}('{url}')"));
            assert!(error.to_lowercase().contains(word), "{call} into {what}: {error}");
        }
    };
    refused(&loaded(":memory:".as_ref()), "a database in memory", "memory");
    refused(&loaded("".as_ref()), "a temporary database", "temp");
    let inside = loaded(&temp.path("inside.db"));
    inside.run("BEGIN IMMEDIATE");
    refused(&inside, "a database with a transaction open", "transaction");
    inside.run("ROLLBACK");
    inside.ask::<String>(&format!("SELECT litestream_pull('{url}')"));
}

#[test]
fn following_goes_on_when_the_primary_was_killed_and_is_back() {
    let temp = Temp::new();
    let (primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&temp.path("replica.db"), &url);
    primary.kill();
    until_gives(&mut replica, "SELECT state FROM litestream_status", "reconnecting");
    assert_eq!(replica.ask("SELECT reason <> '' AND last_error <> '' FROM litestream_status"), "1");
    assert_eq!(replica.ask("SELECT x FROM t"), "one", "what was there stays readable");
    let mut primary = Shell::open(&temp.path("primary.db"));
    primary.run("INSERT INTO t(x) VALUES ('while nobody served')");
    primary.run(&format!("SELECT litestream_serve('{}')", address(&url)));
    primary.run("INSERT INTO t(x) VALUES ('again')");
    until_gives(&mut replica, "SELECT count(*) FROM t", "3");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT state, reconnects >= 1 FROM litestream_status"), "streaming|1");
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
}

#[test]
fn a_primary_that_hangs_is_noticed_by_its_silence() {
    let temp = Temp::new();
    let mut primary = Shell::open(&temp.path("primary.db"));
    primary.run(NEW);
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0', '{\"heartbeat_ms\": 100}')");
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{url}', '{{\"timeout_ms\": 1000}}')"));
    until_gives(&mut replica, "SELECT state FROM litestream_status", "streaming");
    signal(primary.pid(), Signal::Stop);
    until_gives(&mut replica, "SELECT state FROM litestream_status", "reconnecting");
    assert_eq!(replica.ask("SELECT x FROM t"), "one");
    signal(primary.pid(), Signal::Continue);
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    until_gives(&mut replica, "SELECT state FROM litestream_status", "streaming");
    assert_eq!(replica.ask("SELECT count(*) FROM t"), "2");
}

#[test]
fn heartbeats_keep_an_idle_stream_alive() {
    let temp = Temp::new();
    let mut primary = Shell::open(&temp.path("primary.db"));
    primary.run(NEW);
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0', '{\"heartbeat_ms\": 20}')");
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{url}', '{{\"timeout_ms\": 1000}}')"));
    until_gives(&mut primary, "SELECT seconds > 3 FROM litestream_replicas", "1");
    assert_eq!(replica.ask("SELECT state, reconnects FROM litestream_status"), "streaming|0");
}

#[test]
fn a_replica_that_was_killed_goes_on() {
    let temp = Temp::new();
    let mut primary = Shell::open(&temp.path("primary.db"));
    primary.run(&format!("PRAGMA journal_mode = wal; {}", bank::create(300, 4096)));
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    for round in 0..8u64 {
        let replica = following(&temp.path("replica.db"), &url);
        for step in 0..20 {
            primary.run(&bank::step(round * 20 + step, 300));
        }
        // In the middle of what arrives.
        replica.kill();
        let mut witness = bank::Witness::default();
        witness.see(&stock(&temp.path("replica.db"), &bank::judge("integrity_check")));
    }
    let mut replica = following(&temp.path("replica.db"), &url);
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
}

#[test]
fn a_replica_follows_a_primary_that_began_a_new_history() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&temp.path("replica.db"), &url);
    let old = replica.ask("SELECT litestream_position()");
    primary.run("SELECT litestream_stop()");
    primary.run("INSERT INTO t(x) VALUES ('two')");
    std::fs::remove_dir_all(temp.path("primary.db-litestream")).unwrap();
    primary.run(&format!("SELECT litestream_serve('{}')", address(&url)));
    until_gives(&mut replica, "SELECT count(*) FROM t", "2");
    catch_up(&mut primary, &mut replica);
    let new = replica.ask("SELECT litestream_position()");
    assert_ne!(new[..16], old[..16], "the generation");
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
}

#[test]
fn the_sidecar_tells_people_and_programs_where_a_database_stands() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&temp.path("replica.db"), &url);
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    let position = primary.ask("SELECT litestream_position()");
    replica.run("SELECT litestream_stop()");
    let read = |name: &str| std::fs::read_to_string(temp.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(read("replica.db-litestream/position"), format!("{position}\n"));
    assert_eq!(read("replica.db-litestream/upstream"), format!("{url}\n"));
    until("the sidecar of the primary tells its position", || match read("primary.db-litestream/position") {
        seen if seen == format!("{position}\n") => Ok(()),
        seen => Err(seen),
    });
    assert!(!temp.path("primary.db-litestream/upstream").exists());
}

#[test]
fn names_with_spaces_percent_signs_and_other_scripts_work() {
    let temp = Temp::new();
    for name in ["with space.db", "100%25 & more?#+.db", "данные-数据.db", "quote'd \"x\".db"] {
        let folder = temp.folder("odd % folder ü");
        let database: PathBuf = folder.join(name);
        let primary = loaded(&database);
        primary.run(NEW);
        let url: String = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
        assert!(url.is_ascii() && !url.contains([' ', '"', '#', '?']), "{url}");
        let path = folder.join(format!("replica of {name}"));
        let replica = loaded(&path);
        replica.query_row("SELECT litestream_follow(?1)", [&url], |_| Ok(())).unwrap();
        assert_eq!(replica.ask::<String>("SELECT x FROM t"), "one");
        let absolute = format!("http://{}/?path={}", address(&url), percent(&database.display().to_string()));
        let second = loaded(&folder.join(format!("second replica of {name}")));
        second.query_row("SELECT litestream_pull(?1)", [&absolute], |_| Ok(())).unwrap();
        assert_eq!(second.ask::<String>("SELECT x FROM t"), "one");
        primary.ask::<String>("SELECT litestream_stop()");
        replica.ask::<String>("SELECT litestream_stop()");
    }
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn a_schema_other_than_main_is_served_and_followed() {
    let temp = Temp::new();
    let mut primary = Shell::open(":memory:".as_ref());
    primary.run(&format!("ATTACH '{}' AS side; PRAGMA side.journal_mode = wal", temp.path("side.db").display()));
    primary.run("CREATE TABLE side.t(x); INSERT INTO side.t VALUES (1)");
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0', '{\"schema\": \"side\"}')");
    let mut replica = Shell::open(":memory:".as_ref());
    replica.run(&format!("ATTACH '{}' AS copy", temp.path("copy.db").display()));
    replica.run(&format!("SELECT litestream_follow('{url}', '{{\"schema\": \"copy\"}}')"));
    assert_eq!(replica.ask("SELECT x FROM copy.t"), "1");
    primary.run("INSERT INTO side.t VALUES (2)");
    until_gives(&mut replica, "SELECT count(*) FROM copy.t", "2");
    assert_same_pages(&temp.path("side.db"), &temp.path("copy.db"));
}

#[test]
fn several_replicas_get_the_same() {
    let temp = Temp::new();
    let mut primary = Shell::open(&temp.path("primary.db"));
    primary.run(&format!("PRAGMA journal_mode = wal; {}", bank::create(100, 4096)));
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    let mut replicas = Vec::new();
    // They come while the primary writes.
    for n in 0..5u64 {
        for step in 0..20 {
            primary.run(&bank::step(n * 20 + step, 50));
        }
        replicas.push(following(&temp.path(&format!("replica-{n}.db")), &url));
    }
    primary.run("VACUUM");
    for (n, replica) in replicas.iter_mut().enumerate() {
        catch_up(&mut primary, replica);
        assert_same_pages(&temp.path("primary.db"), &temp.path(&format!("replica-{n}.db")));
    }
}
