//! Counts memory, to see that a length in an input does not decide alone how much is taken.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// No input is so large that this much is to be taken for it at once.
const MOST_AT_ONCE: usize = 512 << 20;

struct Meter;

#[global_allocator]
static METER: Meter = Meter;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// What `run` gives, and the most bytes that it held at once in this thread.
pub fn peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let done = run();
    (done, PEAK.get().saturating_sub(before))
}

// SAFETY: everything is passed on to the allocator of the system.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        let _ = NOW.try_with(|now| now.set(now.get().wrapping_sub(layout.size())));
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What comes from another thread and is freed here makes the count wrap around; only differences are looked at.
fn add(size: usize) {
    if size > MOST_AT_ONCE {
        // What asks for it may not hear of a panic.
        eprintln!("{size} bytes asked for at once");
        std::process::abort();
    }
    let _ = NOW.try_with(|now| {
        now.set(now.get().wrapping_add(size));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}
