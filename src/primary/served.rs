//! A database being served: what its tail, its feeds and its commit hook share.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::commit_log::{CommitLog, Entry};
use super::core::{Core, News};
use super::counters::{Counters, Counts};
use super::feed2022::{self, Pins};
use super::history::{History, Reserve};
use super::relay::Origin;
use super::replicas::{ReplicaRow, Replicas};
use super::tail::Tail;
use crate::base::{Error, FrameNo, PageSize, Past, Position, Result, limits};
use crate::format::wal::{frame_offset, frame_size};
use crate::sqlite::{Connection, Doorbell, Host, OpenMode, join, steady_ms, steady_since};
use crate::store::{Sidecar, SidecarLock, beside};

/// How long a writer that has just checkpointed waits for the tail to end its look, so that the WAL is not checkpointed again.
const CORE_PATIENCE: Duration = Duration::from_micros(300);

/// How a database is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// WAL size at which it is checkpointed, in frames.
    pub checkpoint_frames: u32,
    /// WAL size in bytes past which writers that never pause are let restart it unwatched; 0 for never.
    pub wal_limit: u64,
    /// How often an idle stream shows that it is alive.
    pub heartbeat: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            checkpoint_frames: limits::CHECKPOINT_FRAMES,
            wal_limit: limits::WAL_LIMIT_BYTES,
            heartbeat: limits::HEARTBEAT,
        }
    }
}

/// What the status table tells of a served database.
pub struct Status {
    /// Position of the database now; none where that cannot be found out at once.
    pub position: Option<Position>,
    /// Commits seen.
    pub commits: u64,
    /// Pages changed by them, each counted once a look.
    pub pages: u64,
    /// Bytes of commits put up for sending.
    pub bytes: u64,
    /// Size of the database file in bytes.
    pub db_bytes: u64,
    /// Size of the WAL in bytes.
    pub wal_bytes: u64,
    /// What else was counted.
    pub counts: Counts,
    /// The last thing that went wrong.
    pub last_error: Option<Past>,
    /// Whether the tail is in trouble now.
    pub failing: bool,
    /// Why replicas know nothing new, if no look was completed for long.
    pub stalled: Option<String>,
}

/// A database being served.
pub struct Primary {
    path: PathBuf,
    file_name: String,
    vfs: CString,
    page_size: PageSize,
    pub(super) options: Options,
    pub(super) core: Mutex<Core>,
    /// Commits for replicas that speak version 2.
    pub(super) log: CommitLog,
    /// The same as bytes of the WAL, for those of 2022.
    pub(super) raw_log: CommitLog,
    pub(super) replicas: Replicas,
    /// What snapshots for replicas of 2022 hold.
    pub(super) pins: Pins,
    stop: AtomicBool,
    pub(super) commits: AtomicU64,
    pages: AtomicU64,
    bytes: AtomicU64,
    pub(super) counters: Counters,
    /// Copies for downloads that there are now.
    pub(super) copies: AtomicUsize,
    /// Whether a writer is checkpointing in the commit hook, which sees to the rest itself.
    pub(super) inline: AtomicBool,
    /// When the last look began of which all is in the log, in ms by this process' clock.
    pub(super) looked: AtomicI64,
    failing: AtomicBool,
    last_error: Mutex<Option<Past>>,
    /// Why it cannot be served any more.
    lost: OnceLock<Error>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) role: Role,
}

/// What the database is.
pub(super) enum Role {
    /// One that is written to here, and nobody else may serve.
    Primary {
        /// Keeps other processes from serving it.
        lock: SidecarLock,
        /// Wakes the tail.
        bell: Arc<Doorbell>,
    },
    /// A replica of another.
    Relay(Origin),
}

impl Primary {
    /// Begins to serve the database at `path`, opened through the VFS named `vfs`.
    pub fn start(path: &Path, vfs: &CStr, options: Options) -> Result<Arc<Primary>> {
        let (primary, tail) = Primary::prepare(path, vfs, options)?;
        *locked(&primary.thread) = Some(tail.start()?);
        Ok(primary)
    }

    /// Gets everything ready to serve the database at `path`, but for the thread of the tail.
    pub(super) fn prepare(path: &Path, vfs: &CStr, options: Options) -> Result<(Arc<Primary>, Tail)> {
        let sidecar = Sidecar::of(path);
        let lock = sidecar.lock("serve it")?;
        let core = Core::open(path, vfs, History::load(&sidecar))?;
        let reserve = Reserve::begin(&sidecar, &core)?;
        let open = || Connection::open(path, vfs, OpenMode::Existing);
        let own = [open()?, open()?];
        for connection in &own {
            // A connection opens the WAL when it first reads; before that SQLite takes its checkpoints for nothing to do.
            connection.pin()?;
            connection.unpin();
        }
        let reached = core.position();
        let bell = Arc::new(Doorbell::new()?);
        let role = Role::Primary { lock, bell: Arc::clone(&bell) };
        let primary = Arc::new(Primary::of(path, vfs, options, core, role));
        sidecar.show_position(&reached)?;
        let tail = Tail::new(Arc::clone(&primary), bell, own, sidecar, reserve)?;
        Ok((primary, tail))
    }

