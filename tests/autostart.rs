//! Processes that load the library and call nothing: environment or configuration make primaries and replicas of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use support::*;

/// An address of this machine that nobody listens at.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Puts settings beside a database as a deployment does, before anything is there.
fn deploy(database: &Path, config: &str) {
    let folder = with_suffix(database, "-litestream");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), config).unwrap();
}

/// A shell that serves a database with one row at `address`, by its environment.
fn primary_at(database: &Path, address: &str) -> Shell {
    let mut primary = Shell::told(database, &[("LITESTREAM_ADDR", address)]);
    primary.run("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x); INSERT INTO t(x) VALUES ('one')");
    primary
}

const ROLES: &str = "SELECT group_concat(role, ' ') FROM (SELECT role FROM litestream_status ORDER BY role)";

#[test]
fn an_address_in_the_environment_makes_a_primary_of_a_new_database() {
    let temp = Temp::new();
    let at = free_address();
    let mut primary = primary_at(&temp.path("app.db"), &at);
    assert_eq!(primary.ask("PRAGMA journal_mode"), "wal");
    assert_eq!(primary.ask("SELECT role, url FROM litestream_status"), format!("primary|http://{at}/app.db"));
    let mut replica = following(&temp.path("copy.db"), &format!("http://{at}"));
    assert_eq!(replica.ask("SELECT x FROM t"), "one");
    assert!(primary.quit().success());
    // And again of one that is there.
    let mut primary = primary_at(&temp.path("app.db"), &at);
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT count(*) FROM t"), "2");
}

#[test]
fn an_upstream_in_the_environment_makes_replicas_of_all_databases_by_their_names() {
    let temp = Temp::new();
    let at = free_address();
    let (primaries, copies) = (temp.folder("primaries"), temp.folder("copies"));
    // Two databases of one process at one address.
    let mut primary = primary_at(&primaries.join("app.db"), &at);
    primary.run(".connection 1");
    primary.run(&format!(".open '{}'", primaries.join("users and more.db").display()));
    primary.run(&format!(".load '{}'", library().display()));
    primary.run("CREATE TABLE users(x); INSERT INTO users VALUES ('ann')");
    assert_eq!(primary.ask(ROLES), "primary primary");

    let base = format!("http://{at}");
    let environment = [("LITESTREAM_UPSTREAM", base.as_str())];
    let mut replica = Shell::told(&copies.join("app.db"), &environment);
    assert_eq!(replica.ask("SELECT role, url FROM litestream_status"), format!("replica|http://{at}/app.db"));
    assert_eq!(replica.ask("SELECT x FROM t"), "one");
    let mut users = Shell::told(&copies.join("users and more.db"), &environment);
    assert_eq!(users.ask("SELECT x FROM users"), "ann");
    users.refused("DELETE FROM users");
    primary.run("INSERT INTO users VALUES ('bob')");
    catch_up(&mut primary, &mut users);
    // One that the primary does not have is no empty database.
    let (_shell, error) = Shell::not_loading(&copies.join("orders.db"), &environment);
    assert!(error.contains(&format!("LITESTREAM_UPSTREAM says: http://{at}/orders.db")), "{error}");
}

#[test]
fn both_in_the_environment_make_a_relay() {
    let temp = Temp::new();
    let [origin_at, relay_at] = [free_address(), free_address()];
    let mut origin = primary_at(&temp.path("app.db"), &origin_at);
    let origin_url = format!("http://{origin_at}");
    let mut relay = Shell::told(
        &temp.folder("relay").join("app.db"),
        &[("LITESTREAM_UPSTREAM", &origin_url), ("LITESTREAM_ADDR", &relay_at)],
    );
    assert_eq!(relay.ask(ROLES), "relay replica");
    let relay_url = format!("http://{relay_at}");
    let mut leaf = Shell::told(&temp.folder("leaf").join("app.db"), &[("LITESTREAM_UPSTREAM", &relay_url)]);
    origin.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut origin, &mut leaf);
    assert_eq!(leaf.ask("SELECT group_concat(x) FROM t"), "one,two");
}

