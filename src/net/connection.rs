//! One connection of a client, from its first byte to its last.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::access::Digest;
use super::door::{self, Door};
use super::routes::Client;
use super::write_timeout::WriteTimeout;

/// How long a silent connection stays unprobed, and the pause between probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Bytes that the kernel takes of a stream before it has sent those before them.
#[cfg(any(target_os = "android", target_os = "linux"))]
const UNSENT: u32 = crate::base::limits::scaled(128 << 10, 4 << 10) as u32;

/// Takes `socket` on, or turns it away: what is to be done for it, if anything.
pub fn take_on(
    socket: TcpStream,
    client: SocketAddr,
    door: &Arc<Door>,
    router: &Router,
    stopping: &watch::Receiver<()>,
) -> Option<impl Future<Output = ()> + Send + 'static> {
    let entered = match door.enter(&socket, client) {
        Ok(place) => Ok(place),
        Err(full) => Err(door.turn_away(client, full)?),
    };
    let (door, router, stopping) = (Arc::clone(door), router.clone(), stopping.clone());
    Some(async move {
        match entered {
            Ok(_place) => converse(socket, client, &door, router, stopping).await,
            Err((_permit, answer)) => turn_away(socket, &door, answer).await,
        }
    })
}

async fn converse(
    socket: TcpStream,
    client: SocketAddr,
    door: &Arc<Door>,
    router: Router,
    stopping: watch::Receiver<()>,
) {
    let write_timeout = door.limits().write_timeout;
    if let Err(error) = tune(&socket, write_timeout) {
        log::debug!("connection of {client}: {error}");
    }
    let socket = WriteTimeout::new(socket, write_timeout);
    let Some(tls) = door.tls() else { return answer(socket, client, door, router, stopping).await };
    match timeout(door.limits().head_timeout, tls.acceptor().accept(socket)).await {
        Ok(Ok(socket)) => answer(socket, client, door, router, stopping).await,
        Ok(Err(error)) => log::debug!("TLS with {client} failed: {error}"),
        Err(_) => log::debug!("TLS with {client} took too long"),
    }
}

/// Answers the requests of a connection.
async fn answer(
    socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    client: SocketAddr,
    door: &Arc<Door>,
    router: Router,
    mut stopping: watch::Receiver<()>,
) {
    let name = Client(client.to_string());
    let router = TowerToHyperService::new(router);
    let token: Mutex<Option<Digest>> = Mutex::default();
    let shown = || token.lock().unwrap_or_else(PoisonError::into_inner);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(name.clone());
        let (admitted, router) = (door.admit(&request), router.clone());
        if let Ok(token) = &admitted {
            shown().clone_from(token);
        }
        async move {
            match admitted {
                Err(denied) => Ok(door::refuse(denied, request).await),
                Ok(_) => router.call(request).await,
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(door.limits().head_timeout)
        .max_header_size(usize::try_from(door.limits().head_bytes).unwrap_or(usize::MAX))
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = door.revoked(|| shown().clone()) => {
            return log::warn!("the connection of {client} was ended: the token that it had shown does not count any more");
        }
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    match ended {
        Ok(()) => {}
        Err(error) if is_timeout(&error) => {
            let waited = door.limits().write_timeout.as_millis();
            log::warn!(
                "the connection of {client} was dropped: it took nothing of what was sent to it for {waited} ms"
            );
        }
        Err(error) => log::debug!("connection of {client} ended: {error}"),
    }
}

/// Says that there is no room, in the clear or not.
async fn turn_away(socket: TcpStream, door: &Door, answer: Vec<u8>) {
    let Some(tls) = door.tls() else { return door::turn_away(socket, answer).await };
    if let Ok(Ok(socket)) = timeout(door::TURNING_AWAY, tls.acceptor().accept(socket)).await {
        door::turn_away(socket, answer).await;
    }
}

/// Whether a connection ended because its client takes nothing, as [`WriteTimeout`] or the kernel found.
fn is_timeout(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut)
}

/// Commits leave at once, and a client that vanished is noticed.
fn tune(socket: &TcpStream, write_timeout: Duration) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE.0).with_interval(KEEPALIVE.1))?;
    // By default the kernel takes megabytes, and a third of them must be gone before it takes more: that may be more than
    // a slow client reads within its time.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    socket.set_tcp_notsent_lowat(UNSENT)?;
    // By default the kernel sends again for a quarter of an hour to a client that does not answer, and meanwhile takes
    // what is written to it. The option is a number of milliseconds in an int.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    socket.set_tcp_user_timeout(Some(write_timeout.min(Duration::from_millis(i32::MAX as u64))))?;
    Ok(())
}
