//! What a client shows of itself, and whom it believes.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use ureq::http::HeaderValue;
use ureq::tls::{Certificate, ClientCert, RootCerts, TlsConfig};

use super::pem;
use super::tls::provider;
use super::token::Token;
use super::url::{Login, Url};
use crate::base::{Error, Result};

/// What a client shows of itself, and whom it believes. Files are read again for each request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The token, where the URL has none, or another.
    pub token: Option<TokenSource>,
    /// The authorities that the server's certificate must be of; those of the system if none.
    pub ca: Option<PathBuf>,
    /// The client's certificate, and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// Where a token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// It was given.
    Text(Token),
    /// The first one in a file.
    File(PathBuf),
}

impl Credentials {
    /// Fails if they cannot be used for `url`. Whether they hold a token for it.
    pub fn check(&self, url: &Url) -> Result<bool> {
        let named = [("ca", self.ca.is_some()), ("client_cert", self.certificate.is_some())];
        if let (Some((name, _)), false) = (named.iter().find(|(_, given)| *given), url.is_encrypted()) {
            return Err(Error::usage(format!("option '{name}' is for TLS, and the URL is not one of https")));
        }
        if self.ca.is_some() || self.certificate.is_some() {
            self.tls()?;
        }
        self.authorization(url).map(|value| value.is_some())
    }

    /// What shows who asks: the token, or else what the URL says.
    pub fn authorization(&self, url: &Url) -> Result<Option<HeaderValue>> {
        let bearer = |token: &Token| format!("Bearer {}", token.secret());
        let value = match (&self.token, url.login()) {
            (Some(TokenSource::Text(token)), _) | (None, Some(Login::Token(token))) => bearer(token),
            (Some(TokenSource::File(path)), _) => Token::read_file(path)?.first().map(bearer).unwrap_or_default(),
            (None, Some(Login::Password(login))) => format!("Basic {}", BASE64.encode(login)),
            (None, None) => return Ok(None),
        };
        let mut value =
            HeaderValue::try_from(value).map_err(|_| Error::usage("the token cannot be sent in a header"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// TLS with these authorities and this certificate.
    pub fn tls(&self) -> Result<TlsConfig> {
        let roots = match &self.ca {
            Some(path) => pem::certificates(path)?,
            None => system_authorities()?,
        };
        let client = match &self.certificate {
            Some((certificate, key)) => Some(client_certificate(certificate, key)?),
            None => None,
        };
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::from(roots.iter().map(|der| Certificate::from_der(der).to_owned())))
            .client_cert(client)
            .unversioned_rustls_crypto_provider(provider())
            .build())
    }
}

fn system_authorities() -> Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    match (found.certs.is_empty(), found.errors.first()) {
        (false, _) => Ok(found.certs),
        (true, error) => Err(Error::usage(format!(
            "this system has no certificates of authorities{}; install them (Debian's package ca-certificates), or give the option ca",
            error.map(|error| format!(" ({error})")).unwrap_or_default()
        ))),
    }
}

fn client_certificate(certificate: &Path, key: &Path) -> Result<ClientCert> {
    let (chain, private) = (pem::certificates(certificate)?, pem::key(key)?);
    // The HTTP library takes for granted that the two belong together.
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let checked = builder.and_then(|builder| {
        let builder = builder.with_root_certificates(RootCertStore::empty());
        builder.with_client_auth_cert(chain.clone(), private)
    });
    checked.map_err(|error| {
        Error::usage(format!("the certificate {} with the key {}: {error}", certificate.display(), key.display()))
    })?;
    let chain: Vec<_> = chain.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    Ok(ClientCert::new_with_certs(&chain, pem::key_for_requests(key)?))
}
