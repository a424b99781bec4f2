//! What loading the library begins by itself: environment, or configuration of the database, say that it is followed or served.
//!
//! Whoever is first does it. Every other connection of the process, and every other process with the same file, finds it done.

use std::ffi::CStr;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use super::options::Origin;
use super::registry::{Doing, Registry, path_of};
use super::session::Session;
use super::setting::find;
use super::{config, follow, serve};
use crate::base::{Error, Kind, Result, limits};
use crate::replica::interrupted;
use crate::sqlite::Host;
use crate::store::{Sidecar, holds_nothing};

/// The VFS of SQLite whose files are in memory.
const IN_MEMORY: &CStr = c"memdb";
/// How often it is looked whether somebody else is done.
const LOOK: Duration = Duration::from_millis(20);
/// How long somebody else who makes this database a replica may get nowhere.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an address may be had by somebody who does not serve the database yet, or does not serve any more.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);

/// Follows with the main database of `host`, and serves it, if somebody says so. What this began is ended again if the rest fails.
pub fn begin(host: Host, session: &Session, registry: &Registry) -> Result<()> {
    let in_environment = |name| find(name).is_some_and(|setting| setting.in_environment().is_some());
    let path = match path_of(host, "main") {
        Ok(Some(path)) => path,
        Ok(None) => return Ok(()),
        Err(error) if in_environment("upstream") || in_environment("addr") => return Err(error),
        Err(_) => return Ok(()),
    };
    let stored = config::read(&path)?.map(|(_, stored)| stored).unwrap_or_default();
    let says = |name| in_environment(name) || stored.contains_key(name);
    if !says("upstream") && !says("addr") || host.vfs("main")?.as_c_str() == IN_MEMORY {
        return Ok(());
    }
    let auto = Auto { host, session, registry, path: &path };
    let followed = match says("upstream") {
        true => auto.said("upstream", auto.follow())?,
        false => Role::Primary,
    };
    if says("addr") && followed != Role::Elsewhere {
        auto.said("addr", auto.serve(&followed)).inspect_err(|_| {
            if followed == Role::BeganHere {
                registry.stop_following(&path);
            }
        })?;
    }
    Ok(())
}

/// Who follows with the database.
#[derive(PartialEq, Eq)]
enum Role {
    /// Nobody: it is written to here.
    Primary,
    /// This process, since just now.
    BeganHere,
    /// This process did already.
    Here,
    /// Another process.
    Elsewhere,
}

struct Auto<'a> {
    host: Host,
    session: &'a Session,
    registry: &'a Registry,
    path: &'a Path,
}