#[test]
fn a_replica_that_tells_of_itself_needs_no_call_either() {
    let temp = Temp::new();
    let (_primary, url) = serving(&temp.path("primary.db"));
    let at = free_address();
    let variables =
        [("LITESTREAM_UPSTREAM", url.as_str()), ("LITESTREAM_ADDR", &at), ("LITESTREAM_METRICS_ONLY", "true")];
    let mut replica = Shell::told(&temp.path("replica.db"), &variables);
    assert_eq!(replica.ask(ROLES), "replica");
    replica.run(".connection 1");
    replica.run(&format!(".open '{}'", temp.path("replica.db").display()));
    replica.run(&format!(".load '{}'", library().display()));
    assert!(get(&format!("http://{at}/"), "/metrics", &[]).text().contains("litestream_lag_seconds"));
    replica.run("SELECT litestream_stop()");
    replica.run(&format!(".load '{}'", library().display()));
    assert_eq!(replica.ask(ROLES), "");
    TcpListener::bind(&at).expect("nobody listens there any more");
}

#[test]
fn settings_that_are_there_before_the_database_make_primary_and_replica() {
    let temp = Temp::new();
    let at = free_address();
    let (path, copy) = (temp.path("app.db"), temp.path("copy.db"));
    deploy(&path, &format!("{{\"addr\": \"{at}\", \"token\": [\"a\", \"b\"]}}"));
    deploy(&copy, &format!("{{\"upstream\": \"http://{at}\", \"token\": \"b\", \"wal_limit\": null}}\n"));
    let mut primary = Shell::open(&path);
    primary.run("CREATE TABLE t(x); INSERT INTO t VALUES ('one')");
    let mut replica = Shell::open(&copy);
    assert_eq!(replica.ask("SELECT x FROM t"), "one");
    assert_eq!(replica.ask("SELECT url FROM litestream_status"), format!("http://{at}"), "the only one there");
    assert_eq!(get(&format!("http://{at}/"), "/status.json", &[]).status, 401);
}

#[test]
fn databases_without_a_file_are_left_alone() {
    for name in [":memory:", "", "file:/shared?vfs=memdb"] {
        let variables = [("LITESTREAM_UPSTREAM", "http://127.0.0.1:1"), ("LITESTREAM_ADDR", "127.0.0.1:0")];
        let mut shell = Shell::told(":memory:".as_ref(), &variables);
        shell.run(&format!(".open '{name}'"));
        shell.run(&format!(".load '{}'", library().display()));
        shell.run("CREATE TABLE t(x); INSERT INTO t VALUES (1)");
        assert_eq!(shell.ask("SELECT count(*) FROM litestream_status"), "0", "{name}");
    }
}

#[test]
fn a_database_with_content_that_is_not_in_wal_mode_is_not_loaded_for_and_not_changed() {
    let temp = Temp::new();
    let path = temp.path("app.db");
    stock(&path, "CREATE TABLE t(x); INSERT INTO t VALUES (1)");
    let before = file_bytes(&path);
    let (_shell, error) = Shell::not_loading(&path, &[("LITESTREAM_ADDR", "127.0.0.1:0")]);
    assert!(error.contains("LITESTREAM_ADDR") && error.contains("is not in WAL mode (journal_mode=delete)"), "{error}");
    assert!(file_bytes(&path) == before);
}

