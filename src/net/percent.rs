//! Percent-encoding of the names that go into a URL (<https://www.rfc-editor.org/rfc/rfc3986#section-2.1>).

use std::fmt::Write;

use crate::base::{Error, Result};

/// `text` as it may stand in the path or the query of a URL. A slash stays a slash.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// The inverse of [`encode`]. What needs no encoding, or should have been encoded but is clear all the same (a space,
/// a letter outside ASCII), is taken as it stands.
pub fn decode(text: &str) -> Result<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        match (rest.next().and_then(hex_digit), rest.next().and_then(hex_digit)) {
            (Some(high), Some(low)) => out.push(high << 4 | low),
            _ => {
                return Err(Error::usage("a % without two hex digits after it; a percent sign itself is written %25"));
            }
        }
    }
    let text = String::from_utf8(out).map_err(|_| Error::usage("percent-encoded bytes that are not UTF-8"))?;
    if text.chars().any(char::is_control) {
        return Err(Error::usage("a control character in a name"));
    }
    Ok(text)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|n| u8::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded_to_itself() {
        for text in ["", "app.db", "/var/lib/my app.db", "100%.db", "a+b&c=d?e#f.db", "données/ünï.db", "日本.db"]
        {
            let encoded = encode(text);
            assert!(encoded.is_ascii() && !encoded.contains([' ', '&', '?', '#', '+']), "{encoded}");
            assert_eq!(decode(&encoded), Ok(text.to_string()), "{encoded}");
        }
        assert_eq!(encode("my app%.db"), "my%20app%25.db");
    }

    #[test]
    fn names_typed_by_hand_are_taken_as_they_stand() {
        assert_eq!(decode("my app.db"), Ok("my app.db".to_string()));
        assert_eq!(decode("données.db"), Ok("données.db".to_string()));
        assert_eq!(decode("a+b.db"), Ok("a+b.db".to_string()));
    }

    #[test]
    fn broken_encoding_is_refused() {
        for text in ["%", "%2", "%zz", "a%2", "100%.db", "%é1", "%ff%fe", "%00", "a%0ab"] {
            assert!(decode(text).is_err(), "{text}");
        }
    }
}
