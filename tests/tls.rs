//! TLS on both ends, with certificates made here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use support::*;

/// An authority, and the folder for what it signs.
struct Authority<'t> {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: &'t Temp,
    name: &'static str,
}

impl Authority<'_> {
    fn new<'t>(folder: &'t Temp, name: &'static str) -> Authority<'t> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Authority { issuer, folder, name };
        std::fs::write(authority.file(), authority.issuer.pem()).unwrap();
        authority
    }

    /// The file with its certificate.
    fn file(&self) -> PathBuf {
        self.folder.path(&format!("{}.pem", self.name))
    }

    /// Writes a certificate for `names` and its key into `name.pem` and `name.key`.
    fn sign(&self, name: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert, private) = (self.folder.path(&format!("{name}.pem")), self.folder.path(&format!("{name}.key")));
        std::fs::write(&cert, certificate.pem()).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        (cert, private)
    }

    /// Options that serve with a certificate of this authority for the loopback addresses, and with `more`.
    fn server(&self, more: &str) -> String {
        let (cert, key) = self.sign("server", &["127.0.0.1", "localhost"]);
        format!("{{\"tls_cert\": \"{}\", \"tls_key\": \"{}\"{more}}}", cert.display(), key.display())
    }

    /// Options of a client that believes this authority, with `more`.
    fn client(&self, more: &str) -> String {
        format!("{{\"ca\": \"{}\"{more}}}", self.file().display())
    }
}

fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}

fn following_with(database: &Path, url: &str, options: &str) -> Shell {
    let mut replica = Shell::open(database);
    replica.run(&format!("SELECT litestream_follow('{url}', '{options}')"));
    replica
}

#[test]
fn a_replica_follows_over_tls_and_believes_only_the_authority_it_was_told() {
    let temp = Temp::new();
    let (ours, other) = (Authority::new(&temp, "ours"), Authority::new(&temp, "other"));
    let (mut primary, url) = serving_with(&temp.path("primary.db"), &ours.server(""));
    assert!(url.starts_with("https://127.0.0.1:") && url.ends_with("/primary.db"), "{url}");
    let mut replica = following_with(&temp.path("replica.db"), &url, &ours.client(""));
    primary.run("WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 300) INSERT INTO t(x) SELECT randomblob(20000) FROM i");
    catch_up(&mut primary, &mut replica);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    assert_eq!(replica.ask(&format!("SELECT litestream_verify('{url}', '{}') ->> 'equal'", ours.client(""))), "1");
    assert_eq!(replica.ask("SELECT litestream_verify() ->> 'equal'"), "1");
    assert_eq!(replica.ask("SELECT url, reason IS NULL FROM litestream_status"), format!("{url}|1"));

    let mut stranger = Shell::open(&temp.path("stranger.db"));
    for options in [other.client(""), "{}".to_string()] {
        let error = stranger.refused(&format!("SELECT litestream_pull('{url}', '{options}')"));
        assert!(error.contains("TLS failed") && error.contains("option ca"), "{options}: {error}");
    }
    let localhost = url.replace("127.0.0.1", "localhost");
    stranger.run(&format!("SELECT litestream_pull('{localhost}', '{}')", ours.client("")));
    ours.sign("server", &["example.org"]);
    let error = stranger.refused(&format!("SELECT litestream_pull('{url}', '{}')", ours.client("")));
    assert!(error.contains("TLS failed") && error.contains("the name in the URL"), "{error}");
}

#[test]
fn curl_reads_over_tls_what_it_may() {
    let temp = Temp::new();
    let ours = Authority::new(&temp, "ours");
    let (_primary, url) = serving_with(&temp.path("primary.db"), &ours.server(", \"token\": \"s3cret\""));
    let at = format!("https://{}", &url["https://".len()..].split('/').next().unwrap());
    let curl = |arguments: &[&str], target: &str| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "30", "--output", "/dev/null"]);
        command.args(["--write-out", "%{http_code} %{http_version}"]).args(arguments).arg(format!("{at}{target}"));
        let output = command.output().expect("running curl (Debian's package curl)");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let ca = shown(&ours.file()).to_string();
    assert_eq!(curl(&["--cacert", &ca], "/healthz"), "200 1.1");
    assert_eq!(curl(&["--cacert", &ca], "/nothing"), "401 1.1");
    assert_eq!(curl(&["--cacert", &ca, "--header", "Authorization: Bearer s3cret"], "/nothing"), "404 1.1");
    assert_eq!(curl(&["--cacert", &ca, "--user", "me:s3cret"], "/nothing"), "404 1.1");
    let doubtful = curl(&[], "/healthz");
    assert!(doubtful.starts_with("000") && doubtful.contains("certificate"), "{doubtful}");
}