#[test]
fn a_new_replica_without_its_upstream_is_not_loaded_for_and_an_old_one_is() {
    let temp = Temp::new();
    let at = free_address();
    let (base, path) = (format!("http://{at}"), temp.folder("copy").join("app.db"));
    let environment = [("LITESTREAM_UPSTREAM", base.as_str())];
    let (shell, error) = Shell::not_loading(&path, &environment);
    assert!(error.contains("LITESTREAM_UPSTREAM") && error.contains(&at), "{error}");
    assert!(shell.quit().code().is_some(), "a process whose load failed is not ended by a signal");
    let primary = primary_at(&temp.path("app.db"), &at);
    assert!(Shell::told(&path, &environment).quit().success());
    assert!(primary.quit().success());
    let mut replica = Shell::told(&path, &environment);
    assert_eq!(replica.ask("SELECT x FROM t"), "one");
    until_gives(&mut replica, "SELECT state FROM litestream_status", "reconnecting");
    let mut primary = primary_at(&temp.path("app.db"), &at);
    until_gives(&mut replica, "SELECT state FROM litestream_status", "streaming");
    catch_up(&mut primary, &mut replica);
}

#[test]
fn a_database_of_its_own_is_not_made_a_replica() {
    let temp = Temp::new();
    let (_primary, url) = serving(&temp.path("primary.db"));
    let path = temp.path("own.db");
    stock(&path, "PRAGMA journal_mode = wal; CREATE TABLE mine(x); INSERT INTO mine VALUES (7)");
    let (_shell, error) = Shell::not_loading(&path, &[("LITESTREAM_UPSTREAM", &url)]);
    assert!(error.contains("overwrite"), "{error}");
    assert_eq!(stock(&path, "SELECT x FROM mine"), "7");
}

#[test]
fn an_address_that_another_process_has_for_another_database_is_an_error() {
    let temp = Temp::new();
    let at = free_address();
    let _primary = primary_at(&temp.path("app.db"), &at);
    let other = temp.path("other.db");
    let (_shell, error) = Shell::not_loading(&other, &[("LITESTREAM_ADDR", &at)]);
    assert!(error.contains("another process with litestream_serve"), "{error}");
    // For the same database it is no error: that is served.
    let mut second = Shell::told(&temp.path("app.db"), &[("LITESTREAM_ADDR", &at)]);
    second.run("INSERT INTO t(x) VALUES ('two')");
    assert_eq!(second.ask("SELECT count(*) FROM litestream_status"), "0");
    // Also for those who only read.
    let name = format!("file:{}?mode=ro", temp.path("app.db").display());
    let mut reader = Shell::told(name.as_ref(), &[("LITESTREAM_ADDR", &at)]);
    assert_eq!(reader.ask("SELECT count(*) FROM t"), "2");
}

