//! Waiting for what must come true.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives it up. Far more than it takes, so that a slow machine fails nothing.
pub const DEADLINE: Duration = Duration::from_secs(60);

const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Looks until `probe` gives a value; past the deadline fails with `what` was awaited and what was seen last.
pub fn until<T, E: Display>(what: &str, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() > DEADLINE => {
                panic!("waited {} s until {what}; last seen: {seen}", DEADLINE.as_secs())
            }
            Err(_) => sleep(BETWEEN_LOOKS),
        }
    }
}

/// Sets a flag when dropped, so that threads that look at it end also when a test fails.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
