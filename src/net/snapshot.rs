//! `GET /snapshot`: a served database as one file.
//!
//! It is copied into a file without a name first, so that its size and what it sums up to are known before the first byte of it
//! goes out, and sent from there at the speed of the client. All that takes long is done in pieces, so that others get their turn
//! at the few threads that there are for it.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use futures_core::Stream;
use tokio::task::{JoinHandle, spawn_blocking};

use super::databases::{Databases, Open};
use super::percent;
use super::routes::{Query, Refusal, blocking, failed};
use crate::base::{Kind, Result, limits};
use crate::primary::{Content, Copying, Permit, Primary};

/// The database, unless the client has it already.
pub async fn get(
    State(databases): State<Arc<Databases>>,
    uri: Uri,
    headers: HeaderMap,
) -> std::result::Result<Response, Refusal> {
    let query = Query::read(&uri)?;
    let (primary, open) = databases.find(query.value("path"))?;
    if headers.contains_key(IF_NONE_MATCH) {
        let content = content_of(&primary).await?;
        if is_known(&headers, &tag(&content)) {
            return Ok(described(StatusCode::NOT_MODIFIED, &primary, &content, Body::empty()));
        }
    }
    let copier = Arc::clone(&primary);
    let (mut copying, permit) = match blocking(move || copier.copy_to_nowhere()).await? {
        Err(busy) if busy.kind() == Kind::Busy => return Err(failed(&primary, &busy).for_now()),
        begun => begun.map_err(|error| failed(&primary, &error))?,
    };
    let (content, file) = loop {
        let (then, step) = blocking(move || step(copying)).await?;
        if let Some(copied) = step.map_err(|error| failed(&primary, &error))? {
            break copied;
        }
        copying = then;
    };
    let body = Body::from_stream(FileStream::new(file, content.bytes, open, Arc::clone(&primary), permit));
    Ok(described(StatusCode::OK, &primary, &content, body))
}

/// What [`get`] would say about the database now, without it.
pub async fn head(
    State(databases): State<Arc<Databases>>,
    uri: Uri,
    headers: HeaderMap,
) -> std::result::Result<Response, Refusal> {
    let query = Query::read(&uri)?;
    let (primary, _) = databases.find(query.value("path"))?;
    let content = content_of(&primary).await?;
    let known = is_known(&headers, &tag(&content));
    let status = if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    Ok(described(status, &primary, &content, Body::empty()))
}

async fn content_of(primary: &Arc<Primary>) -> std::result::Result<Content, Refusal> {
    loop {
        let asked = Arc::clone(primary);
        let content = blocking(move || asked.content()).await?;
        if let Some(content) = content.map_err(|error| failed(primary, &error))? {
            return Ok(content);
        }
    }
}

type Step = Result<Option<(Content, File)>>;

fn step(mut copying: Copying) -> (Copying, Step) {
    let step = copying.step();
    (copying, step)
}

fn described(status: StatusCode, primary: &Primary, content: &Content, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let name = format!("attachment; filename*=UTF-8''{}", percent::encode(primary.file_name()));
    let mut texts = vec![
        (ETAG, tag(content)),
        (CACHE_CONTROL, "no-cache".into()),
        (ACCEPT_RANGES, "none".into()),
        (HeaderName::from_static("litestream-position"), content.position.to_string()),
    ];
    if status == StatusCode::OK {
        texts.push((CONTENT_TYPE, "application/vnd.sqlite3".into()));
        texts.push((CONTENT_DISPOSITION, name));
        texts.push((CONTENT_LENGTH, content.bytes.to_string()));
    }
    for (header, text) in texts {
        if let Ok(value) = HeaderValue::try_from(text) {
            response.headers_mut().insert(header, value);
        }
    }
    response
}

/// What tells this content from any other: the position, and what the pages sum up to.
fn tag(content: &Content) -> String {
    format!("\"{}-{:016x}\"", content.position, content.checksum)
}

/// Whether the client has what `tag` stands for (<https://www.rfc-editor.org/rfc/rfc9110#section-13.1.2>).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    // No tag of ours has a comma in it.
    given.flat_map(|list| list.split(',')).map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

/// A file as the body of an answer, read on a thread for blocking work, a piece each time the socket has taken one.
struct FileStream {
    reading: Option<JoinHandle<(File, io::Result<Vec<u8>>)>>,
    left: u64,
    open: Open,
    primary: Arc<Primary>,
    _permit: Permit,
}

impl FileStream {
    fn new(mut file: File, bytes: u64, open: Open, primary: Arc<Primary>, permit: Permit) -> FileStream {
        let reading = spawn_blocking(move || {
            let piece = file.rewind().and_then(|()| piece(&mut file));
            (file, piece)
        });
        FileStream { reading: Some(reading), left: bytes, open, primary, _permit: permit }
    }
}

impl Stream for FileStream {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let this = self.get_mut();
        let Some(reading) = this.reading.as_mut().filter(|_| this.left > 0) else { return Poll::Ready(None) };
        if this.open.has_changed().is_err() {
            this.reading = None;
            return Poll::Ready(Some(Err(io::Error::other("the database is no longer served"))));
        }
        let Poll::Ready(read) = Pin::new(reading).poll(context) else { return Poll::Pending };
        this.reading = None;
        let read = read.map_err(io::Error::other).and_then(|(file, piece)| piece.map(|piece| (file, piece)));
        Poll::Ready(Some(read.and_then(|(mut file, piece)| {
            // The length was promised: a file that ends too early ends the connection.
            this.left = this.left.checked_sub(piece.len() as u64).ok_or(io::ErrorKind::InvalidData)?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            this.primary.sent_copy(piece.len() as u64);
            this.reading = Some(spawn_blocking(move || {
                let piece = self::piece(&mut file);
                (file, piece)
            }));
            Ok(Bytes::from(piece))
        })))
    }
}

/// The next bytes of the file; nothing at its end.
fn piece(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(limits::CHUNK_BYTES);
    file.take(limits::CHUNK_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_in_every_form_that_a_client_may_send_it_in() {
        let tag = "\"54a5500f213265e3/0000000000000002:0000000000001038-8000000000000001\"";
        let known = |given: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_str(given).unwrap());
            is_known(&headers, tag)
        };
        for given in [tag.to_string(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_string()] {
            assert!(known(&given), "{given}");
        }
        for given in ["", "\"other\"", tag.trim_matches('"'), &tag.replace("1038", "1039")] {
            assert!(!known(given), "{given}");
        }
        assert!(!is_known(&HeaderMap::new(), tag));
    }
}