    pub(super) fn of(path: &Path, vfs: &CStr, options: Options, core: Core, role: Role) -> Primary {
        let (reached, looked) = (core.position(), core.looked);
        Primary {
            path: path.to_path_buf(),
            file_name: path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            vfs: vfs.to_owned(),
            page_size: core.page_size(),
            options,
            core: Mutex::new(core),
            log: CommitLog::new(limits::COMMIT_LOG_BYTES, reached),
            raw_log: CommitLog::new(limits::COMMIT_LOG_BYTES, reached),
            replicas: Replicas::default(),
            pins: Pins::default(),
            stop: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            counters: Counters::default(),
            copies: AtomicUsize::new(0),
            inline: AtomicBool::new(false),
            looked: AtomicI64::new(looked),
            failing: AtomicBool::new(false),
            last_error: Mutex::default(),
            lost: OnceLock::new(),
            thread: Mutex::default(),
            role,
        }
    }

    /// Name of the database file, without its folder.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Absolute path of the database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it is served.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Name of the VFS it is opened through.
    pub(super) fn vfs(&self) -> &CStr {
        &self.vfs
    }

    /// Page size of the database.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Size of the database in pages, as far as it was seen.
    pub fn pages(&self) -> u32 {
        self.lock_core().seen().pages
    }

    /// Bytes of a WAL of so many frames.
    pub(super) fn wal_bytes(&self, frames: u32) -> u64 {
        frame_offset(FrameNo(frames).next(), self.page_size)
    }

    /// Whether a WAL of so many frames is longer than `times` its limit.
    pub(super) fn is_past_limit(&self, frames: u32, times: u64) -> bool {
        let limit = self.options.wal_limit;
        limit > 0 && self.wal_bytes(frames) > limit.saturating_mul(times)
    }

    /// How often an idle stream shows that it is alive.
    pub fn heartbeat(&self) -> Duration {
        self.options.heartbeat
    }

    /// Position of the database right now.
    pub fn position(&self) -> Result<Position> {
        self.check_serving()?;
        self.lock_core().position_now()
    }

    /// One row a connected replica.
    pub fn replicas(&self) -> Vec<ReplicaRow> {
        self.replicas.rows(|version, next| {
            let log = if version == 2 { &self.log } else { &self.raw_log };
            log.waiting_since(next).map_or(Duration::ZERO, steady_since)
        })
    }

    /// What the status table tells. What takes the core is left out where that is kept for long, as
    /// by a slow disk.
    pub fn status(&self) -> Status {
        let read = |core: &Core| (core.position_now().ok(), core.db_bytes(), core.wal_bytes(), core.unexplained);
        let stalled = self.stalled();
        let (position, db_bytes, wal_bytes, unexplained) = self.with_core_soon(read).unwrap_or_else(|| {
            let size = |end| std::fs::metadata(beside(&self.path, end)).map_or(0, |file| file.len());
            (None, size(""), size("-wal"), 0)
        });
        Status {
            position,
            stalled,
            commits: self.commits.load(Relaxed),
            pages: self.pages.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            db_bytes,
            wal_bytes,
            counts: Counts { unexplained, ..self.counters.read() },
            last_error: locked(&self.last_error).clone(),
            failing: self.failing.load(Relaxed),
        }
    }

    /// What is done after each commit on a connection of the host, in its thread. `frames` is the size of the WAL,
    /// `auto_checkpoint` what the connection had as its auto-checkpoint.
    pub fn committed(&self, host: Host, schema: &str, frames: u32, auto_checkpoint: u32) {
        if self.stop.load(Relaxed) {
            if frames >= auto_checkpoint {
                let _ = host.checkpoint(schema);
            }
        } else if frames >= auto_checkpoint {
            self.checkpoint_inline(host, schema);
        } else {
            self.ring();
        }
    }

    /// Wakes the tail if it sleeps.
    pub(super) fn ring(&self) {
        if let Role::Primary { bell, .. } = &self.role {
            bell.ring();
        }
    }

