//! TLS of the server: its certificate, and those it asks of clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use super::pem;
use super::reloaded::Reloaded;
use super::settings::TlsFiles;
use crate::base::{Error, Result};

/// The cryptography of both ends. Named wherever it is used: what a host has chosen for the whole process is its own affair.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What the server's end of connections is made from, as of what its files hold.
pub struct ServerTls(Reloaded<Arc<ServerConfig>>);

impl ServerTls {
    /// TLS with these files; none without a certificate.
    pub fn new(files: &TlsFiles) -> Result<Option<ServerTls>> {
        let (cert, key) = match (&files.cert, &files.key, &files.client_ca) {
            (Some(cert), Some(key), _) => (cert.clone(), key.clone()),
            (None, None, None) => return Ok(None),
            (None, None, Some(_)) => {
                return Err(Error::usage("option 'client_ca' needs TLS: 'tls_cert' and 'tls_key'"));
            }
            (None, Some(_), _) => return Err(Error::usage("option 'tls_key' needs 'tls_cert', its certificate")),
            (Some(_), None, _) => return Err(Error::usage("option 'tls_cert' needs 'tls_key', its private key")),
        };
        let client_ca = files.client_ca.clone();
        let paths: Vec<PathBuf> = [&cert, &key].into_iter().chain(&client_ca).cloned().collect();
        let read = move || server_config(&cert, &key, client_ca.as_deref());
        Reloaded::begin(paths, read).map(|reloaded| Some(ServerTls(reloaded)))
    }

    /// What takes the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.0.current().into()
    }
}

fn server_config(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>> {
    let unusable = |error: rustls::Error| {
        Error::usage(format!("the certificate {} with the key {}: {error}", cert.display(), key.display()))
    };
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(unusable)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(pem::authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(
                verifier.map_err(|error| Error::usage(format!("the authorities {}: {error}", path.display())))?,
            )
        }
    };
    let mut config = builder.with_single_cert(pem::certificates(cert)?, pem::key(key)?).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A stream lasts for days. Sessions to come back to would cost memory, and let in a client without looking at its certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
