//! What runs in this process: servers, databases served, databases followed.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::follow::Asked;
use crate::base::{Error, Kind, Result};
use crate::net::{self, Server};
use crate::primary::Primary;
use crate::replica::{Follower, Progress, Upstream};
use crate::sqlite::{Host, PerProcess, at_exit};

/// The registry of this process. A child of a fork makes its own: the threads and locks of its parent are not there
/// (<https://www.sqlite.org/howtocorrupt.html>, 2.6).
static REGISTRY: PerProcess<Registry> = PerProcess::new();

/// Everything that runs in one process.
#[derive(Default)]
pub struct Registry {
    running: Mutex<Running>,
    /// What the process that this one was forked from served or followed at that moment, and its id.
    inherited: Option<(u32, Vec<PathBuf>)>,
}

/// What runs now.
#[derive(Default)]
pub struct Running {
    /// Every address listened on.
    pub servers: Vec<Arc<Server>>,
    /// Addresses opened for metrics only.
    pub tellers: Vec<Teller>,
    /// Databases served, by path.
    pub served: HashMap<PathBuf, Served>,
    /// Databases followed, by path.
    pub followed: HashMap<PathBuf, Followed>,
    /// Databases that a call let go of, by what was ended. Loading the library does not begin that again.
    pub let_go: HashSet<(PathBuf, Doing)>,
    /// Databases that are being brought up to date by a call that has not returned yet.
    beginning: Vec<net::Followed>,
}

/// A database served.
pub struct Served {
    /// The database.
    pub primary: Arc<Primary>,
    /// Where.
    pub server: Arc<Server>,
    /// Its URL.
    pub url: String,
}

/// A database followed.
pub struct Followed {
    /// Who follows with it.
    pub follower: Arc<Follower>,
    /// What was asked for.
    pub asked: Asked,
}

/// What can be done with a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doing {
    /// Serving it.
    Serving,
    /// Following with it.
    Following,
}

/// An address that tells of all of the process, and serves nothing.
pub struct Teller {
    /// The database of the connection that opened it; none if that was in memory or temporary.
    pub opened_by: Option<PathBuf>,
    /// The address.
    pub server: Arc<Server>,
}

/// A database that is being brought up to date.
pub struct Beginning<'r> {
    registry: &'r Registry,
    progress: Arc<Progress>,
}

/// Called when the extension is loaded: makes the registry of this process if there is none yet.
pub fn begin() {
    if REGISTRY.make(Registry::new) {
        at_exit(stop_all);
    }
}

/// The registry of this process.
pub fn registry() -> Result<&'static Registry> {
    REGISTRY.get().ok_or_else(|| {
        Error::usage(
            "litestream: this process was forked from the one that loaded the extension, and SQLite connections do not \
             survive a fork; open a new connection here and load the extension with it",
        )
    })
}

/// What runs now, for those who tell of it. Nothing in a forked child.
pub fn told() -> net::Running {
    let Ok(registry) = registry() else { return net::Running::default() };
    let running = registry.running();
    let served = running.served.values().map(|served| net::Served {
        primary: Arc::clone(&served.primary),
        url: served.url.clone(),
        warning: served.server.warning(),
    });
    let followed = running.followed.values().map(|Followed { follower, .. }| net::Followed {
        path: follower.path().to_path_buf(),
        url: follower.url().to_string(),
        warning: follower.upstream().warning(),
        progress: follower.progress(),
    });
    net::Running { served: served.collect(), followed: followed.chain(running.beginning.iter().cloned()).collect() }
}

impl Registry {
    fn new() -> Registry {
        // A lock that was held at the moment of the fork is never given back here.
        let inherited = REGISTRY.inherited().and_then(|(process, parent)| {
            let running = parent.running.try_lock().ok()?;
            Some((process, running.served.keys().chain(running.followed.keys()).cloned().collect()))
        });
        Registry { inherited, ..Registry::default() }
    }

    /// What runs now. Held for moments only.
    pub fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database served at `path`.
    pub fn primary(&self, path: &Path) -> Option<Arc<Primary>> {
        self.running().served.get(path).map(|served| Arc::clone(&served.primary))
    }

    /// Where the database at `path` is served.
    pub fn url_of(&self, path: &Path) -> Option<String> {
        self.running().served.get(path).map(|served| served.url.clone())
    }

    /// The follower of the database at `path`.
    pub fn follower(&self, path: &Path) -> Option<Arc<Follower>> {
        self.followed(path).map(|(follower, _)| follower)
    }

    /// The same, and what was asked of it.
    pub fn followed(&self, path: &Path) -> Option<(Arc<Follower>, Asked)> {
        let running = self.running();
        running.followed.get(path).map(|followed| (Arc::clone(&followed.follower), followed.asked.clone()))
    }

    /// Fails if the database at `path` is served, and so is no replica.
    pub fn check_not_served(&self, path: &Path) -> Result<()> {
        match self.url_of(path) {
            None => Ok(()),
            Some(_) if self.follower(path).is_some() => Ok(()),
            Some(url) => Err(Error::usage(format!(
                "litestream: {} is being served here, at {url}; litestream_stop() ends that, then it can become a replica",
                path.display()
            ))),
        }
    }

