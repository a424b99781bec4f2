//! The size of a file while something goes on.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often the size is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Does `work`, and tells beside its result the largest size that the file was seen to have meanwhile, in bytes.
pub fn largest_while<T>(path: &Path, work: impl FnOnce() -> T) -> (T, f64) {
    let size = || fs::metadata(path).map_or(0, |file| file.len());
    let done = AtomicBool::new(false);
    let (result, largest) = thread::scope(|scope| {
        let largest = scope.spawn(|| {
            let mut largest = 0;
            while !done.load(Ordering::Acquire) {
                largest = largest.max(size());
                thread::sleep(LOOK);
            }
            largest.max(size())
        });
        let result = work();
        done.store(true, Ordering::Release);
        (result, largest.join().unwrap_or(0))
    });
    (result, largest as f64)
}
