//! How the tail waits for something to come: awake at once when a commit is told of, soon when one may be under way, and
//! hardly ever while nobody writes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sqlite::{Doorbell, Woken};

/// Pause between two looks while something is known to come.
const NAP: Duration = Duration::from_micros(500);
/// When somebody has begun to write, this is mostly a commit soon: a sleep would take longer.
const AT_ONCE: Duration = Duration::from_micros(150);
/// How long after a write the next one is not watched for: it belongs to the same commit.
const STIRRING: Duration = Duration::from_millis(1);
/// A commit that was written and is not shown waits for the disk, for who knows how long. Looks for it come at this share of the
/// time that it has taken already.
const SHARE: u32 = 8;
/// Pause up to which a nap grows when nothing comes, where writes are not told of; and how long after a commit it does not grow.
const LONGEST_NAP: Duration = Duration::from_millis(10);
const BUSY: Duration = Duration::from_millis(500);
/// Pause where they are.
const REST: Duration = Duration::from_secs(1);
/// How long a checkpoint may wait for the disk.
pub(super) const CHECKPOINT_ENDS: Duration = Duration::from_secs(1);
/// After so many commits that were found and not told of, nothing is believed to be told.
const UNTOLD: u32 = 3;

/// What the looks so far have shown.
pub(super) struct Scene {
    /// How long ago the last commit was found.
    pub quiet: Duration,
    /// Whether a checkpoint seems to be under way.
    pub is_backfilling: bool,
    /// Whether the end of a checkpoint is waited for, as others may do for us.
    pub is_settling: bool,
    /// Whether the WAL is about as long as one that is checkpointed.
    pub is_checkpoint_near: bool,
    /// Times after a commit at which there is something to do, the shortest first.
    pub chores: [Duration; 2],
}

/// The sleep of one thread.
pub(super) struct Rest {
    bell: Arc<Doorbell>,
    /// Writes to these are told of.
    files: [PathBuf; 2],
    /// Whether the next write will be told of.
    is_watching: bool,
    /// When somebody was last told to write.
    stirred: Option<Instant>,
    /// Whether the last sleep ended by itself although the next write would be told of.
    was_unwoken: bool,
    /// Commits in a row that were found then.
    untold: u32,
    /// Pause between two looks, where writes are not told of.
    nap: Duration,
}

impl Rest {
    /// Sleeps until `bell` rings or one of `files` is written to.
    pub fn new(bell: Arc<Doorbell>, files: [PathBuf; 2]) -> Rest {
        Rest { bell, files, is_watching: false, stirred: None, was_unwoken: false, untold: 0, nap: NAP }
    }

    /// Says that commits were found.
    pub fn found(&mut self) {
        self.untold += u32::from(std::mem::take(&mut self.was_unwoken));
    }

    /// Sleeps for `time`, or until somebody rings.
    pub fn pass(&self, time: Duration) {
        self.bell.sleep(time);
    }

    /// Waits for something to come, or for the time to do something.
    pub fn wait(&mut self, scene: &Scene) {
        let stirred = self.stirred.map_or(Duration::MAX, |at| at.elapsed());
        if !self.is_watching && stirred >= STIRRING && self.untold < UNTOLD {
            let [wal, database] = &self.files;
            self.is_watching = self.bell.watch(&[wal, database]);
            if self.is_watching {
                // What came before it was watched for is seen by one more look.
                return;
            }
        }
        let pause = self.pause(scene, stirred);
        self.was_unwoken = false;
        if pause.is_zero() {
            return std::thread::yield_now();
        }
        match self.bell.sleep(pause) {
            Woken::Stirred => (self.is_watching, self.stirred, self.untold) = (false, Some(Instant::now()), 0),
            Woken::TimedOut => (self.was_unwoken, self.nap) = (self.is_watching, (pause * 2).min(LONGEST_NAP)),
            Woken::Rung => {}
        }
    }

    /// How long to sleep, when the last write was told of `stirred` ago.
    fn pause(&self, scene: &Scene, stirred: Duration) -> Duration {
        let quiet = scene.quiet;
        if stirred < quiet && stirred < REST * SHARE {
            return if stirred < AT_ONCE { Duration::ZERO } else { stirred / SHARE };
        }
        match () {
            // Nothing is written while a checkpoint waits for the disk.
            () if scene.is_backfilling && stirred < CHECKPOINT_ENDS => NAP,
            () if scene.is_settling => (quiet / SHARE).clamp(NAP, LONGEST_NAP),
            () if scene.is_checkpoint_near => NAP,
            () if !self.is_watching && quiet < BUSY => NAP,
            () if !self.is_watching => self.nap,
            () => scene.chores.iter().find(|at| quiet < **at).map_or(REST, |at| *at - quiet),
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Nothing but the last commit, that long ago.
    fn quiet_for(quiet: Duration) -> Scene {
        Scene {
            quiet,
            is_backfilling: false,
            is_settling: false,
            is_checkpoint_near: false,
            chores: [Duration::ZERO; 2],
        }
    }

    fn told_of_writes() -> Rest {
        let bell = Arc::new(Doorbell::new().expect("a bell"));
        Rest { is_watching: true, ..Rest::new(bell, Default::default()) }
    }

    #[test]
    fn a_commit_that_waits_for_the_disk_is_found_soon_after_however_long_that_takes() {
        let rest = told_of_writes();
        for waits in [1, 5, 50, 500, 5000].map(Duration::from_millis) {
            let pause = rest.pause(&quiet_for(MINUTE), waits);
            assert!(pause <= waits / 8, "looked for after another {pause:?} when it was written {waits:?} ago");
        }
    }

    #[test]
    fn what_was_written_and_never_committed_is_not_looked_for_all_day() {
        assert_eq!(told_of_writes().pause(&quiet_for(MINUTE), MINUTE / 2), REST);
    }

    #[test]
    fn the_end_of_a_checkpoint_that_others_wait_for_is_looked_for_however_long_it_takes() {
        for quiet in [Duration::ZERO, MINUTE] {
            let pause = told_of_writes().pause(&Scene { is_settling: true, ..quiet_for(quiet) }, MINUTE);
            assert!((NAP..=LONGEST_NAP).contains(&pause), "looked for again after {pause:?}");
        }
    }

    #[test]
    fn a_commit_that_was_found_leaves_nothing_to_look_for() {
        let found = quiet_for(Duration::from_millis(2));
        assert_eq!(told_of_writes().pause(&found, Duration::from_millis(3)), REST);
    }

    #[test]
    fn chores_are_done_when_their_time_has_come() {
        let [soon, later] = [Duration::from_millis(20), Duration::from_millis(100)];
        let pause = |quiet| told_of_writes().pause(&Scene { chores: [soon, later], ..quiet_for(quiet) }, MINUTE);
        assert_eq!(pause(Duration::ZERO), soon);
        assert_eq!(pause(soon), later - soon);
        assert_eq!(pause(later), REST);
    }
}
