//! How far something that takes a while has come.

use std::time::Instant;

/// A catch-up or a snapshot under way, in pages.
#[derive(Clone, Copy, Debug)]
pub struct Headway {
    began: Instant,
    /// How many pages there are to do, at most.
    pub due: u64,
    /// How many of them are done.
    pub done: u64,
}

impl Headway {
    /// Begins now, with `due` pages to do.
    pub fn begin(due: u64) -> Headway {
        Headway { began: Instant::now(), due, done: 0 }
    }

    /// How much is done, in per cent, from 0 to 100.
    pub fn percent(&self) -> f64 {
        if self.due == 0 { 100.0 } else { 100.0 * self.done.min(self.due) as f64 / self.due as f64 }
    }

    /// Seconds until all is done, if it goes on as so far; none before anything was done.
    pub fn seconds_left(&self) -> Option<f64> {
        let left = self.due.saturating_sub(self.done) as f64;
        (self.done > 0).then(|| self.began.elapsed().as_secs_f64() * left / self.done as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_cent_stay_between_0_and_100() {
        let mut headway = Headway::begin(200);
        assert_eq!((headway.percent(), headway.seconds_left()), (0.0, None));
        headway.done = 50;
        assert_eq!(headway.percent(), 25.0);
        assert!(headway.seconds_left().is_some_and(|left| left >= 0.0));
        // Pages that change meanwhile come again on top.
        headway.done = 300;
        assert_eq!((headway.percent(), headway.seconds_left()), (100.0, Some(0.0)));
        assert_eq!(Headway::begin(0).percent(), 100.0);
    }
}
