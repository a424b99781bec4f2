//! The age of what an upstream says, without trust in any wall clock.
//!
//! What the upstream's clock said when it got a request was said after the request was sent. So
//! what it says of a later moment, by the same clock, happened as much later at least. Both clocks
//! count the time that passes, whatever they are set to; nothing looks younger than it is, nor
//! older by more than the request took.

use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use crate::base::unix_ms;
use crate::sqlite::{steady_ms, steady_since};

/// How long a comparison of the two clocks is relied on before they are compared again: they do not
/// run at quite the same rate.
const REFRESH: Duration = Duration::from_secs(600);
/// How long a request may take that compares them while a stream goes on. One that takes longer
/// says less than what is known.
const PROMPT: Duration = Duration::from_millis(500);

/// What a stream's times mean here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// They are of a clock that said `theirs` in ms after it was `ours` here, when a request was
    /// sent.
    Since {
        /// Our time.
        ours: i64,
        /// Their time.
        theirs: i64,
        /// Which clock theirs is: another process has another one.
        clock: u64,
    },
    /// They are wall clock times, of a server that does not say what its clock is: that clock and
    /// ours are taken to be equal.
    WallClock,
    /// There are none, as in version 1. What comes is the newest there was when the request was
    /// sent, or newer.
    None {
        /// When that was.
        ours: i64,
    },
}

/// Compares the clocks again, on a thread of its own: what it gets comes from there, or nothing
/// does.
pub type CompareClocks = Box<dyn Fn() -> Receiver<Times> + Send>;

/// When a state was the newest of its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// This moment or later, in ms by this process' clock. None if that is not known.
    pub at: Option<i64>,
    /// Whether the upstream says so again and again, so that it should never lie far back.
    /// Otherwise one that is not known changes nothing of what was known before.
    pub is_periodic: bool,
    /// Whether this is the last that has come, and was just waited for: then it is not our own
    /// delay if it lies far back.
    pub is_last_word: bool,
}

/// The times of one stream.
pub struct UpstreamClock {
    times: Times,
    compare: CompareClocks,
    /// When the clocks were last compared, or that was last begun.
    compared_at: i64,
    comparing: Option<Receiver<Times>>,
}

impl UpstreamClock {
    /// That of a stream whose times mean `times`, which `compare` finds out again.
    pub fn new(times: Times, compare: CompareClocks) -> UpstreamClock {
        UpstreamClock { times, compare, compared_at: steady_ms(), comparing: None }
    }

    /// When that was which the upstream says was at `time`; 0 is no time.
    pub fn newest(&mut self, time: i64) -> Newest {
        self.times.newest_as_of(time, steady_ms(), unix_ms())
    }

    /// Has the clocks compared again when it is time for that. Waits for nothing.
    pub fn keep_up(&mut self) {
        let Times::Since { clock, .. } = self.times else { return };
        if let Some(comparing) = &self.comparing {
            match comparing.try_recv() {
                Ok(times @ Times::Since { clock: answering, .. }) if answering == clock => self.times = times,
                // Another process has answered, or one that is older.
                Ok(_) | Err(TryRecvError::Disconnected) => {}
                Err(TryRecvError::Empty) => return,
            }
            self.comparing = None;
        }
        if steady_since(self.compared_at) >= REFRESH {
            (self.compared_at, self.comparing) = (steady_ms(), Some((self.compare)()));
        }
    }
}

impl Times {
    /// Whether it is worth more than what a stream began with: the request that was sent at `sent`
    /// took long otherwise.
    pub fn is_prompt(sent: i64) -> bool {
        steady_since(sent) <= PROMPT
    }

    fn newest_as_of(&mut self, time: i64, now: i64, wall: i64) -> Newest {
        let at = match self {
            Times::None { ours } => return Newest { at: Some(*ours), is_periodic: false, is_last_word: false },
            _ if time == crate::format::record::NO_TIME => None,
            Times::Since { ours, theirs, .. } => {
                let at = ours.saturating_add(time.saturating_sub(*theirs));
                // Nothing comes before its time: their clock runs faster.
                *ours = ours.saturating_sub(at.saturating_sub(now).max(0));
                Some(at.min(now))
            }
            Times::WallClock => Some(now.saturating_sub(wall.saturating_sub(time)).min(now)),
        };
        Newest { at, is_periodic: true, is_last_word: false }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn at(mut times: Times, time: i64, now: i64, wall: i64) -> Option<i64> {
        times.newest_as_of(time, now, wall).at
    }

    /// A request that left here at 1,000 and came there at 500,000, by a clock that is far ahead of
    /// ours.
    const ASKED: Times = Times::Since { ours: 1_000, theirs: 500_000, clock: 1 };

    #[test]
    fn what_an_upstream_says_is_as_old_as_the_time_between_the_request_and_it_leaves() {
        assert_eq!(
            at(ASKED, 502_000, 9_000, 77),
            Some(3_000),
            "stamped 2 s after the request came, received 8 s after it left"
        );
        assert_eq!(at(ASKED, 499_000, 9_000, 77), Some(0), "known before the request came");
        assert_eq!(at(ASKED, i64::MAX, 9_000, 77), Some(9_000));
        assert_eq!(at(ASKED, i64::MIN, 9_000, 77), Some(i64::MIN + 1_000));
    }

    #[test]
    fn a_clock_that_runs_faster_there_hides_nothing() {
        let mut times = ASKED;
        assert_eq!(times.newest_as_of(502_000, 2_500, 77).at, Some(2_500), "half a second ahead: now");
        // The same clock 2 s later: that is 2 s after the time before, and not 2.5.
        assert_eq!(times.newest_as_of(504_000, 9_000, 77).at, Some(4_500));
    }

    #[test]
    fn without_a_time_with_the_answer_the_wall_clocks_are_taken_to_agree() {
        assert_eq!(at(Times::WallClock, 700, 9_000, 1_000), Some(8_700));
        assert_eq!(at(Times::WallClock, 1_200, 9_000, 1_000), Some(9_000), "a clock that is ahead");
    }

    #[test]
    fn what_is_not_known_is_not_claimed() {
        assert_eq!(at(Times::WallClock, 0, 9_000, 1_000), None);
        assert_eq!(at(ASKED, 0, 9_000, 1_000), None);
        let untimed = Times::None { ours: 1_000 }.newest_as_of(0, 9_000, 1_000);
        assert_eq!((untimed.at, untimed.is_periodic), (Some(1_000), false), "version 1: as of when it was asked for");
    }

    #[test]
    fn clocks_are_compared_again_with_the_same_process_only() {
        let (answers, asked) = channel();
        let compare = Box::new(move || {
            let (answer, comparing) = channel();
            drop(answers.send(answer));
            comparing
        });
        let mut upstream = UpstreamClock::new(ASKED, compare);
        upstream.keep_up();
        assert!(asked.try_recv().is_err(), "it was just done");
        for (clock, taken) in [(2, false), (1, true)] {
            upstream.compared_at -= 600_000;
            upstream.keep_up();
            let answer = asked.try_recv().expect("they are compared");
            upstream.keep_up();
            assert_eq!(upstream.times, ASKED, "not answered yet");
            let later = Times::Since { ours: 7_000, theirs: 506_100, clock };
            answer.send(later).expect("the answer is waited for");
            upstream.keep_up();
            assert_eq!(upstream.times == later, taken, "answered by clock {clock}");
        }
        upstream.compared_at -= 600_000;
        upstream.keep_up();
        drop(asked.try_recv());
        upstream.keep_up();
        assert!(upstream.comparing.is_none(), "one that fails is tried again when it is time");
    }
}
