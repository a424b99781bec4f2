//! What happens to a replica when an end of the stream dies, hangs or comes back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Read;

use support::*;

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
    let (mut primary, url) = serving_with(&temp.path("primary.db"), "{\"heartbeat_ms\": 100}");
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
    let (mut primary, url) = serving_with(&temp.path("primary.db"), "{\"heartbeat_ms\": 20}");
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{url}', '{{\"timeout_ms\": 2000}}')"));
    until_gives(&mut primary, "SELECT seconds > 5 FROM litestream_replicas", "1");
    assert_eq!(replica.ask("SELECT state, reconnects FROM litestream_status"), "streaming|0");
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
fn a_replica_that_was_killed_goes_on() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 300, "{}");
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
fn a_new_replica_that_is_killed_half_made_shows_nothing_and_is_made_anew() {
    let temp = Temp::new();
    let (source, database) = (temp.path("source.db"), temp.path("replica.db"));
    stock(&source, &format!("PRAGMA journal_mode = wal; {}", bank::create(3000, 4096)));
    let whole = stream::encode(&stream::everything(FIRST, &file_bytes(&source), 4096));
    let half = whole[..whole.len() / 2].to_vec();
    let (stuck, well) = (
        Upstream::start(move |_, reply| {
            reply.stream_v2(4096);
            reply.send(&half);
            reply.hold();
        }),
        Upstream::of_bytes(4096, whole),
    );
    let mut replica = Shell::open(&database);
    replica.send(&format!("SELECT litestream_pull('{}')", stuck.url()));
    until("half of the database is in the file", || match file_bytes(&database).len() {
        some if some > 4 << 20 => Ok(()),
        some => Err(format!("{some} bytes")),
    });
    replica.kill();
    let mut reader = Shell::stock(&database);
    assert_eq!(reader.ask("SELECT count(*) FROM sqlite_schema; PRAGMA page_count"), "0\n1");
    assert!(reader.refused("CREATE TABLE mine(x)").contains("readonly"));
    let mut replica = Shell::open(&database);
    assert_eq!(replica.ask(&format!("SELECT litestream_pull('{}')", well.url())), FIRST.to_string());
    bank::Witness::default().see(&reader.ask(&bank::judge("integrity_check")));
    assert_same_pages(&source, &database);
}

/// Writing to a connection that the other end has closed raises SIGPIPE, which by default ends the process.
#[test]
fn a_replica_that_is_gone_does_not_take_the_primary_with_it() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let commits = "INSERT INTO t(x) VALUES (zeroblob(50000));".repeat(100);
    for _ in 0..10 {
        let open = || get(&url, "/stream", &[("Litestream-Stream-Version", "2")]);
        let mut gone: Vec<_> = (0..40).map(|_| open()).collect();
        gone.iter_mut().for_each(|stream| stream.read_exact(&mut [0; 40]).unwrap());
        primary.send(&commits);
        drop(gone);
        primary.receive().unwrap();
    }
    assert_eq!(primary.ask("SELECT count(*) > 1000 FROM t"), "1");
}

/// The same for certain: which signals a thread takes is there to be read. SIGPIPE is number 13.
#[test]
fn the_threads_of_the_library_take_no_signals() {
    let temp = Temp::new();
    let (mut primary, url) = serving(&temp.path("primary.db"));
    let mut replica = following(&temp.path("replica.db"), &url);
    catch_up(&mut primary, &mut replica);
    for shell in [&primary, &replica] {
        let mut seen = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", shell.pid())).unwrap() {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |name| status.lines().find_map(|line: &str| line.strip_prefix(name)).unwrap().trim();
            if field("Name:").starts_with("litestream") {
                let blocked = u64::from_str_radix(field("SigBlk:"), 16).unwrap();
                assert_ne!(blocked & 1 << 12, 0, "{status}");
                seen += 1;
            }
        }
        assert!(seen > 0, "threads of the library in process {}", shell.pid());
    }
}
