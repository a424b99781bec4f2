//! A `sqlite3` process that is killed before one of its system calls, or has one fail: by strace, from outside, so that the
//! process is the one that everybody runs.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Temp, library, with_suffix};

/// Which files a call must be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Those of the sidecar.
    Sidecar,
    /// Those, the database, and its WAL.
    Everything,
}

/// What becomes of a system call.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// The process is killed before it.
    Killed,
    /// It fails, and does nothing.
    Fails(&'static str),
    /// It and all like it that follow fail.
    KeepsFailing(&'static str),
}

/// One call of a thread, from 1, that does not come to be.
#[derive(Clone, Copy, Debug)]
pub struct Interruption {
    pub call: &'static str,
    pub nth: usize,
    pub how: How,
    pub about: About,
}

/// What a process said, and whether the interruption came about.
#[derive(Debug)]
pub struct Ended {
    pub output: String,
    pub errors: String,
    pub interrupted: bool,
}

/// The calls that change a file or a folder, or take a lock.
pub const CALLS: [&str; 11] =
    ["mkdir", "openat", "flock", "fcntl", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "rename", "unlink"];

/// Whether processes can be traced here; a container may forbid it.
pub fn can_trace() -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    traced.is_ok_and(|output| output.status.success())
}

/// Runs `script` on `database` in a shell with the library loaded, interrupted like that.
pub fn run_interrupted(database: &Path, script: &str, interruption: Interruption) -> Ended {
    let temp = Temp::new();
    let (log, input) = (temp.path("calls"), temp.path("script"));
    let script = format!(".load '{}'\n{script}\n", library().display());
    File::create(&input).and_then(|mut file| file.write_all(script.as_bytes())).expect("writing a script");
    let Interruption { call, nth, how, about } = interruption;
    let what = match how {
        How::Killed => format!("inject={call}:signal=KILL:when={nth}"),
        How::Fails(error) => format!("inject={call}:error={error}:when={nth}"),
        How::KeepsFailing(error) => format!("inject={call}:error={error}:when={nth}+"),
    };
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&log).args(["-e", &format!("trace={call}"), "-e", &what]);
    for file in files(database, about) {
        command.arg("-P").arg(file);
    }
    command.args(["sqlite3", "-batch"]).arg(database).stdin(File::open(&input).expect("the script"));
    let output = command.output().expect("running strace (Debian's package strace)");
    let calls = std::fs::read_to_string(&log).expect("what strace wrote");
    Ended {
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        interrupted: calls.contains("(INJECTED)") || calls.contains("killed by SIGKILL"),
    }
}

fn files(database: &Path, about: About) -> Vec<PathBuf> {
    let sidecar = with_suffix(database, "-litestream");
    let names = ["lock", "position", "upstream", "generation", "pages"];
    let mut files = vec![sidecar.clone()];
    for name in names {
        files.extend([sidecar.join(name), sidecar.join(format!("{name}.tmp"))]);
    }
    if about == About::Everything {
        files.extend([database.to_path_buf(), with_suffix(database, "-wal"), with_suffix(database, "-shm")]);
    }
    files
}
