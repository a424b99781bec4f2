//! Waits for the signals that ask a process to end.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use libc::c_int;

use crate::base::{Error, Kind, Result};

/// The signals, with their names.
const SIGNALS: [(c_int, &str); 2] = [(libc::SIGINT, "SIGINT"), (libc::SIGTERM, "SIGTERM")];
/// How often it is asked whether there is still something to wait for.
const LOOK: Duration = Duration::from_secs(1);

/// Held by the one thread that waits.
static WAITING: Mutex<()> = Mutex::new(());
/// Where the handler says which signal came. It stays open: a handler may still run when the wait is over.
static PIPE: OnceLock<(PipeReader, PipeWriter)> = OnceLock::new();
/// The end of it that the handler writes to.
static TELL: AtomicI32 = AtomicI32::new(-1);

/// Blocks the calling thread until SIGINT or SIGTERM comes to the process, whose handlers are put back then, and gives the name of
/// the signal. An error of `look`, which is called each second, ends the wait, too.
pub fn wait_for_end(mut look: impl FnMut() -> Result<()>) -> Result<&'static str> {
    let Ok(_waiting) = WAITING.try_lock() else {
        return Err(Error::new(Kind::Busy, "litestream: another thread of this process waits for its end already"));
    };
    let failed = |e: io::Error| Error::io("litestream: waiting for a signal", &e);
    if PIPE.get().is_none() {
        let _ = PIPE.set(io::pipe().map_err(failed)?);
    }
    let Some((told, tell)) = PIPE.get() else { return Err(Error::new(Kind::Internal, "litestream: no pipe")) };
    // One that came when the last wait was just over.
    while is_readable(told, Duration::ZERO).map_err(failed)? {
        read(told).map_err(failed)?;
    }
    let _handlers = Handlers::install(tell).map_err(failed)?;
    loop {
        look()?;
        if is_readable(told, LOOK).map_err(failed)? {
            return read(told).map_err(failed);
        }
    }
}

/// The name of the next signal in the pipe.
fn read(mut told: &PipeReader) -> io::Result<&'static str> {
    let mut signal = [0];
    told.read_exact(&mut signal)?;
    let known = SIGNALS.iter().find(|(number, _)| *number == c_int::from(signal[0]));
    Ok(known.map_or("a signal", |(_, name)| name))
}

/// The handlers of the library, in place of the host's until dropped.
struct Handlers {
    before: Vec<(c_int, libc::sigaction)>,
}

impl Handlers {
    fn install(tell: &PipeWriter) -> io::Result<Handlers> {
        TELL.store(tell.as_raw_fd(), SeqCst);
        let mut handlers = Handlers { before: Vec::new() };
        for (signal, _) in SIGNALS {
            let (mut ours, mut before) = (MaybeUninit::<libc::sigaction>::zeroed(), MaybeUninit::uninit());
            // SAFETY: a sigaction of zeros is one with an empty mask and no flags; the handler is a function that only does what
            // signal-safety(7) allows; what was there before is written by the call if it succeeds.
            let rc = unsafe {
                (*ours.as_mut_ptr()).sa_sigaction = note as extern "C" fn(c_int) as libc::sighandler_t;
                (*ours.as_mut_ptr()).sa_flags = libc::SA_RESTART;
                libc::sigaction(signal, ours.as_ptr(), before.as_mut_ptr())
            };
            if rc != 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the call succeeded, so it was written.
            handlers.before.push((signal, unsafe { before.assume_init() }));
        }
        Ok(handlers)
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            // SAFETY: it is what sigaction gave for this signal.
            unsafe { libc::sigaction(*signal, before, ptr::null_mut()) };
        }
    }
}

extern "C" fn note(signal: c_int) {
    let told = [signal as u8];
    // SAFETY: write is async-signal-safe, `told` is one byte, and the pipe is never closed.
    unsafe { libc::write(TELL.load(SeqCst), told.as_ptr().cast(), 1) };
}

/// Waits until there is something to read, but for `patience` at most.
fn is_readable(pipe: &PipeReader, patience: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: it is one pollfd of a pipe that is open.
    match unsafe { libc::poll(&mut poll, 1, patience.as_millis() as c_int) } {
        -1 => match io::Error::last_os_error() {
            interrupted if interrupted.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
        ready => Ok(ready > 0),
    }
}
