//! A thousand replicas of one primary.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::*;

const REPLICAS: u64 = 1000;

#[test]
fn a_thousand_idle_replicas_cost_less_than_64_kib_each() {
    allow_open_files(2 * REPLICAS);
    let temp = Temp::new();
    let limits = format!("{{\"max_connections_per_address\": {REPLICAS}, \"max_streams\": {REPLICAS}}}");
    let (mut primary, url) = serving_with(&temp.path("primary.db"), &limits);
    let before = resident_kib(primary.pid());
    let mut replicas: Vec<Response> = (0..REPLICAS).map(|_| caught_up(&url)).collect();
    let live = "SELECT count(*) FROM litestream_replicas WHERE state = 'live'";
    assert_eq!(primary.ask(live), REPLICAS.to_string());
    assert_small(before, resident_kib(primary.pid()), "after they have caught up");
    for n in 0..10 {
        primary.run(&format!("INSERT INTO t(x) VALUES ('for all'), ({n})"));
        let position = primary.ask("SELECT litestream_position()");
        for replica in &mut replicas {
            assert_eq!(next_commit(replica).at().to_string(), position);
        }
    }
    assert_eq!(primary.ask(live), REPLICAS.to_string());
    assert_small(before, resident_kib(primary.pid()), "after some commits");
}

fn assert_small(before: u64, after: u64, when: &str) {
    let each = (after as f64 - before as f64) / REPLICAS as f64;
    println!("{each:.1} KiB a replica {when}: {before} KiB with none, {after} KiB with {REPLICAS}");
    assert!(each < 64.0, "{each:.1} KiB a replica {when}: {before} KiB with none, {after} KiB with {REPLICAS}");
}

/// A replica that has read the first catch-up.
fn caught_up(url: &str) -> Response {
    let mut replica = get(url, "/stream?path=primary.db", &[("Litestream-Stream-Version", "2")]);
    assert_eq!(replica.status, 200);
    next_commit(&mut replica);
    replica
}

/// Reads up to the next commit.
fn next_commit(replica: &mut Response) -> stream::Record {
    let records = std::iter::from_fn(|| stream::Record::read(replica));
    records.into_iter().find(|record| record.kind == stream::COMMIT).expect("a stream that goes on")
}

/// Memory of a process that is in use right now. The buffers of its sockets are the kernel's and not in it.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS of a process");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
