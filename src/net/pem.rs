//! Certificates and keys in files.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::base::{Error, Kind, Result};

/// All certificates in a file, in their order: at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |error: PemError| unreadable(path, "certificates", error);
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<std::result::Result<_, _>>().map_err(wrong)?;
    match certificates.is_empty() {
        true => Err(Error::usage(format!("{} holds no certificate; expected a file in PEM form", path.display()))),
        false => Ok(certificates),
    }
}

/// The private key in a file.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        PemError::NoItemsFound => Error::usage(format!(
            "{} holds no private key without a passphrase; expected one in PEM form",
            path.display()
        )),
        error => unreadable(path, "a private key", error),
    })
}

/// The same as the HTTP library has it.
pub fn key_for_requests(path: &Path) -> Result<ureq::tls::PrivateKey<'static>> {
    let bytes = std::fs::read(path).map_err(|error| unreadable(path, "a private key", PemError::Io(error)))?;
    let key = ureq::tls::PrivateKey::from_pem(&bytes);
    key.map_err(|_| unreadable(path, "a private key", PemError::NoItemsFound))
}

/// The authorities in a file.
pub fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| {
            Error::usage(format!("{} holds a certificate that is none of an authority: {error}", path.display()))
        })?;
    }
    Ok(roots)
}

fn unreadable(path: &Path, what: &str, error: PemError) -> Error {
    match error {
        PemError::Io(error) => Error::new(Kind::CantOpen, format!("{} cannot be read: {error}", path.display())),
        _ => Error::usage(format!("{} does not hold {what} in PEM form", path.display())),
    }
}
