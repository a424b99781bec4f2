//! What is answered to which request.
//!
//! | request | answer |
//! |---|---|
//! | `GET /healthz` | `ok` |
//! | `GET /stream?path=P&generation=G&index=I&offset=O` | the records of database P, from that position on if it can be |
//! | any other method | 405 |
//! | anything else | 404 |
//!
//! Without generation or index the client counts as new. The numbers are hexadecimal, as in a position.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Query, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{Router, get};

use super::databases::{Databases, Missing};
use super::stream::FeedStream;
use crate::base::{Error, Generation, Kind};
use crate::format::compression::Compression;
use crate::format::record::{COMPRESSION_HEADER, PAGE_SIZE_HEADER, VERSION_HEADER};
use crate::primary::{Ask, Version};

/// Who asks: address and port of the other end, put into each request by the server.
#[derive(Clone)]
pub struct Client(pub String);

/// Every route, over what is served.
pub fn router(databases: Arc<Databases>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }).fallback(wrong_method))
        .route("/stream", get(stream).head(wrong_method).fallback(wrong_method))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "Not found") })
        .with_state(databases)
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
    let version = version_of(&headers);
    let compression = if version == Version::V2 { compression_of(&headers) } else { Compression::None };
    let (path, ask) = read_query(&uri, version, compression, client.clone())?;
    let (primary, open) = databases.find(path.as_deref())?;
    let (page_size, heartbeat) = (primary.page_size(), primary.heartbeat());
    let feed = tokio::task::spawn_blocking(move || primary.open_feed(ask))
        .await
        .map_err(|_| refuse(StatusCode::INTERNAL_SERVER_ERROR, "Internal error"))??;

    let mut response = Response::new(Body::from_stream(FeedStream::new(feed, open, heartbeat, client)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Keeps an nginx in between from collecting commits before it passes them on.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    headers.insert(HeaderName::from_static(PAGE_SIZE_HEADER), HeaderValue::from(page_size.get()));
    if version == Version::V2 {
        headers.insert(HeaderName::from_static(VERSION_HEADER), HeaderValue::from_static("2"));
    }
    if compression != Compression::None {
        headers.insert(HeaderName::from_static(COMPRESSION_HEADER), HeaderValue::from_static(compression.name()));
    }
    Ok(response)
}

/// The version to speak: 2 with a client that knows it or a later one, or else that of 2022.
fn version_of(headers: &HeaderMap) -> Version {
    let asked = headers.get(VERSION_HEADER).and_then(|value| value.to_str().ok()?.trim().parse::<u32>().ok());
    match asked {
        Some(2..) => Version::V2,
        _ => Version::V2022,
    }
}

/// The compression to send with: LZ4 if it is among those that the client names.
fn compression_of(headers: &HeaderMap) -> Compression {
    let names = headers.get(COMPRESSION_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match names.split(',').any(|name| name.trim().eq_ignore_ascii_case(Compression::Lz4.name())) {
        true => Compression::Lz4,
        false => Compression::None,
    }
}

/// The name of the database, and what is asked of it.
fn read_query(
    uri: &Uri,
    version: Version,
    compression: Compression,
    client: String,
) -> Result<(Option<String>, Ask), Refusal> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| refuse(StatusCode::BAD_REQUEST, "Invalid query"))?;
    let value = |name| pairs.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str());
    let invalid = |name| refuse(StatusCode::BAD_REQUEST, format!("Invalid {name} query parameter"));
    let number = |name| value(name).map(|text| hexadecimal(text).ok_or_else(|| invalid(name))).transpose();

    let generation = value("generation").map(|text| text.parse::<Generation>().map_err(|_| invalid("generation")));
    let (generation, index, offset) = (generation.transpose()?, number("index")?, number("offset")?);
    let ask = match (generation, index) {
        (Some(_), Some(_)) => Ask { version, generation, index, offset, compression, client },
        _ => Ask { version, generation: None, index: None, offset: None, compression, client },
    };
    Ok((value("path").map(str::to_string), ask))
}

/// Up to 16 hexadecimal digits for a number that also fits the signed integers of 2022.
fn hexadecimal(text: &str) -> Option<u64> {
    let plain = text.len() <= 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|&n| plain && i64::try_from(n).is_ok())
}

/// An answer that is not a stream: one line of text.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    text: String,
}

fn refuse(status: StatusCode, text: impl Into<String>) -> Refusal {
    Refusal { status, text: text.into() }
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

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        let status = match error.kind() {
            Kind::Usage => StatusCode::BAD_REQUEST,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        refuse(status, super::printable(&error.to_string()))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let nosniff = [(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))];
        (self.status, nosniff, self.text + "\n").into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Asked = (Option<String>, Option<u64>, Option<u64>, Option<u64>);

    fn asked(query: &str) -> Result<Asked, String> {
        let uri = format!("/stream{query}").parse().map_err(|_| "not a URI".to_string())?;
        let (path, ask) =
            read_query(&uri, Version::V2, Compression::None, String::new()).map_err(|refusal| refusal.text)?;
        Ok((path, ask.generation.map(|g| g.0), ask.index, ask.offset))
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
            assert_eq!(compression_of(&headers), expected, "{value:?}");
        }
    }
}
