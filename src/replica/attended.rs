//! Work that a call waits for, and that ends when the call is to.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::base::{Error, Kind, Result};
use crate::sqlite::{guarded, spawn};

/// How often a call that waits asks whether it is to end.
pub const ATTENTION: Duration = Duration::from_millis(50);

/// What a call says that was interrupted.
pub fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "litestream: interrupted")
}

/// Does `work` on a thread of its own. Meanwhile the calling one, which alone may use the
/// connection of the host, asks `is_interrupted`; once that is so it calls `cancel`, which must
/// make `work` end soon.
pub(super) fn attended<T: Send + 'static>(
    is_interrupted: &dyn Fn() -> bool,
    cancel: impl FnOnce(),
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, result) = channel();
    let thread = spawn("litestream-call", move || drop(done.send(guarded(work))))?;
    let mut cancel = Some(cancel);
    let ended = loop {
        match result.recv_timeout(ATTENTION) {
            Ok(ended) => break ended,
            Err(RecvTimeoutError::Timeout) if cancel.is_some() && is_interrupted() => {
                if let Some(cancel) = cancel.take() {
                    cancel();
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                break Err(Error::new(Kind::Internal, "litestream: the thread of a call ended without a result"));
            }
        }
    };
    let _ = thread.join();
    // What was done all the same is done.
    ended.map_err(|error| if cancel.is_none() { interrupted() } else { error })
}
