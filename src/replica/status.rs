//! What a follower tells about itself, and what others wait for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::attended::{ATTENTION, interrupted};
use super::upstream_clock::Newest;
use crate::base::{Error, Headway, Past, Position, Result, limits};
use crate::sqlite::steady_since;

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
    pub last_error: Option<Past>,
    /// Size of the database file in bytes.
    pub db_bytes: u64,
    /// Size of the WAL in bytes.
    pub wal_bytes: u64,
    /// Streams opened.
    pub connections: u64,
    /// How often what came, or what is held, did not sum up to what the upstream says.
    pub failures: u64,
    /// How far the catch-up is, if one is under way.
    pub headway: Option<Headway>,
    /// Pages of the file that the audit read and compared.
    pub audited: u64,
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
    /// When the replica is known to have equalled its upstream, in ms by this process' clock.
    equal_at: Option<i64>,
    /// By how much that moved on when it last did.
    step: Duration,
    commits: u64,
    pages: u64,
    bytes: u64,
    /// Of those, how many came in the stream that is open.
    stream_bytes: u64,
    connections: u64,
    reconnects: u64,
    failures: u64,
    heals: u64,
    healed: Option<String>,
    last_error: Option<Past>,
    db_bytes: u64,
    wal_bytes: u64,
    headway: Option<Headway>,
    audited: u64,
    ended: Option<Error>,
}

impl Default for Progress {
    /// Progress of a replica of which nothing is known yet.
    fn default() -> Progress {
        let inner = Inner {
            state: State::CatchingUp,
            reason: None,
            position: None,
            caught_up: false,
            equal_at: None,
            step: Duration::ZERO,
            commits: 0,
            pages: 0,
            bytes: 0,
            stream_bytes: 0,
            connections: 0,
            reconnects: 0,
            failures: 0,
            heals: 0,
            healed: None,
            last_error: None,
            db_bytes: 0,
            wal_bytes: 0,
            headway: None,
            audited: 0,
            ended: None,
        };
        Progress { inner: Mutex::new(inner), changed: Condvar::new() }
    }
}

impl Progress {
    /// Where the replica is.
    pub fn position(&self) -> Option<Position> {
        self.lock().position
    }

    /// Upper bound on staleness: seconds since the replica was known to equal its upstream.
    pub fn lag(&self) -> Option<f64> {
        self.lock().lag()
    }