    /// Ends the tail and waits for it. Feeds end by themselves.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = locked(&self.thread).take() {
            if let Role::Primary { bell, .. } = &self.role {
                bell.ring_anyway();
            }
            join(thread);
        }
    }

    /// Whether [`Primary::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Fails if it is not served any more, and says why.
    pub(super) fn check_serving(&self) -> Result<()> {
        match self.lost.get() {
            Some(error) => Err(error.clone()),
            None if self.is_stopped() => Err(Error::usage("the primary has stopped serving this database")),
            None => Ok(()),
        }
    }

    /// Sees that no other process can serve it, as [`SidecarLock::keep`] does.
    pub(super) fn keep_lock(&self) -> Result<bool> {
        match &self.role {
            Role::Primary { lock, .. } => lock.keep(),
            Role::Relay(_) => Ok(false),
        }
    }

    /// What is read here is not what others write any more. Ends all streams, and lets go of the WAL.
    pub(super) fn lose(&self, error: Error) {
        let _ = self.lost.set(error.clone());
        self.stop.store(true, Relaxed);
        let _ = self.lock_core().end(error.clone());
        self.noted::<()>(Err(error));
    }

    /// The checkpoint that SQLite would run in the writer's thread, after which the next writer may restart the WAL as it
    /// would without us. Left to the tail when that keeps the core just now: the writer waits for nobody for long.
    fn checkpoint_inline(&self, host: Host, schema: &str) {
        self.inline.store(true, Relaxed);
        let _ = self.counters.checkpoints.time(|| host.checkpoint(schema));
        let core = self.core_within(CORE_PATIENCE);
        let allowed = core.is_some_and(|mut core| self.noted(self.allow_restart(&mut core)) == Some(true));
        self.inline.store(false, Relaxed);
        if !allowed {
            self.ring();
        }
    }

    /// Takes in what is new, and allows the WAL to be restarted if all of it is in the database. Whether it may be now.
    pub(super) fn allow_restart(&self, core: &mut Core) -> Result<bool> {
        self.look(core)?;
        let state = core.look()?;
        core.allow_restart(&state)
    }

    /// Takes in what is new and puts it up for the feeds. Whether there was anything.
    pub(super) fn look(&self, core: &mut Core) -> Result<bool> {
        core.check_not_ended()?;
        core.let_go_if_damaged()?;
        let state = core.look()?;
        let news = core.take_in(&state)?;
        if let Some(news) = &news {
            self.publish(core, news)?;
        }
        self.note_looked(core);
        Ok(news.is_some())
    }

    pub(super) fn publish(&self, core: &mut Core, news: &News) -> Result<()> {
        let (reached, lsn) = (core.position(), core.lsn());
        // It has waited since the look that found it.
        let at = if self.is_relay() { steady_ms() } else { core.looked };
        let entry = |records, pages| {
            let compressed = Arc::default();
            Entry { records, compressed, pages, commits: news.commits, reached, lsn, at }
        };
        let made = match self.replicas.any(2) {
            true => core.records(news, limits::LIVE_COMMIT_BYTES),
            false => Ok(None),
        };
        let raw = match self.replicas.any(1) && !news.is_partial {
            true => feed2022::segments(core, news.from, news.to),
            false => Ok(None),
        };
        // What could not be made has happened all the same: replicas must not go on as if it had not.
        let (records, pages) = made.clone().ok().flatten().map_or((None, 0), |(records, pages)| (Some(records), pages));
        self.commits.fetch_add(news.commits, Relaxed);
        let frames = u64::from(news.to.0.saturating_sub(news.from.0));
        self.counters.wal_bytes.fetch_add(frames * frame_size(self.page_size), Relaxed);
        self.pages.fetch_add(pages, Relaxed);
        self.bytes.fetch_add(records.as_ref().map_or(0, |r| r.len() as u64), Relaxed);
        self.log.push(entry(records, pages));
        self.raw_log.push(entry(raw.clone().ok().flatten(), u64::from(news.to.0 - news.from.0)));
        made.and(raw).map(drop)
    }

    /// What others are told of an error: the database by its name, without the folder that it is in.
    pub fn told_to_others(&self, error: &Error) -> String {
        error.to_string().replace(&*self.path.to_string_lossy(), &self.file_name)
    }

    pub(super) fn lock_core(&self) -> MutexGuard<'_, Core> {
        locked(&self.core)
    }

    /// The core, if it is free within `patience`.
    pub(super) fn core_within(&self, patience: Duration) -> Option<MutexGuard<'_, Core>> {
        let began = Instant::now();
        loop {
            match self.core.try_lock() {
                Ok(core) => return Some(core),
                Err(TryLockError::Poisoned(core)) => return Some(core.into_inner()),
                Err(_) if began.elapsed() > patience => return None,
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    /// Keeps an error for the status table, and the log.
    pub(super) fn noted<T>(&self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                self.failing.store(false, Relaxed);
                Some(value)
            }
            Err(error) => {
                let text = error.to_string();
                if !self.failing.swap(true, Relaxed) {
                    log::warn!("{text}");
                }
                *locked(&self.last_error) = Some(Past::now(text));
                None
            }
        }
    }
}

/// Locks; a panic of another thread under the lock is told by its own error, and what it left is looked at anew.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
