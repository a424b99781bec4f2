//! `sqlite3_rsync`, which compares two databases by hashes and copies the pages that differ. Both are on this machine here, so
//! that no ssh takes part.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::support::Result;
use crate::support::child::{self, Ran};

/// What makes it tell its version.
pub const VERSION: &str = "--version";

/// Makes `replica` a copy of `origin`.
pub fn sync(program: &Path, origin: &Path, replica: &Path) -> Result<Ran> {
    child::run(Command::new(program).arg(origin).arg(replica))
}

/// The same again and again, each time as soon as the last one has ended. Dropping it ends it.
pub struct Again {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Again {
    /// Makes the first copy, and goes on.
    pub fn begin(program: PathBuf, origin: PathBuf, replica: PathBuf) -> Result<Again> {
        sync(&program, &origin, &replica)?;
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Acquire) {
                // One that finds a lock is made good by the next; whether all arrives is what the reader sees.
                let _ = sync(&program, &origin, &replica);
            }
        });
        Ok(Again { ended, thread: Some(thread) })
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
