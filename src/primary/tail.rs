//! Follows the commits of one database: a thread that watches the wal-index, and a hook that wakes it.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::commit_log::{CommitLog, Entry};
use super::core::{Core, News};
use super::feed2022;
use super::replicas::{ReplicaRow, Replicas};
use crate::base::{Error, PageSize, Position, Result, limits};
use crate::sqlite::{Connection, Host, OpenMode, guarded};
use crate::store::{Sidecar, SidecarLock};

/// After a look that found something, the next one comes no sooner: what is committed meanwhile goes out as one. Doubles
/// while each look finds many commits, so that a writer flat out is not slowed by being watched.
const GATHER: Duration = Duration::from_micros(400);
const LONGEST_GATHER: Duration = Duration::from_millis(4);
const MANY: u64 = 32;
/// Pause between two looks while commits come, and up to which it grows when none do.
const NAP: Duration = Duration::from_micros(500);
const LONGEST_NAP: Duration = Duration::from_millis(10);
/// How long after a commit the short pause is kept.
const BUSY: Duration = Duration::from_millis(500);
/// After this long without a commit there is time for a checkpoint of our own.
const QUIET: Duration = Duration::from_millis(100);
/// A commit this recent may be followed by a checkpoint in its writer's thread.
const JUST_NOW: Duration = Duration::from_millis(3);
/// When nothing was copied into the database for this long while the WAL grew, nobody else sees to it.
const ABANDONED: Duration = Duration::from_secs(1);
/// Pause between two looks at a checkpoint that will take a while.
const LOOK: Duration = Duration::from_micros(100);
/// How long a writer's checkpoint is waited for to begin, and to end, to let the WAL be restarted right after.
const CHECKPOINT_BEGINS: Duration = Duration::from_millis(10);
const CHECKPOINT_ENDS: Duration = Duration::from_secs(1);
/// How often the position in the sidecar follows that of the database.
const SHOW: Duration = Duration::from_millis(100);
/// Largest pause after an error.
const AFTER_ERROR: Duration = Duration::from_millis(200);

/// How a database is served.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// WAL size at which it is checkpointed, in frames.
    pub checkpoint_frames: u32,
    /// WAL size past which a snapshot for a replica of 2022, which keeps it from being restarted, is given up, in bytes.
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
    /// Position of the database now.
    pub position: Option<Position>,
    /// Commits seen.
    pub commits: u64,
    /// Pages changed by them, each counted once a look.
    pub pages: u64,
    /// Bytes of commits put up for sending.
    pub bytes: u64,
    /// Size of the WAL in bytes.
    pub wal_bytes: u64,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
    /// Whether the tail is in trouble now.
    pub failing: bool,
}

/// A database being served.
pub struct Primary {
    path: PathBuf,
    file_name: String,
    vfs: CString,
    page_size: PageSize,
    options: Options,
    pub(super) core: Mutex<Core>,
    /// Commits for replicas that speak version 2.
    pub(super) log: CommitLog,
    /// The same as bytes of the WAL, for those of 2022.
    pub(super) raw_log: CommitLog,
    pub(super) replicas: Replicas,
    wake: Wake,
    stop: AtomicBool,
    commits: AtomicU64,
    pages: AtomicU64,
    bytes: AtomicU64,
    /// Whether a writer is checkpointing in the commit hook, which sees to the rest itself.
    inline: AtomicBool,
    failing: AtomicBool,
    last_error: Mutex<Option<String>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    _lock: SidecarLock,
}

#[derive(Default)]
struct Wake {
    thread: Mutex<Option<Thread>>,
    sleeping: AtomicBool,
}

impl Primary {
    /// Begins to serve the database at `path`, opened through the VFS named `vfs`.
    pub fn start(path: &Path, vfs: &CStr, options: Options) -> Result<Arc<Primary>> {
        let core = Core::open(path, vfs)?;
        let sidecar = Sidecar::of(path);
        let lock = sidecar.lock("serve it")?;
        let checkpointer = Connection::open(path, vfs, OpenMode::Existing)?;
        // A connection opens the WAL when it first reads; before that SQLite takes its checkpoints for nothing to do.
        checkpointer.pin()?;
        checkpointer.unpin();
        let file_name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let reached = core.position();
        let primary = Arc::new(Primary {
            path: path.to_path_buf(),
            file_name,
            vfs: vfs.to_owned(),
            page_size: core.page_size(),
            options,
            core: Mutex::new(core),
            log: CommitLog::new(limits::COMMIT_LOG_BYTES, reached),
            raw_log: CommitLog::new(limits::COMMIT_LOG_BYTES, reached),
            replicas: Replicas::default(),
            wake: Wake::default(),
            stop: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            inline: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            last_error: Mutex::default(),
            thread: Mutex::default(),
            _lock: lock,
        });
        sidecar.show_position(&reached)?;
        let tail = Tail {
            primary: Arc::clone(&primary),
            checkpointer,
            sidecar,
            shown: (reached, Instant::now()),
            last_position: reached,
            last_backfill: (0, Instant::now()),
            last_checkpoint: Duration::ZERO,
            last_news: Instant::now(),
            next_checkpoint: 0,
        };
        let spawned = std::thread::Builder::new().name("litestream-tail".into()).spawn(move || tail.run());
        let handle = spawned.map_err(|e| Error::io("litestream: starting a thread", &e))?;
        *locked(&primary.wake.thread) = Some(handle.thread().clone());
        *locked(&primary.thread) = Some(handle);
        Ok(primary)
    }