#[test]
fn a_server_that_asks_for_certificates_takes_those_of_its_authority_only() {
    let temp = Temp::new();
    let (ours, clients, other) =
        (Authority::new(&temp, "ours"), Authority::new(&temp, "clients"), Authority::new(&temp, "other"));
    let asks = format!(", \"client_ca\": \"{}\"", shown(&clients.file()));
    let (mut primary, url) = serving_with(&temp.path("primary.db"), &ours.server(&asks));
    let with = |(cert, key): &(PathBuf, PathBuf)| {
        ours.client(&format!(", \"client_cert\": \"{}\", \"client_key\": \"{}\"", shown(cert), shown(key)))
    };
    let (known, unknown) = (clients.sign("known", &["replica"]), other.sign("unknown", &["replica"]));
    let mut replica = following_with(&temp.path("replica.db"), &url, &with(&known));
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    let mut stranger = Shell::open(&temp.path("stranger.db"));
    for options in [with(&unknown), ours.client("")] {
        let error = stranger.refused(&format!("SELECT litestream_pull('{url}', '{options}')"));
        assert!(error.contains("TLS failed") && error.contains("client_cert"), "{options}: {error}");
    }
    let mismatched = (known.0.clone(), unknown.1.clone());
    for options in [with(&mismatched), with(&(known.1.clone(), known.0.clone()))] {
        let error = stranger.refused(&format!("SELECT litestream_pull('{url}', '{options}')"));
        assert!(error.contains("known"), "{options}: {error}");
    }
    // Whoever must show a certificate is let in at any address; 192.0.2.0/24 is one that no machine has.
    let mut public = Shell::open(&temp.path("public.db"));
    public.run(NEW);
    let error = public.refused(&format!("SELECT litestream_serve('192.0.2.1:0', '{}')", ours.server(&asks)));
    assert!(error.contains("does not have that address"), "{error}");
    let error = public.refused(&format!("SELECT litestream_serve('192.0.2.1:0', '{}')", ours.server("")));
    assert!(error.contains("is not a loopback address"), "TLS alone keeps nobody out: {error}");
}

/// The certificate that a server shows, as far as one can tell it from another.
fn certificate_of(url: &str) -> Vec<u8> {
    let socket = TcpStream::connect(url["https://".len()..].split('/').next().unwrap()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions();
    let config = config.unwrap().dangerous().with_custom_certificate_verifier(std::sync::Arc::new(Anybody));
    let name = "localhost".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config.with_no_client_auth()), name).unwrap();
    let mut socket = socket;
    while client.is_handshaking() {
        client.complete_io(&mut socket).unwrap();
    }
    client.peer_certificates().unwrap()[0].to_vec()
}

/// Believes everybody: it only looks at what is shown.
#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn a_new_certificate_counts_from_the_next_connection_and_a_broken_one_does_not() {
    let temp = Temp::new();
    let ours = Authority::new(&temp, "ours");
    let (mut primary, url) = serving_with(&temp.path("primary.db"), &ours.server(""));
    let mut replica = following_with(&temp.path("replica.db"), &url, &ours.client(""));
    let first = certificate_of(&url);
    let (cert, key) = ours.sign("server", &["127.0.0.1"]);
    let second = certificate_of(&url);
    assert_ne!(first, second, "the new one");
    let whole = std::fs::read(&cert).unwrap();
    for broken in [&whole[..whole.len() / 2], b"", b"nonsense"] {
        std::fs::write(&cert, broken).unwrap();
        assert_eq!(certificate_of(&url), second);
    }
    std::fs::write(&cert, &whole).unwrap();
    let private = std::fs::read(&key).unwrap();
    std::fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert_eq!(certificate_of(&url), second, "a key of another certificate");
    std::fs::remove_file(&key).unwrap();
    assert_eq!(certificate_of(&url), second, "no key");
    std::fs::write(&key, private).unwrap();
    assert_eq!(certificate_of(&url), second);
    primary.run("INSERT INTO t(x) VALUES ('two')");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT reconnects FROM litestream_status"), "0", "nothing was disturbed");
}

