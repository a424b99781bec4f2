//! How old a replica is said to be: never younger than it is, whatever the disk, the clocks and the
//! ends of the stream do.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use support::*;

/// Longer than the age at which what is known counts as stalled.
const LONG: Duration = Duration::from_secs(5);

/// A shell with the library whose tail waits at its next read while there is a file at `gate`, and
/// whose wall clock is off.
fn held(database: &Path, gate: &Path, clock: i64) -> Shell {
    Shell::with(database, |command| with_gate_and_clock(command, gate, "litestream-tail", clock))
}

fn lag(replica: &mut Shell) -> f64 {
    replica.ask("SELECT litestream_lag()").parse().expect("a lag in seconds")
}

/// Commits while the primary cannot see it, and fails unless the lag covers that commit for as long
/// as the replica lacks it. Gives what the replica and the primary said in the end.
fn assert_lag_covers(temp: &Temp, primary: &mut Shell, replica: &mut Shell) -> (String, String) {
    let mut writer = Shell::stock(&temp.path("primary.db"));
    std::fs::write(temp.path("gate"), "").unwrap();
    let rows: u32 = writer.ask("INSERT INTO t(x) VALUES ('unseen'); SELECT count(*) FROM t").parse().unwrap();
    let committed = Instant::now();
    while committed.elapsed() < LONG {
        let missing_for = committed.elapsed().as_secs_f64();
        let lag = lag(replica);
        assert!(lag >= missing_for, "a lag of {lag} s, and a commit of {missing_for} s ago is missing");
        assert_ne!(replica.ask("SELECT count(*) FROM t"), rows.to_string(), "the tail should have been held back");
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = "SELECT state || ': ' || reason FROM litestream_status";
    let said = (replica.ask(said), primary.ask(said));
    std::fs::remove_file(temp.path("gate")).unwrap();
    until_gives(replica, "SELECT count(*) FROM t", &rows.to_string());
    said
}

/// A primary and a replica, each with a wall clock that is off by so many seconds.
fn pair(temp: &Temp, clocks: (i64, i64)) -> (Shell, Shell) {
    let mut primary = held(&temp.path("primary.db"), &temp.path("gate"), clocks.0);
    primary.run(NEW);
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0', '{\"heartbeat_ms\": 50}')");
    let mut replica = held(&temp.path("replica.db"), &temp.path("none"), clocks.1);
    replica.run(&format!("SELECT litestream_follow('{url}')"));
    (primary, replica)
}

#[test]
fn a_tail_that_waits_for_its_disk_makes_the_lag_grow_and_the_states_say_so() {
    let temp = Temp::new();
    let (mut primary, mut replica) = pair(&temp, (0, 0));
    let (replica_said, primary_said) = assert_lag_covers(&temp, &mut primary, &mut replica);
    assert!(replica_said.starts_with("stalled: ") && replica_said.contains("upstream"), "{replica_said}");
    assert!(primary_said.starts_with("stalled: ") && primary_said.contains("no look"), "{primary_said}");
    until_gives(&mut replica, "SELECT state, litestream_lag() < 1 FROM litestream_status", "streaming|1");
    until_gives(&mut primary, "SELECT state, reason IS NULL FROM litestream_status", "serving|1");
}

#[test]
fn clocks_that_are_wrong_change_nothing_of_the_age() {
    for clocks in [(10, 0), (-10, 0), (0, 10), (0, -10), (3600, -3600)] {
        let temp = Temp::new();
        let (mut primary, mut replica) = pair(&temp, clocks);
        until_gives(&mut replica, "SELECT state, litestream_lag() < 1 FROM litestream_status", "streaming|1");
        if clocks.0 > clocks.1 {
            // The rest makes a replica look older, if anything.
            assert_lag_covers(&temp, &mut primary, &mut replica);
        }
        until_gives(&mut replica, "SELECT state, litestream_lag() < 1 FROM litestream_status", "streaming|1");
    }
}

#[test]
fn each_heartbeat_of_an_idle_primary_is_of_a_look_of_its_own() {
    let temp = Temp::new();
    let (_primary, url) = serving_with(&temp.path("primary.db"), "{\"heartbeat_ms\": 20}");
    let mut stream = get(&url, "/stream?path=primary.db", &[("Litestream-Stream-Version", "2")]);
    let began: i64 = stream.header("litestream-time").unwrap().split_once(' ').unwrap().0.parse().unwrap();
    let asked_later = get(&url, "/healthz", &[]);
    let clock = |answer: &Response| answer.header("litestream-time").unwrap().split_once(' ').unwrap().1.to_string();
    assert_eq!(clock(&asked_later), clock(&stream), "the same clock, asked for by itself");
    let beats =
        std::iter::from_fn(|| stream::Record::read(&mut stream)).filter(|record| record.kind == stream::HEARTBEAT);
    let times: Vec<i64> =
        beats.take(20).map(|beat| i64::from_be_bytes(beat.payload[..8].try_into().unwrap())).collect();
    assert!(times.is_sorted() && times[19] > began, "{began}: {times:?}");
    // The tail looks once in a second by itself, and these were sent within less than half of one.
    let looks = times.chunk_by(|one, next| one == next).count();
    assert!(looks > 10, "{looks} looks for 20 heartbeats: {times:?}");
}

#[test]
fn a_relay_that_begins_while_its_upstream_is_away_is_as_old_as_what_it_knows() {
    let temp = Temp::new();
    let (primary, mut relay) = pair(&temp, (0, 0));
    primary.kill();
    until_gives(&mut relay, "SELECT litestream_lag() > 4", "1");
    let url = relay.ask("SELECT litestream_serve('127.0.0.1:0', '{\"heartbeat_ms\": 50}')");
    let known = lag(&mut relay);
    let mut leaf = following(&temp.path("leaf.db"), &url);
    let seen = lag(&mut leaf);
    assert!(seen >= known, "{seen} s at the end of the chain, and {known} s before it");
    until_gives(&mut leaf, "SELECT state FROM litestream_status", "stalled");
    assert!(leaf.ask("SELECT reason FROM litestream_status").contains("upstream"));
}

#[test]
fn a_chain_of_wrong_clocks_is_as_old_as_all_of_it() {
    let temp = Temp::new();
    let (mut primary, mut relay) = pair(&temp, (100, -100));
    let url = relay.ask("SELECT litestream_serve('127.0.0.1:0', '{\"heartbeat_ms\": 50}')");
    let mut leaf = held(&temp.path("leaf.db"), &temp.path("none"), -1000);
    leaf.run(&format!("SELECT litestream_follow('{url}')"));
    until_gives(&mut leaf, "SELECT litestream_lag() < 1", "1");
    let (said, _) = assert_lag_covers(&temp, &mut primary, &mut leaf);
    assert!(said.starts_with("stalled: "), "{said}");
    until_gives(&mut leaf, "SELECT state, litestream_lag() < 1 FROM litestream_status", "streaming|1");
}

#[test]
fn a_stream_without_times_is_as_old_as_the_request() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let server = strip_version(&format!("http://{}", address(&url)));
    let mut replica = Shell::open(&temp.path("replica.db"));
    let asked = Instant::now();
    replica.run(&format!("SELECT litestream_follow('{}/primary.db')", server.url()));
    let opened = Instant::now();
    until("the stream is some time old", || if opened.elapsed() > LONG / 4 { Ok(()) } else { Err("not yet") });
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    let (least, lag) = (opened.elapsed().as_secs_f64(), lag(&mut replica));
    assert!(
        lag >= least && lag <= asked.elapsed().as_secs_f64(),
        "{lag} s, and nothing says how old the last commit is"
    );
    assert_eq!(replica.ask("SELECT state FROM litestream_status"), "streaming");
}
