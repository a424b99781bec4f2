//! The replica's end: one GET whose answer never ends.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::header::{ACCEPT, AUTHORIZATION};
use ureq::http::{HeaderValue, Response, StatusCode};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, RustlsConnector, TcpConnector};
use ureq::{Agent, Body, RequestBuilder, Timeout};

use serde_json::Value as Json;

use super::answer::{STREAM_TYPE, is_page, read_head, refusal, text};
use super::clock;
use super::credentials::Credentials;
use super::stop::{Stop, stopped};
use super::stream_body::StreamBody;
use super::url::Url;
use super::watched::{Watch, WatchConnector};
use crate::base::{Error, Kind, Position, Result, limits};
use crate::format::compression::Compression;
use crate::format::record::{COMPRESSION_HEADER, VERSION_HEADER};
use crate::replica::{Compared, Have, Opened, PageSums, Upstream, UpstreamClock};
use crate::sqlite::{guarded, spawn, steady_ms};

/// How long a name may take to resolve, and a connection to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes read from the socket at once.
const INPUT_BUFFER: usize = limits::scaled(256 << 10, 4 << 10);
/// Room for the request, which is all that is ever sent.
const OUTPUT_BUFFER: usize = limits::scaled(16 << 10, 4 << 10);
/// The longest answer to a comparison, in bytes.
const ANSWER_LIMIT: u64 = 64 << 10;
/// What the limits of single steps get on top when all of them together are waited for: those can
/// say which it was.
const SLACK: Duration = Duration::from_millis(250);

/// A database served over HTTP, one stream at a time: opening one ends the one before.
///
/// Proxies named in the environment are not used, and redirects are not followed: what a replica gets its data from is
/// what its URL says.
pub struct HttpUpstream {
    url: Url,
    shown: String,
    silence: Duration,
    compression: Compression,
    credentials: Credentials,
    warning: Option<String>,
    stop: Arc<Stop>,
}

impl HttpUpstream {
    /// The upstream at `url`. One that sends nothing for `silence` counts as dead. It is asked for `compression`, and shown
    /// `credentials`; fails if these cannot be used.
    pub fn new(
        url: Url,
        silence: Duration,
        compression: Compression,
        credentials: Credentials,
    ) -> Result<HttpUpstream> {
        let shown = url.to_string();
        let has_token = credentials.check(&url).map_err(|e| e.within(&shown))?;
        let warning = (has_token && !url.is_encrypted() && !url.is_loopback()).then(|| {
            "the token and the database go over the network in the clear: whoever is on the way reads both; use https".to_string()
        });
        if let Some(warning) = &warning {
            log::warn!("{shown}: {warning}");
        }
        Ok(HttpUpstream { url, shown, silence, compression, credentials, warning, stop: Arc::default() })
    }

    /// A request for which files with secrets are read as they are now.
    fn request(&self, have: Have, compression: Compression) -> Result<Request> {
        let (url, silence, stop) = (self.url.clone(), self.silence, Arc::clone(&self.stop));
        let authorization = self.credentials.authorization(&url)?;
        let (upload, watch) = (upload_time(silence, &have), Arc::<Watch>::default());
        let connector =
            ().chain(TcpConnector::default())
                .chain(RustlsConnector::default())
                .chain(WatchConnector(Arc::clone(&watch)));
        let agent = Agent::with_parts(self.config(upload)?, connector, DefaultResolver::default());
        Ok(Request { url, have, silence, upload, compression, authorization, agent, watch, stop })
    }

    /// Does a request on a thread of its own: neither name resolution nor connecting can be
    /// interrupted, so that [`HttpUpstream::shutdown`] leaves them to end by themselves.
    fn ask<T: Send + 'static>(
        &self,
        request: Request,
        ask: impl FnOnce(Request) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (result, answer) = mpsc::channel();
        self.stop.begin(request.agent.clone(), result.clone())?;
        let patience = self.silence + request.upload + SLACK;
        spawn("litestream-connect", move || drop(result.send(guarded(|| ask(request)))))?;
        match answer.recv_timeout(patience) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                self.interrupt();
                Err(Error::new(Kind::Io, format!("no answer within {} ms", self.silence.as_millis())))
            }
            Err(RecvTimeoutError::Disconnected) => Err(stopped()),
        }
    }

    fn config(&self, upload: Duration) -> Result<Config> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .no_delay(true)
            .timeout_resolve(Some(self.silence.min(CONNECT)))
            .timeout_connect(Some(self.silence.min(CONNECT)))
            .timeout_send_request(Some(self.silence))
            .timeout_send_body(Some(self.silence + upload))
            .timeout_recv_response(Some(self.silence))
            .timeout_per_read(Some(self.silence))
            .timeout_per_write(Some(self.silence))
            .input_buffer_size(INPUT_BUFFER)
            .output_buffer_size(OUTPUT_BUFFER)
            .max_idle_connections(0)
            .user_agent(concat!("liblitestream/", env!("CARGO_PKG_VERSION")));
        Ok(match self.url.is_encrypted() {
            true => config.tls_config(self.credentials.tls()?).build(),
            false => config.build(),
        })
    }
}

