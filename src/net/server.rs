//! The primary's end: one listening address, one thread, all connections on its event loop.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::databases::Databases;
use super::report::Source;
use super::routes::{self, Client};
use super::write_timeout::WriteTimeout;
use super::{address, url};
use crate::base::{Error, Result};
use crate::primary::Primary;
use crate::sqlite::spawn;

/// How long a connection may take to send the head of its request, or may do nothing between two.
const HEAD: Duration = Duration::from_secs(10);
/// How long a silent connection stays unprobed, and the pause between probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Bytes that the kernel takes of a stream before it has sent those before them.
#[cfg(any(target_os = "android", target_os = "linux"))]
const UNSENT: u32 = 128 << 10;
/// How long the end of a stream may take to reach a client when the server stops.
const GRACE: Duration = Duration::from_millis(200);
/// Pause after the system refused to accept a connection, such as for want of file descriptors.
const REFUSED: Duration = Duration::from_secs(1);
/// Threads that read files, and compress, for all streams together.
const READERS: usize = 4;

/// One address at which databases are served. Dropping it stops it.
pub struct Server {
    address: SocketAddr,
    write_timeout: Duration,
    databases: Arc<Databases>,
    stop: watch::Sender<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    /// Listens at `host:port`. Port 0 has one picked; no host is the loopback interface. A client that takes nothing of
    /// what is sent to it for `write_timeout` is dropped. `source` says what all of the process does, for who asks.
    pub fn bind(addr: &str, write_timeout: Duration, source: Source) -> Result<Server> {
        let listener = address::bind(addr)?;
        let failed =
            |error: io::Error| Error::io(format_args!("cannot listen on '{}'", super::printable(addr)), &error);
        let address = listener.local_addr().map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(READERS)
            .thread_name("litestream-read")
            .build()
            .map_err(failed)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(failed)?
        };

        let databases = Arc::<Databases>::default();
        let router = routes::router(databases.clone(), source);
        let (stop, stopping) = watch::channel(());
        let thread = spawn("litestream-http", move || {
            runtime.block_on(serve(listener, router, write_timeout, stopping));
            runtime.shutdown_timeout(GRACE);
        })?;
        Ok(Server { address, write_timeout, databases, stop, thread: Mutex::new(Some(thread)) })
    }

    /// Where it listens, with the port that was picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// How long a client may take nothing of what is sent to it.
    pub fn write_timeout(&self) -> Duration {
        self.write_timeout
    }

    /// Whether `addr`, in the forms that [`Server::bind`] takes, is where this server listens. Port 0 never is.
    pub fn listens_at(&self, addr: &str) -> Result<bool> {
        Ok(address::resolve(addr)?.contains(&self.address))
    }

    /// Serves one more database.
    pub fn add(&self, primary: Arc<Primary>) -> Result<()> {
        self.databases.add(primary)
    }

    /// Stops serving the database at `path` and ends its streams. Whether it was served here.
    pub fn remove(&self, path: &Path) -> bool {
        self.databases.remove(path)
    }

    /// What is served here.
    pub fn databases(&self) -> Vec<Arc<Primary>> {
        self.databases.all()
    }

    /// The URL of the address itself.
    pub fn url(&self) -> String {
        url::of_served(self.address, "")
    }

    /// What a replica follows to get `primary`. With the absolute path if another file served here has the same name.
    pub fn url_of(&self, primary: &Primary) -> String {
        url::of_served(self.address, &self.databases.name_of(primary))
    }

    /// Ends all streams, closes the address and waits for the thread. Takes up to some 400 ms if clients do not listen.
    pub fn stop(&self) {
        self.databases.clear();
        self.stop.send_replace(());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the server at {} ended in a panic", self.address);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(listener: TcpListener, router: Router, write_timeout: Duration, mut stopping: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopping.changed() => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((socket, client)) => {
                    connections.spawn(converse(socket, client, router.clone(), write_timeout, stopping.clone()));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    log::warn!("cannot accept a connection: {error}");
                    if timeout(REFUSED, stopping.changed()).await.is_ok() {
                        break;
                    }
                }
            },
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    // What has not ended by then ends with the event loop.
    drop(timeout(GRACE, all_ended).await);
}

/// Answers the requests of one connection.
async fn converse(
    socket: TcpStream,
    client: SocketAddr,
    router: Router,
    write_timeout: Duration,
    mut stopping: watch::Receiver<()>,
) {
    if let Err(error) = tune(&socket, write_timeout) {
        log::debug!("connection of {client}: {error}");
    }
    let client = Client(client.to_string());
    let name = client.0.clone();
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(client.clone());
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(WriteTimeout::new(socket, write_timeout)), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    match ended {
        Ok(()) => {}
        Err(error) if is_timeout(&error) => {
            let waited = write_timeout.as_millis();
            log::warn!("the connection of {name} was dropped: it took nothing of what was sent to it for {waited} ms");
        }
        Err(error) => log::debug!("connection of {name} ended: {error}"),
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

fn report(ended: std::result::Result<(), JoinError>) {
    if let Err(error) = ended {
        log::error!("a connection ended: {error}");
    }
}

/// Whether `accept` failed for the sake of the connection it was to return: the next one may be fine.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
