//! What is told of a catch-up that takes a while: in the status, and as a bar on a terminal.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use support::*;

const PAGE: u32 = 512;

/// An upstream that sends half of a database, and the rest when it is told to.
struct Halting {
    server: Upstream,
    go_on: Arc<AtomicBool>,
}

impl Halting {
    fn start() -> Halting {
        let go_on = Arc::new(AtomicBool::new(false));
        let (told, records) = (Arc::clone(&go_on), records());
        let server = Upstream::start(move |_, reply| {
            reply.stream_v2(PAGE);
            let half = records.len() / 2;
            reply.send(&stream::encode(&records[..half]));
            until(
                "the test lets the rest be sent",
                || if told.load(Ordering::SeqCst) { Ok(()) } else { Err("not yet") },
            );
            reply.send(&stream::encode(&records[half..]));
            reply.hold();
        });
        Halting { server, go_on }
    }

    fn go_on(&self) {
        self.go_on.store(true, Ordering::SeqCst);
    }
}

/// The records of a whole database: how it begins, each page, and the commit.
fn records() -> Vec<stream::Record> {
    let temp = Temp::new();
    let database = temp.path("source.db");
    stock(
        &database,
        "PRAGMA page_size = 512; PRAGMA journal_mode = wal; CREATE TABLE t(x);
         WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 100) INSERT INTO t SELECT randomblob(400) FROM i",
    );
    let (at, bytes) = (stream::At(1, 0, 32), file_bytes(&database));
    let images: Vec<&[u8]> = bytes.chunks_exact(PAGE as usize).collect();
    let mut records = vec![stream::begin(at, PAGE, true, images.len() as u64)];
    records.extend((1..).zip(&images).map(|(n, image)| stream::pages(&[(n, image)])));
    records.push(stream::commit(at, images.len() as u32));
    records
}

fn progress(own: &str) -> Value {
    let status: Value = serde_json::from_str(&get(own, "/status.json", &[]).text()).unwrap();
    status["databases"][0].clone()
}

/// Waits until half of the database is there.
fn half_way(own: &str) -> Value {
    until("the status tells that it is half way", || {
        let row = progress(own);
        match row["progress"].as_f64() {
            Some(percent) if (45.0..55.0).contains(&percent) => Ok(row),
            _ => Err(row.to_string()),
        }
    })
}

const OWN: &str = "SELECT litestream_serve('127.0.0.1:0', '{\"metrics_only\": true}')";

#[test]
fn the_status_tells_how_far_a_catch_up_is_while_it_goes_on() {
    let temp = Temp::new();
    for call in ["litestream_pull", "litestream_follow"] {
        let upstream = Halting::start();
        let mut replica = Shell::open(&temp.path(&format!("{call}.db")));
        let own = replica.ask(OWN);
        replica.send(&format!("SELECT {call}('{}')", upstream.server.url()));
        let row = half_way(&own);
        assert_eq!((row["role"].as_str(), row["state"].as_str()), (Some("replica"), Some("catching up")));
        assert_eq!(row["url"].as_str(), Some(upstream.server.url().as_str()));
        assert!(row["seconds_left"].as_f64() >= Some(0.0), "{row}");
        let page = get(&own, "/", &[]).text();
        assert!(
            page.contains("<progress max=\"100\" value=\"4") || page.contains("<progress max=\"100\" value=\"5"),
            "{page}"
        );
        assert!(get(&own, "/metrics", &[]).text().contains("litestream_catch_up_ratio{"));
        upstream.go_on();
        assert_eq!(replica.receive().unwrap(), "0000000000000001/0000000000000000:0000000000000020");
        let row = progress(&own);
        assert!(row["progress"].is_null(), "{call}: {row}");
        assert_eq!(row.is_null(), call == "litestream_pull", "only what is followed stays in the status: {row}");
    }
}

#[test]
fn a_primary_tells_how_far_the_catch_up_of_a_replica_is() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 8000, "{}");
    let _stuck = get(&url, "/stream", &[("Litestream-Stream-Version", "2")]);
    let row = until("a replica that takes nothing is in the middle of its catch-up", || {
        let row = primary
            .ask("SELECT state, progress > 0 AND progress < 100, seconds_left >= 0, lag >= 0 FROM litestream_replicas");
        if row == "catching up|1|1|1" { Ok(row) } else { Err(row) }
    });
    assert!(!row.is_empty());
}

/// A terminal, and what has been written to it.
struct Terminal {
    end: OwnedFd,
    written: Arc<Mutex<String>>,
}

impl Terminal {
    #[allow(unsafe_code)]
    fn open() -> Terminal {
        let (mut ours, mut theirs) = (-1, -1);
        let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: both descriptors are written before they are used, and are nobody else's.
        let (ours, end) = unsafe {
            let (name, modes) = (std::ptr::null_mut(), std::ptr::null_mut());
            assert_eq!(libc::openpty(&mut ours, &mut theirs, name, modes, (&raw const size).cast_mut()), 0);
            (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
        };
        let written = Arc::new(Mutex::new(String::new()));
        let (kept, mut from) = (Arc::clone(&written), ours);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        Terminal { end, written }
    }

    /// A shell whose standard error is the terminal.
    fn shell(&self, database: &std::path::Path) -> Shell {
        Shell::with(database, |command| {
            command.env("TERM", "xterm").stderr(self.end.try_clone().unwrap());
        })
    }

    fn written(&self) -> String {
        self.written.lock().unwrap().clone()
    }
}

#[test]
fn a_catch_up_of_more_than_a_second_has_a_bar_on_a_terminal_unless_told_not_to() {
    let temp = Temp::new();
    let (terminal, upstream) = (Terminal::open(), Halting::start());
    let call = |options: &str| format!("SELECT litestream_pull('{}', '{options}')", upstream.server.url());
    // Those that are to have none begin first, and so have gone on for longer than the one that has.
    let mut told_not_to = terminal.shell(&temp.path("quiet.db"));
    let mut elsewhere = Shell::open(&temp.path("elsewhere.db"));
    for (shell, options) in [(&mut told_not_to, "{\"progress\": false}"), (&mut elsewhere, "{}")] {
        let own = shell.ask(OWN);
        shell.send(&call(options));
        half_way(&own);
    }
    let mut shown = terminal.shell(&temp.path("shown.db"));
    shown.send(&call("{}"));
    until("the terminal shows a bar that is half way", || {
        let written = terminal.written();
        let is_there = written.contains("shown.db") && (45..55).any(|n| written.contains(&format!(" {n}%")));
        if is_there { Ok(()) } else { Err(written) }
    });
    upstream.go_on();
    for shell in [&mut shown, &mut told_not_to, &mut elsewhere] {
        assert_eq!(shell.receive().unwrap(), "0000000000000001/0000000000000000:0000000000000020", "and nothing else");
    }
    until("the line is empty again", || {
        let written = terminal.written();
        let last = written.rsplit(['\r', '\n']).next().unwrap_or_default();
        if last.contains("shown.db") { Err(written) } else { Ok(()) }
    });
    assert!(!terminal.written().contains("quiet.db"), "{}", terminal.written());
}