    /// Name of the database file, without its folder.
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// Absolute path of the database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of the VFS it is opened through.
    pub(super) fn vfs(&self) -> &CStr {
        &self.vfs
    }

    /// Page size of the database.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// How often an idle stream shows that it is alive.
    pub fn heartbeat(&self) -> Duration {
        self.options.heartbeat
    }

    /// WAL size in bytes past which nothing may hold it up.
    pub(super) fn wal_limit(&self) -> u64 {
        self.options.wal_limit
    }

    /// Position of the database right now.
    pub fn position(&self) -> Result<Position> {
        self.lock_core().position_now()
    }

    /// One row a connected replica.
    pub fn replicas(&self) -> Vec<ReplicaRow> {
        self.replicas.rows()
    }

    /// What the status table tells.
    pub fn status(&self) -> Status {
        let core = self.lock_core();
        Status {
            position: core.position_now().ok(),
            commits: self.commits.load(Relaxed),
            pages: self.pages.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            wal_bytes: core.wal_bytes(),
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
            self.wake.ring();
        }
    }

    /// Ends the tail and waits for it. Feeds end by themselves.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = locked(&self.thread).take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }

    /// Whether [`Primary::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// The checkpoint that SQLite would run in the writer's thread, after which the next writer may restart the WAL as it
    /// would without us. Left to the tail when that has the core just now: the writer waits for nobody.
    fn checkpoint_inline(&self, host: Host, schema: &str) {
        self.inline.store(true, Relaxed);
        let _ = host.checkpoint(schema);
        let allowed =
            self.core.try_lock().is_ok_and(|mut core| self.noted(self.allow_restart(&mut core)) == Some(true));
        self.inline.store(false, Relaxed);
        if !allowed {
            self.wake.ring();
        }
    }

    /// Takes in what is new, and allows the WAL to be restarted if all of it is in the database. Whether it may be now.
    fn allow_restart(&self, core: &mut Core) -> Result<bool> {
        self.look(core)?;
        let state = core.look()?;
        core.allow_restart(&state)
    }

    /// Takes in what is new and puts it up for the feeds. Whether there was anything.
    pub(super) fn look(&self, core: &mut Core) -> Result<bool> {
        let state = core.look()?;
        match core.take_in(&state)? {
            Some(news) => self.publish(core, &news).map(|()| true),
            None => Ok(false),
        }
    }

    pub(super) fn publish(&self, core: &Core, news: &News) -> Result<()> {
        let entry =
            |records, pages| Entry { records, pages, commits: news.commits, reached: core.position(), lsn: core.lsn() };
        let (records, pages) = match self.replicas.any(2) {
            true => core.records(news, limits::LIVE_COMMIT_BYTES)?.map_or((None, 0), |(b, n)| (Some(b), n)),
            false => (None, 0),
        };
        self.commits.fetch_add(news.commits, Relaxed);
        self.pages.fetch_add(pages, Relaxed);
        self.bytes.fetch_add(records.as_ref().map_or(0, |r| r.len() as u64), Relaxed);
        self.log.push(entry(records, pages));
        let raw = match self.replicas.any(1) {
            true => feed2022::segments(core, news.from, news.to)?,
            false => None,
        };
        self.raw_log.push(entry(raw, u64::from(news.to.0 - news.from.0)));
        Ok(())
    }

    pub(super) fn lock_core(&self) -> MutexGuard<'_, Core> {
        locked(&self.core)
    }

    /// Keeps an error for the status table, and the log.
    fn noted<T>(&self, result: Result<T>) -> Option<T> {
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
                *locked(&self.last_error) = Some(text);
                None
            }
        }
    }
}

impl Wake {
    /// Wakes the tail if it sleeps. Costs a load when it does not.
    fn ring(&self) {
        if self.sleeping.load(Relaxed)
            && self.sleeping.swap(false, Relaxed)
            && let Some(thread) = locked(&self.thread).as_ref()
        {
            thread.unpark();
        }
    }
}

/// The thread.
struct Tail {
    primary: Arc<Primary>,
    checkpointer: Connection,
    sidecar: Sidecar,
    /// The position others see in the sidecar, and since when.
    shown: (Position, Instant),
    last_position: Position,
    /// How many frames were in the database, and since when.
    last_backfill: (u32, Instant),
    /// How long a writer's checkpoint took when one was last watched.
    last_checkpoint: Duration,
    last_news: Instant,
    next_checkpoint: u32,
}