    /// Tells of a database that is being brought up to date, until the guard goes or it is followed.
    pub fn beginning(&self, path: &Path, upstream: &dyn Upstream, progress: &Arc<Progress>) -> Beginning<'_> {
        let (url, warning) = (upstream.url().to_string(), upstream.warning());
        let followed = net::Followed { path: path.into(), url, warning, progress: Arc::clone(progress) };
        self.running().beginning.push(followed);
        Beginning { registry: self, progress: Arc::clone(progress) }
    }

    /// Keeps a follower whose first catch-up was applied.
    pub fn follows(&self, path: PathBuf, followed: Followed) {
        let mut running = self.running();
        running.forget(&followed.follower.progress());
        running.let_go.remove(&(path.clone(), Doing::Following));
        running.followed.insert(path, followed);
    }

    /// Ends serving the database at `path`, and its server if it was the last one there. Returns its URL.
    pub fn stop_serving(&self, path: &Path) -> Option<String> {
        let mut running = self.running();
        let served = running.served.remove(path)?;
        served.server.remove(path);
        let last = served.server.databases().is_empty();
        if last {
            running.servers.retain(|server| !Arc::ptr_eq(server, &served.server));
        }
        if let Some(followed) = running.followed.get(path) {
            followed.follower.relay_no_more();
        }
        drop(running);
        served.primary.stop();
        if last {
            served.server.stop();
        }
        Some(served.url)
    }

    /// Ends serving the database at `path` where its files were replaced, so that it can be served
    /// anew.
    pub fn stop_if_lost(&self, path: &Path) {
        if self.primary(path).is_some_and(|primary| primary.is_stopped()) {
            self.stop_serving(path);
        }
    }

    /// Keeps in mind that a call let go of the database at `path`.
    pub fn lets_go(&self, path: &Path, doing: Doing) {
        self.running().let_go.insert((path.to_path_buf(), doing));
    }

    /// Closes the addresses for metrics only that a connection to `database` opened. Returns their URLs.
    pub fn stop_telling(&self, database: Option<&Path>) -> Vec<String> {
        let mut running = self.running();
        let tellers = std::mem::take(&mut running.tellers);
        let (ended, kept): (Vec<Teller>, Vec<Teller>) =
            tellers.into_iter().partition(|teller| teller.opened_by.as_deref() == database);
        running.tellers = kept;
        running.servers.retain(|server| !ended.iter().any(|teller| Arc::ptr_eq(server, &teller.server)));
        drop(running);
        ended.iter().for_each(|teller| teller.server.stop());
        ended.iter().map(|teller| teller.server.url()).collect()
    }

    /// Ends following with the database at `path`, and serving it on. Returns the URL followed.
    pub fn stop_following(&self, path: &Path) -> Option<String> {
        if self.primary(path).is_some_and(|primary| primary.is_relay()) {
            self.stop_serving(path);
        }
        let Followed { follower, .. } = self.running().followed.remove(path)?;
        follower.stop();
        Some(follower.url().to_string())
    }
}

impl Running {
    /// Whether the database at `path` is being brought up to date by a call that has not returned yet.
    pub fn is_beginning(&self, path: &Path) -> bool {
        self.beginning.iter().any(|known| known.path == path)
    }

    fn forget(&mut self, progress: &Arc<Progress>) {
        self.beginning.retain(|known| !Arc::ptr_eq(&known.progress, progress));
    }
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        self.registry.running().forget(&self.progress);
    }
}

/// The file of a schema of the calling connection, by the name everything in the registry goes by.
pub fn path_of(host: Host, schema: &str) -> Result<Option<PathBuf>> {
    Ok(host.file(schema)?.map(|path| std::fs::canonicalize(&path).unwrap_or(path)))
}

/// The same, where there must be a file.
pub fn file_of(host: Host, schema: &str, doing: &str) -> Result<PathBuf> {
    let path = path_of(host, schema)?.ok_or_else(|| {
        Error::new(
            Kind::Usage,
            format!("litestream: schema '{schema}' is in memory or temporary; {doing} needs a database file, open one"),
        )
    })?;
    check_not_inherited(&path)?;
    if host.has_moved(schema)? {
        let name = path.display();
        return Err(Error::new(
            Kind::Refused,
            format!(
                "litestream: {name} was replaced, renamed or removed since this connection opened it; close the connection \
                 and open a new one"
            ),
        ));
    }
    Ok(path)
}

/// A fork takes along what SQLite has noted of its locks, but not the locks. Where the parent had the file open for us, a
/// connection that is opened in the child believes that it holds them (<https://www.sqlite.org/howtocorrupt.html>, 2.6).
fn check_not_inherited(path: &Path) -> Result<()> {
    match &registry()?.inherited {
        Some((process, paths)) if paths.iter().any(|inherited| inherited == path) => Err(Error::usage(format!(
            "litestream: this process was forked from process {process} while that served or followed {}, so that SQLite does not \
             lock the file here; serve and follow after the fork, or begin this process anew (exec, spawn)",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// A normal end of the process: every thread ends before it, and the private connections are closed.
fn stop_all() {
    let Ok(registry) = registry() else { return };
    let (served, followed, telling) = {
        let running = registry.running();
        let telling: Vec<_> = running.tellers.iter().map(|teller| teller.opened_by.clone()).collect();
        let (served, followed) = (running.served.keys().cloned(), running.followed.keys().cloned());
        (served.collect::<Vec<_>>(), followed.collect::<Vec<_>>(), telling)
    };
    for database in telling {
        registry.stop_telling(database.as_deref());
    }
    for path in served {
        registry.stop_serving(&path);
    }
    for path in followed {
        registry.stop_following(&path);
    }
}
