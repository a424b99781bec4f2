//! What is answered to which request.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | a page that tells of all of the process |
//! | `GET /status.json` | the same as data |
//! | `GET /healthz` | `ok`, and what the server's clock says |
//! | `GET /metrics` | all that the process counted, in the text format of Prometheus |
//! | `GET /snapshot?path=P` | database P as a file |
//! | `GET /stream?path=P&generation=G&index=I&offset=O` | the records of database P, from that position on |
//! | `POST /stream?path=P&page_size=S` | the same for a replica that has pages with the checksums in the body |
//! | `POST /verify?path=P&page_size=S&generation=G&index=I&offset=O` | which of the pages with the checksums in the body are not what they should be at that position, as JSON |
//! | any other method, and `POST` in version 1 | 405 |
//! | anything else | 404 |
//! | more streams or comparisons of a database than there may be | 503, with `Retry-After` |
//!
//! Without generation or index the client counts as new. The numbers are hexadecimal, as in a position; the page size is
//! decimal.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{Router, get, post};

use byteorder::{BigEndian, ByteOrder};
use serde_json::{Value, json};

use super::clock;
use super::databases::{Databases, Missing, Open, Stream};
use super::metrics;
use super::page;
use super::report::{Reporter, Source};
use super::snapshot;
use super::stream::FeedStream;
use super::upload::{Failed, Upload};
use crate::base::{Error, Kind, PageSize, Position, limits};
use crate::format::checksum::PageChecksum;
use crate::format::compression::Compression;
use crate::format::record::{COMPRESSION_HEADER, PAGE_SIZE_HEADER, TIME_HEADER, VERSION_HEADER};
use crate::primary::{Ask, Comparison, Primary, Version};
use crate::sqlite::steady_ms;

/// How many pages are named that differ.
const SHOWN_PAGES: usize = 1000;

/// The longest list of checksums: a database has this many pages at most, and each has one.
const CHECKSUMS_BYTES: u64 = 8 * 0xffff_fffe;

/// Who asks: address and port of the other end, put into each request by the server.
#[derive(Clone)]
pub struct Client(pub String);

/// Every route, over what is served here; `source` tells of all of the process.
pub fn router(databases: Arc<Databases>, source: Source) -> Router {
    Router::new()
        .route("/healthz", get(health).fallback(wrong_method))
        .route("/snapshot", get(snapshot::get).head(snapshot::head).fallback(wrong_method))
        .route("/stream", get(stream).post(compare).head(wrong_method).fallback(wrong_method))
        .route("/verify", post(verify).fallback(wrong_method))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "Not found") })
        .with_state(databases)
        .merge(telling(source))
}

/// What the process tells of itself, whatever is served here.
fn telling(source: Source) -> Router {
    Router::new()
        .route("/", get(page::page).fallback(wrong_method))
        .route("/metrics", get(metrics::metrics).fallback(wrong_method))
        .route("/status.json", get(page::status).fallback(wrong_method))
        .with_state(Arc::new(Reporter::new(source)))
}

/// That the server is there, and what its clock says.
async fn health() -> impl IntoResponse {
    ([(HeaderName::from_static(TIME_HEADER), clock::header_value(steady_ms()))], "ok\n")
}

