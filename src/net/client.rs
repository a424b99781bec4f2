//! The replica's end: one GET whose answer never ends.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use ureq::http::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body, Timeout};

use super::url::Url;
use crate::base::{Error, Kind, Position, Result};
use crate::format::record::{PAGE_SIZE_HEADER, VERSION_HEADER};
use crate::replica::{Opened, Upstream};

/// How long a name may take to resolve, and a connection to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes read from the socket at once.
const INPUT_BUFFER: usize = 256 << 10;
/// Room for the request, which is all that is ever sent.
const OUTPUT_BUFFER: usize = 16 << 10;
/// How much of an answer that is not a stream is looked at for what it says.
const COMPLAINT_LIMIT: usize = 1024;

/// A database served over HTTP.
///
/// Proxies named in the environment are not used, and redirects are not followed: what a replica gets its data from is
/// what its URL says.
pub struct HttpUpstream {
    url: Url,
    shown: String,
    silence: Duration,
    agent: Agent,
    stop: Arc<Stop>,
}

impl HttpUpstream {
    /// The upstream at `url`. One that sends nothing for `silence` counts as dead.
    pub fn new(url: Url, silence: Duration) -> HttpUpstream {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .no_delay(true)
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(silence))
            .timeout_per_write(Some(silence))
            .input_buffer_size(INPUT_BUFFER)
            .output_buffer_size(OUTPUT_BUFFER)
            .max_idle_connections(0)
            .user_agent(concat!("liblitestream/", env!("CARGO_PKG_VERSION")))
            .build();
        let shown = url.to_string();
        HttpUpstream { url, shown, silence, agent: Agent::new_with_config(config), stop: Arc::default() }
    }
}

impl Upstream for HttpUpstream {
    fn url(&self) -> &str {
        &self.shown
    }

    /// The request runs on a thread of its own: neither name resolution nor connecting can be interrupted, so that
    /// [`HttpUpstream::shutdown`] leaves them to end by themselves.
    fn open(&self, since: Option<Position>) -> Result<Opened> {
        let (result, waiting) = mpsc::channel();
        let ticket = self.stop.wait(result.clone()).map_err(|e| e.within(&self.shown))?;
        let request = Request {
            url: self.url.stream(since.as_ref()),
            silence: self.silence,
            agent: self.agent.clone(),
            stop: self.stop.clone(),
        };
        let connecting = move || drop(result.send(request.run()));
        let opened = match thread::Builder::new().name("litestream-connect".into()).spawn(connecting) {
            Ok(_) => waiting.recv().unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the request ended in a panic"))),
            Err(error) => Err(Error::io("cannot start a thread", &error)),
        };
        self.stop.done(ticket);
        opened.map_err(|e| e.within(&self.shown))
    }

    fn shutdown(&self) {
        self.stop.stop();
        self.agent.clone().shutdown();
    }
}

/// Ends what waits for the upstream.
#[derive(Default)]
struct Stop {
    stopped: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    last_ticket: u64,
    opens: Vec<(u64, mpsc::Sender<Result<Opened>>)>,
}

impl Stop {
    /// From now on, `open` hears when it is to give up.
    fn wait(&self, open: mpsc::Sender<Result<Opened>>) -> Result<u64> {
        let mut waiting = self.lock();
        if self.is_stopped() {
            return Err(stopped());
        }
        waiting.last_ticket += 1;
        let ticket = waiting.last_ticket;
        waiting.opens.push((ticket, open));
        Ok(ticket)
    }

    fn done(&self, ticket: u64) {
        self.lock().opens.retain(|(t, _)| *t != ticket);
    }

    fn stop(&self) {
        let mut waiting = self.lock();
        self.stopped.store(true, Ordering::SeqCst);
        for (_, open) in waiting.opens.drain(..) {
            // Its receiver is gone if it just got its answer.
            drop(open.send(Err(stopped())));
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopped() -> Error {
    Error::new(Kind::Io, "stopped")
}

/// What one [`Upstream::open`] takes to its thread.
struct Request {
    /// With the password, so never shown.
    url: String,
    silence: Duration,
    agent: Agent,
    stop: Arc<Stop>,
}

impl Request {
    fn run(self) -> Result<Opened> {
        let response = self
            .agent
            .get(&self.url)
            .header(VERSION_HEADER, "2")
            .header(ACCEPT, "application/octet-stream")
            .call()
            .map_err(|error| self.failed(error))?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response, self.silence));
        }
        let (version2, page_size) = read_head(response.headers())?;
        let body = StreamBody {
            inner: response.into_body().into_with_config().limit(u64::MAX).reader(),
            silence_is_normal: !version2,
            silence: self.silence,
            stop: self.stop,
        };
        Ok(Opened { version2, page_size, body: Box::new(body) })
    }