    /// Where the replica is, and when that was known to be the newest, in ms by this process'
    /// clock.
    pub(super) fn standing(&self) -> (Option<Position>, Option<i64>) {
        let inner = self.lock();
        (inner.position, inner.equal_at)
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
            db_bytes: inner.db_bytes,
            wal_bytes: inner.wal_bytes,
            connections: inner.connections,
            failures: inner.failures,
            headway: inner.headway,
            audited: inner.audited,
        }
    }

    /// Waits until the replica has reached `position`; whether it has before the time is over.
    /// Fails when `is_interrupted` says so.
    pub fn wait_for(&self, position: &Position, patience: Duration, is_interrupted: &dyn Fn() -> bool) -> Result<bool> {
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
            inner = self.wait(inner, left.min(ATTENTION), is_interrupted)?;
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

    /// Waits until the first catch-up was applied or has failed, or `is_interrupted` says so.
    pub(super) fn wait_caught_up(&self, is_interrupted: &dyn Fn() -> bool) -> Result<Position> {
        let mut inner = self.lock();
        loop {
            if let (true, Some(position)) = (inner.caught_up, inner.position) {
                return Ok(position);
            }
            if let Some(error) = &inner.ended {
                return Err(error.clone());
            }
            inner = self.wait(inner, ATTENTION, is_interrupted)?;
        }
    }

    /// Waits for a change, for `time` at most. No one is kept waiting while it is asked whether to
    /// go on.
    fn wait<'p>(
        &'p self,
        inner: MutexGuard<'p, Inner>,
        time: Duration,
        is_interrupted: &dyn Fn() -> bool,
    ) -> Result<MutexGuard<'p, Inner>> {
        let (inner, waited) = self.changed.wait_timeout(inner, time).unwrap_or_else(PoisonError::into_inner);
        if !waited.timed_out() {
            return Ok(inner);
        }
        drop(inner);
        if is_interrupted() { Err(interrupted()) } else { Ok(self.lock()) }
    }

    /// How far the catch-up is, if one is under way.
    pub fn headway(&self) -> Option<Headway> {
        self.lock().headway
    }

    /// How many streams were opened.
    pub(super) fn connections(&self) -> u64 {
        self.lock().connections
    }

    /// A stream was opened.
    pub(super) fn connected(&self) {
        let mut inner = self.lock();
        inner.connections += 1;
        inner.stream_bytes = 0;
    }

    /// A catch-up of up to `pages` pages begins.
    pub(super) fn catching_up(&self, pages: u64) {
        self.change(|inner| {
            inner.state = State::CatchingUp;
            inner.reason = Some(format!("{pages} pages to come"));
            inner.headway = Some(Headway::begin(pages));
        });
    }

    /// Pages have come that are part of a catch-up, if one is under way.
    pub(super) fn arrived(&self, pages: u64) {
        if let Some(headway) = &mut self.lock().headway {
            headway.done += pages;
        }
    }

    /// What came, or what is held, did not sum up to what the upstream says.
    pub(super) fn failed_verification(&self) {
        self.lock().failures += 1;
    }

    /// The audit has read and compared so many pages of the file.
    pub(super) fn audited(&self, pages: u64) {
        self.lock().audited += pages;
    }

    /// Keeps an error that did not end the stream.
    pub(super) fn noted(&self, error: &Error) {
        self.lock().last_error = Some(Past::now(error.to_string()));
    }

    pub(super) fn set_state(&self, state: State, reason: Option<String>) {
        self.change(|inner| {
            inner.state = state;
            inner.reason = reason;
        });
    }

    /// A commit was applied, or it is known that there was none up to `position`.
    pub(super) fn reached(&self, position: Position, newest: Newest, commits: u64, pages: u64) {
        self.change(|inner| {
            inner.position = Some(position);
            inner.caught_up = true;
            inner.commits += commits;
            inner.pages += pages;
            inner.headway = None;
            inner.knows(newest);
        });
    }

    /// The replica is at `position` since an earlier run; that counts as a first catch-up when its upstream is away.
    pub(super) fn standing_at(&self, position: Position) {
        self.change(|inner| {
            inner.position = Some(position);
            inner.caught_up = true;
        });
    }

    /// How many bytes have come in the stream that is open, and how large the database and its WAL are now.
    pub(super) fn set_bytes(&self, stream_bytes: u64, db_bytes: u64, wal_bytes: u64) {
        self.received(stream_bytes);
        let mut inner = self.lock();
        inner.db_bytes = db_bytes;
        inner.wal_bytes = wal_bytes;
    }

    /// How many bytes have come in the stream that is open.
    pub(super) fn received(&self, stream_bytes: u64) {
        let mut inner = self.lock();
        inner.bytes += stream_bytes.saturating_sub(inner.stream_bytes);
        inner.stream_bytes = stream_bytes;
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
            inner.last_error = Some(Past::now(error.to_string()));
            inner.reconnects += 1;
            inner.headway = None;
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
        self.equal_at.map(|at| steady_since(at).as_secs_f64())
    }

    /// What the replica holds was the newest then. Where that lies far back although it came just
    /// now, there is something in the way further up, and the state says so.
    fn knows(&mut self, newest: Newest) {
        if let (Some(at), Some(before)) = (newest.at, self.equal_at)
            && at > before
        {
            self.step = Duration::from_millis(u64::try_from(at.saturating_sub(before)).unwrap_or(0));
        }
        if newest.at.is_some() || newest.is_periodic {
            self.equal_at = newest.at;
        }
        (self.state, self.reason) = (State::Streaming, None);
        if !newest.is_last_word {
            return;
        }
        let age = newest.at.map(steady_since);
        // A relay gets heartbeats as seldom as its own upstream sends them.
        if age.is_none_or(|age| age > limits::STALLED.max(self.step * 3)) {
            let age = age.map_or("longer than it knows".to_string(), |age| format!("{} s", age.as_secs()));
            self.state = State::Stalled;
            self.reason = Some(format!(
                "the upstream has completed no look at its database for {age}: its disk is slow, its own upstream is away, or the \
                 network takes that long"
            ));
        }
    }
}
