//! Clients that read slowly, or not at all: the first are waited for, the others dropped, and nobody else notices.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use support::*;

const VERSION_2: &[(&str, &str)] = &[("Litestream-Stream-Version", "2")];

/// SQL that adds some 50 MB, far more than the buffers of two sockets hold.
const LARGE: &str = "WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 500)
                     INSERT INTO t(x) SELECT randomblob(100000) FROM i";

/// A shell that writes warnings into `log`, on a database that is served with `options`; and its URL.
fn serving_logged(database: &Path, log: &Path, options: &str) -> (Shell, String) {
    let mut primary = Shell::with(database, |command| {
        command.env("LITESTREAM_LOG", "warn").stderr(File::create(log).unwrap());
    });
    primary.run(NEW);
    let url = primary.ask(&format!("SELECT litestream_serve('127.0.0.1:0', '{options}')"));
    (primary, url)
}

/// What `litestream_replicas` shows of a client.
fn row_of(client: &str, columns: &str) -> String {
    format!("SELECT {columns} FROM litestream_replicas WHERE client = '{client}'")
}

#[test]
fn a_replica_that_stops_reading_is_dropped_and_nobody_else_notices() {
    let temp = Temp::new();
    let (database, log) = (temp.path("primary.db"), temp.path("log"));
    let (mut primary, url) = serving_logged(&database, &log, "{\"write_timeout_ms\": 300}");
    let mut live = following(&temp.path("replica.db"), &url);
    primary.run(LARGE);
    catch_up(&mut primary, &mut live);
    let reconnects = live.ask("SELECT reconnects FROM litestream_status");
    let stalled = get(&url, "/stream?path=primary.db", VERSION_2);
    assert_eq!(stalled.status, 200);
    let client = stalled.client();
    until("the client that does not read is gone", || {
        primary.run("INSERT INTO t(x) VALUES ('meanwhile')");
        catch_up(&mut primary, &mut live);
        let row = primary.ask(&row_of(&client, "client, state, bytes"));
        if row.is_empty() { Ok(()) } else { Err(row) }
    });
    assert_eq!(primary.ask("SELECT version, state FROM litestream_replicas"), "2|live", "the other one");
    assert_eq!(live.ask("SELECT state, reconnects FROM litestream_status"), format!("streaming|{reconnects}"));
    until("the log tells who was dropped, and after how long", || {
        let said = std::fs::read_to_string(&log).unwrap();
        let line = said.lines().find(|line| line.contains(&client)).unwrap_or_default();
        let whole = line.starts_with("warn litestream: ") && line.contains("dropped") && line.ends_with("300 ms");
        if whole { Ok(()) } else { Err(said) }
    });
    assert_same_pages(&database, &temp.path("replica.db"));
}

#[test]
fn a_replica_that_reads_slowly_is_not_dropped() {
    const TIMEOUT: Duration = Duration::from_millis(1500);
    let temp = Temp::new();
    let options = format!("{{\"write_timeout_ms\": {}}}", TIMEOUT.as_millis());
    let (mut primary, url) = serving_with(&temp.path("primary.db"), &options);
    primary.run(LARGE);
    let mut slow = request_over(narrow(address(&url)), "GET", "/stream?path=primary.db", VERSION_2);
    assert_eq!(slow.status, 200);
    let client = slow.client();
    // Less than the primary's end of the connection takes in, so that each pause is felt there.
    let mut bit = [0; 20_000];
    let patience = format!("state, seconds > {}", (TIMEOUT * 4).as_secs_f64());
    loop {
        slow.read_exact(&mut bit).expect("a connection that lasts");
        match primary.ask(&row_of(&client, &patience)).as_str() {
            "catching up|0" => std::thread::sleep(Duration::from_millis(100)),
            "catching up|1" => break,
            other => panic!("a client that reads slowly is '{other}'"),
        }
    }
}

/// A connection on which little is under way that was not read.
fn narrow(address: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.connect(&address.parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.into()
}
