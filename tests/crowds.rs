//! More clients than there is room for, and clients that mean no good: whoever is served goes on being served.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use socket2::{Domain, Socket, Type};
use support::*;

const VERSION_2: (&str, &str) = ("Litestream-Stream-Version", "2");

/// A connection to the server at `url` from 127.0.0.`n`, which is a client of its own.
fn connect_from(n: u8, url: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, n], 0)).into()).unwrap();
    let place = url.split("//").nth(1).unwrap().split('/').next().unwrap();
    let address: SocketAddr = place.parse().unwrap();
    socket.connect(&address.into()).unwrap();
    socket.into()
}

/// An answer to a request from 127.0.0.`n`.
fn get_from(n: u8, url: &str, target: &str) -> Response {
    request_over(connect_from(n, url), "GET", target, &[VERSION_2])
}

/// What comes before the other end closes the connection.
fn rest_of(socket: &mut TcpStream) -> String {
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => {}
        // It had not read all that was sent to it.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection is still open: {error}"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn assert_asked_for_patience(answer: Response, status: u16, text: &str) {
    assert_eq!(answer.status, status);
    assert_eq!(answer.header("Retry-After"), Some("5"));
    assert_eq!(answer.text(), format!("{text}\n"));
}

#[test]
fn hundreds_who_come_back_at_the_same_instant_all_get_in() {
    const MANY: usize = 500;
    let temp = Temp::new();
    let limits = format!("{{\"max_connections\": {MANY}, \"max_connections_per_address\": {MANY}}}");
    let (primary, url) = serving_with(&temp.path("primary.db"), &limits);
    // As long as this lasts nobody is taken on.
    signal(primary.pid(), Signal::Stop);
    let sockets: Vec<TcpStream> = (0..MANY).map(|_| connect_from(2, &url)).collect();
    signal(primary.pid(), Signal::Continue);
    for socket in sockets {
        assert_eq!(request_over(socket, "GET", "/healthz", &[("Connection", "close")]).status, 200);
    }
}

#[test]
fn connections_past_a_limit_are_told_when_to_come_back_and_disturb_nobody() {
    let temp = Temp::new();
    let limits = "{\"max_connections\": 4, \"max_connections_per_address\": 2}";
    let (mut primary, url) = serving_with(&temp.path("primary.db"), limits);
    let mut replica = following(&temp.path("replica.db"), &url);
    let reconnects = replica.ask("SELECT reconnects FROM litestream_status");
    let stream = "/stream?path=primary.db";
    let held = [get_from(2, &url, stream), get_from(2, &url, stream)];
    assert_eq!(held.each_ref().map(|answer| answer.status), [200, 200]);
    assert_asked_for_patience(get_from(2, &url, stream), 429, "Too many connections from this address");
    let last = get_from(3, &url, stream);
    assert_eq!(last.status, 200, "others have room of their own");
    assert_asked_for_patience(get_from(4, &url, stream), 503, "Too many connections");
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    drop(held);
    until("there is room again", || match get_from(4, &url, stream).status {
        200 => Ok(()),
        status => Err(status),
    });
    assert_eq!(replica.ask("SELECT reconnects FROM litestream_status"), reconnects);
}

#[test]
fn streams_of_a_database_are_counted_apart_from_those_of_others() {
    let temp = Temp::new();
    let (first, second) = (loaded(&temp.path("first.db")), loaded(&temp.path("second.db")));
    first.run(NEW);
    second.run(NEW);
    let url: String = first.ask("SELECT litestream_serve('127.0.0.1:0', '{\"max_streams\": 2}')");
    second.ask::<String>(&format!("SELECT litestream_serve('{}')", address(&url)));
    let open = |name: &str| get(&url, &format!("/stream?path={name}"), &[VERSION_2]);
    let held = [open("first.db"), open("first.db"), open("second.db")];
    assert_eq!(held.each_ref().map(|answer| answer.status), [200; 3]);
    assert_asked_for_patience(open("first.db"), 503, "Too many streams");
    let empty = [VERSION_2, ("Content-Length", "0")];
    for target in ["/stream?path=first.db&page_size=4096", "/verify?path=first.db&page_size=4096"] {
        assert_asked_for_patience(request("POST", &url, target, &empty), 503, "Too many streams");
    }
    assert_eq!(open("second.db").status, 200);
    drop(held);
    until("there is room again", || match open("first.db").status {
        200 => Ok(()),
        status => Err(status),
    });
}

