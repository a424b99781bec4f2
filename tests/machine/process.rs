//! `sqlite3` processes that may be killed and stopped at any moment, by somebody else than the one who talks to them.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{library, lines_of};

/// Longest time any answer may take: past it a process counts as blocked. Stops are far shorter.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What ends the errors of an answer.
const END: &str = "--end-of-errors--";

/// How what the library logs begins.
const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];

/// The place of a process: it stays while processes come and go. Whoever holds it can kill and stop.
pub struct Slot {
    pub name: String,
    child: Mutex<Option<Child>>,
    /// Whether its end was brought about by the machine.
    killed: AtomicBool,
    stopped: AtomicBool,
    pub starts: AtomicU32,
    log: PathBuf,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The process is gone, since the machine killed it.
    Killed,
    /// SQL ended with this error.
    Sql(String),
    /// What must never happen: it ended by itself, or did not answer in time.
    Broken(String),
}

impl Slot {
    pub fn new(name: &str, folder: &Path) -> Arc<Slot> {
        Arc::new(Slot {
            name: name.to_string(),
            child: Mutex::default(),
            killed: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            starts: AtomicU32::new(0),
            log: folder.join(format!("{name}.log")),
        })
    }

    /// Kills the process (`SIGKILL`) and waits for its end. False if there is none.
    pub fn kill(&self) -> bool {
        let mut child = self.child.lock().unwrap();
        let Some(process) = child.as_mut() else { return false };
        if process.try_wait().is_ok_and(|ended| ended.is_some()) {
            return false;
        }
        self.killed.store(true, Ordering::SeqCst);
        let _ = process.kill();
        let _ = process.wait();
        *child = None;
        true
    }

    /// Stops the process where it is, or lets it go on. False if there is none.
    pub fn pause(&self, stop: bool) -> bool {
        let child = self.child.lock().unwrap();
        let Some(process) = child.as_ref() else { return false };
        let name = if stop { "STOP" } else { "CONT" };
        self.stopped.store(stop, Ordering::SeqCst);
        // The process is not reaped while the lock is held, so that the number is still its own.
        let run = Command::new("sh").args(["-c", &format!("kill -{name} {}", process.id())]).status();
        run.is_ok_and(|status| status.success())
    }

    /// The id of the process, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.lock().unwrap().as_ref().map(Child::id)
    }

    /// Why the process ended.
    fn ended(&self) -> Failure {
        if self.killed.load(Ordering::SeqCst) {
            return Failure::Killed;
        }
        let status = self.child.lock().unwrap().as_mut().map(Child::wait);
        Failure::Broken(format!("{} ended by itself: {status:?}; see {}", self.name, self.log.display()))
    }
}

/// A `sqlite3` process, for the one who talks to it.
pub struct Process {
    pub slot: Arc<Slot>,
    input: ChildStdin,
    lines: Receiver<String>,
    /// What came as errors up to each end of an answer.
    errors: Receiver<Vec<String>>,
    questions: u32,
}

impl Process {
    /// Starts a process on `database` without the library. What the library logs goes to a file beside.
    pub fn start(slot: &Arc<Slot>, database: &Path) -> Process {
        let mut command = Command::new("sqlite3");
        command.arg("-batch").arg(database).env("LITESTREAM_LOG", "debug");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut place = slot.child.lock().unwrap();
        let mut child = command.spawn().expect("starting sqlite3 (Debian's package sqlite3)");
        let input = child.stdin.take().expect("the input of a process");
        let output = child.stdout.take().expect("the output of a process");
        let errors = child.stderr.take().expect("the errors of a process");
        assert!(place.replace(child).is_none_or(|mut old| old.wait().is_ok()), "one process in a place");
        slot.killed.store(false, Ordering::SeqCst);
        slot.stopped.store(false, Ordering::SeqCst);
        slot.starts.fetch_add(1, Ordering::SeqCst);
        drop(place);
        let lines = lines_of(output);
        let (sender, errors_of) = channel();
        let mut log = OpenOptions::new().create(true).append(true).open(&slot.log).expect("a log");
        let _ = writeln!(log, "--- started on {}", database.display());
        std::thread::spawn(move || sort_errors(errors, &sender, &mut log));
        Process { slot: Arc::clone(slot), input, lines, errors: errors_of, questions: 0 }
    }

    /// Loads the library.
    pub fn load(&mut self) -> Result<String, Failure> {
        self.ask(&format!(".load '{}'", library().display()))
    }

    /// What SQL gives, as rows of columns separated by `|`. After an error the rest of it is not run.
    pub fn ask(&mut self, sql: &str) -> Result<String, Failure> {
        self.questions += 1;
        let (end, line) = (format!("--end-{}--", self.questions), sql.replace('\n', " "));
        let semicolon = if line.starts_with('.') { "" } else { ";" };
        let sent =
            writeln!(self.input, "{line}{semicolon}\n.print {end}\n.output stderr\n.print {END}\n.output stdout")
                .and_then(|()| self.input.flush());
        if sent.is_err() {
            return Err(self.slot.ended());
        }
        let (mut rows, start) = (Vec::new(), Instant::now());
        let left = || PATIENCE.saturating_sub(start.elapsed());
        loop {
            match self.lines.recv_timeout(left()) {
                Ok(text) if text == end => break,
                Ok(text) => rows.push(text),
                Err(why) => return Err(self.silent(why, sql)),
            }
        }
        match self.errors.recv_timeout(left()) {
            Ok(errors) if errors.is_empty() => Ok(rows.join("\n")),
            Ok(errors) => Err(Failure::Sql(errors.join(" "))),
            Err(why) => Err(self.silent(why, sql)),
        }
    }

    fn silent(&self, why: RecvTimeoutError, sql: &str) -> Failure {
        if why == RecvTimeoutError::Timeout { self.blocked(sql) } else { self.slot.ended() }
    }

    fn blocked(&self, sql: &str) -> Failure {
        let stopped = self.slot.stopped.load(Ordering::SeqCst);
        Failure::Broken(format!(
            "{} did not answer within {} s (stopped: {stopped}) to: {sql}\n{}",
            self.slot.name,
            PATIENCE.as_secs(),
            self.slot.pid().map(stacks).unwrap_or_default()
        ))
    }
}

/// What the threads of a process wait for, as the kernel knows it.
fn stacks(pid: u32) -> String {
    let tell = format!(
        "for t in /proc/{pid}/task/*; do echo $(cat $t/comm $t/wchan $t/syscall); done; cat /proc/locks; ls -l /proc/{pid}/fd"
    );
    let output = Command::new("sh").args(["-c", &tell]).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.slot.kill();
    }
}

/// Puts what the library logs into `log`, and hands on what is left up to each [`END`]. The library's threads write when they
/// like, so that both can be on one line.
fn sort_errors(errors: ChildStderr, to: &Sender<Vec<String>>, log: &mut File) {
    let (start, mut found) = (Instant::now(), Vec::new());
    for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let end = line.contains(END);
        let line = line.replace(END, "");
        let logged = LEVELS.iter().filter_map(|level| line.find(&format!("{level} litestream"))).min();
        let (error, logged) = line.split_at(logged.unwrap_or(line.len()));
        if !logged.is_empty() {
            let _ = writeln!(log, "{:8.3} {logged}", start.elapsed().as_secs_f64());
        }
        if !error.is_empty() {
            let _ = writeln!(log, "{:8.3} said {error}", start.elapsed().as_secs_f64());
            found.push(error.to_string());
        }
        if end && to.send(std::mem::take(&mut found)).is_err() {
            return;
        }
    }
}
