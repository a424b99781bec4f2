//! What stands between an address and what is served there: who comes in, and how much at once.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::{WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::access::{Access, Denied, Digest};
use super::admission::{Admission, Full, Place};
use super::settings::{Limits, Settings};
use super::tls::ServerTls;
use crate::base::{Error, Result, limits};
use crate::sqlite::open_files_limit;

/// The one path that everybody may ask for.
const OPEN_PATH: &str = "/healthz";
/// Connections at a time that are told that there is no room for them; further ones are just closed.
const TURNED_AWAY: usize = 32;
/// How long that may take.
pub const TURNING_AWAY: Duration = Duration::from_secs(2);
/// How much of a request that is refused is read all the same: a client that is still sending would not see the answer.
const READ_ANYWAY: usize = 1 << 20;
/// How often it is looked whether the token of a connection still counts.
const RECHECKED_EVERY: Duration = Duration::from_secs(1);
/// How often the log says that there is no room.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// The door of one address.
pub struct Door {
    settings: Settings,
    access: Access,
    tls: Option<ServerTls>,
    admission: Arc<Admission>,
    turned_away: Arc<Semaphore>,
    said: Mutex<Option<Instant>>,
}

impl Door {
    /// A door as `settings` have it. Fails if a file they name cannot be used.
    pub fn new(settings: Settings) -> Result<Door> {
        Ok(Door {
            access: Access::new(&settings)?,
            tls: ServerTls::new(&settings.tls)?,
            admission: Admission::new(&settings.limits),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY)),
            said: Mutex::default(),
            settings,
        })
    }

    /// How the address is served.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How much is taken on.
    pub fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    /// TLS, if it is spoken here.
    pub fn tls(&self) -> Option<&ServerTls> {
        self.tls.as_ref()
    }

    /// Fails if strangers could read what is served at one of these addresses and nobody has said that they may.
    pub fn check_addresses(&self, addresses: &[SocketAddr]) -> Result<()> {
        let public = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback());
        match public {
            Some(address) if !self.settings.is_guarded() && !self.settings.insecure => Err(Error::usage(format!(
                "{address} is not a loopback address: whoever reaches it could read the database. Give the option 'token' or \
                 'token_file', or set LITESTREAM_TOKEN, and clients must show it; or say {{\"insecure\": true}} to let everybody in"
            ))),
            _ => Ok(()),
        }
    }

    /// What is dangerous about serving at `address`, if anything is.
    pub fn warning(&self, address: SocketAddr) -> Option<&'static str> {
        let public = !address.ip().to_canonical().is_loopback();
        match (self.settings.is_guarded(), self.tls.is_some()) {
            (false, _) if public => Some("everybody who reaches the address reads the database (insecure)"),
            (true, false) if public => {
                Some("tokens and the database go over the network in the clear; give tls_cert and tls_key")
            }
            _ => None,
        }
    }

    /// Takes a connection on, or says what there is no room in.
    pub fn enter(&self, socket: &TcpStream, client: SocketAddr) -> std::result::Result<Place, Full> {
        let descriptor = u64::try_from(socket.as_raw_fd()).unwrap_or(0);
        self.admission.enter(client.ip(), descriptor, open_files_limit())
    }

    /// Lets a request in, by a token if one is asked for.
    pub fn admit<B>(&self, request: &Request<B>) -> std::result::Result<Option<Digest>, Denied> {
        match request.uri().path() {
            OPEN_PATH => Ok(None),
            _ => self.access.check(request.headers()),
        }
    }

    /// Ends when the token that `shown` gives does not let in any more. Those in a file can be taken out of it.
    pub async fn revoked(&self, shown: impl Fn() -> Option<Digest>) {
        if !self.access.changes() {
            return std::future::pending().await;
        }
        loop {
            sleep(RECHECKED_EVERY).await;
            if shown().is_some_and(|digest| !self.access.knows(&digest)) {
                return;
            }
        }
    }

    /// A permit to tell one more connection that there is no room for it, and what to tell.
    pub fn turn_away(&self, client: SocketAddr, full: Full) -> Option<(OwnedSemaphorePermit, Vec<u8>)> {
        self.say(client, full);
        if full == Full::Descriptors {
            // Telling it would need the descriptor for as long as that takes.
            return None;
        }
        let permit = Arc::clone(&self.turned_away).try_acquire_owned().ok()?;
        let (status, text) = match full {
            Full::Address => ("429 Too Many Requests", "Too many connections from this address\n"),
            Full::Connections | Full::Descriptors => ("503 Service Unavailable", "Too many connections\n"),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nretry-after: {}\r\n\
             x-content-type-options: nosniff\r\nconnection: close\r\n\r\n{text}",
            text.len(),
            limits::RETRY_AFTER.as_secs()
        );
        Some((permit, answer.into_bytes()))
    }

    fn say(&self, client: SocketAddr, full: Full) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_some_and(|at| at.elapsed() < SAID_EVERY) {
            return;
        }
        *said = Some(Instant::now());
        let limits = self.limits();
        let what = match full {
            Full::Address => format!("max_connections_per_address is {}", limits.connections_per_address),
            Full::Connections => format!("max_connections is {}", limits.connections),
            Full::Descriptors => format!("the process may have {} files open", open_files_limit()),
        };
        log::warn!("no room for the connection of {client}, and perhaps others: {what}");
    }
}