#[test]
fn a_follower_comes_back_when_it_was_told_to() {
    let temp = Temp::new();
    let mut primary = Shell::open(&temp.path("primary.db"));
    primary.run(NEW);
    let served = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    let refusing = |head: String| {
        let answer = format!("HTTP/1.1 {head}Content-Length: 5\r\nConnection: close\r\n\r\nfull\n");
        Upstream::start(move |_, reply| reply.raw(answer.as_bytes()))
    };
    for status in ["503 Service Unavailable", "429 Too Many Requests"] {
        let (patient, eager) =
            (refusing(format!("{status}\r\nRetry-After: 250\r\n")), refusing(format!("{status}\r\n")));
        let follow = |name: &str, upstream: &Upstream| {
            let mut shell = Shell::open(&temp.path(name));
            shell.run(&format!("SELECT litestream_pull('{served}')"));
            shell.run(&format!("SELECT litestream_follow('{}/primary.db', '{{\"overwrite\": true}}')", upstream.url()));
            shell
        };
        let name = status.split(' ').next().unwrap();
        let mut waits = follow(&format!("patient-{name}.db"), &patient);
        let _comes = follow(&format!("eager-{name}.db"), &eager);
        until("the patient one was sent away", || match patient.requests().len() {
            1 => Ok(()),
            n => Err(n),
        });
        let before = eager.requests().len();
        until("the other has come back five times", || match eager.requests().len() {
            n if n >= before + 5 => Ok(()),
            n => Err(n),
        });
        assert_eq!(patient.requests().len(), 1, "it does not come before its time");
        let row = waits.ask("SELECT state, reason FROM litestream_status");
        assert!(row.starts_with("reconnecting|") && row.contains(status), "{row}");
        // Waiting does not keep it from being stopped.
        waits.run("SELECT litestream_stop()");
    }
}

#[test]
fn requests_that_are_too_large_or_too_slow_are_given_up() {
    let temp = Temp::new();
    let limits = "{\"max_head_bytes\": 2048, \"head_timeout_ms\": 300, \"body_timeout_ms\": 300}";
    let (mut primary, url) = serving_with(&temp.path("primary.db"), limits);
    let mut replica = following(&temp.path("replica.db"), &url);
    let say = |bytes: &str| {
        let mut socket = connect_from(2, &url);
        socket.write_all(bytes.as_bytes()).unwrap();
        rest_of(&mut socket)
    };
    let large = say(&format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(4096)));
    assert!(large.starts_with("HTTP/1.1 431 "), "{large}");
    assert_eq!(say(&format!("GET /{} HTTP/1.1\r\n", "x".repeat(8000))).get(..12), Some("HTTP/1.1 431"), "no end of it");
    // Each ends, though the client keeps its end open.
    for half in ["", "G", "GET /stream?path=primary.db HTTP/1.1\r\nHost: localhost\r\n", "\r\n\r\n"] {
        let said = say(half);
        assert!(!said.starts_with("HTTP/1.1 200"), "{half:?}: {said}");
    }
    assert!(say("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").starts_with("HTTP/1.1 200 "), "idle ones end, too");
    let post = |length: &str, body: &str| {
        format!(
            "POST /verify?path=primary.db&page_size=4096 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    for (length, body) in [("16", ""), ("16", "12345678"), ("99999999", "12345678")] {
        let slow = say(&post(length, body));
        assert!(slow.starts_with("HTTP/1.1 408 ") && slow.contains("too slowly"), "{length} {body}: {slow}");
    }
    let long = say(&post("99999999999", "12345678"));
    assert!(long.starts_with("HTTP/1.1 413 "), "{long}");
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT reconnects FROM litestream_status"), "0");
}

