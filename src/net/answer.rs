//! What an answer says before its body, and what one says that is no stream.

use std::io::Read;
use std::time::{Duration, Instant};

use ureq::Body;
use ureq::http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use ureq::http::{HeaderMap, Response, StatusCode};

use crate::base::{Error, Kind, Result};
use crate::format::record::{PAGE_SIZE_HEADER, VERSION_HEADER};

/// What streams are.
pub const STREAM_TYPE: &str = "application/octet-stream";
/// How much of an answer that is not a stream is looked at for what it says.
const COMPLAINT_LIMIT: usize = 1024;

/// Version and page size, from the head of an answer with status 200.
pub fn read_head(headers: &HeaderMap) -> Result<(bool, Option<u32>)> {
    let kind = text(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.is_empty() && !essence.eq_ignore_ascii_case(STREAM_TYPE) {
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

/// The value of a header.
pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?").trim())
}

/// Whether an answer is a web page.
pub fn is_page(response: &Response<Body>) -> bool {
    text(response.headers(), CONTENT_TYPE.as_str()).is_some_and(|kind| kind.starts_with("text/html"))
}

/// What a status other than 200 means to the user, who has shown a token or not.
pub fn refusal(response: Response<Body>, silence: Duration, has_token: bool) -> Error {
    let status = response.status();
    let patience = text(response.headers(), RETRY_AFTER.as_str()).and_then(|value| value.parse().ok());
    let kind = match status {
        StatusCode::CONFLICT => Kind::Diverged,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Kind::Io,
        _ if status.is_client_error() => Kind::Usage,
        _ => Kind::Io,
    };
    let mut message = format!("the server answered {status}");
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        message += match has_token {
            true => ": it does not take the token that it was shown",
            false => {
                ": it asks for a token; give one with the option token or token_file, in the URL, or in LITESTREAM_TOKEN"
            }
        };
    } else if let Some(target) = text(response.headers(), LOCATION.as_str()).filter(|_| status.is_redirection()) {
        message += &format!(" to {}; redirects are not followed, use that address", super::printable(target));
    } else if is_page(&response) {
        message += " with a web page; is the address that of a litestream server?";
    } else {
        let complaint = first_line(response.into_body().into_reader(), silence);
        if !complaint.is_empty() {
            message += &format!(": {complaint}");
        }
    }
    Error::new(kind, message).with_retry_after(patience.map(Duration::from_secs))
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
