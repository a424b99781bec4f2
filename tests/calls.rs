//! A call returns: at its time limit, whatever the other end does, and when the application
//! interrupts it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, types::Value};
use support::stream::Record;
use support::*;

const SIZE: u32 = 4096;

/// What can only be done to a replica that has something: a new one is sent pages all the time.
const BUSY: &str = "says for ever that it begins";

/// What an upstream does that never brings anything to an end.
type Misbehaviour = (&'static str, fn(&mut Reply));

const MISBEHAVIOURS: [Misbehaviour; 9] = [
    ("says nothing", Reply::hold),
    ("sends its head byte by byte", |reply| {
        drip(reply, b"HTTP/1.1 200 OK\r\nLitestream-Page-Size: 4096\r\nLitestream-Stream-Version: 2\r\nX: ", false);
    }),
    ("says nothing after its head", |reply| {
        reply.stream_v2(SIZE);
        reply.hold();
    }),
    ("says nothing after its head, in version 1", |reply| {
        reply.stream_v1(SIZE);
        reply.hold();
    }),
    ("stops in the middle of a snapshot, in version 1", |reply| {
        reply.stream_v1(SIZE);
        let snapshot = Record::new(stream::SNAPSHOT, FIRST, database(SIZE, 20)).encode();
        reply.send(&snapshot[..snapshot.len() / 2]);
        reply.hold();
    }),
    ("sends a record byte by byte", |reply| {
        reply.stream_v2(SIZE);
        drip(reply, &stream::everything(FIRST, &database(SIZE, 20), SIZE)[0].encode(), true);
    }),
    ("sends heartbeats only", |reply| {
        reply.stream_v2(SIZE);
        reply.send(&stream::begin(FIRST, SIZE, true, 5).encode());
        for_ever(|| reply.send(&stream::heartbeat(FIRST).encode()));
    }),
    (BUSY, |reply| {
        reply.stream_v2(SIZE);
        reply.send(&stream::begin(FIRST, SIZE, false, 0).encode());
        for_ever(|| reply.send(&stream::begin(FIRST, SIZE, false, 0).encode()));
    }),
    ("loses the end of a line between two chunks", |reply| {
        reply.stream_v2(SIZE);
        reply.raw(b"14\r");
        for_ever(|| reply.send(&stream::heartbeat(FIRST).encode()));
    }),
];

/// Does something again and again, for as long as anyone may listen.
fn for_ever(mut act: impl FnMut()) {
    for _ in 0..2000 {
        act();
        sleep(Duration::from_millis(50));
    }
}

/// Sends bytes one after the other, and the last one again and again.
fn drip(reply: &mut Reply, bytes: &[u8], chunked: bool) {
    let mut bytes = bytes.iter().chain(std::iter::repeat(&b'x'));
    for_ever(|| {
        let byte = *bytes.next().unwrap();
        if chunked { reply.send(&[byte]) } else { reply.raw(&[byte]) }
    });
}

/// A connection to a database that a call may be made on, and what the call says.
fn prepared(temp: &Temp, call: &str, what: &str, url: &str, timeout: u32) -> (Connection, String) {
    let connection = loaded(&temp.path(&format!("{call} {what}.db")));
    if call == "verify" || what == BUSY {
        connection.run(NEW);
    }
    let overwrite = if call == "verify" { "" } else { ", \"overwrite\": true" };
    (connection, format!("SELECT litestream_{call}('{url}/app.db', '{{\"timeout_ms\": {timeout}{overwrite}}}')"))
}

#[test]
fn a_call_returns_at_its_time_limit_whatever_the_upstream_does() {
    let temp = Temp::new();
    scope(|scope| {
        for (what, misbehave) in MISBEHAVIOURS {
            for call in ["pull", "follow", "verify"] {
                let temp = &temp;
                scope.spawn(move || {
                    let upstream = Upstream::start(move |_, reply| misbehave(reply));
                    let (connection, sql) = prepared(temp, call, what, &upstream.url(), 300);
                    let error = connection.refused(&sql);
                    assert!(error.contains(&upstream.url()) || error.contains("stream: "), "{call}, {what}: {error}");
                    assert!(upstream.requests().len() <= 3, "{call}, {what}: {:?}", upstream.requests());
                });
            }
        }
    });
}

#[test]
fn a_call_ends_when_it_is_interrupted_whatever_the_upstream_does() {
    let temp = Temp::new();
    scope(|scope| {
        for (what, misbehave) in MISBEHAVIOURS {
            for call in ["pull", "follow", "verify"] {
                let temp = &temp;
                scope.spawn(move || {
                    let upstream = Upstream::start(move |_, reply| misbehave(reply));
                    let (connection, sql) = prepared(temp, call, what, &upstream.url(), 3_600_000);
                    let error = interrupted(connection, &sql);
                    // Of the streams, most are no answer to a comparison, which ends at once then.
                    let is_wrong = call == "verify" && error.to_string().contains("the answer is");
                    let code = error.sqlite_error_code();
                    assert!(is_wrong || code == Some(ErrorCode::OperationInterrupted), "{call}, {what}: {error}");
                    // Nothing of it is left.
                    let url = upstream.url();
                    let sql = format!("SELECT count(*) FROM litestream_status WHERE url = '{url}/app.db'");
                    let another = loaded(&temp.path(&format!("{call} {what}.db")));
                    assert_eq!(another.ask::<i64>(&sql), 0, "{call}, {what}");
                });
            }
        }
    });
}

#[test]
fn the_sqlite_of_the_system_is_interrupted_in_the_same_way() {
    let (temp, upstream) = (Temp::new(), Upstream::start(|_, reply| reply.hold()));
    let mut shell = Shell::open(&temp.path("replica.db"));
    shell.send(&format!("SELECT litestream_pull('{}/app.db', '{{\"timeout_ms\": 3600000}}')", upstream.url()));
    until("the call asks its upstream", || match upstream.requests().len() {
        0 => Err("no request"),
        _ => Ok(()),
    });
    signal(shell.pid(), Signal::Interrupt);
    // The shell, too, ends then.
    let said = shell.ended();
    assert!(said.iter().any(|line| line.contains("interrupted")), "{said:?}");
}

/// Runs `sql` and interrupts it for as long as it takes.
fn interrupted(connection: Connection, sql: &str) -> rusqlite::Error {
    let handle = connection.get_interrupt_handle();
    let is_over = &AtomicBool::new(false);
    scope(|scope| {
        let call = scope.spawn(move || {
            let _end = StopOnDrop(is_over);
            connection.query_row(sql, [], |row| row.get::<_, Value>(0)).expect_err(sql)
        });
        until("the call has ended", || {
            handle.interrupt();
            if is_over.load(Ordering::SeqCst) { Ok(()) } else { Err(sql) }
        });
        call.join().unwrap()
    })
}

#[test]
fn waiting_ends_when_it_is_interrupted() {
    let temp = Temp::new();
    let origin = Origin::new(SIZE);
    let followed = loaded(&temp.path("followed.db"));
    followed.run(&origin.follow("{}"));
    origin.replicate(&temp.path("pulled.db"));
    let generation = followed.ask::<String>("SELECT litestream_position()").split_once('/').unwrap().0.to_string();
    let sql = format!("SELECT litestream_wait('{generation}/00000000ffffffff:0000000000000000', 3600000)");
    for connection in [followed, loaded(&temp.path("pulled.db")), loaded(&origin.path())] {
        let error = interrupted(connection, &sql);
        assert_eq!(error.sqlite_error_code(), Some(ErrorCode::OperationInterrupted), "{error}");
    }
    let keeper = loaded(&origin.path());
    let error = interrupted(keeper, "SELECT litestream_run()");
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::OperationInterrupted), "{error}");
}

