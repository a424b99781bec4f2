//! What happens when the process ends.

use std::sync::Mutex;

static LAST: Mutex<Option<fn()>> = Mutex::new(None);

extern "C" fn run() {
    let last = LAST.lock().ok().and_then(|mut last| last.take());
    if let Some(last) = last {
        let _ = super::guarded(|| {
            last();
            Ok(())
        });
    }
}

/// Has `last` called once at a normal end of the process. Later calls change nothing.
pub fn at_exit(last: fn()) {
    let Ok(mut slot) = LAST.lock() else { return };
    if slot.replace(last).is_none() {
        // SAFETY: atexit takes a function that lives as long as the process; the library is never unloaded.
        unsafe { libc::atexit(run) };
    }
}
