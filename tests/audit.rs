//! The audit of a replica: what changed in its file behind its back is found while it follows, and
//! healed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use support::*;

/// A primary with some hundred pages, a replica that follows it with these options, and whose WAL
/// is in its file.
fn followed(temp: &Temp, options: &str) -> (Shell, Shell) {
    let mut primary = Shell::open(&temp.path("primary.db"));
    primary.run(&format!("{NEW}; INSERT INTO t(x) SELECT hex(randomblob(1500)) FROM generate_series(1, 300)"));
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0', '{\"heartbeat_ms\": 50}')");
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{url}', '{options}')"));
    primary.run("UPDATE t SET x = x || 'y' WHERE id % 50 = 0");
    catch_up(&mut primary, &mut replica);
    assert_eq!(stock(&temp.path("replica.db"), "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
    (primary, replica)
}

/// Turns one bit of the file in the middle of its page `pgno`.
fn turn_a_bit(path: &Path, pgno: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (at, mut byte) = ((pgno - 1) * 4096 + 2000, [0]);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 16], at).unwrap();
}

/// The threads of a process that audit.
fn auditing(shell: &Shell) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", shell.pid())).unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
    // The system keeps 15 characters of a name.
    names.filter(|name| name.starts_with("litestream-audi")).count()
}

#[test]
fn a_bit_that_flips_in_the_file_of_a_followed_replica_is_found_and_healed() {
    let temp = Temp::new();
    let (mut primary, mut replica) = followed(&temp, "{\"audit_ms\": 100}");
    turn_a_bit(&temp.path("replica.db"), 77);
    assert_eq!(differing_pages(&temp.path("primary.db"), &temp.path("replica.db")), [77]);
    until_gives(&mut replica, "SELECT heals FROM litestream_status", "1");
    let healed = replica.ask("SELECT healed FROM litestream_status");
    assert!(healed.starts_with("1 pages at") && healed.contains("audit") && healed.contains("page 77"), "{healed}");
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    primary.run("INSERT INTO t(x) VALUES ('after')");
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
}

#[test]
fn commits_that_arrive_during_an_audit_are_no_difference() {
    let temp = Temp::new();
    let (mut primary, mut replica) = followed(&temp, "{\"audit_ms\": 1, \"checkpoint_frames\": 50}");
    let address = replica.ask("SELECT litestream_serve('127.0.0.1:0')");
    let audited = || {
        let text = get(&address, "/metrics", &[]).text();
        let line = text.lines().find(|line| line.starts_with("litestream_audited_pages_total"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default()
    };
    let mut commits = 0;
    // Ten passes.
    while audited() < 3000.0 {
        commits += 1;
        primary.run(&format!("UPDATE t SET x = hex(randomblob(1500)) WHERE id % 7 = {}", commits % 7));
        catch_up(&mut primary, &mut replica);
    }
    assert_eq!(replica.ask("SELECT heals, reconnects FROM litestream_status WHERE role = 'replica'"), "0|0");
    assert!(commits > 10, "{commits} commits during ten passes");
}

#[test]
fn an_audit_can_be_turned_off() {
    for (options, threads) in [("{}", 1), ("{\"audit_ms\": 0}", 0)] {
        let temp = Temp::new();
        let (mut primary, mut replica) = followed(&temp, options);
        // The audit begins with the first commit or heartbeat after the catch-up.
        primary.run("INSERT INTO t(x) VALUES ('one'); INSERT INTO t(x) VALUES ('two')");
        catch_up(&mut primary, &mut replica);
        assert_eq!(auditing(&replica), threads, "{options}");
    }
}

#[test]
fn a_replica_of_a_version_1_upstream_is_audited_too() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    primary.run("INSERT INTO t(x) SELECT hex(randomblob(1500)) FROM generate_series(1, 300)");
    let old = strip_version(url.trim_end_matches("/primary.db"));
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{}/primary.db', '{{\"audit_ms\": 100}}')", old.url()));
    primary.run("UPDATE t SET x = x || 'y' WHERE id % 50 = 0");
    catch_up(&mut primary, &mut replica);
    assert_eq!(stock(&temp.path("replica.db"), "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
    turn_a_bit(&temp.path("replica.db"), 77);
    until_gives(&mut replica, "SELECT heals FROM litestream_status", "1");
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
}