impl Upstream for HttpUpstream {
    fn url(&self) -> &str {
        &self.shown
    }

    fn warning(&self) -> Option<String> {
        self.warning.clone()
    }

    fn open(&self, have: Have) -> Result<Opened> {
        let request = self.request(have, self.compression);
        let opened = request.and_then(|request| self.ask(request, Request::run));
        opened.map_err(|e| e.within(&self.shown))
    }

    fn compare(&self, have: PageSums, position: Option<Position>) -> Result<Compared> {
        let request = self.request(Have::Pages(have), Compression::None);
        let compared = request.and_then(|request| self.ask(request, move |request| request.compare(position)));
        compared.map_err(|e| e.within(&self.shown))
    }

    fn another(&self) -> Arc<dyn Upstream> {
        Arc::new(HttpUpstream {
            url: self.url.clone(),
            shown: self.shown.clone(),
            silence: self.silence,
            compression: self.compression,
            credentials: self.credentials.clone(),
            warning: self.warning.clone(),
            stop: Arc::default(),
        })
    }

    fn interrupt(&self) {
        self.stop.lock().end();
    }

    fn shutdown(&self) {
        self.stop.stop();
    }
}

/// What one [`Upstream::open`] takes to its thread.
struct Request {
    url: Url,
    have: Have,
    silence: Duration,
    /// How long sending what the replica has may take on top of that.
    upload: Duration,
    compression: Compression,
    /// What shows who asks.
    authorization: Option<HeaderValue>,
    agent: Agent,
    watch: Arc<Watch>,
    stop: Arc<Stop>,
}

impl Request {
    fn run(self) -> Result<Opened> {
        let mut sent = steady_ms();
        let mut response = self.ask(&self.have)?;
        if matches!(self.have, Have::Pages(_)) && response.status() == StatusCode::METHOD_NOT_ALLOWED {
            // A server of 2022 knows nothing of checksums, and sends everything.
            sent = steady_ms();
            response = self.ask(&Have::Nothing)?;
        }
        self.watch.allow(self.silence);
        if response.status() != StatusCode::OK {
            return Err(self.refused(response));
        }
        let (version2, page_size) = read_head(response.headers())?;
        let times = clock::times(response.headers(), version2, sent)?;
        let clock = UpstreamClock::new(times, clock::comparing(&self.agent, self.url.health()));
        let agreed = text(response.headers(), COMPRESSION_HEADER) == Some(self.compression.name());
        let compression = if agreed { self.compression } else { Compression::None };
        let body = StreamBody {
            inner: response.into_body().into_with_config().limit(u64::MAX).reader(),
            silence_is_normal: !version2,
            silence: self.silence,
            stop: self.stop,
            watch: self.watch,
        };
        Ok(Opened { version2, compression, clock, page_size, body: Box::new(body) })
    }

    /// What an answer means that is no stream. A server that does not take our position may still
    /// compare what is there. One that does not know which database is meant has not looked at
    /// either.
    fn refused(&self, response: Response<Body>) -> Error {
        let is_bad = response.status() == StatusCode::BAD_REQUEST && !is_page(&response);
        let error = refusal(response, self.silence, self.authorization.is_some());
        let says = |words: &str| is_bad && error.to_string().contains(words);
        match self.have {
            Have::Position(_) if is_bad && !says("Database name") => Error::new(Kind::Diverged, error.to_string()),
            Have::Pages(_) if says("cannot be compared") => {
                let advice = "pass {\"overwrite\": true} to have the replica made anew";
                Error::new(Kind::Refused, format!("{error}; {advice}"))
            }
            _ => error,
        }
    }

