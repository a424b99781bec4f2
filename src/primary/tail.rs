//! The thread that follows the commits of one database.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Primary;
use super::checkpoints::Checkpointer;
use super::core::Core;
use super::history::Reserve;
use super::rest::{CHECKPOINT_ENDS, Rest, Scene};
use crate::base::{Error, Kind, Position, Result};
use crate::sqlite::{Connection, Doorbell, guarded, spawn};
use crate::store::{Alone, Sidecar, State, beside};

/// After a look that found something, the next one comes no sooner: what is committed meanwhile goes out as one. Doubles
/// while each look finds many commits, so that a writer flat out is not slowed by being watched.
const GATHER: Duration = Duration::from_micros(400);
const LONGEST_GATHER: Duration = Duration::from_millis(4);
const MANY: u64 = 4;
/// After this long without a commit there is time for a checkpoint of our own.
const QUIET: Duration = Duration::from_millis(100);
/// A commit this recent may be followed by a checkpoint in its writer's thread.
const JUST_NOW: Duration = Duration::from_millis(3);
/// When nothing was copied into the database for this long while the WAL grew, or for so many
/// commits each of which made it longer than writers let it become, no other connection sees to it.
const ABANDONED: Duration = Duration::from_secs(1);
const NEGLECTED: u64 = 64;
/// Pause between two looks at a checkpoint that will take a while.
const LOOK: Duration = Duration::from_micros(100);
/// How long a WAL past its limit is left to its writers.
const UNWATCHED: Duration = Duration::from_millis(100);
/// How long a checkpoint is left alone before it is looked at what others have committed meanwhile.
const LEFT_ALONE: Duration = Duration::from_millis(5);
/// How soon after its checkpoint a writer that does not pause has made its next commit.
const GOES_ON: Duration = Duration::from_millis(1);
/// How long a writer's checkpoint is waited for to begin, to let the WAL be restarted right after its end.
const CHECKPOINT_BEGINS: Duration = Duration::from_millis(10);
/// The position in the sidecar follows that of the database when no commit has come for this long, which the file system
/// could delay, or at the latest after that long.
const SHOW_WHEN_QUIET: Duration = Duration::from_millis(20);
const SHOW_ANYWAY: Duration = Duration::from_secs(10);
/// Largest pause after an error.
const AFTER_ERROR: Duration = Duration::from_millis(200);
/// When looks have failed for this long, a WAL past its limit is let go of: they may fail for ever.
const FAILED: Duration = Duration::from_secs(1);

/// The thread's own.
pub(super) struct Tail {
    primary: Arc<Primary>,
    checkpointer: Checkpointer,
    /// Its read transaction keeps checkpoints of others from what is not worth their while.
    brake: Connection,
    sidecar: Sidecar,
    reserve: Reserve,
    /// Whether the locks of this process hold.
    alone: Option<Alone>,
    /// The position others see in the sidecar, and since when.
    shown: (Position, Instant),
    last_position: Position,
    /// How many frames were in the database, and when another connection last copied some into it.
    last_backfill: (u32, Instant),
    /// Commits seen since then in a WAL that was due for a checkpoint.
    neglected: u64,
    /// Whether a checkpoint of ours may have copied frames since the last look.
    copies: bool,
    /// Whether one may have since the WAL was last restarted.
    has_copied: bool,
    /// Whether a WAL past its limit was left to its writers since the last checkpoint of ours. While
    /// that ran they could not checkpoint, and so seemed not to.
    was_left: bool,
    failing_since: Option<Instant>,
    last_news: Instant,
    rest: Rest,
    /// Whether a checkpoint seemed to be under way.
    backfilling: bool,
    /// Whether the end of one is waited for.
    settling: bool,
    /// How long the WAL was, in frames.
    frames: u32,
    next_checkpoint: u32,
}

impl Tail {
    /// Starts the thread.
    pub fn start(self) -> Result<JoinHandle<()>> {
        spawn("litestream-tail", move || self.run())
    }

