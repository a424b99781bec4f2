//! Clocks that compare across processes, which `std::time::Instant` does not promise.

use std::time::Duration;

/// Nanoseconds of `CLOCK_MONOTONIC`: one time line for all processes of the machine.
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds of processor time that this process has used, all threads together.
pub fn process_cpu_ns() -> u64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Sleeps until `CLOCK_MONOTONIC` shows `then` nanoseconds; returns at once if that has passed.
pub fn sleep_until_ns(then: u64) {
    std::thread::sleep(Duration::from_nanos(then.saturating_sub(monotonic_ns())));
}

#[allow(unsafe_code)]
fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to, and the call keeps no reference to it.
    let failed = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(failed, 0, "clock_gettime failed");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