    fn compare(&self, position: Option<Position>) -> Result<Compared> {
        let Have::Pages(have) = &self.have else { return Err(Error::usage("no pages to be compared")) };
        let url = self.url.verify(have.page_size, position.as_ref());
        let sent = self.headed(self.agent.post(&url)).content_type(STREAM_TYPE).send(&have.sums);
        let response = sent.map_err(|error| self.failed(error))?;
        self.watch.allow(self.silence);
        if response.status() != StatusCode::OK {
            return Err(refusal(response, self.silence, self.authorization.is_some()));
        }
        let body = response.into_body().into_with_config().limit(ANSWER_LIMIT).reader();
        let answer: Json = serde_json::from_reader(body)
            .map_err(|e| Error::corrupt(format!("the answer is not what a litestream server says: {e}")))?;
        let number = |name: &str| answer.get(name).and_then(Json::as_u64);
        let differing = answer.get("differing").and_then(Json::as_array);
        match (number("pages"), number("count"), number("newer"), differing) {
            (Some(pages), Some(count), Some(newer), Some(differing)) => {
                let differing = differing.iter().filter_map(Json::as_u64).collect();
                Ok(Compared { pages, differing, count, newer })
            }
            _ => Err(Error::corrupt("the answer is not what a litestream server says; is it older than this library?")),
        }
    }

    fn ask(&self, have: &Have) -> Result<Response<Body>> {
        let url = self.url.stream(have);
        let answer = match have {
            Have::Pages(PageSums { sums, .. }) => {
                self.headed(self.agent.post(&url)).content_type(STREAM_TYPE).send(sums)
            }
            Have::Nothing | Have::Position(_) => self.headed(self.agent.get(&url)).call(),
        };
        answer.map_err(|error| self.failed(error))
    }

    fn headed<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        let mut request = request.header(VERSION_HEADER, "2").header(ACCEPT, STREAM_TYPE);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        match self.compression {
            Compression::None => request,
            wanted => request.header(COMPRESSION_HEADER, wanted.name()),
        }
    }

    fn failed(&self, error: ureq::Error) -> Error {
        if self.stop.is_stopped() {
            return stopped();
        }
        let message = match error {
            ureq::Error::Timeout(Timeout::Resolve) => {
                format!("name not resolved within {} ms", self.silence.min(CONNECT).as_millis())
            }
            ureq::Error::Timeout(Timeout::Connect) => {
                format!("no connection within {} ms", self.silence.min(CONNECT).as_millis())
            }
            ureq::Error::Timeout(_) if matches!(self.have, Have::Position(_)) => format!(
                "no answer within {} ms (a Litestream of 2022 does not answer before its next commit)",
                self.silence.as_millis()
            ),
            ureq::Error::Timeout(_) => format!("no answer within {} ms", self.silence.as_millis()),
            ureq::Error::HostNotFound => "host not found".to_string(),
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "connection refused; is it served there?".to_string()
            }
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the connection was closed without an answer".to_string()
            }
            // Only TLS calls data invalid.
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => tls_failed(&error),
            ureq::Error::Io(error) => super::printable(&error.to_string()),
            ureq::Error::Protocol(error) => {
                let hint = if self.url.is_encrypted() { "" } else { "; is the address one for https://?" };
                format!("the answer is not HTTP: {}{hint}", super::printable(&error.to_string()))
            }
            // Only from a URL that our own parser let through.
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => "the URL is not one that HTTP can ask for".to_string(),
            error => super::printable(&error.to_string()),
        };
        Error::new(Kind::Io, message)
    }
}

/// How long the body of a request may take to be sent, past the silence that is allowed.
fn upload_time(silence: Duration, have: &Have) -> Duration {
    let bytes = if let Have::Pages(PageSums { sums, .. }) = have { sums.len() as u64 } else { 0 };
    // What it is sent may be looked at before the answer comes.
    Duration::from_secs(bytes / limits::SLOWEST_BYTES) + if bytes > 0 { silence } else { Duration::ZERO }
}

/// What is wrong with the TLS of the other end, and what may help.
fn tls_failed(error: &io::Error) -> String {
    let said = super::printable(&error.to_string());
    let advice = match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            "give the authority of the server's certificate with the option ca"
        }
        Some(rustls::Error::InvalidCertificate(_)) if said.contains("CaUsedAsEndEntity") => {
            "a certificate that is its own authority must not be one for others: openssl makes it with \
             -addext basicConstraints=critical,CA:FALSE"
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            "the certificate must be one for the name in the URL, and not be expired"
        }
        Some(rustls::Error::AlertReceived(_)) => {
            "does the server ask for a certificate? Give client_cert and client_key"
        }
        _ => "is the address one for http://?",
    };
    format!("TLS failed: {said}; {advice}")
}

