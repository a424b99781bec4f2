use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use crate::database::{base, loaded, scratch};

/// A server of this process.
struct Server {
    address: SocketAddr,
    writer: Mutex<Connection>,
    asked: AtomicU32,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let path = scratch().join("served.db");
    std::fs::write(&path, base(512, 20)).expect("a database");
    let connection = loaded(&path);
    // By whatever name it is asked.
    let serve = "SELECT litestream_serve('127.0.0.1:0', '{\"insecure\": true}')";
    let url = connection.query_row(serve, [], |row| row.get::<_, String>(0)).expect("a server");
    let address = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let address = address.parse().expect("an address");
    Server { address, writer: Mutex::new(connection), asked: AtomicU32::new(0) }
});

/// Sends the input to a server. It answers with HTTP or not at all, and goes on answering others.
pub fn request(data: &[u8]) {
    let answer = ask(data, true);
    if !answer.is_empty() {
        let head = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
        let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
        let known = [100, 200, 304, 400, 401, 404, 405, 408, 409, 413, 414, 421, 429, 431, 503]
            .map(|status: u32| status.to_string());
        assert!(
            status.is_some_and(|status| known.iter().any(|known| known == status)),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    if SERVER.asked.fetch_add(1, Relaxed).is_multiple_of(16) {
        assert!((0..3).any(|_| is_well()), "the server answers nobody after {data:?}");
        // A stream to a client that is gone, and had said more than was read, ends when there is something to send.
        let writer = SERVER.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.execute("UPDATE t SET number = number + 1 WHERE id = 1", []).expect("a commit");
    }
}

/// Asked again where not: thousands of connections a second use up the numbers of ports, and one of an earlier connection that
/// is not quite over may be refused.
fn is_well() -> bool {
    ask(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", false).ends_with(b"ok\n")
}

/// What comes for `request`. A stream ends with the connection, whose other direction this end may close when it has said all;
/// then there may be no answer at all.
fn ask(request: &[u8], and_end: bool) -> Vec<u8> {
    let mut socket = TcpStream::connect(SERVER.address).expect("a connection");
    socket.set_read_timeout(Some(Duration::from_secs(15))).expect("a timeout");
    // The server may have closed the connection by then.
    let sent = socket.write_all(request);
    if and_end {
        let _ = sent.and_then(|()| socket.shutdown(Shutdown::Write));
    }
    let (mut answer, mut part) = (Vec::new(), [0; 64 << 10]);
    loop {
        match socket.read(&mut part) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no end of the answer: {answer:?}"),
            Ok(size) if size > 0 => answer.extend_from_slice(&part[..size]),
            _ => return answer,
        }
        // It goes on for ever if more was sent than the server reads.
        if contains(&answer, b"application/octet-stream") {
            return answer;
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