impl Auto<'_> {
    /// An error with who is to blame for it.
    fn said<T>(&self, name: &'static str, done: Result<T>) -> Result<T> {
        done.map_err(|e| {
            let from = match find(name).filter(|setting| setting.in_environment().is_some()) {
                Some(setting) => setting.variable(),
                None => Origin::Config(Sidecar::of(self.path).config_path()).naming(name),
            };
            e.within(format!("litestream: as {from} says"))
        })
    }

    fn follow(&self) -> Result<Role> {
        let (sidecar, begun) = (Sidecar::of(self.path), Instant::now());
        let mut watch = Watch::begin(self.path);
        loop {
            match self.here() {
                Some(role) => return Ok(role),
                None if self.is_beginning() => self.nap()?,
                None if sidecar.is_taken() => {
                    if sidecar.upstream().is_some() && sidecar.position().is_some() && self.has_content() {
                        return Ok(Role::Elsewhere);
                    }
                    if sidecar.upstream().is_none() && sidecar.generation().is_some() {
                        log::warn!("{} is a primary, which another process serves", self.path.display());
                        return Ok(Role::Elsewhere);
                    }
                    // It becomes a replica just now: until it is one there is nothing to read in it.
                    watch.check(&sidecar)?;
                    self.nap()?;
                }
                None => match follow::begin(self.host, self.registry, follow::not_given()) {
                    Ok(_) => return Ok(Role::BeganHere),
                    Err(e) if e.kind() == Kind::Taken => self.nap()?,
                    Err(e) => self.again_if_busy(e, begun)?,
                },
            }
        }
    }

    /// Whether there is something to read: what the folder beside it says may be about a file that was removed since.
    fn has_content(&self) -> bool {
        let pages = self.host.query_text("PRAGMA main.page_count");
        pages.is_ok_and(|pages| pages.is_some_and(|pages| pages != "0"))
    }

    /// What this process does with the database already, or was told not to do any more.
    fn here(&self) -> Option<Role> {
        let running = self.registry.running();
        match running.followed.contains_key(self.path) {
            true => Some(Role::Here),
            false if running.served.contains_key(self.path) => Some(Role::Primary),
            false if running.let_go.contains(&(self.path.to_path_buf(), Doing::Following)) => Some(Role::Primary),
            false => None,
        }
    }

    fn is_beginning(&self) -> bool {
        self.registry.running().is_beginning(self.path)
    }

    fn serve(&self, role: &Role) -> Result<()> {
        let (sidecar, begun) = (Sidecar::of(self.path), Instant::now());
        let mut options = serve::not_given();
        options.surround(Some("addr"), Some(self.path))?;
        let metrics_only = options.flag("metrics_only")?;
        let (address, _) = options.place("addr", "an address")?;
        // Where the database is followed with, this process has it already.
        let writes = !metrics_only && *role == Role::Primary;
        while !self.is_served(metrics_only, &address)? {
            if writes {
                self.make_new_one_wal(begun)?;
            }
            let Err(error) = serve::begin(self.host, self.session, self.registry, serve::not_given()) else { break };
            match error.kind() {
                // Whoever serves it has the address, too; and here it may be open for reading only.
                Kind::Taken | Kind::Io | Kind::ReadOnly if writes && sidecar.is_taken() => break,
                // Whoever had it has just let go of it.
                Kind::Taken => {}
                // The address is had before the database is.
                Kind::Io if begun.elapsed() < ADDRESS_PATIENCE => {}
                _ => self.again_if_busy(error, begun)?,
            }
            self.nap()?;
        }
        Ok(())
    }

    /// Whether there is nothing to do: what is asked for is done by this process, or a call ended it.
    fn is_served(&self, metrics_only: bool, address: &str) -> Result<bool> {
        let running = self.registry.running();
        let let_go = running.let_go.contains(&(self.path.to_path_buf(), Doing::Serving));
        if !metrics_only || let_go {
            return Ok(let_go || running.served.contains_key(self.path));
        }
        let is_told = |opened_by: &Option<_>| opened_by.as_deref() == Some(self.path);
        if running.tellers.iter().any(|teller| is_told(&teller.opened_by)) {
            return Ok(true);
        }
        Ok(serve::find(&running.servers, address)?.is_some())
    }

    /// An application that sets the mode of a new database after loading the library would be too late.
    fn make_new_one_wal(&self, begun: Instant) -> Result<()> {
        loop {
            let ask = |sql: &CStr| self.host.query_text(&sql.to_string_lossy());
            let made = holds_nothing(ask).and_then(|is_new| match is_new && !self.host.is_read_only("main")? {
                true => ask(c"PRAGMA main.journal_mode = WAL").map(drop),
                false => Ok(()),
            });
            match made {
                Ok(()) => return Ok(()),
                Err(e) => self.again_if_busy(e, begun)?,
            }
        }
    }

    /// Waits a little, unless the application does not want to wait any more.
    fn nap(&self) -> Result<()> {
        if self.host.is_interrupted() {
            return Err(interrupted());
        }
        sleep(LOOK);
        Ok(())
    }

    /// Waits a little after an error that someone's lock is to blame for, unless that has been so
    /// for long.
    fn again_if_busy(&self, error: Error, since: Instant) -> Result<()> {
        if error.kind() != Kind::Busy || since.elapsed() > limits::LOCK_PATIENCE {
            return Err(error);
        }
        self.nap()
    }
}

/// Sees whether a database that somebody else fills gets on.
struct Watch<'a> {
    path: &'a Path,
    seen: Option<(u64, SystemTime)>,
    at: Instant,
}

impl<'a> Watch<'a> {
    fn begin(path: &'a Path) -> Watch<'a> {
        Watch { path, seen: None, at: Instant::now() }
    }

    /// Fails if it did not get on for long, with who has it.
    fn check(&mut self, sidecar: &Sidecar) -> Result<()> {
        let now = fs::metadata(self.path).and_then(|file| Ok((file.len(), file.modified()?))).ok();
        if now != self.seen {
            (self.seen, self.at) = (now, Instant::now());
        }
        match self.at.elapsed() > PATIENCE {
            true => sidecar.lock("follow an upstream with it").map(drop),
            false => Ok(()),
        }
    }
}