async fn wrong_method() -> impl IntoResponse {
    ([(ALLOW, HeaderValue::from_static("GET"))], refuse(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"))
}

async fn stream(
    State(databases): State<Arc<Databases>>,
    Extension(Client(client)): Extension<Client>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let came_at = steady_ms();
    let query = Query::read(&uri)?;
    let ask = query.ask(&headers, client)?;
    let (primary, open) = databases.find(query.value("path"))?;
    let stream = begin(&databases, &primary)?;
    answer(primary, open, ask, stream, came_at).await
}

async fn compare(
    State(databases): State<Arc<Databases>>,
    Extension(Client(client)): Extension<Client>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let came_at = steady_ms();
    if version_of(&headers) == Version::V2022 {
        return Ok(wrong_method().await.into_response());
    }
    let query = Query::read(&uri)?;
    let (primary, open) = databases.find(query.value("path"))?;
    let stream = begin(&databases, &primary)?;
    let checksums = read_checksums(&query, &primary, body, databases.limits().body_timeout).await?;
    let ask = Ask { checksums: Some(checksums), ..query.ask(&headers, client)? };
    answer(primary, open, ask, stream, came_at).await
}

async fn verify(State(databases): State<Arc<Databases>>, uri: Uri, body: Body) -> Result<Json<Value>, Refusal> {
    let query = Query::read(&uri)?;
    let (primary, _) = databases.find(query.value("path"))?;
    let _stream = begin(&databases, &primary)?;
    let position = query.position()?;
    let checksums = read_checksums(&query, &primary, body, databases.limits().body_timeout).await?;
    let Comparison { position, pages, differing, newer } =
        blocking(move || primary.compare(&checksums, position).map_err(|error| failed(&primary, &error))).await??;
    let first: Vec<u32> = differing.iter().take(SHOWN_PAGES).map(|pgno| pgno.get()).collect();
    Ok(Json(json!({
        "position": position.to_string(), "pages": pages, "differing": first, "count": differing.len(), "newer": newer
    })))
}

/// The right to one more stream.
fn begin(databases: &Databases, primary: &Primary) -> Result<Stream, Refusal> {
    let full = || refuse(StatusCode::SERVICE_UNAVAILABLE, "Too many streams").for_now();
    databases.begin_stream(primary).ok_or_else(full)
}

/// Reads checksums, 8 bytes big-endian each. Of those of pages that the database does not have, only the first is kept.
async fn read_checksums(
    query: &Query,
    primary: &Arc<Primary>,
    body: Body,
    patience: Duration,
) -> Result<Vec<Option<PageChecksum>>, Refusal> {
    query.check_page_size(primary.page_size())?;
    let counted = Arc::clone(primary);
    let most = blocking(move || counted.pages()).await? as usize + 1;
    let (mut checksums, mut part) = (Vec::new(), Vec::new());
    let mut upload = Upload::new(body, patience, CHECKSUMS_BYTES);
    while let Some(piece) = upload.next().await? {
        part.extend_from_slice(&piece);
        let whole = part.len() / 8 * 8;
        let more = part.drain(..whole).collect::<Vec<u8>>();
        let more = more.chunks_exact(8).map(|bytes| PageChecksum::from_u64(BigEndian::read_u64(bytes)));
        checksums.extend(more.take(most.saturating_sub(checksums.len())));
    }
    match part.is_empty() {
        true => Ok(checksums),
        false => Err(refuse(StatusCode::BAD_REQUEST, "The body is not a number of checksums of 8 bytes")),
    }
}

async fn answer(
    primary: Arc<Primary>,
    open: Open,
    ask: Ask,
    stream: Stream,
    came_at: i64,
) -> Result<Response, Refusal> {
    let (version, compression, client) = (ask.version, ask.compression, ask.client.clone());
    let (page_size, heartbeat) = (primary.page_size(), primary.heartbeat());
    let feed = blocking(move || primary.open_feed(ask).map_err(|error| failed(&primary, &error))).await??;

    let mut response = Response::new(Body::from_stream(FeedStream::new(feed, open, stream, heartbeat, client)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Keeps an nginx in between from collecting commits before it passes them on.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    headers.insert(HeaderName::from_static(PAGE_SIZE_HEADER), HeaderValue::from(page_size.get()));
    if version == Version::V2 {
        headers.insert(HeaderName::from_static(VERSION_HEADER), HeaderValue::from_static("2"));
        headers.insert(HeaderName::from_static(TIME_HEADER), clock::header_value(came_at));
    }
    if compression != Compression::None {
        headers.insert(HeaderName::from_static(COMPRESSION_HEADER), HeaderValue::from_static(compression.name()));
    }
    Ok(response)
}

/// Runs what may have to wait for a lock or a file.
pub(super) async fn blocking<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(task).await;
    done.map_err(|_| refuse(StatusCode::INTERNAL_SERVER_ERROR, "Internal error"))
}

/// The version to speak: 2 with a client that knows it or a later one, or else that of 2022.
fn version_of(headers: &HeaderMap) -> Version {
    let asked = headers.get(VERSION_HEADER).and_then(|value| value.to_str().ok()?.trim().parse::<u32>().ok());
    match asked {
        Some(2..) => Version::V2,
        _ => Version::V2022,
    }
}

/// The compression to send with: LZ4 if it is among those that the client names. Version 1 has a way of its own.
fn compression_of(headers: &HeaderMap) -> Compression {
    let names = headers.get(COMPRESSION_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let has_lz4 = names.split(',').any(|name| name.trim().eq_ignore_ascii_case(Compression::Lz4.name()));
    match version_of(headers) {
        Version::V2 if has_lz4 => Compression::Lz4,
        _ => Compression::None,
    }
}

/// The query of a request.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub fn read(uri: &Uri) -> Result<Query, Refusal> {
        axum::extract::Query::try_from_uri(uri)
            .map(|axum::extract::Query(pairs)| Query(pairs))
            .map_err(|_| refuse(StatusCode::BAD_REQUEST, "Invalid query"))
    }

    /// A parameter that is not empty.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// The position named, if one is.
    fn position(&self) -> Result<Option<Position>, Refusal> {
        let Ask { generation, index, offset, .. } = self.ask(&HeaderMap::new(), String::new())?;
        let numbers = generation.zip(index).zip(offset);
        Ok(numbers.map(|((generation, index), offset)| Position { generation, index, offset }))
    }

    /// What is asked for, by position if one is named.
    fn ask(&self, headers: &HeaderMap, client: String) -> Result<Ask, Refusal> {
        let (version, compression) = (version_of(headers), compression_of(headers));
        let number = |name| self.value(name).map(|text| hexadecimal(text).ok_or_else(|| invalid(name))).transpose();
        let generation = self.value("generation").map(|text| text.parse().map_err(|_| invalid("generation")));
        let (generation, index, offset) = (generation.transpose()?, number("index")?, number("offset")?);
        Ok(match (generation, index) {
            (Some(_), Some(_)) => Ask { version, generation, index, offset, checksums: None, compression, client },
            _ => Ask { version, generation: None, index: None, offset: None, checksums: None, compression, client },
        })
    }

    /// Refuses pages of another size than those served.
    fn check_page_size(&self, served: PageSize) -> Result<(), Refusal> {
        match self.value("page_size").map(str::parse::<u32>) {
            Some(Ok(size)) if served.get() == size => Ok(()),
            Some(Ok(size)) => Err(refuse(
                StatusCode::BAD_REQUEST,
                format!("Pages of {size} bytes cannot be compared with those of {} bytes here", served.get()),
            )),
            _ => Err(invalid("page_size")),
        }
    }
}

/// The database that a request names and what it asks for, or the text of the refusal.
#[cfg(fuzzing)]
pub(super) fn asked(uri: &Uri, headers: &HeaderMap) -> Result<(Option<String>, Ask), String> {
    let read = Query::read(uri)
        .and_then(|query| Ok((query.value("path").map(str::to_string), query.ask(headers, String::new())?)));
    read.map_err(|refusal| refusal.text)
}

fn invalid(name: &str) -> Refusal {
    refuse(StatusCode::BAD_REQUEST, format!("Invalid {name} query parameter"))
}

/// Up to 16 hexadecimal digits for a number that also fits the signed integers of 2022.
fn hexadecimal(text: &str) -> Option<u64> {
    let plain = text.len() <= 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|&n| plain && i64::try_from(n).is_ok())
}

/// An answer that is not a stream: one line of text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    text: String,
    /// Whether the same may be answered soon.
    asks_for_patience: bool,
}