#[test]
fn a_call_that_ends_by_itself_is_not_taken_for_one_that_was_interrupted() {
    let (temp, origin) = (Temp::new(), Origin::new(SIZE));
    let replica = loaded(&temp.path("replica.db"));
    // One that comes while nothing runs is for no one.
    replica.get_interrupt_handle().interrupt();
    let reached: String = replica.ask(&origin.pull("{}"));
    assert_eq!(reached, origin.connection.ask::<String>("SELECT litestream_position()"));
    replica.get_interrupt_handle().interrupt();
    assert_eq!(replica.ask::<i64>(&format!("SELECT litestream_wait('{reached}', 0)")), 1);
}

#[test]
fn an_honest_catch_up_may_take_many_times_the_time_limit() {
    let bytes = database(SIZE, 20);
    let upstream = Upstream::start(move |_, reply| {
        reply.stream_v2(SIZE);
        let begin = stream::begin(FIRST, SIZE, true, 1 << 10);
        // Busy reading its database.
        for _ in 0..8 {
            reply.send(&begin.encode());
            sleep(Duration::from_millis(250));
        }
        for _ in 0..8 {
            for record in &stream::everything(FIRST, &bytes, SIZE)[1..] {
                match record.kind {
                    stream::PAGES => reply.send(&record.encode()),
                    _ => sleep(Duration::from_millis(250)),
                }
            }
        }
        reply.send(&stream::everything(FIRST, &bytes, SIZE).last().unwrap().encode());
        reply.hold();
    });
    let temp = Temp::new();
    // One that exists already: a new one is sent pages all the time.
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(NEW);
    let options = "{\"timeout_ms\": 1000, \"overwrite\": true}";
    let reached = replica.ask(&format!("SELECT litestream_pull('{}/app.db', '{options}')", upstream.url()));
    assert_eq!(reached, FIRST.to_string());
}

#[test]
fn an_upstream_that_knows_no_replica_is_not_asked_for_ever() {
    let upstream = Upstream::start(|_, reply| reply.text("409 Conflict", "text/plain", "no"));
    let temp = Temp::new();
    for call in ["pull", "follow"] {
        let mut new = Shell::open(&temp.path(&format!("{call}.db")));
        let asked = upstream.requests().len();
        let error = new.refused(&format!("SELECT litestream_{call}('{}/app.db')", upstream.url()));
        assert!(error.contains("409 Conflict: no"), "{error}");
        assert_eq!(upstream.requests().len(), asked + 1, "{call}: it was asked once");
    }
    // A replica is asked for its checksums once.
    let mut victim = Victim::new(SIZE);
    victim.says(Answer::Raw(
        b"HTTP/1.1 409 Conflict\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno".to_vec(),
    ));
    let asked = victim.upstream.requests().len();
    let pull = victim.pull();
    let error = victim.shell.refused(&pull);
    assert!(error.contains("409 Conflict: no"), "{error}");
    assert_eq!(victim.upstream.requests().len(), asked + 2, "{:?}", victim.upstream.requests());
}