#[test]
fn tls_options_that_make_no_sense_are_refused() {
    let temp = Temp::new();
    let ours = Authority::new(&temp, "ours");
    let (cert, key) = ours.sign("server", &["127.0.0.1"]);
    let (_, other_key) = ours.sign("other", &["127.0.0.1"]);
    let (cert, key, other, ca) = (shown(&cert), shown(&key), shown(&other_key), ours.file());
    let ca = shown(&ca);
    let mut shell = Shell::open(&temp.path("app.db"));
    shell.run(NEW);
    for (options, part) in [
        (format!("{{\"tls_cert\": \"{cert}\"}}"), "tls_key"),
        (format!("{{\"tls_key\": \"{key}\"}}"), "tls_cert"),
        (format!("{{\"client_ca\": \"{ca}\"}}"), "needs TLS"),
        (format!("{{\"tls_cert\": \"{cert}\", \"tls_key\": \"{other}\"}}"), "server.pem with the key"),
        (format!("{{\"tls_cert\": \"{key}\", \"tls_key\": \"{key}\"}}"), "holds no certificate"),
        (format!("{{\"tls_cert\": \"{cert}\", \"tls_key\": \"{cert}\"}}"), "holds no private key"),
        (format!("{{\"tls_cert\": \"{cert}\", \"tls_key\": \"{key}x\"}}"), "cannot be read"),
        (format!("{{\"tls_cert\": \"{cert}x\", \"tls_key\": \"{key}\"}}"), "cannot be read"),
        (
            format!("{{\"tls_cert\": \"{cert}\", \"tls_key\": \"{key}\", \"client_ca\": \"{key}\"}}"),
            "holds no certificate",
        ),
    ] {
        let error = shell.refused(&format!("SELECT litestream_serve('127.0.0.1:0', '{options}')"));
        assert!(error.contains(part), "{options}: no '{part}' in {error}");
        assert!(!error.contains("PRIVATE KEY"), "{error}");
    }
    let url = shell.ask("SELECT litestream_serve('127.0.0.1:0')");
    let mut replica = Shell::open(&temp.path("replica.db"));
    for (url, options, part) in [
        (&url, format!("{{\"ca\": \"{ca}\"}}"), "is for TLS"),
        (&url, format!("{{\"client_cert\": \"{cert}\", \"client_key\": \"{key}\"}}"), "is for TLS"),
        (&url, format!("{{\"client_cert\": \"{cert}\"}}"), "belong together"),
        (&url.replace("http:", "https:"), format!("{{\"ca\": \"{key}\"}}"), "holds no certificate"),
        (&url.replace("http:", "https:"), format!("{{\"ca\": \"{ca}\"}}"), "http://?"),
    ] {
        let error = replica.refused(&format!("SELECT litestream_pull('{url}', '{options}')"));
        assert!(error.contains(part), "{options}: no '{part}' in {error}");
    }
}

#[test]
fn http_where_tls_is_spoken_gets_no_data_and_is_told_so() {
    let temp = Temp::new();
    let ours = Authority::new(&temp, "ours");
    let (_primary, url) = serving_with(&temp.path("primary.db"), &ours.server(""));
    let mut replica = Shell::open(&temp.path("replica.db"));
    let error = replica.refused(&format!("SELECT litestream_pull('{}')", url.replace("https:", "http:")));
    assert!(error.contains("https://?") || error.contains("closed without an answer"), "{error}");
    let mut socket = TcpStream::connect(url["https://".len()..].split('/').next().unwrap()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(b"GET /stream?path=primary.db HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert!(answer.len() < 100 && !answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
}
