//! Whose a database is: what may be overwritten, who may write to it, who may feed it, and how a replica becomes a
//! database of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use rusqlite::Connection;
use support::*;

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
fn a_replica_is_fed_by_one_process_at_a_time() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&temp.path("replica.db"), &url);
    let mut other = Shell::open(&temp.path("replica.db"));
    for call in ["follow", "pull"] {
        let error = other.refused(&format!("SELECT litestream_{call}('{url}')"));
        assert!(error.contains("process"), "{call}: {error}");
    }
    replica.refused(&format!("SELECT litestream_pull('{url}')"));
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    replica.kill();
    other.run(&format!("SELECT litestream_follow('{url}')"));
    assert_eq!(other.ask("SELECT count(*) FROM t"), "2");
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
fn a_local_write_to_a_followed_replica_is_noticed_and_undone() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{url}', '{{\"writable\": true}}')"));
    stock(&temp.path("replica.db"), "INSERT INTO t(x) VALUES ('local'); CREATE TABLE mine(x)");
    primary.run("INSERT INTO t(x) VALUES ('two')");
    let healed = "SELECT heals = 1 AND healed LIKE '%written to by somebody else%' FROM litestream_status";
    until_gives(&mut replica, healed, "1");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT group_concat(x) FROM t"), "one,two");
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
}

#[test]
fn a_local_write_between_two_pulls_is_undone() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = Shell::open(&temp.path("replica.db"));
    let pull = format!("SELECT litestream_pull('{url}', '{{\"writable\": true}}')");
    replica.run(&pull);
    stock(&temp.path("replica.db"), "INSERT INTO t(x) VALUES ('local'); CREATE TABLE mine(x)");
    primary.run("INSERT INTO t(x) VALUES ('two')");
    assert_eq!(replica.ask(&pull), primary.ask("SELECT litestream_position()"));
    assert_eq!(replica.ask("PRAGMA integrity_check; SELECT group_concat(x) FROM t"), "ok\none,two");
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
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
fn readers_of_an_old_primary_see_the_tables_of_the_new_one_though_both_changed_the_schema_as_often() {
    let temp = Temp::new();
    let (mut first, url) = serving(&temp.path("first.db"));
    let second_path = temp.path("second.db");
    let mut second = following(&second_path, &url);
    catch_up(&mut first, &mut second);
    second.run("SELECT litestream_promote()");
    first.run("CREATE TABLE lost(a); CREATE INDEX also_lost ON t(x)");
    let mut reader = Shell::stock(&temp.path("first.db"));
    assert_eq!(reader.ask("SELECT count(*) FROM lost"), "0", "the reader knows the old schema");
    stock(&second_path, "CREATE TABLE new(b); CREATE INDEX also_new ON new(b); INSERT INTO new VALUES (1)");
    let url = second.ask("SELECT litestream_serve('127.0.0.1:0')");
    first.run("SELECT litestream_stop()");
    first.run(&format!("SELECT litestream_follow('{url}', '{{\"overwrite\": true}}')"));
    assert_eq!(reader.ask("SELECT b FROM new; PRAGMA quick_check"), "1\nok");
    assert!(reader.refused("SELECT count(*) FROM lost").contains("no such table"));
}

#[test]
fn a_replica_stays_one_when_the_first_attempt_to_make_it_died() {
    let mut victim = Victim::empty(4096);
    let whole = stream::encode(&stream::everything(FIRST, &database(4096, 20), 4096));
    victim.refuses("a stream that is cut", Answer::V2Cut(whole[..whole.len() / 2].to_vec()));
    victim.says(Answer::V2(whole));
    let pull = victim.pull();
    assert_eq!(victim.shell.ask(&pull), FIRST.to_string());
    assert_eq!(victim.shell.ask(&pull), FIRST.to_string(), "it is known whose replica it is");
    assert_eq!(
        std::fs::read_to_string(victim.temp.path("replica.db-litestream/upstream")).unwrap().trim(),
        victim.url()
    );
}

#[test]
fn a_database_made_in_place_of_a_replica_that_was_never_finished_is_the_applications() {
    let temp = Temp::new();
    let path = temp.path("app.db");
    let bytes = database(4096, 20);
    let upstream = Upstream::start(move |request, reply| {
        reply.stream_v2(4096);
        let records = stream::everything(FIRST, &bytes, 4096);
        let (last, others) = records.split_last().unwrap();
        others.iter().for_each(|record| reply.send(&record.encode()));
        // Whoever has something already has it compared.
        if request.line.starts_with("POST") {
            reply.send(&last.encode());
        }
        reply.hold();
    });
    let pull = format!("SELECT litestream_pull('{}/app.db')", upstream.url());
    let mut first = Shell::open(&path);
    first.send(&pull);
    until("pages are in the file", || if file_bytes(&path).len() > 8192 { Ok(()) } else { Err("not yet") });
    first.kill();
    std::fs::remove_file(&path).unwrap();
    stock(&path, NEW);
    let mut second = Shell::open(&path);
    let error = second.refused(&pull);
    assert!(error.contains("has content") && error.contains("overwrite"), "{error}");
    // As if it had been killed an instant before the file was finished.
    std::fs::write(temp.path("app.db-litestream/upstream"), format!("{}/app.db\n", upstream.url())).unwrap();
    let error = second.refused(&pull);
    assert!(error.contains("no read-only mark") && error.contains("overwrite"), "{error}");
    assert_eq!(stock(&path, "SELECT x FROM t"), "one");
}
