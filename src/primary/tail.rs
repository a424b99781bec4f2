//! Follows the commits of one database: a thread that watches the wal-index, and a hook that wakes it.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::commit_log::{CommitLog, Entry};
use super::core::{Core, News};
use super::feed2022;
use super::replicas::{ReplicaRow, Replicas};
use crate::base::{Error, FrameNo, PageSize, Position, Result, limits};
use crate::format::wal::frame_offset;
use crate::format::walindex::lock;
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
/// After this long without a commit the read lock is moved to the newest one, so that no checkpoint is held up by it.
const QUIET: Duration = Duration::from_millis(3);
/// Largest pause after an error.
const AFTER_ERROR: Duration = Duration::from_millis(200);

/// How a database is served.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// WAL size at which it is checkpointed, in frames.
    pub checkpoint_frames: u32,
    /// WAL size at which the write lock is taken for a moment to get it checkpointed, in bytes.
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
    failing: AtomicBool,
    last_error: Mutex<Option<String>>,
    /// WAL size in frames at which the next inline checkpoint is tried.
    next_inline: AtomicU32,
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
        let lock = Sidecar::of(path).lock("serve it")?;
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
            failing: AtomicBool::new(false),
            last_error: Mutex::default(),
            next_inline: AtomicU32::new(0),
            thread: Mutex::default(),
            _lock: lock,
        });
        let tail = Tail { primary: Arc::clone(&primary), checkpointer, last_news: Instant::now(), next_checkpoint: 0 };
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
        let wal_bytes = core.idle().wal().and_then(|wal| wal.size());
        Status {
            position: core.position_now().ok(),
            commits: self.commits.load(Relaxed),
            pages: self.pages.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            wal_bytes: wal_bytes.unwrap_or(0),
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
            self.checkpoint_inline(host, schema, frames, auto_checkpoint);
        } else {
            self.next_inline.store(0, Relaxed);
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

    /// The checkpoint that SQLite would run in the writer's thread, with the read lock moved out of its way before and to
    /// where the WAL can be restarted after. Left to the tail when somebody else has the core: the writer waits for nobody.
    fn checkpoint_inline(&self, host: Host, schema: &str, frames: u32, auto_checkpoint: u32) {
        let due = self.next_inline.load(Relaxed);
        if due > frames && due <= frames.saturating_add(auto_checkpoint) {
            return self.wake.ring();
        }
        self.next_inline.store(frames.saturating_add(auto_checkpoint / 8 + 1), Relaxed);
        if !self.try_hand_over() {
            return self.wake.ring();
        }
        let _ = host.checkpoint(schema);
        if !self.try_hand_over() {
            self.wake.ring();
        }
    }

    fn try_hand_over(&self) -> bool {
        let Ok(mut core) = self.core.try_lock() else { return false };
        let done = core.hand_over(|core, news| self.publish(core, &news));
        self.noted(done).is_some()
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
            true => core.records(news, limits::COMMIT_LOG_BYTES / 2)?.map_or((None, 0), |(b, n)| (Some(b), n)),
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
    last_news: Instant,
    next_checkpoint: u32,
}

impl Tail {
    fn run(mut self) {
        let (mut nap, mut gather) = (NAP, GATHER);
        while !self.primary.is_stopped() {
            let before = self.primary.commits.load(Relaxed);
            let turn = guarded(|| self.turn());
            let failed = turn.is_err();
            let news = self.primary.noted(turn).unwrap_or(false);
            if news {
                let commits = self.primary.commits.load(Relaxed) - before;
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
    }

    /// One look. Whether there was anything new.
    fn turn(&mut self) -> Result<bool> {
        let primary = Arc::clone(&self.primary);
        let mut core = primary.lock_core();
        let news = primary.look(&mut core)?;
        if news {
            self.last_news = Instant::now();
        }
        let quiet = self.last_news.elapsed() >= QUIET;
        let state = core.look()?;
        if quiet && core.holds_others_up(&state) {
            core.hand_over(|core, news| primary.publish(core, &news))?;
        }
        let frames = core.seen().last.0;
        drop(core);
        self.keep_wal_short(frames, quiet)?;
        Ok(news)
    }

    /// Checkpoints when the WAL has grown. Before writers would do so themselves if there is time now, and in any case
    /// some way past that, since they cannot finish it while the read lock is at an older commit.
    fn keep_wal_short(&mut self, frames: u32, quiet: bool) -> Result<()> {
        let due = self.primary.options.checkpoint_frames;
        let early = due - due / 4;
        if frames < early {
            self.next_checkpoint = 0;
            return Ok(());
        }
        let bytes = frame_offset(FrameNo(frames).next(), self.primary.page_size);
        if bytes >= self.primary.options.wal_limit && frames >= self.next_checkpoint {
            self.next_checkpoint = frames.saturating_add(due);
            return self.checkpoint_under_lock();
        }
        let soon = if quiet { early } else { due.saturating_add(due / 4) };
        if frames < soon || frames < self.next_checkpoint {
            return Ok(());
        }
        self.next_checkpoint = frames.saturating_add(due);
        self.hand_over()?;
        self.checkpointer.checkpoint()?;
        self.hand_over()
    }

    /// The last resort against writers that never pause: the bulk of the WAL is copied first, then what they added meanwhile
    /// under the write lock, which takes as long as one sync.
    fn checkpoint_under_lock(&mut self) -> Result<()> {
        self.hand_over()?;
        self.checkpointer.checkpoint()?;
        let index = self.checkpointer.wal_index()?;
        let Some(_lock) = patiently(|| index.try_lock(lock::WRITE, 1))? else { return Ok(()) };
        self.hand_over()?;
        // A writer that is just checkpointing for itself gets in the way once at most: it cannot commit again.
        let done = patiently(|| self.primary.lock_core().idle().checkpoint())?;
        log::debug!("checkpoint under the write lock: {done:?}");
        self.hand_over()
    }

    fn hand_over(&self) -> Result<()> {
        self.primary.lock_core().hand_over(|core, news| self.primary.publish(core, &news))
    }

    fn sleep(&self, time: Duration) {
        let sleeping = &self.primary.wake.sleeping;
        sleeping.store(true, Relaxed);
        std::thread::park_timeout(time);
        sleeping.store(false, Relaxed);
    }
}

/// Asks for something that others hold for moments only, again and again for a tenth of a second.
fn patiently<T>(mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let deadline = Instant::now() + limits::LOCK_PATIENCE / 50;
    loop {
        match ask()? {
            None if Instant::now() < deadline => std::thread::yield_now(),
            answer => return Ok(answer),
        }
    }
}

/// Locks; a panic of another thread under the lock is told by its own error, and what it left is looked at anew.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
