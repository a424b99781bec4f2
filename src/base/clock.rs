//! Wall-clock time as the wire carries it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch, now.
pub fn unix_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}

/// How long ago `then` (milliseconds since the Unix epoch) was; zero if it lies in the future.
pub fn elapsed_since_unix_ms(then: i64) -> Duration {
    Duration::from_millis(u64::try_from(unix_ms().saturating_sub(then)).unwrap_or(0))
}