    fn failed(&self, error: ureq::Error) -> Error {
        if self.stop.is_stopped() {
            return stopped();
        }
        let message = match error {
            ureq::Error::Timeout(Timeout::Resolve) => format!("name not resolved within {} s", CONNECT.as_secs()),
            ureq::Error::Timeout(Timeout::Connect) => format!("no connection within {} s", CONNECT.as_secs()),
            ureq::Error::Timeout(_) => format!("no answer within {} ms", self.silence.as_millis()),
            ureq::Error::HostNotFound => "host not found".to_string(),
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "connection refused; is it served there?".to_string()
            }
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the connection was closed without an answer".to_string()
            }
            ureq::Error::Io(error) => super::printable(&error.to_string()),
            ureq::Error::Protocol(error) => {
                format!("the answer is not HTTP: {}", super::printable(&error.to_string()))
            }
            // Only from a URL that our own parser let through; the text would hold the password.
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => "the URL is not one that HTTP can ask for".to_string(),
            error => super::printable(&error.to_string()),
        };
        Error::new(Kind::Io, message)
    }
}

/// Version and page size, from the head of an answer with status 200.
fn read_head(headers: &HeaderMap) -> Result<(bool, Option<u32>)> {
    let kind = text(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.is_empty() && !essence.eq_ignore_ascii_case("application/octet-stream") {
        return Err(Error::corrupt(format!(
            "the answer is {}, not a stream; is the address that of a litestream server?",
            super::printable(essence)
        )));
    }
    let version2 = match text(headers, VERSION_HEADER) {
        None | Some("1") => false,
        Some("2") => true,
        Some(other) => {
            return Err(Error::corrupt(format!(
                "the server speaks version '{}' of the stream, expected 1 or 2; is this library older than the server's?",
                super::printable(other)
            )));
        }
    };
    let page_size = match text(headers, PAGE_SIZE_HEADER) {
        None => None,
        Some(digits) => Some(digits.parse().map_err(|_| {
            Error::corrupt(format!("header {PAGE_SIZE_HEADER}: '{}', expected a number", super::printable(digits)))
        })?),
    };
    Ok((version2, page_size))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?").trim())
}

/// What a status other than 200 means to the user.
fn refusal(response: Response<Body>, silence: Duration) -> Error {
    let status = response.status();
    let kind = if status.is_client_error() { Kind::Usage } else { Kind::Io };
    let mut message = format!("the server answered {status}");
    if let Some(target) = text(response.headers(), LOCATION.as_str()).filter(|_| status.is_redirection()) {
        message += &format!(" to {}; redirects are not followed, use that address", super::printable(target));
    } else if text(response.headers(), CONTENT_TYPE.as_str()).is_some_and(|t| t.starts_with("text/html")) {
        message += " with a web page; is the address that of a litestream server?";
    } else {
        let complaint = first_line(response.into_body().into_reader(), silence);
        if !complaint.is_empty() {
            message += &format!(": {complaint}");
        }
    }
    Error::new(kind, message)
}

/// The first line of `body`, or what came of it within `patience` and [`COMPLAINT_LIMIT`].
fn first_line(body: impl Read, patience: Duration) -> String {
    let started = Instant::now();
    let mut body = body.take(COMPLAINT_LIMIT as u64);
    let (mut line, mut chunk) = (Vec::new(), [0; COMPLAINT_LIMIT]);
    while !line.contains(&b'\n') && started.elapsed() < patience {
        match body.read(&mut chunk) {
            Ok(n) if n > 0 => line.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&line);
    super::printable(text.lines().next().unwrap_or_default().trim())
}

/// The records, with errors in words.
struct StreamBody<R> {
    inner: R,
    /// Version 1 has no heartbeats: a primary that is not written to sends nothing.
    silence_is_normal: bool,
    silence: Duration,
    stop: Arc<Stop>,
}

impl<R: Read> Read for StreamBody<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = self.inner.read(out);
            // A socket shut down under a read can look like the end of the stream.
            if self.stop.is_stopped() && !matches!(result, Ok(n) if n > 0) {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "stopped"));
            }
            match result {
                // A read that timed out has taken nothing, so it can be done again.
                Err(error) if is_timeout(&error) && self.silence_is_normal => continue,
                Err(error) => return Err(self.in_words(error)),
                Ok(n) => return Ok(n),
            }
        }
    }
}

impl<R> StreamBody<R> {
    fn in_words(&self, error: io::Error) -> io::Error {
        let kind = error.kind();
        if is_timeout(&error) {
            let message = format!("nothing came for {} ms, not even a heartbeat", self.silence.as_millis());
            return io::Error::new(io::ErrorKind::TimedOut, message);
        }
        match kind {
            io::ErrorKind::UnexpectedEof => io::Error::new(kind, "the connection was closed in the middle of the stream"),
            _ => io::Error::new(kind, super::printable(&error.to_string())),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    matches!(inner, Some(ureq::Error::Timeout(_)))
}
