//! One replica database and what is known of it: its sidecar, its upstream, where it is.

use std::ffi::{CStr, CString};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Upstream;
use super::audit::Audit;
use super::bootstrap::Bootstrap;
use super::database::{Content, Database};
use super::pending::Pending;
use super::relay::RelaySlot;
use super::status::Progress;
use super::trust::Doubted;
use super::upstream_clock::Newest;
use crate::base::{Error, Generation, Kind, Lsn, PageSize, Position, Result, limits};
use crate::format::page_file::Header;
use crate::store::{Alone, Checksums, HeaderWatch, Sidecar, SidecarLock};

/// How often the position of a busy replica is made durable. In between it is behind, never ahead.
const DURABLE_EVERY: Duration = Duration::from_secs(5);

/// How a replica is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Replace what the database holds.
    pub overwrite: bool,
    /// Leave out the read-only mark.
    pub writable: bool,
    /// How long the upstream may be silent.
    pub silence: Duration,
    /// WAL size at which it is checkpointed, in frames.
    pub checkpoint_frames: u32,
    /// How long the audit takes for all pages of a replica that follows; zero for no audit.
    pub audit: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            overwrite: false,
            writable: false,
            silence: limits::SILENCE,
            checkpoint_frames: limits::REPLICA_CHECKPOINT_FRAMES,
            audit: limits::AUDIT,
        }
    }
}

/// Feeds one database. Only one process at a time does.
pub(super) struct Feeder<'p> {
    pub database: Database,
    pub options: Options,
    pub progress: &'p Progress,
    /// Who serves the replica on.
    relay: &'p RelaySlot,
    /// Whether to give up.
    pub stop: &'p dyn Fn() -> bool,
    pub(super) sidecar: Sidecar,
    pub(super) vfs: CString,
    pub(super) position: Option<Position>,
    durable_at: Instant,
    pub(super) durable: Option<Position>,
    pub(super) same_upstream: bool,
    /// The generation that the replica last had a position in.
    pub(super) lineage: Option<Generation>,
    /// Whether the upstream was told what pages the replica has, and sends those that differ.
    pub(super) compares: bool,
    /// Whether the upstream is to be asked for everything next, since it cannot compare pages of
    /// this size.
    pub(super) takes_everything: bool,
    /// Whether the next commit leads there from a state that no position stands for.
    pub(super) replaces: bool,
    /// What is not trusted, and why, until it is mended.
    pub(super) distrust: Option<(Doubted, Error)>,
    pub(super) mended_at: Option<Instant>,
    known_url: Option<String>,
    url: String,
    /// Whether the locks of this process hold. None before the WAL is open.
    pub(super) alone: Option<Alone>,
    pub(super) audit: Option<Audit>,
    pub(super) header: HeaderWatch,
    lock: SidecarLock,
}

/// What ended a stream that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The first catch-up was applied.
    CaughtUp,
    /// It goes on for ever.
    Stopped,
}

