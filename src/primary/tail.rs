//! The thread that follows the commits of one database.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::Primary;
use crate::base::{Error, Position, Result};
use crate::sqlite::{Connection, guarded};
use crate::store::Sidecar;

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

/// The thread's own.
pub(super) struct Tail {
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
    /// Starts the thread. `checkpointer` is a connection for its checkpoints, `reached` what has been seen so far.
    pub fn start(
        primary: Arc<Primary>,
        checkpointer: Connection,
        sidecar: Sidecar,
        reached: Position,
    ) -> Result<JoinHandle<()>> {
        let tail = Tail {
            primary,
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
        spawned.map_err(|e| Error::io("litestream: starting a thread", &e))
    }

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
            self.primary.wake.sleep(nap);
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
}

/// Lets writers of this process wake the thread.
#[derive(Default)]
pub(super) struct Wake {
    thread: OnceLock<Thread>,
    sleeping: AtomicBool,
}

impl Wake {
    /// Says which thread that is.
    pub fn set_thread(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    /// Wakes it if it sleeps. Costs a load when it does not.
    pub fn ring(&self) {
        if self.sleeping.load(Relaxed)
            && self.sleeping.swap(false, Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Lets the calling thread sleep for `time`, or until it is woken.
    fn sleep(&self, time: Duration) {
        self.sleeping.store(true, Relaxed);
        std::thread::park_timeout(time);
        self.sleeping.store(false, Relaxed);
    }
}
