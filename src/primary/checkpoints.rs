//! Checkpoints of the library's own. Each runs in a thread that ends with it, so that the tail goes
//! on to look however long the disk takes.
//!
//! A PASSIVE checkpoint waits for no lock, and what is committed while it copies stays in the WAL.
//! Against writers that never pause and never checkpoint, it is never complete. As the last resort
//! it then has the writers wait while the last frames are copied: only so can the WAL be restarted.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Primary;
use crate::base::Result;
use crate::format::walindex::lock;
use crate::sqlite::{Connection, guarded, spawn};

/// Checkpoints in a row of a WAL past its limit: each has less to copy than the one before.
const PASSES: u32 = 4;
/// A WAL that no other connection checkpoints and that is this many times its limit is checkpointed
/// while writers wait.
const LAST_RESORT: u64 = 2;
/// How long a moment is looked for in which no writer has the write lock. One that never pauses
/// gives it back for microseconds.
const UNTIL_UNLOCKED: Duration = Duration::from_millis(100);
/// How long writers are kept waiting, at most, for the core.
const UNTIL_CORE: Duration = Duration::from_millis(50);

/// Runs one checkpoint at a time.
pub(super) struct Checkpointer {
    connection: Arc<Mutex<Connection>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Checkpoints with `connection`.
    pub fn new(connection: Connection) -> Checkpointer {
        Checkpointer { connection: Arc::new(Mutex::new(connection)), thread: None }
    }

    /// Whether a checkpoint is under way.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Begins a checkpoint, after which the WAL may be restarted if it was complete. None may be
    /// under way. If no other connection checkpoints, the WAL `is_neglected`, and writers wait for
    /// the end of a checkpoint once it is far past its limit.
    pub fn begin(&mut self, primary: &Arc<Primary>, is_neglected: bool) -> Result<()> {
        self.wait();
        let (primary, connection) = (Arc::clone(primary), Arc::clone(&self.connection));
        let thread = spawn("litestream-checkpoint", move || {
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = guarded(|| run(&primary, &connection, is_neglected)) {
                primary.noted::<()>(Err(error));
            }
            primary.ring();
        })?;
        self.thread = Some(thread);
        Ok(())
    }

    /// Waits for the end of the checkpoint under way.
    fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wait();
    }
}

fn run(primary: &Primary, connection: &Connection, is_neglected: bool) -> Result<()> {
    for _ in 0..PASSES {
        let done = primary.counters.checkpoints.time(|| connection.checkpoint())?;
        let (is_complete, frames) = {
            let mut core = primary.lock_core();
            (primary.allow_restart(&mut core)?, core.seen().mark.last.0)
        };
        // Where it got not even as far as it saw, a reader is in the way, or a checkpoint of
        // another connection.
        let has_copied = done.is_some_and(|done| done.backfilled == done.frames);
        // Writers that checkpoint by themselves find the checkpoint lock taken while ours runs. One pass
        // after the other would keep them from it, and each of theirs is complete.
        let goes_on = is_neglected && !primary.is_stopped() && primary.is_past_limit(frames, 1);
        if is_complete || !has_copied || !goes_on {
            return Ok(());
        }
        if primary.is_past_limit(frames, LAST_RESORT) {
            return checkpoint_alone(primary, connection);
        }
    }
    Ok(())
}

/// Checkpoints while no one can commit. Gives up where writers would wait for more than the disk.
fn checkpoint_alone(primary: &Primary, connection: &Connection) -> Result<()> {
    let (index, began) = (connection.wal_index()?, Instant::now());
    let _held = loop {
        if let Some(held) = index.try_lock(lock::WRITE, 1)? {
            break held;
        }
        if began.elapsed() > UNTIL_UNLOCKED || primary.is_stopped() {
            return Ok(());
        }
        // A sleep would miss the moment.
        std::thread::yield_now();
    };
    if primary.counters.checkpoints.time(|| connection.checkpoint())?.is_none() {
        // Another's is under way. It must not be taken for one that keeps writers out.
        return Ok(());
    }
    primary.core_within(UNTIL_CORE).map_or(Ok(false), |mut core| primary.allow_restart(&mut core)).map(drop)
}