/// How many files and sockets a process has open.
fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Connections that are no requests: what each sends, from where.
fn crowd(url: &str, size: usize, mut between: impl FnMut()) -> Vec<TcpStream> {
    let kinds: [&[u8]; 6] = [
        b"",
        b"GET /stream?path=primary.db HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /stream?path=primary.db&page_size=4096 HTTP/1.1\r\nHost: localhost\r\nLitestream-Stream-Version: 2\r\nContent-Length: 80\r\n\r\n1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\xff\x13garbage that is no protocol at all\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: y",
    ];
    (0..size)
        .map(|n| {
            let mut socket = connect_from(2 + (n % 20) as u8, url);
            // Those for whom there is no room may be gone by now.
            let _ = socket.write_all(kinds[n % kinds.len()]);
            if n % 100 == 99 {
                between();
            }
            socket
        })
        .collect()
}

fn assert_undisturbed_by_thousands(
    primary: &mut Shell,
    replica: &mut Shell,
    url: &str,
    newcomer: &Path,
    options: &str,
) {
    let reconnects = replica.ask("SELECT reconnects FROM litestream_status");
    let mut rows = 0;
    let held = crowd(url, 3000, || {
        rows += 1;
        primary.run(&format!("INSERT INTO t(x) VALUES ({rows})"));
        catch_up(primary, replica);
    });
    let files = open_files(primary.pid());
    assert!(files < 1300, "{files} files are open");
    assert_eq!(replica.ask("SELECT state, reconnects FROM litestream_status"), format!("streaming|{reconnects}"));
    // Those who say nothing are shown the door in time; nobody has to go by himself.
    let mut shell = Shell::open(newcomer);
    until("there is room for somebody new", || shell.answer(&format!("SELECT litestream_pull('{url}', '{options}')")));
    assert_eq!(shell.ask("SELECT count(*) FROM t"), primary.ask("SELECT count(*) FROM t"));
    assert_eq!(replica.ask("SELECT state, reconnects FROM litestream_status"), format!("streaming|{reconnects}"));
    drop(held);
}

#[test]
fn thousands_of_connections_that_ask_for_nothing_leave_a_replica_undisturbed() {
    allow_open_files(8000);
    let temp = Temp::new();
    let limits = "{\"head_timeout_ms\": 3000, \"body_timeout_ms\": 3000}";
    let (mut primary, url) = serving_with(&temp.path("primary.db"), limits);
    let mut replica = following(&temp.path("replica.db"), &url);
    assert_undisturbed_by_thousands(&mut primary, &mut replica, &url, &temp.path("new.db"), "{}");
}

#[test]
fn thousands_that_begin_no_tls_leave_a_replica_undisturbed() {
    allow_open_files(8000);
    let temp = Temp::new();
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_string()]).unwrap();
    let (cert, key) = (temp.path("cert.pem"), temp.path("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let limits = format!(
        "{{\"head_timeout_ms\": 3000, \"tls_cert\": \"{}\", \"tls_key\": \"{}\"}}",
        cert.display(),
        key.display()
    );
    let (mut primary, url) = serving_with(&temp.path("primary.db"), &limits);
    let options = format!("{{\"ca\": \"{}\"}}", cert.display());
    let mut replica = Shell::open(&temp.path("replica.db"));
    replica.run(&format!("SELECT litestream_follow('{url}', '{options}')"));
    assert_undisturbed_by_thousands(&mut primary, &mut replica, &url, &temp.path("new.db"), &options);
}

#[test]
fn the_application_keeps_a_quarter_of_its_descriptors() {
    let temp = Temp::new();
    // A shell of the system that has the limit, and becomes the one of SQLite.
    let mut primary = Shell::with(&temp.path("primary.db"), |command| limit_open_files(command, 128));
    primary.run(NEW);
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    let mut replica = following(&temp.path("replica.db"), &url);
    let held = crowd(&url, 300, || ());
    // Those who are told that there is no room have theirs for a moment only.
    until("a quarter is free", || match open_files(primary.pid()) {
        n if n <= 96 => Ok(()),
        n => Err(n),
    });
    for n in 0..6 {
        primary.run(&format!("ATTACH '{}' AS own{n}", temp.path(&format!("own-{n}.db")).display()));
        primary.run(&format!("PRAGMA own{n}.journal_mode = wal; CREATE TABLE own{n}.t(x)"));
    }
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT reconnects FROM litestream_status"), "0");
    drop(held);
}