    /// A tail with two connections for itself.
    pub fn new(
        primary: Arc<Primary>,
        bell: Arc<Doorbell>,
        [checkpointer, brake]: [Connection; 2],
        sidecar: Sidecar,
        reserve: Reserve,
    ) -> Result<Tail> {
        let reached = primary.lock_core().position();
        let alone = Alone::begin(&brake)?;
        let files = [beside(primary.path(), "-wal"), primary.path().to_path_buf()];
        Ok(Tail {
            primary,
            checkpointer: Checkpointer::new(checkpointer),
            brake,
            sidecar,
            reserve,
            alone,
            shown: (reached, Instant::now()),
            last_position: reached,
            last_backfill: (0, Instant::now()),
            neglected: 0,
            copies: false,
            has_copied: false,
            was_left: true,
            failing_since: None,
            last_news: Instant::now(),
            rest: Rest::new(bell, files),
            backfilling: false,
            settling: false,
            frames: 0,
            next_checkpoint: 0,
        })
    }

    fn run(mut self) {
        let mut gather = GATHER;
        while !self.primary.is_stopped() {
            let alone = self.alone.as_mut().map_or(Ok(()), |alone| alone.check(&self.brake));
            match self.primary.keep_lock() {
                Ok(false) => {}
                Ok(true) => self.make_sidecar_again(),
                // The sidecar is another's.
                Err(error) => return self.primary.lose(error),
            }
            let turn = alone.and_then(|()| guarded(|| self.turn()));
            let failed = turn.is_err();
            self.failing_since = if failed { self.failing_since.or_else(|| Some(Instant::now())) } else { None };
            match &turn {
                // Another file, or another content.
                Err(error) if error.kind() == Kind::Refused => return self.lose(error.clone()),
                Err(_) => self.alone.iter_mut().for_each(Alone::doubt),
                Ok(_) => {}
            }
            match self.primary.noted(turn).flatten() {
                Some(commits) => {
                    self.rest.found();
                    gather = if commits >= MANY { (gather * 2).min(LONGEST_GATHER) } else { GATHER };
                    self.gather(gather);
                }
                None if failed => {
                    self.let_go_after_failure();
                    self.rest.pass(AFTER_ERROR);
                }
                None => self.rest.wait(&self.scene()),
            }
        }
        let ended = self.end();
        self.primary.noted(ended);
    }

    /// Keeps what is known, for the next run.
    pub(super) fn end(&self) -> Result<()> {
        // From here on it is not known whether a position is still that of the database.
        self.primary.noted(self.sidecar.forget_position());
        self.primary.lock_core().save(&self.sidecar)
    }

    /// Writes what else was in the sidecar.
    fn make_sidecar_again(&mut self) {
        self.reserve.forget();
        self.primary.noted(self.sidecar.show_position(&self.last_position));
    }

    /// Ends serving: what is read here is not what others write. Nothing is known from here on, and
    /// so nothing is kept.
    fn lose(&self, error: Error) {
        self.primary.noted(self.sidecar.forget_position());
        self.primary.lose(error);
    }

    /// Lets commits gather; but a checkpoint that may come any moment must not be slept through.
    fn gather(&self, time: Duration) {
        if self.frames < self.primary.options.checkpoint_frames {
            std::thread::sleep(if self.is_checkpoint_near(self.frames) { GATHER } else { time });
        }
    }

    fn scene(&self) -> Scene {
        let quiet = self.last_news.elapsed();
        Scene {
            quiet,
            is_backfilling: self.backfilling,
            is_settling: self.settling,
            is_checkpoint_near: self.is_checkpoint_near(self.frames) && quiet < QUIET,
            chores: [SHOW_WHEN_QUIET, QUIET],
        }
    }

    /// Whether a WAL of so many frames is about as long as one that is checkpointed.
    fn is_checkpoint_near(&self, frames: u32) -> bool {
        let due = self.primary.options.checkpoint_frames;
        frames >= due - due / 4
    }

    /// One look. How many commits were new.
    pub(super) fn turn(&mut self) -> Result<Option<u64>> {
        let primary = Arc::clone(&self.primary);
        let before = primary.commits.load(Relaxed);
        let is_ours = std::mem::replace(&mut self.copies, self.checkpointer.is_running());
        let mut core = primary.lock_core();
        core.check_overwritten()?;
        core.check_file()?;
        let news = primary.counters.syncs.time(|| primary.look(&mut core))?;
        let state = core.look()?;
        if core.holds_others_up(&state) {
            core.allow_restart(&state)?;
        }
        let (frames, position) = (core.seen().mark.last.0, core.position());
        self.settling = core.is_settling();
        drop(core);
        let commits = primary.commits.load(Relaxed) - before;
        primary.pins.check(primary.wal_bytes(frames));
        self.note_checkpoints(&state, frames, commits, is_ours);
        self.frames = frames;
        self.backfilling = state.is_being_backfilled();
        self.show(position)?;
        self.reserve.keep_up(&self.sidecar, position)?;
        if position != self.last_position {
            (self.last_position, self.last_news) = (position, Instant::now());
        }
        self.keep_wal_short(frames)?;
        Ok(news.then_some(commits))
    }

