//! What a follower tells about itself, and what others wait for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::{Error, Position, Result, elapsed_since_unix_ms};

/// What a follower is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Being sent what it lacks.
    CatchingUp,
    /// Being sent commits as they happen.
    Streaming,
    /// Trying to reach its upstream.
    Reconnecting,
    /// Something on this side is in the way.
    Stalled,
}

/// One follower, as the table shows it.
#[derive(Clone, Debug)]
pub struct StatusRow {
    /// `catching up`, `streaming`, `reconnecting` or `stalled`.
    pub state: &'static str,
    /// Why, where that is worth saying.
    pub reason: Option<String>,
    /// Where the replica is.
    pub position: Option<Position>,
    /// Seconds since the replica was known to equal its upstream.
    pub lag: Option<f64>,
    /// Commits applied, those that came together counted as one.
    pub commits: u64,
    /// Pages applied.
    pub pages: u64,
    /// Bytes received.
    pub bytes: u64,
    /// How often the connection was lost.
    pub reconnects: u64,
    /// How often what it held was found not to be its upstream's, and mended.
    pub heals: u64,
    /// What was mended last, and why.
    pub healed: Option<String>,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
    /// Size of the WAL in bytes.
    pub wal_bytes: u64,
}

/// The progress of one replica, shared by the thread that feeds it and those that look.
pub struct Progress {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    state: State,
    reason: Option<String>,
    position: Option<Position>,
    caught_up: bool,
    equal_at: Option<Instant>,
    commits: u64,
    pages: u64,
    bytes: u64,
    reconnects: u64,
    heals: u64,
    healed: Option<String>,
    last_error: Option<String>,
    wal_bytes: u64,
    ended: Option<Error>,
}

impl Progress {
    /// Progress of a replica that is at `position`.
    pub(super) fn new(position: Option<Position>) -> Progress {
        let inner = Inner {
            state: State::CatchingUp,
            reason: None,
            position,
            caught_up: false,
            equal_at: None,
            commits: 0,
            pages: 0,
            bytes: 0,
            reconnects: 0,
            heals: 0,
            healed: None,
            last_error: None,
            wal_bytes: 0,
            ended: None,
        };
        Progress { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    /// Where the replica is.
    pub fn position(&self) -> Option<Position> {
        self.lock().position
    }

    /// Upper bound on staleness: seconds since the replica was known to equal its upstream.
    pub fn lag(&self) -> Option<f64> {
        self.lock().lag()
    }

    /// What the status table tells.
    pub fn row(&self) -> StatusRow {
        let inner = self.lock();
        StatusRow {
            state: match inner.state {
                State::CatchingUp => "catching up",
                State::Streaming => "streaming",
                State::Reconnecting => "reconnecting",
                State::Stalled => "stalled",
            },
            reason: inner.reason.clone(),
            position: inner.position,
            lag: inner.lag(),
            commits: inner.commits,
            pages: inner.pages,
            bytes: inner.bytes,
            reconnects: inner.reconnects,
            heals: inner.heals,
            healed: inner.healed.clone(),
            last_error: inner.last_error.clone(),
            wal_bytes: inner.wal_bytes,
        }
    }

    /// Waits until the replica has reached `position`; whether it has before the time is over.
    pub fn wait_for(&self, position: &Position, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        let mut inner = self.lock();
        loop {
            match inner.position.map(|here| here.reaches(position)) {
                Some(Some(true)) => return Ok(true),
                Some(None) => {
                    return Err(Error::usage(format!(
                        "litestream: {position} is of another generation than this replica, which is at {}",
                        inner.position.map(|p| p.to_string()).unwrap_or_default()
                    )));
                }
                _ => {}
            }
            if let Some(error) = &inner.ended {
                return Err(error.clone());
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return Ok(false);
            };
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Commits applied.
    pub(super) fn commits(&self) -> u64 {
        self.lock().commits
    }

    /// Whether a catch-up was applied.
    pub(super) fn is_caught_up(&self) -> bool {
        self.lock().caught_up
    }

    /// Waits until the first catch-up was applied or has failed.
    pub(super) fn wait_caught_up(&self) -> Result<Position> {
        let mut inner = self.lock();
        loop {
            if let (true, Some(position)) = (inner.caught_up, inner.position) {
                return Ok(position);
            }
            if let Some(error) = &inner.ended {
                return Err(error.clone());
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn set_state(&self, state: State, reason: Option<String>) {
        self.change(|inner| {
            inner.state = state;
            inner.reason = reason;
        });
    }

    /// A commit was applied, or it is known that there was none up to `position`. `time` is the upstream's clock when it
    /// said so, in milliseconds since 1970, if it did.
    pub(super) fn reached(&self, position: Position, time: Option<i64>, commits: u64, pages: u64) {
        self.change(|inner| {
            inner.position = Some(position);
            inner.caught_up = true;
            inner.commits += commits;
            inner.pages += pages;
            inner.state = State::Streaming;
            inner.reason = None;
            let age = time.map_or(Duration::ZERO, elapsed_since_unix_ms);
            inner.equal_at = Instant::now().checked_sub(age);
        });
    }

    /// The replica is at `position` since an earlier run; that counts as a first catch-up when its upstream is away.
    pub(super) fn standing_at(&self, position: Position) {
        self.change(|inner| {
            inner.position = Some(position);
            inner.caught_up = true;
        });
    }

    pub(super) fn set_bytes(&self, bytes: u64, wal_bytes: u64) {
        let mut inner = self.lock();
        inner.bytes = bytes;
        inner.wal_bytes = wal_bytes;
    }

    /// The replica is at nothing that is known any more.
    pub(super) fn lost_position(&self) {
        self.change(|inner| inner.position = None);
    }

    /// What the replica held was mended; `what` says how much, and why.
    pub(super) fn healed(&self, what: String) {
        self.change(|inner| {
            inner.heals += 1;
            inner.healed = Some(what);
        });
    }

    /// The stream ended; the next try comes after a pause.
    pub(super) fn lost(&self, state: State, error: &Error) {
        self.change(|inner| {
            inner.state = state;
            inner.reason = Some(error.to_string());
            inner.last_error = Some(error.to_string());
            inner.reconnects += 1;
        });
    }

    /// Why nothing more will come, if so.
    pub fn ended(&self) -> Option<Error> {
        self.lock().ended.clone()
    }

    /// Nothing more will come.
    pub(super) fn end(&self, error: Error) {
        self.change(|inner| inner.ended = Some(error));
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn lag(&self) -> Option<f64> {
        self.equal_at.map(|at| at.elapsed().as_secs_f64())
    }
}
