use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use litestream::base::Kind;
use litestream::format::compression::Compression;
use litestream::net::{Credentials, HttpUpstream, Url};
use litestream::replica::{Have, Upstream};

use crate::database::loaded;

/// Longer than an answer from this process ever takes.
const SILENCE: Duration = Duration::from_secs(20);

/// Who answers requests: with what was sent here last.
struct Server {
    url: Url,
    answers: Mutex<Sender<Vec<u8>>>,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    // The library finds SQLite by having been loaded into it.
    std::mem::forget(loaded(":memory:".as_ref()));
    let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
    let url = format!("http://{}/app.db", listener.local_addr().expect("an address"));
    let (answers, next) = channel::<Vec<u8>>();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let Ok(answer) = next.recv() else { return };
            read_request(&mut socket);
            // The client may be gone already, having seen enough.
            let _ = socket.write_all(&answer).and_then(|()| socket.shutdown(Shutdown::Write));
            let _ = socket.read(&mut [0; 1]);
        }
    });
    Server { url: Url::parse(&url).expect("a URL"), answers: Mutex::new(answers) }
});

fn read_request(socket: &mut TcpStream) {
    let (mut request, mut part) = (Vec::new(), [0; 1024]);
    while !request.ends_with(b"\r\n\r\n") {
        match socket.read(&mut part) {
            Ok(size) if size > 0 => request.extend_from_slice(&part[..size]),
            _ => return,
        }
    }
}

/// Opens a stream at a server that answers with the input: it is refused in words, or read to its end.
pub fn head(data: &[u8]) {
    SERVER.answers.lock().unwrap_or_else(PoisonError::into_inner).send(data.to_vec()).expect("a server");
    let upstream = HttpUpstream::new(SERVER.url.clone(), SILENCE, Compression::Lz4, Credentials::default());
    let upstream = upstream.expect("an upstream");
    match upstream.open(Have::Nothing) {
        Ok(mut opened) => {
            let mut body = Vec::new();
            let _ = opened.body.read_to_end(&mut body);
            assert!(body.len() <= data.len(), "{} bytes of {}", body.len(), data.len());
            let head = String::from_utf8_lossy(data).to_ascii_lowercase();
            assert!(head.trim_start().starts_with("http/1."), "{head}");
            assert!(!opened.version2 || head.contains("litestream-stream-version:"), "{head}");
            assert!(opened.page_size.is_none() || head.contains("litestream-page-size:"), "{head}");
            assert!(opened.compression == Compression::None || head.contains("litestream-compression:"), "{head}");
        }
        Err(error) => {
            let said = error.to_string();
            assert!(error.kind() != Kind::Internal, "{said}");
            assert!(said.chars().count() < 600 && !said.chars().any(char::is_control), "{said}");
            assert!(!said.contains("no answer within"), "{said}");
        }
    }
    upstream.shutdown();
}
