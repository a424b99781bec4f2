//! Who may ask: whoever shows a token.
//!
//! | header | token |
//! |---|---|
//! | `Authorization: Bearer TOKEN` | as it stands |
//! | `Authorization: Basic ...` | the password, whatever the user; or the user, where the password is empty |
//!
//! What is compared are SHA-256 digests, all of them, each in the same time whatever is in it.

use std::fmt;
use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HOST};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::digest::{SHA256, digest};
use subtle::{Choice, ConstantTimeEq};

use super::reloaded::Reloaded;
use super::settings::Settings;
use super::token::Token;
use crate::base::Result;

/// What is kept of a token: enough to know it again, not enough to show it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a token.
    pub fn of(token: &[u8]) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, token).as_ref());
        Digest(bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest")
    }
}

/// Who may ask at one address.
pub struct Access {
    tokens: Vec<Digest>,
    file: Option<Reloaded<Vec<Digest>>>,
    /// Whether the names that this machine goes by are the only thing that keeps strangers out.
    by_name: bool,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No token, or none that is known.
    Unauthorized,
    /// Under a name that is not this machine's own.
    Misdirected,
}

impl Access {
    /// As `settings` say. Fails if the file of tokens cannot be read.
    pub fn new(settings: &Settings) -> Result<Access> {
        let file = settings.token_file.clone().map(|path| {
            let from = path.clone();
            let digests = move || {
                let tokens = Token::read_file(&from)?;
                Ok(tokens.iter().map(|token| Digest::of(token.secret().as_bytes())).collect())
            };
            Reloaded::begin(vec![path], digests)
        });
        let by_name = !settings.is_guarded() && !settings.insecure;
        Ok(Access { tokens: settings.tokens().to_vec(), file: file.transpose()?, by_name })
    }

    /// Whether a request with these headers is to be answered, and by what token.
    pub fn check(&self, headers: &HeaderMap) -> std::result::Result<Option<Digest>, Denied> {
        // A page in a browser of this machine can have its own name resolve to the loopback address, and read what is served
        // there to everybody: <https://en.wikipedia.org/wiki/DNS_rebinding>. It cannot choose what the browser calls us.
        if self.by_name && !headers.get_all(HOST).iter().all(|host| host.to_str().is_ok_and(is_own_name)) {
            return Err(Denied::Misdirected);
        }
        if self.tokens.is_empty() && self.file.is_none() {
            return Ok(None);
        }
        let shown = headers.get(AUTHORIZATION).and_then(|value| token_in(value.as_bytes()));
        let digest = shown.map(|token| Digest::of(&token)).filter(|digest| self.knows(digest));
        digest.map(Some).ok_or(Denied::Unauthorized)
    }

    /// Whether tokens can come and go.
    pub fn changes(&self) -> bool {
        self.file.is_some()
    }

    /// Whether this is one of the tokens that let in now.
    pub fn knows(&self, digest: &Digest) -> bool {
        let from_file = self.file.as_ref().map(Reloaded::current).unwrap_or_default();
        let known = self.tokens.iter().chain(&from_file);
        known.fold(Choice::from(0), |found, one| found | one.0.ct_eq(&digest.0)).into()
    }
}

/// The token that the value of an `Authorization` header shows.
fn token_in(value: &[u8]) -> Option<Vec<u8>> {
    let space = value.iter().position(|b| *b == b' ')?;
    let (scheme, rest) = value.split_at(space);
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let login = BASE64.decode(rest).ok()?;
    let colon = login.iter().position(|b| *b == b':')?;
    let (user, password) = login.split_at(colon);
    let password = password.strip_prefix(b":").unwrap_or_default();
    Some(if password.is_empty() { user } else { password }.to_vec())
}

/// Whether a `Host` header names this machine by an address, or as localhost, and not by a name that others can give it.
fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok() || bare.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn access(tokens: &[&str], insecure: bool) -> Access {
        let tokens: Vec<Token> = tokens.iter().map(|text| Token::new(text).expect("a token")).collect();
        let mut settings = Settings::default();
        settings.insecure = insecure;
        settings.set_tokens(&tokens);
        Access::new(&settings).expect("access")
    }

    fn checked(access: &Access, headers: &HeaderMap) -> std::result::Result<(), Denied> {
        access.check(headers).map(drop)
    }

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a value"))])
    }

    #[test]
    fn a_token_is_known_in_either_scheme_and_nothing_else_is() {
        let access = access(&["first", "second"], false);
        let basic = |login: &str| format!("Basic {}", BASE64.encode(login));
        for (value, expected) in [
            ("Bearer first".to_string(), Ok(())),
            ("bearer  second ".to_string(), Ok(())),
            (basic("anybody:first"), Ok(())),
            (basic(":second"), Ok(())),
            (basic("first:"), Ok(())),
            ("first".to_string(), Err(Denied::Unauthorized)),
            ("Bearer".to_string(), Err(Denied::Unauthorized)),
            ("Bearer ".to_string(), Err(Denied::Unauthorized)),
            ("Bearer firs".to_string(), Err(Denied::Unauthorized)),
            ("Bearer first1".to_string(), Err(Denied::Unauthorized)),
            ("Bearer FIRST".to_string(), Err(Denied::Unauthorized)),
            ("Bearer first,second".to_string(), Err(Denied::Unauthorized)),
            ("Digest first".to_string(), Err(Denied::Unauthorized)),
            (basic("first"), Err(Denied::Unauthorized)),
            (basic("first:other"), Err(Denied::Unauthorized)),
            (basic(":"), Err(Denied::Unauthorized)),
            ("Basic first".to_string(), Err(Denied::Unauthorized)),
        ] {
            assert_eq!(checked(&access, &headers(AUTHORIZATION, &value)), expected, "{value}");
        }
        assert_eq!(checked(&access, &HeaderMap::new()), Err(Denied::Unauthorized));
    }

    #[test]
    fn without_a_token_everybody_may_ask_who_knows_the_machine() {
        for (host, own) in [
            ("127.0.0.1:9090", true),
            ("127.0.0.1", true),
            ("[::1]:9090", true),
            ("[::1]", true),
            ("localhost:9090", true),
            ("LOCALHOST", true),
            ("192.168.1.7", true),
            ("example.org:9090", false),
            ("127.0.0.1.example.org", false),
            ("localhost.example.org", false),
            ("", false),
        ] {
            let asked = headers(HOST, host);
            let expected = if own { Ok(()) } else { Err(Denied::Misdirected) };
            assert_eq!(checked(&access(&[], false), &asked), expected, "{host}");
            assert_eq!(checked(&access(&[], true), &asked), Ok(()), "{host} where everybody is let in");
            let guarded = checked(&access(&["t"], false), &asked);
            assert_eq!(guarded, Err(Denied::Unauthorized), "{host} where a token is asked for");
        }
        assert_eq!(checked(&access(&[], false), &HeaderMap::new()), Ok(()), "a client that says no name is no browser");
    }
}