impl Tail {
    fn run(mut self) {
        let (mut nap, mut gather) = (NAP, GATHER);
        while !self.primary.is_stopped() {
            let turn = guarded(|| self.turn());
            let failed = turn.is_err();
            if let Some(commits) = self.primary.noted(turn).flatten() {
                gather = if commits >= MANY { (gather * 2).min(LONGEST_GATHER) } else { GATHER };
                nap = NAP;
                std::thread::sleep(gather);
                continue;
            }
            if failed {
                nap = AFTER_ERROR;
            }
            self.sleep(nap);
            nap = if self.last_news.elapsed() < BUSY { NAP } else { (nap * 2).min(LONGEST_NAP) };
        }
        // The generation ends here, and with it the meaning of its positions.
        self.primary.noted(self.sidecar.forget_position());
    }

    /// One look. How many commits were new.
    fn turn(&mut self) -> Result<Option<u64>> {
        let primary = Arc::clone(&self.primary);
        let before = primary.commits.load(Relaxed);
        let mut core = primary.lock_core();
        let news = primary.look(&mut core)?;
        let state = core.look()?;
        if core.holds_others_up(&state) {
            core.allow_restart(&state)?;
        }
        let (frames, position) = (core.seen().last.0, core.position());
        drop(core);
        self.show(position)?;
        if state.backfilled != self.last_backfill.0 || frames == 0 {
            self.last_backfill = (state.backfilled, Instant::now());
        }
        if position != self.last_position {
            (self.last_position, self.last_news) = (position, Instant::now());
        }
        self.keep_wal_short(frames)?;
        Ok(news.then(|| primary.commits.load(Relaxed) - before))
    }

    fn show(&mut self, position: Position) -> Result<()> {
        if position == self.shown.0 || self.shown.1.elapsed() < SHOW {
            return Ok(());
        }
        self.shown = (position, Instant::now());
        self.sidecar.show_position(&position)
    }

    /// Sees to it that a WAL that has grown is checkpointed and restarted: by its writers, whose checkpoints are watched for;
    /// by ourselves when they have no commit to make, or leave it to others.
    fn keep_wal_short(&mut self, frames: u32) -> Result<()> {
        let due = self.primary.options.checkpoint_frames;
        if frames < due - due / 4 {
            self.next_checkpoint = 0;
            return Ok(());
        }
        let since = self.last_news.elapsed();
        if since < JUST_NOW && frames >= due && self.wait_for_checkpoint()? {
            return Ok(());
        }
        // A checkpoint of ours that runs when a writer wants to checkpoint for itself keeps it from doing so before its
        // next transaction begins. So only when there is no writer, or none that does.
        let left_to_us = since >= QUIET || self.last_backfill.1.elapsed() >= ABANDONED;
        if !left_to_us || frames < self.next_checkpoint {
            return Ok(());
        }
        self.next_checkpoint = frames.saturating_add(due / 4 + 1);
        self.checkpointer.checkpoint()?;
        self.primary.allow_restart(&mut self.primary.lock_core()).map(drop)
    }

    /// A writer that commits without a pause checkpoints in between, and goes on microseconds later. That is when it must be
    /// allowed to restart the WAL: after its next commit, not all of it is in the database again.
    /// Returns whether it is. Gives up at the next commit, and soon where no checkpoint was seen for long.
    fn wait_for_checkpoint(&mut self) -> Result<bool> {
        let began = Instant::now();
        // They are much alike: the first part of one can be slept through.
        let asleep = self.last_checkpoint.mul_f32(0.7);
        let begins = if self.last_backfill.1.elapsed() < ABANDONED { CHECKPOINT_BEGINS } else { Duration::ZERO };
        loop {
            let mut core = self.primary.lock_core();
            let state = core.look()?;
            if core.is_news(&state) {
                return Ok(false);
            }
            if core.allow_restart(&state)? {
                self.last_checkpoint = began.elapsed();
                return Ok(true);
            }
            drop(core);
            if self.primary.inline.load(Relaxed) {
                return Ok(true);
            }
            let patience = if state.is_being_backfilled() { CHECKPOINT_ENDS } else { begins };
            match began.elapsed() {
                elapsed if elapsed > patience => return Ok(false),
                elapsed if elapsed < asleep => std::thread::sleep(LOOK),
                _ => std::thread::yield_now(),
            }
        }
    }

    fn sleep(&self, time: Duration) {
        let sleeping = &self.primary.wake.sleeping;
        sleeping.store(true, Relaxed);
        std::thread::park_timeout(time);
        sleeping.store(false, Relaxed);
    }
}

/// Locks; a panic of another thread under the lock is told by its own error, and what it left is looked at anew.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
