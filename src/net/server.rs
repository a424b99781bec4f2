//! The primary's end: one listening address, one thread, all connections on its event loop.

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
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::databases::Databases;
use super::routes::{self, Client};
use super::{address, url};
use crate::base::{Error, Result};
use crate::primary::Primary;
use crate::sqlite::spawn;

/// How long a connection may take to send the head of its request, or may do nothing between two.
const HEAD: Duration = Duration::from_secs(10);
/// How long a client may leave what was sent to it unread or unanswered, before it counts as gone.
const GONE: Duration = Duration::from_secs(60);
/// How long a silent connection stays unprobed, and the pause between probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// How long the end of a stream may take to reach a client when the server stops.
const GRACE: Duration = Duration::from_millis(200);
/// Pause after the system refused to accept a connection, such as for want of file descriptors.
const REFUSED: Duration = Duration::from_secs(1);
/// Threads that read files, and compress, for all streams together.
const READERS: usize = 4;

/// One address at which databases are served. Dropping it stops it.
pub struct Server {
    address: SocketAddr,
    databases: Arc<Databases>,
    stop: watch::Sender<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    /// Listens at `host:port`. Port 0 has one picked; no host is the loopback interface.
    pub fn bind(addr: &str) -> Result<Server> {
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
        let router = routes::router(databases.clone());
        let (stop, stopping) = watch::channel(());
        let thread = spawn("litestream-http", move || run(runtime, listener, router, stopping))?;
        Ok(Server { address, databases, stop, thread: Mutex::new(Some(thread)) })
    }

    /// Where it listens, with the port that was picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
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

fn run(runtime: Runtime, listener: TcpListener, router: Router, stopping: watch::Receiver<()>) {
    runtime.block_on(serve(listener, router, stopping));
    runtime.shutdown_timeout(GRACE);
}

async fn serve(listener: TcpListener, router: Router, mut stopping: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopping.changed() => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((socket, client)) => {
                    connections.spawn(converse(socket, client, router.clone(), stopping.clone()));
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
async fn converse(socket: TcpStream, client: SocketAddr, router: Router, mut stopping: watch::Receiver<()>) {
    if let Err(error) = tune(&socket) {
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
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        log::debug!("connection of {name} ended: {error}");
    }
}

/// Commits leave at once, and a client that vanished is noticed.
fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE.0).with_interval(KEEPALIVE.1))?;
    // By default the kernel sends again for a quarter of an hour, and waits for ever for a client that does not read.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    socket.set_tcp_user_timeout(Some(GONE))?;
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
