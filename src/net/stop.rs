//! Ending what waits for an upstream.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use ureq::Agent;

use crate::base::{Error, Kind, Result};

/// Ends what waits for the upstream.
#[derive(Default)]
pub struct Stop {
    stopped: AtomicBool,
    current: Mutex<Current>,
}

/// The one stream that there is, or its beginning.
#[derive(Default)]
pub struct Current {
    /// Closes the connection, also under a read.
    agent: Option<Agent>,
    /// Says to who waits for the answer that none will come.
    give_up: Option<Box<dyn FnOnce() + Send>>,
}

impl Stop {
    /// Ends the stream there was, for one on a connection of `agent`. Until it is answered,
    /// `answer` hears of a stop.
    pub fn begin<T: Send + 'static>(&self, agent: Agent, answer: mpsc::Sender<Result<T>>) -> Result<()> {
        let mut current = self.lock();
        if self.is_stopped() {
            return Err(stopped());
        }
        current.end();
        // Its receiver is gone if it has got its answer.
        let give_up = move || drop(answer.send(Err(stopped())));
        *current = Current { agent: Some(agent), give_up: Some(Box::new(give_up)) };
        Ok(())
    }

    /// Ends it, and all that come.
    pub fn stop(&self) {
        let mut current = self.lock();
        self.stopped.store(true, Ordering::SeqCst);
        current.end();
    }

    /// Whether that was done.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// The stream that there is.
    pub fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    /// Ends it.
    pub fn end(&mut self) {
        if let Some(give_up) = self.give_up.take() {
            give_up();
        }
        if let Some(agent) = self.agent.take() {
            agent.shutdown();
        }
    }
}

/// What ended so says of itself.
pub fn stopped() -> Error {
    Error::new(Kind::Io, "stopped")
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_shutdown_is_heard_by_an_open_that_cannot_be_interrupted() {
        let (stop, (open, heard)) = (Stop::default(), channel::<Result<()>>());
        stop.begin(Agent::new_with_defaults(), open).expect("not stopped");
        stop.stop();
        assert_eq!(heard.recv().expect("a word"), Err(stopped()));
    }
}