impl<'p> Feeder<'p> {
    /// Takes the database at `path` as a replica of `upstream`. Fails if its content is somebody's own.
    pub fn open(
        path: &Path,
        vfs: &CStr,
        upstream: &dyn Upstream,
        options: Options,
        progress: &'p Progress,
        relay: &'p RelaySlot,
        stop: &'p dyn Fn() -> bool,
    ) -> Result<Feeder<'p>> {
        let sidecar = Sidecar::of(path);
        let lock = sidecar.lock("follow an upstream with it")?;
        let database = Database::open(path, vfs, options.checkpoint_frames)?;
        let known_url = sidecar.upstream();
        let mut feeder = Feeder {
            database,
            options,
            progress,
            relay,
            stop,
            position: sidecar.position(),
            sidecar,
            vfs: vfs.to_owned(),
            durable_at: Instant::now(),
            durable: None,
            lineage: None,
            compares: false,
            takes_everything: false,
            replaces: false,
            distrust: None,
            mended_at: None,
            same_upstream: known_url.as_deref() == Some(upstream.url()),
            known_url,
            url: upstream.url().to_string(),
            alone: None,
            audit: None,
            header: HeaderWatch::default(),
            lock,
        };
        feeder.check_content()?;
        if !feeder.is_new()? {
            feeder.database.require_alone()?;
        }
        feeder.lineage = feeder.position.map(|position| position.generation);
        Ok(feeder)
    }

    /// Ends feeding: what is known is kept for the next run.
    pub fn end(&mut self) -> Result<()> {
        if self.is_new()? {
            return Ok(());
        }
        self.make_durable()?;
        let (Some(position), Some(checksums)) = (self.position, self.database.checksums()) else { return Ok(()) };
        let (page_size, mark) = (self.database.page_size()?, self.database.mark()?);
        let header = Header { page_size, pages: checksums.pages(), position, floor: Lsn::ZERO, mark };
        self.sidecar.set_pages(&header, checksums.iter().map(|checksum| (Lsn::ZERO, checksum)))
    }

    /// Where the replica is.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Whether the file holds no database yet.
    pub fn is_new(&self) -> Result<bool> {
        Ok(self.database.content()? == Content::Nothing)
    }

    /// Whether page 1 gets the mark.
    pub fn read_only(&self) -> bool {
        !self.options.writable
    }

    /// An empty commit for a database that exists, once its page size is known to fit the upstream's.
    pub fn pending(&self, size: PageSize) -> Result<Pending> {
        let own = self.database.page_size()?;
        if own == size {
            return Ok(Pending::new(size, self.read_only()));
        }
        Err(Error::new(
            Kind::Refused,
            format!(
                "litestream: {} has pages of {} bytes and the upstream pages of {}; pass {{\"overwrite\": true}} to have it made anew",
                self.database.connection.path().display(),
                own.get(),
                size.get()
            ),
        ))
    }

    /// A new file for a database with pages of `size`.
    pub fn bootstrap(&self, size: PageSize) -> Result<Bootstrap<'_>> {
        self.settle()?;
        Bootstrap::begin(&self.database, size, self.read_only())
    }

    /// Whether what the database holds may be replaced by what a stranger sends.
    pub(super) fn may_be_replaced(&self) -> Result<bool> {
        Ok(self.options.overwrite || self.holds_nothing()?)
    }

    /// The upstream is about to send what the replica lacks, or everything, of `generation`, with
    /// pages of `size`. Fails if that would replace what is not its own.
    pub fn adopt(&mut self, generation: Generation, everything: bool, size: PageSize) -> Result<()> {
        let known = self.position.is_some_and(|here| here.generation == generation);
        if !everything && !known && !self.compares {
            let here = self.position.map_or("at no position".to_string(), |here| format!("at {here}"));
            return Err(Error::corrupt(format!(
                "stream: changes of generation {generation}, which this replica, {here}, has no state of"
            )));
        }
        let related = self.same_upstream || self.lineage == Some(generation);
        if !(known || related || self.may_be_replaced()?) {
            return Err(self.belongs_to_another());
        }
        if everything && !self.is_new()? && self.database.page_size()? != size && self.may_be_replaced()? {
            self.forget_position()?;
            self.begin_anew(size)?;
        }
        self.replaces = everything || self.compares;
        // What has a state of the upstream belongs to it; any other file does once its content changes.
        if known { self.belong().map(drop) } else { Ok(()) }
    }

    pub(super) fn belongs_to_another(&self) -> Error {
        let name = self.database.connection.path().display();
        let what = match &self.known_url {
            Some(owner) if *owner == self.url => {
                "has no position and no read-only mark that show it to be a replica of".into()
            }
            Some(owner) => format!("is a replica of {owner}, not of"),
            None => "has content and is not a replica of".to_string(),
        };
        let url = &self.url;
        Error::new(
            Kind::Refused,
            format!("litestream: {name} {what} {url}; pass {{\"overwrite\": true}} to replace it"),
        )
    }

    /// Puts down whose replica this is. Whether that is news.
    fn belong(&mut self) -> Result<bool> {
        if self.same_upstream {
            return Ok(false);
        }
        self.claim()?;
        self.same_upstream = true;
        Ok(true)
    }

    /// Records in the sidecar that the database is a replica of the upstream.
    pub fn claim(&self) -> Result<()> {
        self.sidecar.forget_generation()?;
        self.sidecar.set_upstream(&self.url)
    }

    /// Keeps what was applied, whatever ended the stream. A file that came to nothing is no one's:
    /// a database made of it later is the application's own.
    pub fn keep(&mut self) -> Result<()> {
        match self.is_new()? {
            true => self.belong_as_before(),
            false => self.make_durable(),
        }
    }

    /// Takes back whose replica this is: what is there was not replaced, and may be someone's own.
    fn belong_as_before(&mut self) -> Result<()> {
        self.same_upstream = false;
        self.known_url.as_ref().map_or_else(|| self.sidecar.forget(), |url| self.sidecar.set_upstream(url))
    }

    /// Applies a commit that leads to `pages` pages and `position`, if the database sums up to `expected` then.
    pub fn commit(
        &mut self,
        pending: Pending,
        pages: u32,
        expected: Option<u64>,
        position: Position,
        newest: Newest,
    ) -> Result<()> {
        let is_news = self.belong()?;
        if self.replaces {
            self.sidecar.forget_position()?;
            self.durable = None;
        }
        let apply = |database: &mut Database, stop: &dyn Fn() -> bool| {
            database.commit(pending, pages, expected, stop).map(|written| Some(written.pages))
        };
        let written = self.write(apply, position, newest);
        if written.is_err() && is_news {
            self.belong_as_before()?;
        }
        written?;
        let relay = self.relay;
        self.database
            .keep_wal_short(&mut || relay.lock().as_ref().map_or(Ok(()), |relay| relay.feeding().allow_restart()))?;
        if std::mem::take(&mut self.replaces) { self.make_durable() } else { self.make_durable_if_due() }
    }

    /// The upstream is at `position`, which the replica equals already, if it sums up to `expected`.
    pub fn confirm(&mut self, pages: u32, expected: Option<u64>, position: Position, newest: Newest) -> Result<()> {
        self.database.check(pages, expected)?;
        self.belong()?;
        self.mended(0, position);
        self.stand(position, newest)?;
        self.replaces = false;
        self.make_durable_if_due()
    }

    /// Has `write` write what leads to `position`, and say of how many pages, if that is a commit.
    /// Who serves the replica on knows of it before any reader can look. A relay begins before
    /// that, or after it.
    fn write(
        &mut self,
        write: impl FnOnce(&mut Database, &dyn Fn() -> bool) -> Result<Option<u64>>,
        position: Position,
        newest: Newest,
    ) -> Result<()> {
        self.check_locks()?;
        let slot = self.relay;
        let relay = slot.lock();
        let mut feeding = relay.as_ref().map(|relay| relay.feeding());
        if feeding.is_some() {
            // What is said to have been reached is passed on with all that is there.
            self.database.check_unwritten()?;
        }
        let pages = write(&mut self.database, self.stop)?;
        feeding.as_mut().map_or(Ok(()), |feeding| feeding.reached(position, newest.at))?;
        drop(feeding);
        if let Some(pages) = pages {
            self.mended(pages, position);
        }
        self.arrive(position, newest, u64::from(pages.is_some()), pages.unwrap_or(0));
        drop(relay);
        Ok(())
    }

    /// The replica equals its upstream at `position`, without anything having been written.
    pub fn stand(&mut self, position: Position, newest: Newest) -> Result<()> {
        self.write(|_, _| Ok(None), position, newest)
    }

    /// The replica equals its upstream at `position`, with `pages` pages having been applied to get there.
    fn arrive(&mut self, position: Position, newest: Newest, commits: u64, pages: u64) {
        self.position = Some(position);
        self.lineage = Some(position.generation);
        self.progress.reached(position, newest, commits, pages);
    }

    /// A new replica was written up to `position`. `checksums` is what its pages sum up to, if that is known.
    pub fn made(&mut self, position: Position, newest: Newest, pages: u32, checksums: Option<Checksums>) -> Result<()> {
        self.replaces = false;
        self.same_upstream = true;
        self.database.set_checksums(checksums);
        self.position = Some(position);
        // This opens the WAL, during which others find the database busy. So it is not said to be there before.
        self.make_durable()?;
        self.database.take_as_published()?;
        self.arrive(position, newest, 1, u64::from(pages));
        Ok(())
    }

    /// Makes what was applied durable, and then the position.
    pub fn make_durable(&mut self) -> Result<()> {
        self.durable_at = Instant::now();
        if self.position == self.durable {
            return Ok(());
        }
        self.database.connection.pin()?;
        self.database.connection.unpin();
        self.check_locks()?;
        self.database.sync(self.stop)?;
        if let Some(position) = &self.position {
            self.sidecar.set_position(position)?;
            self.durable = self.position;
        }
        Ok(())
    }

    /// Fails if the replica is not the file at its path any more. Where the system does not tell
    /// for now, the file may still be the same.
    pub fn check_in_place(&self) -> Result<()> {
        self.database.connection.check_in_place().or_else(|e| if e.kind() == Kind::Io { Ok(()) } else { Err(e) })
    }

    /// Fails if commits would go to a file that is not the one at the path, or another SQLite of
    /// this process may have dropped the locks that they are written under. Makes the sidecar again
    /// where it was removed.
    fn check_locks(&mut self) -> Result<()> {
        if self.lock.keep()? {
            (self.same_upstream, self.durable) = (false, None);
            self.belong()?;
        }
        let connection = &self.database.connection;
        match &mut self.alone {
            Some(alone) => alone.check(connection),
            none => Alone::begin(connection).map(|alone| *none = alone),
        }?;
        self.header.check(connection)
    }

    /// The same, if it was not done for a while.
    pub fn make_durable_if_due(&mut self) -> Result<()> {
        if self.durable_at.elapsed() < DURABLE_EVERY { Ok(()) } else { self.make_durable() }
    }

    /// Tells how much came.
    pub fn count(&self, bytes: u64) {
        self.progress.set_bytes(bytes, self.database.db_bytes(), self.database.wal_bytes());
    }

    /// What the database holds is no state of the upstream any more.
    pub(super) fn forget_position(&mut self) -> Result<()> {
        self.position = None;
        self.durable = None;
        self.progress.lost_position();
        self.sidecar.forget_position()
    }

    /// Whether what is there is known to be a replica of this upstream. Its URL alone does not say so: it may be left of a file
    /// that was removed, and an application may have made a database in its place.
    fn is_own_replica(&self) -> Result<bool> {
        if !self.same_upstream || self.position.is_some() || self.options.writable {
            return Ok(self.same_upstream);
        }
        Ok(self.database.journal_mode()? == "wal" && self.database.is_read_only()?)
    }

    fn check_content(&mut self) -> Result<()> {
        if self.is_new()? {
            self.position = None;
            self.sidecar.forget()?;
            // What a run that died in the middle wrote is put down again when there is something to come.
            (self.known_url, self.same_upstream) = (None, false);
            return Ok(());
        }
        if self.known_url.is_none() {
            // The position of a primary that was served from here, or of nothing.
            self.position = None;
        }
        let is_own = self.options.overwrite || self.is_own_replica()?;
        if self.position.is_none() && !is_own {
            if !self.holds_nothing()? {
                return Err(self.belongs_to_another());
            }
            self.begin_anew_if_alone()?;
            self.sidecar.forget()?;
            (self.known_url, self.same_upstream) = (None, false);
            if self.is_new()? {
                return Ok(());
            }
        }
        let mode = self.database.journal_mode()?;
        if mode != "wal" {
            self.database.set_wal_mode()?;
        }
        if self.position.is_some() && !self.database.is_read_only()? {
            // Anybody may have written to it since, and nothing tells.
            self.position = None;
            self.sidecar.forget_position()?;
        }
        self.database.take_as_published()?;
        // What comes from here on is noticed as another's.
        match self.position.is_none() && !is_own && !self.holds_nothing()? {
            true => Err(self.belongs_to_another()),
            false => Ok(()),
        }
    }
}
