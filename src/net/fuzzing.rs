//! What `fuzz/` reaches of this layer and nobody else does. There only for a build with `--cfg fuzzing`.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::{Url, address, percent, routes};
use crate::base::Result;
use crate::primary::Ask;
use crate::replica::Have;

/// The URL of the request for a stream.
pub fn request(url: &Url, have: &Have) -> String {
    url.stream(have)
}

/// The database that a request names, and what it asks for; or the text of the refusal. None for what is no URI, or no header.
pub fn asked(uri: &str, headers: &[(&str, &[u8])]) -> Option<std::result::Result<(Option<String>, Ask), String>> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(HeaderName::try_from(*name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(routes::asked(&uri.parse().ok()?, &map))
}

/// Percent-encodes a name.
pub fn encode(text: &str) -> String {
    percent::encode(text)
}

/// The inverse.
pub fn decode(text: &str) -> Result<String> {
    percent::decode(text)
}

/// Host and port of an address to listen on.
pub fn split_address(text: &str) -> Result<(&str, u16)> {
    address::split(text)
}
