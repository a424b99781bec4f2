//! A feed as the body of an answer.
//!
//! hyper asks for more as soon as the socket takes more, so that the speed of the client is the speed of the feed. A
//! feed that reads files or compresses does so on a thread for blocking work, when it catches up one piece ahead of the
//! socket; one that hands out what is in memory is stepped in place.

use std::convert::Infallible;
use std::mem;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::databases::{Open, Stream as StreamPermit};
use crate::base::Result;
use crate::primary::{Feed, Step};

/// The bytes of a feed, until it ends, or its database is no longer served.
pub struct FeedStream {
    state: State,
    open: Open,
    heartbeat: Duration,
    /// When the client expects to hear from us at the latest.
    due: Instant,
    client: String,
    /// Counts until the stream is over.
    _permit: StreamPermit,
}

enum State {
    Ready(Feed),
    Reading(JoinHandle<(Feed, Result<Step>)>),
    Waiting(Pin<Box<dyn Future<Output = (Feed, Woken)> + Send>>),
    Over,
}

/// Why a wait ended.
enum Woken {
    News,
    Due,
    Closed,
}

impl FeedStream {
    /// Streams `feed` to `client` for as long as its database is `open`.
    pub fn new(feed: Feed, open: Open, permit: StreamPermit, heartbeat: Duration, client: String) -> FeedStream {
        let due = next_beat(heartbeat);
        FeedStream { state: State::Ready(feed), open, heartbeat, due, client, _permit: permit }
    }

    /// What to do about `step`; bytes if it has some.
    fn take(&mut self, feed: Feed, step: Result<Step>) -> Option<Bytes> {
        match step {
            Ok(Step::Send(bytes)) => {
                self.state = ready(feed);
                self.due = next_beat(self.heartbeat);
                return Some(bytes);
            }
            Ok(Step::Again) => self.state = ready(feed),
            Ok(Step::Wait) => self.state = State::Waiting(Box::pin(wait(feed, self.open.clone(), self.due))),
            Ok(Step::End) => self.state = State::Over,
            Err(error) => {
                log::warn!("the stream to {} ends: {error}", self.client);
                self.state = State::Over;
            }
        }
        None
    }

    /// What to do when a wait is over; a heartbeat if it is time for one.
    fn wake(&mut self, mut feed: Feed, woken: Woken) -> Option<Bytes> {
        let mut heartbeat = None;
        match woken {
            Woken::Closed => return None,
            Woken::News => {}
            Woken::Due => {
                heartbeat = feed.heartbeat();
                self.due = next_beat(self.heartbeat);
            }
        }
        self.state = State::Ready(feed);
        heartbeat
    }
}

impl Stream for FeedStream {
    type Item = std::result::Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.open.has_changed().is_err() {
            let_go(mem::replace(&mut this.state, State::Over));
        }
        loop {
            let bytes = match mem::replace(&mut this.state, State::Over) {
                State::Ready(mut feed) if feed.is_quick() => {
                    let step = feed.step();
                    this.take(feed, step)
                }
                State::Ready(feed) => {
                    this.state = ready(feed);
                    None
                }
                State::Reading(mut reading) => match Pin::new(&mut reading).poll(context) {
                    Poll::Pending => {
                        this.state = State::Reading(reading);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok((feed, step))) => this.take(feed, step),
                    Poll::Ready(Err(error)) => {
                        log::error!("the stream to {} ends: {error}", this.client);
                        None
                    }
                },
                State::Waiting(mut waiting) => match waiting.as_mut().poll(context) {
                    Poll::Pending => {
                        this.state = State::Waiting(waiting);
                        return Poll::Pending;
                    }
                    Poll::Ready((feed, woken)) => this.wake(feed, woken),
                },
                State::Over => return Poll::Ready(None),
            };
            if let Some(bytes) = bytes {
                return Poll::Ready(Some(Ok(bytes)));
            }
        }
    }
}

/// Drops a feed on a thread that may wait: it may be the last that has the database open, and
/// closing that may write.
fn let_go(state: State) {
    if matches!(state, State::Over | State::Reading(_)) {
        return;
    }
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn_blocking(move || drop(state));
    }
}

impl Drop for FeedStream {
    fn drop(&mut self) {
        let_go(mem::replace(&mut self.state, State::Over));
    }
}

/// A feed that will be asked again: one that reads files starts at once, while the socket is busy with what it gave.
fn ready(mut feed: Feed) -> State {
    if feed.is_quick() {
        return State::Ready(feed);
    }
    State::Reading(spawn_blocking(move || {
        let step = feed.step();
        (feed, step)
    }))
}

/// When the next heartbeat is due: at the same instant for all streams, so that an idle process wakes once for them.
fn next_beat(heartbeat: Duration) -> Instant {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    let period = u64::try_from(heartbeat.as_nanos()).unwrap_or(u64::MAX).max(1);
    let gone = u64::try_from(FIRST.elapsed().as_nanos()).unwrap_or(u64::MAX);
    *FIRST + Duration::from_nanos((gone / period).saturating_add(1).saturating_mul(period))
}

async fn wait(mut feed: Feed, mut open: Open, due: Instant) -> (Feed, Woken) {
    let woken = tokio::select! {
        biased;
        _ = open.changed() => Woken::Closed,
        () = feed.changed() => Woken::News,
        () = sleep_until(due) => Woken::Due,
    };
    (feed, woken)
}
