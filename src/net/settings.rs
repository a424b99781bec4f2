//! What all that is served at one address has in common.

use std::path::PathBuf;
use std::time::Duration;

use super::access::Digest;
use super::token::Token;
use crate::base::limits;

/// How an address is served: who may ask there, how it is encrypted, and how much is taken on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether everybody who reaches the address is meant to read what is served there.
    pub insecure: bool,
    tokens: Vec<Digest>,
    /// A file with more tokens, read again when it changes.
    pub token_file: Option<PathBuf>,
    /// The certificate, and those asked of clients.
    pub tls: TlsFiles,
    /// How much is taken on.
    pub limits: Limits,
}

/// Files in PEM form, read again when they change. Without a certificate there is no TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate of the server, with those between it and its authority.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// The authorities of clients, which must show a certificate of one of them.
    pub client_ca: Option<PathBuf>,
}

/// How much one address takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections altogether.
    pub connections: u64,
    /// Connections of one client address; of IPv6, of one network of 64 bits.
    pub connections_per_address: u64,
    /// Streams and comparisons of one database.
    pub streams: u64,
    /// Size of the head of a request, in bytes.
    pub head_bytes: u64,
    /// How long a connection may take for its TLS handshake, and for the head of a request; also how long it may be idle before one.
    pub head_timeout: Duration,
    /// How long the body of a request may bring nothing.
    pub body_timeout: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: limits::CONNECTIONS,
            connections_per_address: limits::CONNECTIONS_PER_ADDRESS,
            streams: limits::STREAMS,
            head_bytes: limits::HEAD_BYTES,
            head_timeout: limits::HEAD_TIMEOUT,
            body_timeout: limits::BODY_TIMEOUT,
            write_timeout: limits::WRITE_TIMEOUT,
        }
    }
}

impl Settings {
    /// Lets in who shows one of `tokens`. What is kept of them is no secret.
    pub fn set_tokens(&mut self, tokens: &[Token]) {
        self.tokens = tokens.iter().map(|token| Digest::of(token.secret().as_bytes())).collect();
        self.tokens.sort();
        self.tokens.dedup();
    }

    pub(super) fn tokens(&self) -> &[Digest] {
        &self.tokens
    }

    /// Whether a client must show who it is.
    pub(super) fn is_guarded(&self) -> bool {
        !self.tokens.is_empty() || self.token_file.is_some() || self.tls.client_ca.is_some()
    }

    /// The first option in which these settings differ from those that an address has, with both values where they are no secrets.
    pub fn difference(&self, other: &Settings) -> Option<String> {
        let differing = self.shown().into_iter().zip(other.shown()).find(|(one, other)| one.1 != other.1);
        match differing {
            Some(((name, ours), (_, theirs))) => Some(format!("option '{name}' is {ours} here and {theirs} there")),
            None if self.tokens != other.tokens => Some("option 'token' is another here than there".to_string()),
            None => None,
        }
    }

    /// Every option that is no secret.
    fn shown(&self) -> [(&'static str, String); 12] {
        let file = |path: &Option<PathBuf>| path.as_ref().map_or("none".to_string(), |path| path.display().to_string());
        let Limits { connections, connections_per_address, streams, head_bytes, .. } = self.limits;
        let milliseconds = |time: Duration| time.as_millis().to_string();
        [
            ("insecure", self.insecure.to_string()),
            ("token_file", file(&self.token_file)),
            ("tls_cert", file(&self.tls.cert)),
            ("tls_key", file(&self.tls.key)),
            ("client_ca", file(&self.tls.client_ca)),
            ("max_connections", connections.to_string()),
            ("max_connections_per_address", connections_per_address.to_string()),
            ("max_streams", streams.to_string()),
            ("max_head_bytes", head_bytes.to_string()),
            ("head_timeout_ms", milliseconds(self.limits.head_timeout)),
            ("body_timeout_ms", milliseconds(self.limits.body_timeout)),
            ("write_timeout_ms", milliseconds(self.limits.write_timeout)),
        ]
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn with_tokens(tokens: &[&str]) -> Settings {
        let tokens: Vec<Token> = tokens.iter().map(|text| Token::new(text).expect("a token")).collect();
        let mut settings = Settings::default();
        settings.set_tokens(&tokens);
        settings
    }

    #[test]
    fn a_difference_is_told_without_secrets() {
        let mut other = Settings::default();
        other.limits.write_timeout = Duration::from_secs(7);
        let told = Settings::default().difference(&other).expect("a difference");
        assert_eq!(told, "option 'write_timeout_ms' is 60000 here and 7000 there");
        let told = with_tokens(&["s3cret"]).difference(&with_tokens(&["other"])).expect("a difference");
        assert_eq!(told, "option 'token' is another here than there");
    }

    #[test]
    fn the_same_tokens_in_another_order_are_no_difference() {
        assert_eq!(with_tokens(&["a", "b"]).difference(&with_tokens(&["b", "a", "b"])), None);
    }

    #[test]
    fn neither_a_token_nor_its_text_is_shown() {
        let shown = format!("{:?}", with_tokens(&["s3cret"]));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
