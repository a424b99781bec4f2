//! Servers of the tests' own, which answer as a test wants: well, badly, or not at all.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A server on a port of its own; it ends, with all its connections, when dropped.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
    requests: Mutex<Vec<Request>>,
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method and target, such as `GET /stream?path=app.db`.
    pub line: String,
    headers: Vec<(String, String)>,
    /// What followed it, as its `Content-Length` says.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The head as it came.
    fn whole(&self) -> Vec<u8> {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{} HTTP/1.1\r\n{headers}\r\n", self.line).into_bytes()
    }
}

impl Upstream {
    /// Starts a server that lets `answer` write the answer to each request.
    pub fn start(answer: impl Fn(&Request, &mut Reply) + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on the loopback address");
        let address = listener.local_addr().expect("the address of a listener");
        let shared = Arc::new(Shared::default());
        let (answer, held) = (Arc::new(answer), Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if held.stop.load(Ordering::SeqCst) {
                    return;
                }
                held.sockets
                    .lock()
                    .expect("the sockets")
                    .push(socket.try_clone().expect("a second handle of a socket"));
                let (answer, held) = (Arc::clone(&answer), Arc::clone(&held));
                std::thread::spawn(move || serve(socket, &held, &*answer));
            }
        });
        Upstream { address, shared, thread: Some(thread) }
    }

    /// A server that answers each request with a version 2 stream of these bytes, and ends it.
    pub fn of_bytes(page_size: u32, bytes: Vec<u8>) -> Upstream {
        Upstream::start(move |_, reply| {
            reply.stream_v2(page_size);
            reply.send(&bytes);
            reply.end();
        })
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("the requests").clone()
    }

    /// Cuts all connections; new ones are still taken.
    pub fn cut(&self) {
        for socket in self.shared.sockets.lock().expect("the sockets").drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn serve(socket: TcpStream, shared: &Shared, answer: &(dyn Fn(&Request, &mut Reply) + Send + Sync)) {
    let mut reader = BufReader::new(socket.try_clone().expect("a second handle of a socket"));
    let Some(mut request) = head(&mut reader) else { return };
    let length = request.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    if reader.by_ref().take(length).read_to_end(&mut request.body).is_err() {
        return;
    }
    shared.requests.lock().expect("the requests").push(request.clone());
    let mut reply = Reply { socket, chunked: false };
    answer(&request, &mut reply);
    let _ = reply.socket.shutdown(Shutdown::Both);
}

fn head(from: &mut impl BufRead) -> Option<Request> {
    let mut lines = from.lines().map_while(Result::ok);
    let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_string();
    let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_string(), value.trim().to_string()))
    });
    Some(Request { line, headers: headers.collect(), body: Vec::new() })
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An answer being written. What cannot be sent since the other end is gone is left unsent.
pub struct Reply {
    socket: TcpStream,
    chunked: bool,
}

impl Reply {
    /// Starts an endless version 2 stream.
    pub fn stream_v2(&mut self, page_size: u32) {
        self.stream(&format!("Litestream-Page-Size: {page_size}\r\nLitestream-Stream-Version: 2\r\n"));
    }

    /// Starts an endless version 1 stream.
    pub fn stream_v1(&mut self, page_size: u32) {
        self.stream(&format!("Litestream-Page-Size: {page_size}\r\n"));
    }

    fn stream(&mut self, headers: &str) {
        self.raw(format!("HTTP/1.1 200 OK\r\n{headers}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
        self.chunked = true;
    }

    /// A whole answer with a short text.
    pub fn text(&mut self, status: &str, kind: &str, text: &str) {
        let length = text.len();
        self.raw(
            format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{text}").as_bytes(),
        );
    }

    /// Sends bytes of the body.
    pub fn send(&mut self, bytes: &[u8]) {
        if self.chunked && !bytes.is_empty() {
            self.raw(format!("{:x}\r\n", bytes.len()).as_bytes());
            self.raw(bytes);
            self.raw(b"\r\n");
        }
    }

    /// Sends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    /// Ends the body in order. Without it the connection is cut.
    pub fn end(&mut self) {
        self.raw(b"0\r\n\r\n");
    }

    /// Keeps the connection open, silent, until the other end or the server goes.
    pub fn hold(&mut self) {
        let _ = std::io::copy(&mut self.socket, &mut std::io::sink());
    }
}

/// A server in between that makes `upstream` (`http://host:port`) believe that its client is one of 2022: it takes
/// the header that asks for version 2 out of every request.
pub fn strip_version(upstream: &str) -> Upstream {
    let address = upstream.trim_start_matches("http://").to_string();
    Upstream::start(move |request, reply| {
        let Ok(mut server) = TcpStream::connect(&address) else { return };
        let asked = format!("{} HTTP/1.1\r\nHost: {address}\r\n\r\n", request.line);
        let _ = server.write_all(asked.as_bytes());
        pump(server, &mut reply.socket);
    })
}

/// A server in between that passes everything on.
pub struct Proxy {
    server: Upstream,
    passed: Arc<AtomicU64>,
}

impl Proxy {
    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// How many bytes it has passed on, of all connections together.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

/// A server in between that passes what `upstream` (`host:port`) answers through `change`, with the number of the first byte,
/// counted over all connections.
pub fn proxy(upstream: &str, change: impl Fn(u64, &mut [u8]) + Send + Sync + 'static) -> Proxy {
    let (address, passed) = (upstream.to_string(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&passed);
    let server = Upstream::start(move |request, reply| {
        let Ok(mut server) = TcpStream::connect(&address) else { return };
        let _ = server.write_all(&request.whole());
        let _ = server.write_all(&request.body);
        let closing = server.try_clone().expect("a second handle of a socket");
        let mut watched = reply.socket.try_clone().expect("a second handle of a socket");
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut watched, &mut std::io::sink());
            let _ = closing.shutdown(Shutdown::Both);
        });
        let mut bytes = vec![0; 64 << 10];
        while let Ok(n @ 1..) = server.read(&mut bytes) {
            change(count.fetch_add(n as u64, Ordering::SeqCst), &mut bytes[..n]);
            if reply.socket.write_all(&bytes[..n]).is_err() {
                return;
            }
        }
    });
    Proxy { server, passed }
}

/// Passes on what `from` sends until it ends; when the other side goes first, ends `from`.
fn pump(mut from: TcpStream, to: &mut TcpStream) {
    let (closing, mut watched) = (from.try_clone(), to.try_clone().expect("a second handle of a socket"));
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut watched, &mut std::io::sink());
        closing.map(|socket| socket.shutdown(Shutdown::Both))
    });
    let _ = std::io::copy(&mut from, to);
}
