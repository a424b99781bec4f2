//! Keeps a replica up with its upstream: once, or for ever on a thread of its own.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::attended::attended;
use super::feeder::{Feeder, Options, Until};
use super::relay::{Relay, RelaySlot};
use super::status::{Progress, State};
use super::trust::Doubted;
use super::{Upstream, stream};
use crate::base::{Error, Kind, Position, Result, limits};
use crate::sqlite::{guarded, join, random_bytes, spawn};

/// Catches the database at `path` up with `upstream`, once, and tells `progress` of it. Returns the
/// position reached. Ends, with an error, when `is_interrupted` says so.
pub fn pull(
    path: &Path,
    vfs: &CStr,
    upstream: Arc<dyn Upstream>,
    options: Options,
    progress: Arc<Progress>,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<Position> {
    let stop = Arc::<AtomicBool>::default();
    let (path, vfs, source, stopped) = (path.to_path_buf(), vfs.to_owned(), Arc::clone(&upstream), Arc::clone(&stop));
    let options = Options { audit: Duration::ZERO, ..options };
    let pull = move || {
        let (relay, stopped) = (RelaySlot::default(), || stopped.load(Relaxed));
        let mut feeder = Feeder::open(&path, &vfs, &*source, options, &progress, &relay, &stopped)?;
        let ended = stream::run(&mut feeder, &*source, Until::CaughtUp);
        source.shutdown();
        if ended.is_err() && feeder.is_new()? {
            feeder.keep()?;
        }
        ended?;
        feeder.end()?;
        feeder.position().ok_or_else(|| Error::new(Kind::Io, "stream: the upstream ended it before the first commit"))
    };
    let cancel = || {
        stop.store(true, Relaxed);
        upstream.shutdown();
    };
    attended(is_interrupted, cancel, pull)
}

/// A database that follows its upstream in the background.
pub struct Follower {
    path: PathBuf,
    upstream: Arc<dyn Upstream>,
    progress: Arc<Progress>,
    orders: Arc<Orders>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread is told to do, also while it pauses.
#[derive(Default)]
struct Orders {
    stop: AtomicBool,
    /// Why the replica is to be mended.
    mend: Mutex<Option<Error>>,
    /// Who is to be told of what is written.
    relay: RelaySlot,
    paused: Mutex<()>,
    wake: Condvar,
}

impl Follower {
    /// Begins to follow. Returns when the first catch-up was applied; or, when the upstream cannot be reached but the
    /// database is a replica of it already, at once. `progress` is told of all that comes. Fails
    /// when `is_interrupted` says so.
    pub fn start(
        path: &Path,
        vfs: &CStr,
        upstream: Arc<dyn Upstream>,
        options: Options,
        progress: Arc<Progress>,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<Follower> {
        let orders = Arc::new(Orders::default());
        let follower = Follower {
            path: path.to_path_buf(),
            upstream: Arc::clone(&upstream),
            progress: Arc::clone(&progress),
            orders: Arc::clone(&orders),
            thread: Mutex::default(),
        };
        let (path, vfs) = (path.to_path_buf(), vfs.to_owned());
        let run = move || {
            let run = || run(&path, &vfs, &*upstream, options, &progress, &orders);
            let ended = guarded(run).err().unwrap_or_else(|| Error::usage("litestream: following was stopped"));
            progress.set_state(State::Stalled, Some(ended.to_string()));
            progress.end(ended);
        };
        let thread = spawn("litestream-follow", run)?;
        *follower.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        follower.progress.wait_caught_up(is_interrupted)?;
        Ok(follower)
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The URL being followed.
    pub fn url(&self) -> &str {
        self.upstream.url()
    }

    /// What is followed.
    pub fn upstream(&self) -> Arc<dyn Upstream> {
        Arc::clone(&self.upstream)
    }

    /// How far it has come.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Begins to serve the replica on: calls `start` while nothing is written to it, with its
    /// position and when that was known to be the newest.
    pub fn relay_by<R: Relay + 'static>(
        &self,
        start: impl FnOnce(Position, Option<i64>) -> Result<Arc<R>>,
    ) -> Result<Arc<R>> {
        let mut slot = self.orders.relay.lock();
        let (Some(position), time) = self.progress.standing() else {
            return Err(Error::new(
                Kind::Busy,
                format!("litestream: {} is being mended; serve it when it has a position again", self.path.display()),
            ));
        };
        let relay = start(position, time)?;
        *slot = Some(Arc::<R>::clone(&relay));
        Ok(relay)
    }

    /// Ends that.
    pub fn relay_no_more(&self) {
        self.orders.relay.lock().take();
    }

    /// Has the replica compared with its upstream page by page, and mended, for the reason given.
    pub fn mend(&self, why: Error) {
        *self.orders.mend.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.upstream.interrupt();
        self.orders.wake();
    }

    /// Ends following, after the commit being applied.
    pub fn stop(&self) {
        self.orders.stop.store(true, Relaxed);
        self.upstream.shutdown();
        self.orders.wake();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            join(thread);
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(
    path: &Path,
    vfs: &CStr,
    upstream: &dyn Upstream,
    options: Options,
    progress: &Progress,
    orders: &Orders,
) -> Result<()> {
    let stopped = || orders.stop.load(Relaxed);
    let mut feeder = Feeder::open(path, vfs, upstream, options, progress, &orders.relay, &stopped)?;
    let mut pause = limits::RETRY_MIN;
    let called = Instant::now();
    while !stopped() {
        feeder.check_in_place()?;
        let (began, commits, connections) = (Instant::now(), progress.commits(), progress.connections());
        let ended = stream::run(&mut feeder, upstream, Until::Stopped);
        // A storage that fails now may not fail later.
        let kept = feeder.keep();
        // The file at the path is another one now, of which nothing is known.
        feeder.check_in_place()?;
        if stopped() {
            return kept.and_then(|()| feeder.end());
        }
        let ended = match orders.take_mend().map(|why| feeder.distrust(Doubted::Content, why)) {
            Some(Ok(_)) => continue,
            Some(Err(error)) => Err(error),
            None => ended,
        };
        let error = ended.and(kept).err().unwrap_or_else(|| Error::new(Kind::Io, "stream: the upstream ended it"));
        let hopeless = matches!(error.kind(), Kind::Refused | Kind::CantOpen | Kind::ReadOnly | Kind::Usage);
        // An upstream that answered is likely to be back soon. One that never did is likely a wrong
        // URL.
        let cut_off = error.kind() == Kind::Io && progress.connections() > connections;
        let again = feeder.position().is_some() || (cut_off && called.elapsed() < options.silence);
        if !progress.is_caught_up() && (hopeless || !again) {
            return Err(error);
        }
        if let (false, Some(position)) = (progress.is_caught_up(), feeder.position()) {
            progress.standing_at(position);
        }
        let state = if error.kind() == Kind::Io { State::Reconnecting } else { State::Stalled };
        log::warn!("{}: {error}", path.display());
        progress.lost(state, &error);
        let lasted = progress.commits() > commits || began.elapsed() > limits::RETRY_MAX;
        pause = if lasted { limits::RETRY_MIN } else { (pause * 2).min(limits::RETRY_MAX) };
        orders.pause(match error.retry_after() {
            None => jittered(pause),
            Some(asked) => longer(asked.min(limits::RETRY_AFTER_MAX)).max(jittered(pause)),
        });
    }
    Ok(())
}

impl Orders {
    fn pause(&self, time: Duration) {
        let guard = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = || !self.stop.load(Relaxed) && self.mend.lock().is_ok_and(|mend| mend.is_none());
        let _ = self.wake.wait_timeout_while(guard, time, |()| idle());
    }

    fn wake(&self) {
        drop(self.paused.lock());
        self.wake.notify_all();
    }

    fn take_mend(&self) -> Option<Error> {
        self.mend.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Half to all of `time`, so that many replicas of one upstream do not come back at the same instant.
fn jittered(time: Duration) -> Duration {
    let [byte]: [u8; 1] = random_bytes();
    time / 2 + time / 512 * u32::from(byte)
}

/// All to one and a quarter of `time`, for the same reason.
fn longer(time: Duration) -> Duration {
    let [byte]: [u8; 1] = random_bytes();
    time + time / 1024 * u32::from(byte)
}