    /// Finds out whether others checkpoint. What was copied while a checkpoint of ours ran counts
    /// as ours.
    fn note_checkpoints(&mut self, state: &State, frames: u32, commits: u64, is_ours: bool) {
        let had = std::mem::replace(&mut self.last_backfill.0, state.backfilled);
        // A WAL that was restarted had been copied as a whole.
        let was_restarted = state.backfilled < had;
        let is_others = if was_restarted { !self.has_copied } else { state.backfilled > had && !is_ours };
        if was_restarted {
            (self.has_copied, self.next_checkpoint) = (self.copies, 0);
        }
        if is_others || frames == 0 {
            (self.last_backfill.1, self.neglected) = (Instant::now(), 0);
        } else if frames >= self.primary.options.checkpoint_frames
            && !(is_ours || self.brake.is_pinned() || state.is_being_backfilled())
        {
            self.neglected += commits;
        }
    }

    /// Whether no other connection checkpoints.
    fn is_abandoned(&self) -> bool {
        self.last_backfill.1.elapsed() >= ABANDONED || self.neglected >= NEGLECTED
    }

    /// Lets go of a WAL past its limit when looks fail: nothing of ours may keep it from being
    /// restarted for ever.
    fn let_go_after_failure(&mut self) {
        self.brake.unpin();
        let (limit, mut core) = (self.primary.options.wal_limit, self.primary.lock_core());
        let bytes = core.wal_bytes();
        self.primary.pins.check(bytes);
        if limit > 0
            && bytes > limit
            && self.failing_since.is_some_and(|at| at.elapsed() >= FAILED)
            && let Err(error) = core.let_go()
        {
            self.primary.noted::<()>(Err(error));
        }
    }

    fn show(&mut self, position: Position) -> Result<()> {
        let quiet = self.last_news.elapsed() >= SHOW_WHEN_QUIET;
        if position == self.shown.0 || !(quiet || self.shown.1.elapsed() >= SHOW_ANYWAY) {
            return Ok(());
        }
        self.shown = (position, Instant::now());
        self.sidecar.show_position(&position)
    }

    /// Sees to it that a WAL that has grown is checkpointed and restarted: by its writers, whose checkpoints are watched for;
    /// by ourselves when they have no commit to make, or leave it to others.
    fn keep_wal_short(&mut self, frames: u32) -> Result<()> {
        if self.checkpointer.is_running() {
            return Ok(());
        }
        let due = self.primary.options.checkpoint_frames;
        if !self.is_checkpoint_near(frames) {
            self.brake.unpin();
            self.next_checkpoint = 0;
            return Ok(());
        }
        let since = self.last_news.elapsed();
        if since >= JUST_NOW {
            self.brake.unpin();
        } else if frames >= due {
            return self.go_along(frames);
        }
        // A checkpoint of ours that runs when a writer wants to checkpoint for itself keeps it from doing so before its
        // next transaction begins. So only when there is no writer, or none that does.
        if since < QUIET && !self.is_abandoned() {
            return Ok(());
        }
        self.checkpoint(frames)
    }

    fn checkpoint(&mut self, frames: u32) -> Result<()> {
        if frames < self.next_checkpoint {
            return Ok(());
        }
        self.brake.unpin();
        self.next_checkpoint = frames.saturating_add(self.primary.options.checkpoint_frames / 4 + 1);
        (self.copies, self.has_copied) = (true, true);
        self.was_left = false;
        self.checkpointer.begin(&self.primary, self.neglected >= NEGLECTED)
    }

