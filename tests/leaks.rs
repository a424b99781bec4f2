//! What is begun and ended again and again leaves nothing behind: no file descriptor, no thread, no memory.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use support::*;

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    files: usize,
    threads: usize,
    /// Memory of its own, in KiB.
    memory: u64,
}

impl Held {
    fn by(shell: &Shell) -> Held {
        let folder = format!("/proc/{}", shell.pid());
        let count = |name: &str| fs::read_dir(format!("{folder}/{name}")).unwrap().count();
        let status = fs::read_to_string(format!("{folder}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let memory = memory.trim().trim_end_matches(" kB").parse().unwrap();
        Held { files: count("fd"), threads: count("task"), memory }
    }
}

/// Does `round` again and again, until the processes that `shells` gives hold as much after many rounds as before them. Allocators keep
/// what was free once, and caches fill up: so not the first time, but at some time it must be.
fn nothing_grows<T>(house: &mut T, mut round: impl FnMut(&mut T, u64), shells: impl Fn(&T) -> Vec<&Shell>) {
    const ROUNDS: u64 = 60;
    /// That of a round that leaves 16 KiB behind.
    const GROWTH: u64 = ROUNDS * 16;
    let mut held: Vec<Vec<Held>> = Vec::new();
    for batch in 0..10 {
        (batch * ROUNDS..(batch + 1) * ROUNDS).for_each(|n| round(house, n));
        held.push(shells(house).into_iter().map(Held::by).collect());
        let Some([before, after]) = held.last_chunk() else { continue };
        let grown = |(before, after): (&Held, &Held)| {
            after.files > before.files || after.threads > before.threads || after.memory > before.memory + GROWTH
        };
        if !before.iter().zip(after).any(grown) {
            return;
        }
    }
    panic!("after each {ROUNDS} rounds there is more: {held:#?}");
}

struct House {
    primary: Shell,
    replica: Shell,
    url: String,
}

fn house(temp: &Temp) -> House {
    let (primary, url) = serving_bank(&temp.path("primary.db"), 200, "{\"checkpoint_frames\": 100}");
    let replica = Shell::open(&temp.path("replica.db"));
    House { primary, replica, url }
}

fn both(house: &House) -> Vec<&Shell> {
    vec![&house.primary, &house.replica]
}

#[test]
fn pulling_and_verifying_leave_nothing_behind() {
    let temp = Temp::new();
    let round = |house: &mut House, n| {
        house.primary.run(&bank::step(n, 100));
        house.replica.run(&format!("SELECT litestream_pull('{}')", house.url));
        assert_eq!(house.replica.ask("SELECT litestream_verify() ->> 'equal'"), "1");
    };
    nothing_grows(&mut house(&temp), round, both);
}

#[test]
fn following_and_stopping_leave_nothing_behind() {
    let temp = Temp::new();
    let round = |house: &mut House, n| {
        house.replica.run(&format!("SELECT litestream_follow('{}')", house.url));
        house.primary.run(&bank::step(n, 100));
        catch_up(&mut house.primary, &mut house.replica);
        house.replica.run("SELECT litestream_stop()");
    };
    nothing_grows(&mut house(&temp), round, both);
}

#[test]
fn serving_and_stopping_under_a_follower_leave_nothing_behind() {
    let temp = Temp::new();
    let mut house = house(&temp);
    house.replica.run(&format!("SELECT litestream_follow('{}')", house.url));
    let round = |house: &mut House, n| {
        house.primary.run("SELECT litestream_stop()");
        house.primary.run(&bank::step(n, 100));
        house.primary.run(&format!("SELECT litestream_serve('{}')", address(&house.url)));
        catch_up(&mut house.primary, &mut house.replica);
    };
    nothing_grows(&mut house, round, both);
}

#[test]
fn copies_and_those_who_ask_leave_nothing_behind() {
    let temp = Temp::new();
    let copy = temp.path("copy.db");
    let round = |house: &mut House, n| {
        house.primary.run(&bank::step(n, 100));
        let own = house.primary.ask("SELECT litestream_serve('127.0.0.1:0', '{\"metrics_only\": true}')");
        for path in ["/", "/metrics", "/status.json"] {
            assert_eq!(get(&own, path, &[]).status, 200);
        }
        let overwrite = "{\"overwrite\": true}";
        house.primary.run(&format!("SELECT litestream_snapshot('{}', '{overwrite}')", copy.display()));
        std::io::copy(&mut get(&house.url, "/snapshot", &[]), &mut std::io::sink()).unwrap();
        // One that is not read to its end.
        get(&house.url, "/snapshot", &[]);
        house.primary.run("SELECT litestream_stop()");
        house.primary.run(&format!("SELECT litestream_serve('{}')", address(&house.url)));
    };
    nothing_grows(&mut house(&temp), round, both);
}

#[test]
fn being_mended_leaves_nothing_behind() {
    let temp = Temp::new();
    let mut house = house(&temp);
    let path = temp.path("replica.db");
    house.replica.run(&format!("SELECT litestream_follow('{}', '{{\"writable\": true}}')", house.url));
    let round = |house: &mut House, n| {
        stock(&path, "PRAGMA busy_timeout = 60000; UPDATE account SET note = 'mine' WHERE id = 7");
        // Enough for the latest commits, of which 16 MiB are kept, to be as many as ever before the counting begins.
        house.primary.run(&bank::step(n, 100));
        catch_up(&mut house.primary, &mut house.replica);
        assert_eq!(house.replica.ask("SELECT count(*) FROM account WHERE note = 'mine'"), "0");
    };
    nothing_grows(&mut house, round, both);
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let temp = Temp::new();
    let round = |house: &mut House, n| {
        house.primary.run(&bank::step(n, 10));
        for path in ["/healthz", "/stream?path=none", "/", "/stream?path=primary.db&generation=zz"] {
            get(&house.url, path, &[]);
        }
        drop(ask_for_a_stream(&house.url));
        until_gives(&mut house.primary, "SELECT count(*) FROM litestream_replicas", "0");
    };
    nothing_grows(&mut house(&temp), round, both);
}

/// A client that asks for a stream and reads little of it.
fn ask_for_a_stream(url: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address(url)).unwrap();
    let request = "GET /stream?path=primary.db HTTP/1.1\r\nHost: localhost\r\nLitestream-Stream-Version: 2\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    socket.read_exact(&mut [0; 1000]).unwrap();
    socket
}