#[test]
fn what_was_begun_is_ended_when_the_rest_of_a_load_fails() {
    let temp = Temp::new();
    let (_primary, url) = serving(&temp.path("primary.db"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let replica = temp.path("replica.db");
    let variables = [("LITESTREAM_UPSTREAM", url.as_str()), ("LITESTREAM_ADDR", &address)];
    let (mut shell, error) = Shell::not_loading(&replica, &variables);
    assert!(error.contains("LITESTREAM_ADDR says") && error.contains(&address), "{error}");
    let other = Shell::told(&replica, &variables[..1]);
    assert!(other.quit().success(), "it is free for another process");
    // The library stays, and so a connection that goes on is not sent into nothing.
    drop(taken);
    shell.run(&format!(".load '{}'", library().display()));
    assert_eq!(shell.ask(ROLES), "relay replica");
    assert!(shell.quit().code().is_some(), "and not ended by a signal");
}

#[test]
fn what_a_call_ended_is_not_begun_again_by_the_next_connection() {
    let temp = Temp::new();
    let at = free_address();
    let path = temp.path("app.db");
    let mut primary = primary_at(&path, &at);
    let another = |shell: &mut Shell, n: u32, path: &Path| {
        shell.run(&format!(".connection {n}"));
        shell.run(&format!(".open '{}'", path.display()));
        shell.run(&format!(".load '{}'", library().display()));
    };
    another(&mut primary, 1, &path);
    assert_eq!(primary.ask(ROLES), "primary");
    primary.run("SELECT litestream_stop()");
    another(&mut primary, 2, &path);
    assert_eq!(primary.ask(ROLES), "");
    primary.run("SELECT litestream_serve()");
    assert_eq!(primary.ask("SELECT url FROM litestream_status"), format!("http://{at}/app.db"));

    // A replica that was promoted is followed with no more, and served where it was a relay.
    let (base, relayed, copy) = (format!("http://{at}"), free_address(), temp.folder("copy").join("app.db"));
    let mut relay = Shell::told(&copy, &[("LITESTREAM_UPSTREAM", &base), ("LITESTREAM_ADDR", &relayed)]);
    relay.run("SELECT litestream_promote()");
    another(&mut relay, 1, &copy);
    relay.run("INSERT INTO t(x) VALUES ('own')");
    assert_eq!(relay.ask("SELECT role, url FROM litestream_status"), format!("primary|http://{relayed}/app.db"));
}

#[test]
fn loading_without_settings_opens_one_file_more_and_writes_none() {
    let temp = Temp::new();
    let (path, log) = (temp.path("app.db"), temp.path("calls"));
    stock(&path, NEW);
    let mut command = Command::new("strace");
    command.args(["-f", "-e", "trace=open,openat,creat,mkdir,mkdirat", "-o"]).arg(&log).args(["sqlite3", "-batch"]);
    command.arg(&path).arg(format!(".load '{}'", library().display())).stdin(Stdio::null());
    if !can_trace() {
        println!("left out: processes cannot be traced here");
        return;
    }
    assert!(command.env_remove("LITESTREAM_ADDR").env_remove("LITESTREAM_UPSTREAM").status().unwrap().success());
    let calls = fs::read_to_string(log).unwrap();
    let ours: Vec<&str> = calls.lines().filter(|line| line.contains("-litestream")).collect();
    assert!(matches!(ours[..], [one] if one.contains("config.json") && one.contains("ENOENT")), "{ours:?}");
    let folder: Vec<_> = fs::read_dir(&temp).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(folder.len(), 2, "{folder:?}");
}

#[test]
fn settings_that_cannot_be_read_are_not_passed_over() {
    let temp = Temp::new();
    let path = temp.path("app.db");
    deploy(&path, "{\"addr\": \"127.0.0.1:0\"");
    let (mut shell, error) = Shell::not_loading(&path, &[]);
    assert!(error.contains("config.json is not JSON") && error.contains("mend the file"), "{error}");
    assert!(shell.refused("SELECT litestream_serve('127.0.0.1:0')").contains("config.json is not JSON"));
    assert!(shell.refused("SELECT * FROM litestream_config").contains("config.json is not JSON"));
    deploy(&path, "{\"tls_cert\": \"cert.pem\"}");
    let (_shell, error) = Shell::not_loading(&path, &[]);
    assert!(error.contains("expected the absolute path of a file"), "{error}");
    let file = with_suffix(&path, "-litestream").join("config.json");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&file).is_err() {
        // Not as root, who reads everything.
        let (_shell, error) = Shell::not_loading(&path, &[]);
        assert!(error.contains("config.json cannot be read"), "{error}");
    }
}

/// Runs a Python program in a folder of its own with variables in its environment.
fn python(folder: &Path, program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", program]).arg(library()).args(arguments).current_dir(folder).envs(variables.iter().copied());
    let ended = command.output().expect("Debian's package python3");
    assert!(ended.status.success(), "{}\n{}", ended.status, String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap()
}

const POOL: &str = r#"
import sqlite3, sys, threading

def opened():
    db = sqlite3.connect("app.db", timeout=30, check_same_thread=False)
    db.enable_load_extension(True)
    db.load_extension(sys.argv[1])
    return db

def work():
    try:
        for _ in range(5):
            pool.append(opened())
    except BaseException as error:
        errors.append(error)

pool, errors = [], []
threads = [threading.Thread(target=work) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
if errors:
    raise errors[0]
for db in pool:
    if sys.argv[2] == "write":
        with db:
            db.execute("CREATE TABLE IF NOT EXISTS t(x)")
            db.execute("INSERT INTO t VALUES (1)")
    else:
        assert db.execute("SELECT x FROM t").fetchone() == ("one",)
print(len(pool), *pool[0].execute("SELECT count(*), role FROM litestream_status").fetchone())
"#;

#[test]
fn a_pool_of_connections_finds_running_what_the_first_of_them_began() {
    let temp = Temp::new();
    let (_primary, url) = serving(&temp.path("primary.db"));
    let (one, two) = (temp.folder("one"), temp.folder("two"));
    let at = free_address();
    assert_eq!(python(&one, POOL, &["write"], &[("LITESTREAM_ADDR", &at)]), "30 1 primary\n");
    assert_eq!(stock(&one.join("app.db"), "SELECT count(*) FROM t"), "30");
    assert_eq!(python(&two, POOL, &["read"], &[("LITESTREAM_UPSTREAM", &url)]), "30 1 replica\n");
}

const WORKERS: &str = r#"
import multiprocessing, sqlite3, sys

def work(n, begin, done, results):
    begin.wait()
    db = sqlite3.connect("app.db", timeout=30)
    db.enable_load_extension(True)
    try:
        db.load_extension(sys.argv[1])
        if sys.argv[2] == "write":
            with db:
                db.execute("CREATE TABLE IF NOT EXISTS t(x)")
                db.execute("INSERT INTO t VALUES (1)")
        else:  # all of it is there at once, whoever fetched it
            assert db.execute("SELECT count(*), max(x) FROM t").fetchone() == (1, "one")
        results.put(db.execute("SELECT count(*) FROM litestream_status").fetchone()[0])
    except BaseException as error:
        results.put(repr(error))
        raise
    finally:
        done.wait()

workers = multiprocessing.get_context("fork")
begin, done, results = workers.Event(), workers.Barrier(6), workers.Queue()
started = [workers.Process(target=work, args=(n, begin, done, results)) for n in range(6)]
[worker.start() for worker in started]
begin.set()
print(*sorted(results.get() for _ in started))
[worker.join() for worker in started]
sys.exit(max(worker.exitcode for worker in started))
"#;

#[test]
fn of_many_workers_one_serves_or_follows_and_all_can_work() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    // Enough that it takes a while to fetch.
    primary.run(
        "CREATE TABLE ballast AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
                 SELECT randomblob(4000) FROM n",
    );
    for round in 0..3 {
        let (one, two) = (temp.folder(&format!("one-{round}")), temp.folder(&format!("two-{round}")));
        let at = free_address();
        assert_eq!(python(&one, WORKERS, &["write"], &[("LITESTREAM_ADDR", &at)]), "0 0 0 0 0 1\n");
        assert_eq!(stock(&one.join("app.db"), "SELECT count(*) FROM t"), "6");
        assert_eq!(python(&two, WORKERS, &["read"], &[("LITESTREAM_UPSTREAM", &url)]), "0 0 0 0 0 1\n");
        // What the folder beside it says of a file that is gone is not believed.
        for name in ["app.db", "app.db-wal", "app.db-shm"] {
            let _ = fs::remove_file(two.join(name));
        }
        assert_eq!(python(&two, WORKERS, &["read"], &[("LITESTREAM_UPSTREAM", &url)]), "0 0 0 0 0 1\n");
        let (three, at) = (temp.folder(&format!("three-{round}")), free_address());
        let relay = [("LITESTREAM_UPSTREAM", url.as_str()), ("LITESTREAM_ADDR", &at)];
        assert_eq!(python(&three, WORKERS, &["read"], &relay), "0 0 0 0 0 2\n");
    }
}
