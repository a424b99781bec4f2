//! Programs that are not this one: run to their end, or until they are told to end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Result, clock, machine};

/// How often it is looked at a program's memory and log.
const LOOK: Duration = Duration::from_millis(5);
/// How long a program may take to say what it is waited for to say, and to end after it was told to.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a program took that ran to its end.
pub struct Ran {
    /// Nanoseconds from its start.
    pub ns: f64,
    /// The largest resident memory seen, in bytes.
    pub peak: f64,
}

/// Runs a program to its end. Fails with what it said if that was not a success.
pub fn run(command: &mut Command) -> Result<Ran> {
    let began = clock::monotonic_ns();
    let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (id, ended) = (process.id(), AtomicBool::new(false));
    let (output, ended_ns, peak) = thread::scope(|scope| {
        let peak = scope.spawn(|| {
            let mut peak = 0;
            while !ended.load(Ordering::Acquire) {
                peak = peak.max(machine::peak_of(id).unwrap_or(0));
                thread::sleep(LOOK);
            }
            peak
        });
        let output = process.wait_with_output();
        let ended_ns = clock::monotonic_ns();
        ended.store(true, Ordering::Release);
        (output, ended_ns, peak.join().unwrap_or(0))
    });
    let output = output?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{:?} ended with {}: {}", command.get_program(), output.status, tail(&said)).into());
    }
    Ok(Ran { ns: (ended_ns - began) as f64, peak: peak as f64 })
}

/// A program in the background, whose output goes into a file. Dropping it kills it.
pub struct Daemon {
    process: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it.
    pub fn start(command: &mut Command, log: &Path) -> Result<Daemon> {
        let output = File::create(log)?;
        let process = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?;
        Ok(Daemon { process, log: log.to_owned() })
    }

    /// Waits until its output has a text in it. Fails if it ends before.
    pub fn says(&mut self, text: &str) -> Result<()> {
        let log = self.log.clone();
        self.until(&format!("to say {text:?}"), || Ok(fs::read_to_string(&log)?.contains(text)))
    }

    /// Waits until something is so. Fails if the program ends before.
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so()? {
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("it ended with {status}: {}", tail(&fs::read_to_string(&self.log)?)).into());
            }
            if Instant::now() > deadline {
                return Err(
                    format!("waited {PATIENCE:?} for it {what}; {}", tail(&fs::read_to_string(&self.log)?)).into()
                );
            }
            thread::sleep(LOOK / 5);
        }
        Ok(())
    }

    /// Tells it to end as Ctrl-C would, and waits until it has.
    pub fn end(mut self) -> Result<()> {
        // By the shell's builtin: minimal systems do not have the program kill(1).
        let told = Command::new("sh").args(["-c", &format!("kill -INT {}", self.process.id())]).status()?;
        if !told.success() {
            return Err("kill failed".into());
        }
        let deadline = Instant::now() + PATIENCE;
        while self.process.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(format!("it did not end: {}", tail(&fs::read_to_string(&self.log)?)).into());
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After `end` there is no process any more, and both calls do nothing.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The last line of what a program said.
fn tail(said: &str) -> String {
    said.trim().lines().last().unwrap_or("it said nothing").to_owned()
}
