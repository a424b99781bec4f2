//! Having what was written to a file go to the disk while more is being written, so that the sync in the end is short.
//!
//! A hint, and no more: what is durable is what was synced. Only Linux has a call for it.

use std::path::Path;

use crate::base::limits;

/// How much is written before the disk is given it, in bytes.
const EVERY: u64 = limits::scaled(2 << 20, 8 << 10) as u64;

/// A file that is written from its beginning to its end, over and over.
pub struct Writeback {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there is no such call"))]
    descriptor: Option<libc::c_int>,
    begun: u64,
}

impl Writeback {
    /// For the file at `path`, which a connection of this process has open, and keeps open.
    pub fn of(path: &Path) -> Writeback {
        Writeback { descriptor: super::process::find_open(path), begun: 0 }
    }

    /// Says that the file has been written up to `end`, in bytes.
    pub fn written(&mut self, end: u64) {
        if end < self.begun {
            self.begun = 0;
        }
        if end >= self.begun + EVERY {
            self.begin(end);
            self.begun = end;
        }
    }

    #[cfg(target_os = "linux")]
    fn begin(&self, end: u64) {
        let (Some(file), Ok(from), Ok(length)) =
            (self.descriptor, i64::try_from(self.begun), i64::try_from(end - self.begun))
        else {
            return;
        };
        // SAFETY: no memory is passed. A descriptor that is another file's by now has that one written back, which happens to
        // every file sooner or later.
        unsafe { libc::sync_file_range(file, from, length, libc::SYNC_FILE_RANGE_WRITE) };
    }

    #[cfg(not(target_os = "linux"))]
    fn begin(&self, _end: u64) {}
}
