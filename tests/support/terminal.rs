//! What a person does at a terminal: bash with a terminal of its own, whose screen is read, and Ctrl-C.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use super::{finish, until};

/// Commands that run at a terminal, until they end or the terminal is dropped.
pub struct Terminal {
    process: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<Vec<u8>>>,
    /// How much of the screen was read before.
    seen: usize,
}

impl Terminal {
    /// Runs commands with bash, which begins with the variables that `shell` has.
    pub fn start(mut shell: Command, script: &Path) -> Terminal {
        let command = format!("exec bash '{}'", script.display());
        shell.args(["-qefc", &command, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = shell.spawn().expect("starting script(1), which makes a terminal");
        let keys = process.stdin.take().expect("the keyboard of a terminal");
        let mut output = process.stdout.take().expect("the screen of a terminal");
        let screen = Arc::new(Mutex::new(Vec::new()));
        let writer = screen.clone();
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut some) {
                writer.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&some[..read]);
            }
        });
        Terminal { process, keys, screen, seen: 0 }
    }

    /// Waits until the screen shows what `fits`, since the last time.
    pub fn until_it_says(&mut self, what: &str, fits: impl Fn(&str) -> bool) {
        self.seen = until(what, || {
            let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            let new = without_what_was_erased(&String::from_utf8_lossy(&screen[self.seen..]));
            if new.ends_with('\n') && fits(&new) { Ok(screen.len()) } else { Err(format!("it says:\n{new}")) }
        });
    }

    /// Types Ctrl-C.
    pub fn interrupt(&mut self) {
        self.keys.write_all(b"\x03").and_then(|()| self.keys.flush()).expect("typing");
    }

    /// Waits for the end of the commands, which must be a good one, with nothing more said.
    pub fn end(mut self) {
        let status = finish(&mut self.process);
        assert!(status.success(), "{status}");
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(String::from_utf8_lossy(&screen[self.seen..]), "", "said at the end");
    }
}

impl Drop for Terminal {
    /// Without its terminal, everything at it gets SIGHUP.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What is left on a screen in the end: of lines that were written over only what was written last, and no colours.
fn without_what_was_erased(screen: &str) -> String {
    let mut lines = String::new();
    for line in screen.replace("\r\n", "\n").split_inclusive('\n') {
        let last = line.rsplit('\r').next().unwrap_or_default();
        let mut rest = last;
        while let Some((before, sequence)) = rest.split_once("\x1b[") {
            lines.push_str(before);
            rest = sequence.trim_start_matches(|c: char| !c.is_ascii_alphabetic()).get(1..).unwrap_or_default();
        }
        lines.push_str(rest);
    }
    lines
}
