//! Processes: this binary run again, what is said, signals, and ends.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use super::{Temp, until};

/// The variable that tells a test that it runs in a process of its own, and in which folder.
const FOLDER: &str = "LITESTREAM_TEST_FOLDER";

/// The folder that [`again`] gave this process; none in the process that `cargo test` started.
pub fn started_again() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Runs the test `test` of this binary in a process of its own, until its end. Killed when that does not come.
pub fn again(test: &str, folder: &Temp) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().expect("the path of this test binary"));
    command.args(["--exact", test, "--nocapture"]).env(FOLDER, folder.as_ref()).stdout(Stdio::null());
    let mut process = KilledOnDrop(command.spawn().expect("starting this test binary again"));
    finish(&mut process.0)
}

struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for the end of a process.
pub fn finish(child: &mut Child) -> ExitStatus {
    let pid = child.id();
    until(&format!("process {pid} ends"), || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err("it still runs".to_string()),
        Err(error) => Err(error.to_string()),
    })
}

/// The lines of what a process says, each when it has come.
pub fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let read = BufReader::new(output).split(b'\n').map_while(Result::ok);
        read.map(|line| String::from_utf8_lossy(&line).into_owned()).try_for_each(|line| sender.send(line))
    });
    lines
}

/// What can be sent to a process.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    /// Stops it where it is; the kernel keeps its sockets and locks.
    Stop,
    /// Asks it to end what it does, as a person does at a terminal.
    Interrupt,
    /// Lets it go on.
    Continue,
}

/// Sends `signal` to process `pid`.
pub fn signal(pid: u32, signal: Signal) {
    send_signal(
        pid,
        match signal {
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
            Signal::Interrupt => "INT",
        },
    );
}

/// Sends the signal of that name (`TERM`) to process `pid`, by the shell's builtin: minimal systems
/// do not have the program kill(1).
pub fn send_signal(pid: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().expect("running sh");
    assert!(status.success(), "kill -{name} {pid}: {status}");
}

/// The signals that a process has handlers for.
pub fn caught(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the status of a process");
    status.lines().find(|line| line.starts_with("SigCgt")).unwrap().to_string()
}

/// Waits until a process has a handler for SIGTERM, which no shell has.
pub fn until_it_waits(pid: u32) {
    until("it waits for a signal", || {
        let bits = u64::from_str_radix(caught(pid).split_whitespace().last().unwrap(), 16).unwrap();
        if bits & 1 << 14 == 0 { Err("not yet") } else { Ok(()) }
    });
}

/// Runs `body` in a fork of this process and gives what the fork ended with: 0 when `body` returned.
#[allow(unsafe_code)]
pub fn forked(body: impl FnOnce()) -> i32 {
    // SAFETY: the C library makes its allocator usable after fork(2); the child runs `body` and ends without unwinding
    // into what the parent owns.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        // SAFETY: ends the child as a program ends, with what is to be done at exit.
        unsafe { libc::exit(i32::from(done.is_err())) }
    }
    let _killed = ForkKilledOnDrop(pid);
    until("the forked process ends", || {
        let mut status = 0;
        // SAFETY: `status` is a place for the result.
        match unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } {
            0 => Err("it still runs"),
            _ => Ok(status),
        }
    })
}

/// Kills a process that is still there when a test fails.
struct ForkKilledOnDrop(libc::pid_t);

impl Drop for ForkKilledOnDrop {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if std::thread::panicking() {
            // SAFETY: the process is a child of this one that was not waited for.
            unsafe { libc::kill(self.0, libc::SIGKILL) };
        }
    }
}
