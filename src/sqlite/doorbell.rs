//! A thread's sleep that ends when somebody rings, or when anybody writes to a file.
//!
//! Writes of other processes are told by inotify, so that there is nothing to look for while nobody writes. A watch is good
//! for one write: while there are many, they cost their writers nothing. Only Linux has it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::base::{Error, Result};

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Somebody rang.
    Rung,
    /// Somebody wrote to a file that was watched.
    Stirred,
    /// Neither.
    TimedOut,
}

/// The bell of one thread.
pub struct Doorbell {
    bell: system::Bell,
    sleeping: AtomicBool,
}

impl Doorbell {
    /// A bell that nobody has rung. Fails if the process may not have more file descriptors.
    pub fn new() -> Result<Doorbell> {
        let bell = system::Bell::new().map_err(|e| Error::io("litestream: a pipe to wake a thread", &e))?;
        Ok(Doorbell { bell, sleeping: AtomicBool::new(false) })
    }

    /// Wakes the thread if it sleeps. Costs a load when it does not.
    pub fn ring(&self) {
        if self.sleeping.load(SeqCst) && self.sleeping.swap(false, SeqCst) {
            self.bell.ring();
        }
    }

    /// Wakes the thread, or has its next sleep end at once.
    pub fn ring_anyway(&self) {
        self.sleeping.store(false, SeqCst);
        self.bell.ring();
    }

    /// Has the sleep end that somebody writes to one of `files` in. False where that cannot be; true says nothing of what was
    /// written before.
    pub fn watch(&self, files: &[&Path]) -> bool {
        self.bell.watch(files)
    }

    /// Lets the one thread of this bell sleep for `time` at most.
    pub fn sleep(&self, time: Duration) -> Woken {
        self.sleeping.store(true, SeqCst);
        let woken = self.bell.sleep(time);
        self.sleeping.store(false, SeqCst);
        woken
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::ffi::CString;
    use std::fs::File;
    use std::io::{self, PipeReader, PipeWriter, Read, Write};
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::ptr;
    use std::time::Duration;

    use super::Woken;

    pub struct Bell {
        rung: PipeReader,
        ring: PipeWriter,
        /// The inotify instance. None if the user may not have more of them.
        notices: Option<File>,
    }

    impl Bell {
        pub fn new() -> io::Result<Bell> {
            let (rung, ring) = io::pipe()?;
            // SAFETY: no memory is passed; a descriptor that is not negative is new, and nobody else's.
            let notices = unsafe {
                match libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) {
                    -1 => None,
                    descriptor => Some(File::from_raw_fd(descriptor)),
                }
            };
            Ok(Bell { rung, ring, notices })
        }

        pub fn ring(&self) {
            let _ = (&self.ring).write_all(&[1]);
        }

        pub fn watch(&self, files: &[&Path]) -> bool {
            let Some(notices) = &self.notices else { return false };
            drain(notices);
            files.iter().all(|file| {
                let Ok(path) = CString::new(file.as_os_str().as_bytes()) else { return false };
                // SAFETY: the path ends with a zero and lives until the call returns.
                let watch = unsafe {
                    libc::inotify_add_watch(notices.as_raw_fd(), path.as_ptr(), libc::IN_MODIFY | libc::IN_ONESHOT)
                };
                watch != -1
            })
        }

        pub fn sleep(&self, time: Duration) -> Woken {
            let notices = self.notices.as_ref().map_or(-1, AsRawFd::as_raw_fd);
            let mut ends =
                [self.rung.as_raw_fd(), notices].map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
            let time = libc::timespec {
                tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: time.subsec_nanos().into(),
            };
            // SAFETY: the array and the time live until the call returns; a descriptor of -1 is passed over.
            let ready = unsafe { libc::ppoll(ends.as_mut_ptr(), ends.len() as libc::nfds_t, &time, ptr::null()) };
            let [rung, stirred] = ends.map(|end| ready > 0 && end.revents != 0);
            if stirred && let Some(notices) = &self.notices {
                drain(notices);
            }
            if rung {
                let _ = (&self.rung).read(&mut [0; 16]);
            }
            match (rung, stirred) {
                (true, _) => Woken::Rung,
                (_, true) => Woken::Stirred,
                _ => Woken::TimedOut,
            }
        }
    }

    /// Reads what has been noticed: that there was something is all that matters.
    fn drain(mut notices: &File) {
        let mut buffer = [0; 1024];
        while notices.read(&mut buffer).is_ok_and(|n| n > 0) {}
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io;
    use std::path::Path;
    use std::sync::{Condvar, Mutex, PoisonError};
    use std::time::Duration;

    use super::Woken;

    #[derive(Default)]
    pub struct Bell {
        rung: Mutex<bool>,
        wake: Condvar,
    }

    impl Bell {
        pub fn new() -> io::Result<Bell> {
            Ok(Bell::default())
        }

        pub fn ring(&self) {
            *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.wake.notify_one();
        }

        pub fn watch(&self, _files: &[&Path]) -> bool {
            false
        }

        pub fn sleep(&self, time: Duration) -> Woken {
            let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.wake.wait_timeout_while(rung, time, |rung| !*rung);
            let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if std::mem::take(&mut *rung) { Woken::Rung } else { Woken::TimedOut }
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::sync::Arc;

    use super::*;

    /// Longer than any test may take.
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_sleep_ends_when_somebody_rings() {
        let bell = Arc::new(Doorbell::new().expect("a bell"));
        bell.ring();
        assert_eq!(bell.sleep(Duration::ZERO), Woken::TimedOut, "nobody slept");
        let ringer = std::thread::spawn({
            let bell = Arc::clone(&bell);
            move || {
                while !bell.sleeping.load(SeqCst) {
                    std::thread::yield_now();
                }
                bell.ring();
            }
        });
        assert_eq!(bell.sleep(HOUR), Woken::Rung);
        ringer.join().expect("the ringer");
        bell.ring_anyway();
        assert_eq!(bell.sleep(HOUR), Woken::Rung, "one that came before");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_sleep_ends_at_the_first_write_to_a_watched_file_and_not_at_the_second() {
        let path = std::env::temp_dir().join(format!("doorbell-{}", std::process::id()));
        let mut file = fs::File::create(&path).expect("a file");
        let bell = Doorbell::new().expect("a bell");
        assert!(!bell.watch(&[Path::new("/nowhere/at/all")]));
        assert!(bell.watch(&[&path]));
        file.write_all(b"one").expect("a write");
        assert_eq!(bell.sleep(HOUR), Woken::Stirred);
        file.write_all(b"two").expect("a write");
        assert_eq!(bell.sleep(Duration::ZERO), Woken::TimedOut);
        assert!(bell.watch(&[&path]));
        file.write_all(b"three").expect("a write");
        assert_eq!(bell.sleep(HOUR), Woken::Stirred);
        fs::remove_file(&path).expect("its end");
    }
}