pub(super) fn refuse(status: StatusCode, text: impl Into<String>) -> Refusal {
    Refusal { status, text: text.into(), asks_for_patience: false }
}

impl Refusal {
    /// The same, said to end soon.
    pub(super) fn for_now(self) -> Refusal {
        Refusal { asks_for_patience: true, ..self }
    }
}

impl From<Missing> for Refusal {
    fn from(missing: Missing) -> Refusal {
        match missing {
            Missing::Unnamed => refuse(StatusCode::BAD_REQUEST, "Database name required"),
            Missing::Unknown => refuse(StatusCode::NOT_FOUND, "Database not found"),
            Missing::Ambiguous => {
                refuse(StatusCode::BAD_REQUEST, "Database name is that of several files; use the absolute path")
            }
        }
    }
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Refusal {
        match failed {
            Failed::Cut => refuse(StatusCode::BAD_REQUEST, "The body was cut short"),
            Failed::Slow => refuse(StatusCode::REQUEST_TIMEOUT, "The body comes too slowly"),
            Failed::Long => refuse(StatusCode::PAYLOAD_TOO_LARGE, "The body is longer than that of any database"),
        }
    }
}

/// What a client is told of an error of `primary`: nothing of where its files are.
pub(super) fn failed(primary: &Primary, error: &Error) -> Refusal {
    let status = match error.kind() {
        Kind::Usage => StatusCode::BAD_REQUEST,
        Kind::Diverged => StatusCode::CONFLICT,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    refuse(status, super::printable(&primary.told_to_others(error)))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let nosniff = [(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))];
        let mut response = (self.status, nosniff, self.text + "\n").into_response();
        if self.asks_for_patience {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(limits::RETRY_AFTER.as_secs()));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Asked = (Option<String>, Option<u64>, Option<u64>, Option<u64>);

    fn asked(query: &str) -> Result<Asked, String> {
        let uri = format!("/stream{query}").parse().map_err(|_| "not a URI".to_string())?;
        let query = Query::read(&uri).map_err(|refusal| refusal.text)?;
        let ask = query.ask(&HeaderMap::new(), String::new()).map_err(|refusal| refusal.text)?;
        Ok((query.value("path").map(str::to_string), ask.generation.map(|g| g.0), ask.index, ask.offset))
    }

    #[test]
    fn path_and_position_are_read() {
        assert_eq!(asked(""), Ok((None, None, None, None)));
        assert_eq!(asked("?path=/a%20b%2B/c+d.db"), Ok((Some("/a b+/c d.db".into()), None, None, None)));
        assert_eq!(
            asked("?path=x&generation=54a5500f213265e3&index=0000000000000002&offset=1038"),
            Ok((Some("x".into()), Some(0x54a5_500f_2132_65e3), Some(2), Some(0x1038)))
        );
        assert_eq!(
            asked("?generation=54a5500f213265e3&index=2"),
            Ok((None, Some(0x54a5_500f_2132_65e3), Some(2), None))
        );
    }

    #[test]
    fn half_a_position_counts_as_none() {
        for query in ["?generation=54a5500f213265e3", "?index=2&offset=20", "?generation=&index=&path="] {
            assert_eq!(asked(query), Ok((None, None, None, None)), "{query}");
        }
    }

    #[test]
    fn a_broken_parameter_is_named() {
        for (query, expected) in [
            ("?generation=xyz&index=0", "Invalid generation query parameter"),
            ("?generation=54a5500f213265e3&index=-1", "Invalid index query parameter"),
            ("?generation=54a5500f213265e3&index=%2B1", "Invalid index query parameter"),
            ("?generation=54a5500f213265e3&index=g", "Invalid index query parameter"),
            ("?generation=54a5500f213265e3&index=8000000000000000", "Invalid index query parameter"),
            ("?generation=54a5500f213265e3&index=00000000000000001", "Invalid index query parameter"),
            ("?generation=54a5500f213265e3&index=0&offset=x", "Invalid offset query parameter"),
        ] {
            assert_eq!(asked(query), Err(expected.to_string()), "{query}");
        }
    }

    #[test]
    fn version_2_is_spoken_with_those_who_know_it() {
        for (value, expected) in [
            (None, false),
            (Some("1"), false),
            (Some("x"), false),
            (Some("2"), true),
            (Some(" 2 "), true),
            (Some("3"), true),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(VERSION_HEADER, HeaderValue::from_static(value));
            }
            assert_eq!(version_of(&headers) == Version::V2, expected, "{value:?}");
        }
    }

    #[test]
    fn lz4_is_spoken_with_those_who_name_it() {
        for (value, expected) in [
            (None, Compression::None),
            (Some(""), Compression::None),
            (Some("none"), Compression::None),
            (Some("zstd"), Compression::None),
            (Some("lz4hc"), Compression::None),
            (Some("lz4"), Compression::Lz4),
            (Some("zstd, LZ4"), Compression::Lz4),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(COMPRESSION_HEADER, HeaderValue::from_static(value));
            }
            assert_eq!(compression_of(&headers), Compression::None, "{value:?} in version 1");
            headers.insert(VERSION_HEADER, HeaderValue::from_static("2"));
            assert_eq!(compression_of(&headers), expected, "{value:?}");
        }
    }
}
