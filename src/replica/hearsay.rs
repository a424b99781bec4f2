//! How old what an upstream says is, without trusting any clock to be right.
//!
//! What the upstream's clock said when it got the request was said after the request was sent. So what it says of a later moment,
//! by the same clock, happened as much later at least. Both clocks count the time that passes, whatever they are set to; nothing
//! looks younger than it is, nor older by more than the request took.

use crate::base::unix_ms;
use crate::sqlite::steady_ms;

/// What a stream's times mean here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// They are of a clock that said `theirs` in ms after it was `ours` here, when the request was sent.
    Since {
        /// Our time.
        ours: i64,
        /// Their time.
        theirs: i64,
    },
    /// They are wall clock times, of a server that does not say what its clock is: that clock and ours are taken to be equal.
    WallClock,
    /// There are none, as in version 1. What comes is the newest there was when the request was sent, or newer.
    None {
        /// When that was.
        ours: i64,
    },
}

/// When a state was the newest of its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newest {
    /// This moment or later, in ms by this process' clock. None if that is not known.
    pub at: Option<i64>,
    /// Whether the upstream says so again and again, so that it should never lie far back. Otherwise one that is not known changes
    /// nothing of what was known before.
    pub is_told: bool,
}

impl Times {
    /// When that was which the upstream says was at `time`; 0 is no time.
    pub fn newest(self, time: i64) -> Newest {
        self.newest_as_of(time, steady_ms(), unix_ms())
    }

    fn newest_as_of(self, time: i64, now: i64, wall: i64) -> Newest {
        let at = match self {
            Times::None { ours } => return Newest { at: Some(ours), is_told: false },
            _ if time == crate::format::record::NO_TIME => None,
            Times::Since { ours, theirs } => Some(ours.saturating_add(time.saturating_sub(theirs))),
            Times::WallClock => Some(now.saturating_sub(wall.saturating_sub(time))),
        };
        // It has been heard of, and so it has been.
        Newest { at: at.map(|at| at.min(now)), is_told: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(times: Times, time: i64, now: i64, wall: i64) -> Option<i64> {
        times.newest_as_of(time, now, wall).at
    }

    #[test]
    fn what_an_upstream_says_is_as_old_as_the_time_between_the_request_and_it_leaves() {
        // The request left here at 1,000 and came there at 500,000, by a clock that is far ahead of ours.
        let times = Times::Since { ours: 1_000, theirs: 500_000 };
        assert_eq!(
            at(times, 502_000, 9_000, 77),
            Some(3_000),
            "said 2 s after the request came, and heard of 8 s after it left"
        );
        assert_eq!(at(times, 499_000, 9_000, 77), Some(0), "known before the request came");
        assert_eq!(
            at(times, 502_000, 2_500, 77),
            Some(2_500),
            "a clock that runs faster there makes nothing of the future"
        );
        assert_eq!(at(times, i64::MAX, 9_000, 77), Some(9_000));
        assert_eq!(at(times, i64::MIN, 9_000, 77), Some(i64::MIN + 1_000));
    }

    #[test]
    fn without_a_time_with_the_answer_the_wall_clocks_are_taken_to_agree() {
        assert_eq!(at(Times::WallClock, 700, 9_000, 1_000), Some(8_700));
        assert_eq!(at(Times::WallClock, 1_200, 9_000, 1_000), Some(9_000), "a clock that is ahead");
    }

    #[test]
    fn what_is_not_known_is_not_claimed() {
        assert_eq!(at(Times::WallClock, 0, 9_000, 1_000), None);
        assert_eq!(at(Times::Since { ours: 1_000, theirs: 500 }, 0, 9_000, 1_000), None);
        let untimed = Times::None { ours: 1_000 }.newest_as_of(0, 9_000, 1_000);
        assert_eq!(untimed, Newest { at: Some(1_000), is_told: false }, "version 1: as of when it was asked for");
    }
}
