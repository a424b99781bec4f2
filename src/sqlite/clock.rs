//! A clock that no one sets: it counts all time that passes, also while the machine is suspended.
//!
//! Ages are differences of two readings of one such clock, so that a wall clock that is wrong, or
//! is put right, makes nothing look younger than it is.

use std::mem::MaybeUninit;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::api::random_bytes;

/// Counts suspension, as `CLOCK_MONOTONIC` does on other systems than Linux.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: libc::clockid_t = libc::CLOCK_BOOTTIME;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;

/// What the wall clock said when this clock was at zero, by a reading of both when the first one
/// was asked for.
static ZERO: LazyLock<Duration> = LazyLock::new(|| {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    wall.saturating_sub(counted())
});

/// Time since the Unix epoch by the steady clock: the wall clock as it was when the process began,
/// and what has passed since.
pub fn steady() -> Duration {
    let zero = *ZERO;
    zero.saturating_add(counted())
}

/// The same in milliseconds, rounded down: how times are sent and compared.
pub fn steady_ms() -> i64 {
    i64::try_from(steady().as_millis()).unwrap_or(i64::MAX)
}

/// The name of this clock: that of another process has another one, by chance.
pub fn steady_id() -> u64 {
    static NAME: LazyLock<u64> = LazyLock::new(|| u64::from_le_bytes(random_bytes()));
    *NAME
}

/// How long ago `then` of [`steady_ms`] was; zero if that lies ahead.
pub fn steady_since(then: i64) -> Duration {
    steady().saturating_sub(Duration::from_millis(u64::try_from(then).unwrap_or(0)))
}

/// What the system's clock has counted since its zero, mostly the start of the machine.
fn counted() -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: clock_gettime(2) fills in the struct it is given; where the clock is not known it
    // leaves the zeros there.
    let time = unsafe {
        libc::clock_gettime(CLOCK, time.as_mut_ptr());
        time.assume_init()
    };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steady_clock_goes_on_and_begins_where_the_wall_clock_is() {
        let (before, wall) = (steady_ms(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        assert!(steady_ms() >= before);
        // A test run that began before the wall clock was put right would differ by that much, and
        // none takes an hour.
        assert!(wall.abs_diff(steady()) < Duration::from_secs(3600));
        assert!(steady_since(before) < Duration::from_secs(3600));
        assert_eq!(steady_since(i64::MAX), Duration::ZERO);
    }
}