/// Against upstreams of every sort, over real sockets.
#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, channel};
    use std::thread::{self, JoinHandle};

    use super::*;
    use crate::base::Generation;

    /// Longer than any test may take: what ends sooner was not ended by the silence.
    const HOUR: Duration = Duration::from_secs(3600);
    const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\
                          litestream-page-size: 4096\r\nlitestream-stream-version: 2\r\n\r\n";

    /// An upstream that answers one request with given bytes and then holds the connection open until dropped.
    struct Peer {
        base: String,
        /// The head of the request, when it has come and the answer was given.
        requests: Receiver<String>,
        close: Option<mpsc::Sender<()>>,
        thread: Option<JoinHandle<()>>,
    }

    impl Peer {
        fn answering(answer: impl Into<Vec<u8>>) -> Peer {
            let (answer, listener) = (answer.into(), TcpListener::bind("127.0.0.1:0").expect("bind"));
            let base = format!("http://{}", listener.local_addr().expect("address"));
            let ((told, requests), (close, closed)) = (channel(), channel());
            let thread = thread::spawn(move || {
                let (mut socket, _) = listener.accept().expect("accept");
                let request = read_request(&socket);
                socket.write_all(&answer).expect("answer");
                told.send(request).expect("the test waits");
                // Ends by the sender being dropped.
                assert!(closed.recv().is_err());
            });
            Peer { base, requests, close: Some(close), thread: Some(thread) }
        }

        fn upstream(&self, silence: Duration) -> HttpUpstream {
            upstream(&self.base, silence)
        }

        fn close(&mut self) {
            self.close = None;
            if let Some(thread) = self.thread.take() {
                thread.join().expect("the peer");
            }
        }

        /// What a client says about this answer, from a peer that closes the connection after it.
        fn error_of(answer: &str) -> Error {
            let mut peer = Peer::answering(answer);
            let upstream = peer.upstream(HOUR);
            let opened = thread::spawn(move || upstream.open(Have::Nothing));
            peer.requests.recv().expect("a request");
            peer.close();
            opened.join().expect("open").map(|_| ()).expect_err("not a stream")
        }
    }

    impl Drop for Peer {
        fn drop(&mut self) {
            self.close();
        }
    }

    fn read_request(socket: &TcpStream) -> String {
        let lines = BufReader::new(socket).lines().map(|line| line.expect("request"));
        lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
    }

    fn of(url: Url, silence: Duration, compression: Compression) -> HttpUpstream {
        HttpUpstream::new(url, silence, compression, Credentials::default()).expect("credentials")
    }

    fn upstream(base: &str, silence: Duration) -> HttpUpstream {
        of(Url::parse(&format!("{base}/app.db")).expect("URL"), silence, Compression::None)
    }

    #[test]
    fn the_request_names_database_position_and_version() {
        let mut peer = Peer::answering(STREAM);
        let url = Url::parse(&peer.base.replace("//", "//ann:s3cret@")).expect("URL");
        let upstream = of(url, HOUR, Compression::None);
        assert_eq!(upstream.url(), peer.base);
        let since = Position { generation: Generation(0xa), index: 0xb, offset: 0xc };
        upstream.open(Have::Position(since)).expect("a stream");
        let request = peer.requests.recv().expect("a request");
        let mut lines = request.lines();
        assert_eq!(
            lines.next(),
            Some("GET /stream?generation=000000000000000a&index=000000000000000b&offset=000000000000000c HTTP/1.1")
        );
        let mut headers: Vec<_> = lines.map(|line| line.to_ascii_lowercase()).collect();
        headers.sort();
        assert_eq!(
            headers,
            [
                "accept: application/octet-stream".to_string(),
                "authorization: basic yw5uonmzy3jlda==".to_string(),
                format!("host: {}", peer.base.trim_start_matches("http://")),
                "litestream-stream-version: 2".to_string(),
                concat!("user-agent: liblitestream/", env!("CARGO_PKG_VERSION")).to_string(),
            ]
        );
        peer.close();
    }

    #[test]
    fn a_stream_may_be_compressed_if_both_ends_say_so() {
        for (wanted, answered, expected) in [
            (Compression::Lz4, "lz4", Compression::Lz4),
            (Compression::Lz4, "none", Compression::None),
            (Compression::Lz4, "zstd", Compression::None),
            (Compression::None, "lz4", Compression::None),
        ] {
            let peer =
                Peer::answering(STREAM.replace("\r\n\r\n", &format!("\r\n{COMPRESSION_HEADER}: {answered}\r\n\r\n")));
            let upstream = of(Url::parse(&peer.base).expect("URL"), HOUR, wanted);
            let opened = upstream.open(Have::Nothing).expect("a stream");
            assert_eq!(opened.compression, expected, "wanted {wanted:?}, answered {answered}");
            let request = peer.requests.recv().expect("a request").to_ascii_lowercase();
            let asked = request.lines().any(|line| line == "litestream-compression: lz4");
            assert_eq!(asked, wanted == Compression::Lz4, "{request}");
        }
        let silent = Peer::answering(STREAM);
        let upstream = of(Url::parse(&silent.base).expect("URL"), HOUR, Compression::Lz4);
        assert_eq!(upstream.open(Have::Nothing).expect("a stream").compression, Compression::None);
    }

    #[test]
    fn a_stream_is_read_to_its_end() {
        let peer = Peer::answering(format!("{STREAM}5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"));
        let mut opened = peer.upstream(HOUR).open(Have::Nothing).expect("a stream");
        assert_eq!((opened.version2, opened.page_size), (true, Some(4096)));
        let mut text = String::new();
        opened.body.read_to_string(&mut text).expect("an orderly end");
        assert_eq!(text, "hello, world");
    }

    #[test]
    fn a_server_of_2022_is_known_by_its_head() {
        let old = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nLitestream-Page-Size: 1024\r\n\
                   Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let opened = Peer::answering(old).upstream(HOUR).open(Have::Nothing).expect("a stream");
        assert_eq!((opened.version2, opened.page_size), (false, Some(1024)));
        let bare = Peer::answering("HTTP/1.1 200 OK\r\n\r\n").upstream(HOUR).open(Have::Nothing).expect("a stream");
        assert_eq!((bare.version2, bare.page_size), (false, None));
    }

    #[test]
    fn an_answer_that_is_no_stream_is_told_in_words() {
        let long = format!("HTTP/1.1 500 x\r\ncontent-length: 9999\r\n\r\nre\u{1b}[31md {}", "x".repeat(500));
        for (answer, kind, part) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\n\r\n<html>",
                Kind::Corrupt,
                "is text/html, not a",
            ),
            (
                "HTTP/1.1 404 Not Found\r\n\r\nDatabase not found\nmore",
                Kind::Usage,
                "404 Not Found: Database not found",
            ),
            ("HTTP/1.1 400 Bad Request\r\n\r\n", Kind::Usage, "the server answered 400 Bad Request"),
            (
                "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\n\r\n<html>",
                Kind::Io,
                "502 Bad Gateway with a web page",
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", Kind::Io, "204 No Content"),
            (
                "HTTP/1.1 302 Found\r\nlocation: https://other/stream\r\ncontent-length: 0\r\n\r\n",
                Kind::Io,
                "302 Found to https://other/stream; redirects are not followed",
            ),
            ("HTTP/1.1 200 OK\r\nlitestream-stream-version: 3\r\n\r\n", Kind::Corrupt, "version '3' of the stream"),
            ("HTTP/1.1 200 OK\r\nlitestream-page-size: big\r\n\r\n", Kind::Corrupt, "'big', expected a number"),
            ("SSH-2.0-OpenSSH_9.2\r\n", Kind::Io, "the answer is not HTTP"),
            ("", Kind::Io, "closed without an answer"),
            ("HTTP/1.1 200 OK\r\ncontent-ty", Kind::Io, "closed without an answer"),
            (&long, Kind::Io, "500 Internal Server Error: re?[31md xxx"),
        ] {
            let error = Peer::error_of(answer);
            assert_eq!(error.kind(), kind, "{answer}: {error}");
            let said = error.to_string();
            assert!(
                said.contains(part) && said.starts_with("http://127.0.0.1:") && said.len() < 400,
                "{answer}: {said}"
            );
        }
    }

    #[test]
    fn a_stream_cut_in_the_middle_of_a_chunk_is_an_error() {
        for part in ["", "5", "5\r\nhel", "5\r\nhello", "5\r\nhello\r\n", "5\r\nhello\r\nxyz\r\n"] {
            let mut peer = Peer::answering(format!("{STREAM}{part}"));
            let mut opened = peer.upstream(HOUR).open(Have::Nothing).expect("a stream");
            peer.requests.recv().expect("a request");
            peer.close();
            let error = opened.body.read_to_end(&mut Vec::new()).expect_err(part);
            assert_ne!(error.kind(), io::ErrorKind::TimedOut, "{part}: {error}");
        }
    }

    #[test]
    fn nobody_listening_is_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let base = format!("http://{}", listener.local_addr().expect("address"));
        drop(listener);
        let error = upstream(&base, HOUR).open(Have::Nothing).map(|_| ()).expect_err("nobody there");
        assert_eq!(error.to_string(), format!("{base}/app.db: connection refused; is it served there?"));
    }

    #[test]
    fn https_where_http_is_spoken_is_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let base = format!("https://{}", listener.local_addr().expect("address"));
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("accept");
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("answer");
            // Until the client closes.
            drop(socket.read_to_end(&mut Vec::new()));
        });
        let error = upstream(&base, HOUR).open(Have::Nothing).map(|_| ()).expect_err("no TLS").to_string();
        assert!(error.contains("TLS failed") && error.contains("http://?"), "{error}");
        server.join().expect("server");
    }

    #[test]
    fn a_silent_upstream_is_given_up() {
        let peer = Peer::answering("");
        let error = peer.upstream(Duration::from_millis(50)).open(Have::Nothing).map(|_| ()).expect_err("silence");
        assert!(error.to_string().ends_with("no answer within 50 ms"), "{error}");

        let peer = Peer::answering(format!("{STREAM}5\r\nhello\r\n"));
        let mut opened = peer.upstream(Duration::from_millis(50)).open(Have::Nothing).expect("a stream");
        let mut text = Vec::new();
        let error = opened.body.read_to_end(&mut text).expect_err("silence");
        assert_eq!((text.as_slice(), error.kind()), (b"hello".as_slice(), io::ErrorKind::TimedOut));
        assert_eq!(error.to_string(), "nothing came for 50 ms, not even a heartbeat");
    }

    #[test]
    fn a_shutdown_ends_a_read() {
        // The last one ends with the connection, so that a socket shut down looks like its orderly end.
        for head in [STREAM, "HTTP/1.1 200 OK\r\nlitestream-stream-version: 2\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
            let body = if head == STREAM { "5\r\nhello\r\n" } else { "hello" };
            let peer = Peer::answering(format!("{head}{body}"));
            let upstream = peer.upstream(HOUR);
            let mut opened = upstream.open(Have::Nothing).expect("a stream");
            let (told, reading) = channel();
            let reader = thread::spawn(move || {
                let mut first = [0; 5];
                opened.body.read_exact(&mut first).expect("the first bytes");
                told.send(()).expect("the test waits");
                opened.body.read(&mut first).map_err(|e| (e.kind(), e.to_string()))
            });
            reading.recv().expect("the reader");
            upstream.shutdown();
            assert_eq!(reader.join().expect("reader"), Err((io::ErrorKind::ConnectionAborted, "stopped".to_string())));
        }
    }

    #[test]
    fn a_shutdown_ends_an_open_and_every_later_one() {
        let peer = Peer::answering("");
        let upstream = Arc::new(peer.upstream(HOUR));
        let opening = upstream.clone();
        let opener = thread::spawn(move || opening.open(Have::Nothing).map(|_| ()));
        peer.requests.recv().expect("a request");
        upstream.shutdown();
        let said = format!("{}/app.db: stopped", peer.base);
        assert_eq!(opener.join().expect("opener").map_err(|e| e.to_string()), Err(said.clone()));
        assert_eq!(upstream.open(Have::Nothing).map(|_| ()).map_err(|e| e.to_string()), Err(said));
    }

    #[test]
    fn a_new_stream_ends_the_one_before() {
        let (first, second) = (Peer::answering(STREAM), Peer::answering(STREAM));
        let mut upstream = first.upstream(HOUR);
        let mut opened = upstream.open(Have::Nothing).expect("a stream");
        upstream.url = Url::parse(&second.base).expect("URL");
        let _reopened = upstream.open(Have::Nothing).expect("another stream");
        let ended = opened.body.read(&mut [0; 1]);
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    }
}