/// Tells a connection that there is no room for it, and reads what it has sent by then.
pub async fn turn_away(mut socket: impl AsyncRead + AsyncWrite + Unpin, answer: Vec<u8>) {
    let told = async {
        socket.write_all(&answer).await?;
        socket.shutdown().await?;
        let mut rest = [0; 4096];
        let mut left = READ_ANYWAY;
        while left > 0 {
            match socket.read(&mut rest).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        std::io::Result::Ok(())
    };
    drop(timeout(TURNING_AWAY, told).await);
}

/// The answer to a request that is not let in, once some of its body was read.
pub async fn refuse(denied: Denied, request: Request<Incoming>) -> Response {
    let mut body = request.into_body();
    let read = async {
        let mut left = READ_ANYWAY;
        while let Some(Ok(frame)) = body.frame().await
            && left > 0
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len()));
        }
    };
    drop(timeout(TURNING_AWAY, read).await);
    denial(denied)
}

fn denial(denied: Denied) -> Response {
    let nosniff = [(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))];
    match denied {
        Denied::Unauthorized => {
            let mut response = (StatusCode::UNAUTHORIZED, nosniff, "A token is required\n").into_response();
            for scheme in ["Bearer realm=\"litestream\"", "Basic realm=\"litestream\", charset=\"UTF-8\""] {
                response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
            response
        }
        Denied::Misdirected => {
            let text = "Ask by address, or as localhost: without a token, no other name is answered\n";
            (StatusCode::MISDIRECTED_REQUEST, nosniff, text).into_response()
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::net::token::Token;

    #[test]
    fn what_strangers_can_read_is_refused_or_warned_of() {
        let (near, far) = ("127.0.0.1:9090", "192.0.2.1:9090");
        let mut guarded = Settings::default();
        guarded.set_tokens(&[Token::new("t0ken").expect("a token")]);
        let mut insecure = Settings::default();
        insecure.insecure = true;
        for (settings, address, allowed, warned) in [
            (Settings::default(), near, true, false),
            (Settings::default(), "[::1]:9090", true, false),
            (Settings::default(), "[::ffff:127.0.0.1]:9090", true, false),
            (Settings::default(), far, false, true),
            (Settings::default(), "0.0.0.0:9090", false, true),
            (insecure.clone(), near, true, false),
            (insecure, far, true, true),
            (guarded.clone(), near, true, false),
            (guarded, far, true, true),
        ] {
            let (door, address) = (Door::new(settings).expect("a door"), address.parse().expect("an address"));
            assert_eq!(door.check_addresses(&[address]).is_ok(), allowed, "{address}");
            assert_eq!(door.warning(address).is_some(), warned, "{address}");
        }
    }
}