    /// Goes along with a writer that does not pause: each commit of its is followed by a checkpoint now, until the WAL is
    /// restarted. Where the moment for that was missed, those checkpoints would copy a frame or two each, with two syncs. So
    /// a read transaction is put in their way, at which they find nothing to do, until one is worth its while again.
    fn go_along(&mut self, frames: u32) -> Result<()> {
        let due = self.primary.options.checkpoint_frames;
        let was_left = self.neglected >= NEGLECTED || std::mem::replace(&mut self.was_left, true);
        let may_be_writers = !self.is_abandoned() || !was_left;
        if self.primary.is_past_limit(frames, 1) && may_be_writers {
            self.brake.unpin();
            return self.leave_to_writers();
        }
        if self.brake.is_pinned() && frames.saturating_sub(self.last_backfill.0) < due {
            return Ok(());
        }
        self.brake.unpin();
        match self.wait_for_checkpoint()? {
            Waited::Restartable => Ok(()),
            Waited::Missed => self.brake.pin(),
            Waited::InVain if self.is_abandoned() => self.checkpoint(frames),
            Waited::InVain => Ok(()),
        }
    }

    /// Lets go of the WAL until its writers have restarted it. Nobody else has the core meanwhile.
    fn leave_to_writers(&self) -> Result<()> {
        let mut core = self.primary.lock_core();
        self.primary.look(&mut core)?;
        if core.seen().mark.last.0 < self.primary.options.checkpoint_frames {
            return Ok(());
        }
        core.let_go()?;
        let began = Instant::now();
        while !core.was_restarted()? && began.elapsed() < UNWATCHED {
            std::thread::sleep(LOOK);
        }
        self.primary.look(&mut core).map(drop)
    }

    /// A writer that commits without a pause checkpoints in between, and goes on microseconds later. That is when it must be
    /// allowed to restart the WAL: after its next commit, not all of it is in the database again.
    /// Gives up when commits have come after it, and soon where no checkpoint was seen for long.
    fn wait_for_checkpoint(&self) -> Result<Waited> {
        let began = Instant::now();
        let begins = if self.is_abandoned() { Duration::ZERO } else { CHECKPOINT_BEGINS };
        let mut before = None;
        loop {
            let mut core = self.primary.lock_core();
            self.primary.look(&mut core)?;
            let mut state = core.look()?;
            if state.is_being_backfilled() && !core.is_news(&state) && self.primary.options.wal_limit > 0 {
                state = self.leave_to_checkpoint(&mut core)?;
            }
            let before = *before.get_or_insert(state.backfilled);
            let restarted = state.header.last.0 < self.primary.options.checkpoint_frames;
            if restarted || self.primary.inline.load(Relaxed) || core.allow_restart(&state)? {
                return Ok(Waited::Restartable);
            }
            drop(core);
            match began.elapsed() {
                _ if state.backfilled > before && !state.is_backfilled() => return Ok(Waited::Missed),
                elapsed if elapsed > if state.is_being_backfilled() { CHECKPOINT_ENDS } else { begins } => {
                    return Ok(Waited::InVain);
                }
                _ => std::thread::sleep(LOOK),
            }
        }
    }

    /// Lets go of a WAL of which all was seen while a checkpoint copies it, so that the commit that follows may restart it.
    /// Until the checkpoint is over, or for a moment if it is a long one. Where things stand then.
    fn leave_to_checkpoint(&self, core: &mut Core) -> Result<State> {
        core.let_go()?;
        if core.is_news(&core.look()?) {
            // Somebody has written on since it was seen, and might restart the WAL before that is.
            self.primary.look(core)?;
            return core.look();
        }
        let began = Instant::now();
        let mut over = None;
        loop {
            std::thread::sleep(LOOK);
            let state = core.look()?;
            if state.is_backfilled() {
                over.get_or_insert_with(Instant::now);
            }
            let goes_on =
                if state.is_being_backfilled() { began.elapsed() < LEFT_ALONE } else { state.is_backfilled() };
            if !goes_on || core.was_restarted()? || over.is_some_and(|at| at.elapsed() > GOES_ON) {
                break;
            }
        }
        self.primary.look(core)?;
        core.look()
    }
}

/// What came of waiting for a checkpoint.
enum Waited {
    /// It is complete and the WAL may be restarted, or the commit hook sees to that.
    Restartable,
    /// Something was committed before.
    Missed,
    /// None began, or it took too long.
    InVain,
}
