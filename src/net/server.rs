//! The primary's end: one listening address, one thread, all connections on its event loop.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::databases::Databases;
use super::door::Door;
use super::report::Source;
use super::settings::Settings;
use super::{address, connection, routes, url};
use crate::base::{Error, Result};
use crate::primary::Primary;
use crate::sqlite::spawn;

/// How long the end of a stream may take to reach a client when the server stops.
const GRACE: Duration = Duration::from_millis(200);
/// Pause after the system refused to accept a connection, such as for want of file descriptors.
const REFUSED: Duration = Duration::from_secs(1);
/// Threads that read files, and compress, for all streams together.
const READERS: usize = 4;

/// One address at which databases are served. Dropping it stops it.
pub struct Server {
    address: SocketAddr,
    door: Arc<Door>,
    databases: Arc<Databases>,
    stop: watch::Sender<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    /// Listens at `host:port`. Port 0 has one picked; no host is the loopback interface. Any other interface is refused if
    /// `settings` ask nothing of clients and do not say that this is meant. `source` says what all of the process does, for who asks.
    pub fn bind(addr: &str, settings: Settings, source: Source) -> Result<Server> {
        let door = Arc::new(Door::new(settings)?);
        door.check_addresses(&address::resolve(addr)?)?;
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

        if let Some(warning) = door.warning(address) {
            log::warn!("{address}: {warning}");
        }
        let databases = Arc::new(Databases::new(*door.limits()));
        let router = routes::router(databases.clone(), source);
        let (stop, stopping) = watch::channel(());
        let thread = spawn("litestream-http", {
            let door = Arc::clone(&door);
            move || {
                runtime.block_on(serve(listener, router, &door, stopping));
                runtime.shutdown_timeout(GRACE);
            }
        })?;
        Ok(Server { address, door, databases, stop, thread: Mutex::new(Some(thread)) })
    }

    /// Where it listens, with the port that was picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What is dangerous about serving there, if anything is.
    pub fn warning(&self) -> Option<&'static str> {
        self.door.warning(self.address)
    }

    /// How it is served.
    pub fn settings(&self) -> &Settings {
        self.door.settings()
    }

    /// Whether `addr`, in the forms that [`Server::bind`] takes, is where this server listens. Port 0 never is.
    pub fn listens_at(&self, addr: &str) -> Result<bool> {
        Ok(address::resolve(addr)?.contains(&self.address))
    }

    /// Whether `addr` is where this server listens, or leaves the port open and names the same interface.
    pub fn answers_to(&self, addr: &str) -> Result<bool> {
        let same =
            |asked: &SocketAddr| asked.ip() == self.address.ip() && [0, self.address.port()].contains(&asked.port());
        Ok(address::resolve(addr)?.iter().any(same))
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
        url::of_served(self.scheme(), self.address, "")
    }

    fn scheme(&self) -> &'static str {
        if self.door.tls().is_some() { "https" } else { "http" }
    }

    /// What a replica follows to get `primary`. With the absolute path if another file served here has the same name.
    pub fn url_of(&self, primary: &Primary) -> String {
        url::of_served(self.scheme(), self.address, &self.databases.name_of(primary))
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

async fn serve(listener: TcpListener, router: Router, door: &Arc<Door>, mut stopping: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopping.changed() => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((socket, client)) => {
                    if let Some(conversation) = connection::take_on(socket, client, door, &router, &stopping) {
                        connections.spawn(conversation);
                    }
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
