//! What the two ends say of themselves: positions, the lag, the status tables, the sidecar folder.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::stream::At;
use support::*;

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
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT litestream_position()"), second);
    assert_eq!(replica.ask(&format!("SELECT litestream_wait('{first}')")), "1", "what is past is reached");
    let plain = Shell::open(&temp.path("plain.db")).ask("SELECT litestream_position() IS NULL");
    assert_eq!(plain, "1", "neither served nor a replica");
    // Another process knows it as soon as what it speaks of is durable.
    until_gives(&mut Shell::open(&temp.path("replica.db")), "SELECT litestream_position()", &second);
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
    let (mut primary, url) = serving_with(&temp.path("primary.db"), "{\"heartbeat_ms\": 50}");
    assert_eq!(primary.ask("SELECT litestream_lag() IS NULL"), "1", "of a primary");
    let mut replica = following(&temp.path("replica.db"), &url);
    assert_eq!(replica.ask("SELECT typeof(litestream_lag()), litestream_lag() >= 0"), "real|1");
    signal(primary.pid(), Signal::Stop);
    until_gives(&mut replica, "SELECT litestream_lag() > 1", "1");
    // What was sent before may still have come.
    until_gives(&mut replica, "SELECT lag > 1 FROM litestream_status", "1");
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
fn the_sidecar_tells_people_and_programs_where_a_database_stands() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&temp.path("replica.db"), &url);
    primary.run("INSERT INTO t(x) VALUES ('two')");
    let position = catch_up(&mut primary, &mut replica);
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
fn a_replica_never_claims_a_position_that_only_a_heartbeat_named() {
    let bytes = database(4096, 20);
    let turned = At(FIRST.0, FIRST.1 | 1 << 40, FIRST.2);
    for garbled in [turned, At(FIRST.0 ^ 1, FIRST.1, FIRST.2), At(FIRST.0, FIRST.1, FIRST.2 + 4120)] {
        let mut records = stream::everything(FIRST, &bytes, 4096);
        records.push(stream::heartbeat(FIRST));
        records.push(stream::heartbeat(garbled));
        let bytes = stream::encode(&records);
        let upstream = Upstream::start(move |_, reply| {
            reply.stream_v2(4096);
            reply.send(&bytes);
            reply.hold();
        });
        let temp = Temp::new();
        let mut replica = following(&temp.path("replica.db"), &upstream.url());
        until_gives(&mut replica, "SELECT last_error LIKE '%heartbeat%' FROM litestream_status", "1");
        assert_eq!(replica.ask("SELECT litestream_position()"), FIRST.to_string());
        replica.run("SELECT litestream_stop()");
        assert_eq!(replica.ask("SELECT litestream_position()"), FIRST.to_string(), "the one that was made durable");
    }
}
