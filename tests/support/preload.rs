//! Libraries that stand between a process and its system: a disk that waits, a clock that is wrong.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::Temp;

/// What reads and syncs of the tail wait for, and by how much the wall clock is off.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

/* While the file GATE exists, the thread named GATED waits. */
static void gate(void) {
    const char *file = getenv("GATE"), *thread = getenv("GATED");
    char name[17] = "";
    struct timespec pause = {0, 1000000};
    if (!file || !thread) return;
    prctl(PR_GET_NAME, name);
    if (strcmp(name, thread)) return;
    while (access(file, F_OK) == 0) nanosleep(&pause, 0);
}
static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }
ssize_t pread64(int fd, void *to, size_t n, off_t at) {
    gate();
    return ((ssize_t (*)(int, void *, size_t, off_t))next("pread64"))(fd, to, n, at);
}
ssize_t pread(int fd, void *to, size_t n, off_t at) { return pread64(fd, to, n, at); }
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))next("clock_gettime");
    const char *seconds = getenv("CLOCK_IS_OFF_BY");
    int rc = real(clock, time);
    if (rc == 0 && clock == CLOCK_REALTIME && seconds) time->tv_sec += atol(seconds);
    return rc;
}
"#;

/// The compiled library, made once for a test binary.
fn preload() -> &'static Path {
    static MADE: OnceLock<(Temp, PathBuf)> = OnceLock::new();
    let (_, library) = MADE.get_or_init(|| {
        let temp = Temp::new();
        let (source, library) = (temp.path("preload.c"), temp.path("preload.so"));
        std::fs::write(&source, SOURCE).expect("writing a C source");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let status = compiler.status().expect("running cc, which Rust links with, too");
        assert!(status.success(), "cc: {status}");
        (temp, library)
    });
    library
}

/// Has a process that is about to start run with a wall clock that is off by so many seconds, and
/// hold its thread `gated` back at every read of a file while there is a file at `gate`.
pub fn with_gate_and_clock(command: &mut Command, gate: &Path, gated: &str, seconds: i64) {
    command.env("LD_PRELOAD", preload()).env("GATE", gate).env("GATED", gated);
    command.env("CLOCK_IS_OFF_BY", seconds.to_string());
}
