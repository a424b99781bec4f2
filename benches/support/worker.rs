//! Worker processes: this program again, with one SQLite connection, doing what it reads from its standard input.
//!
//! A request is a line `{"do": NAME, ...}`, the answer a line of JSON, `{"error": TEXT}` if it failed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Result, clock, content, db, machine};

/// The argument that makes this program a worker.
pub const FLAG: &str = "--worker";

/// How long an answer may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(600);

/// A worker as the bench sees it. Dropping it ends the process.
pub struct Worker {
    process: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<std::io::Result<String>>,
}

impl Worker {
    /// Starts a worker with a connection to the database at `path`.
    pub fn open(path: &Path) -> Result<Worker> {
        Worker::start(&[], json!({"do": "open", "path": path}))
    }

    /// Starts a worker that reads a database through a VFS: a library of that name, what it finds in its environment, and the
    /// name that the VFS registers.
    pub fn open_through(library: &Path, environment: &[(&str, String)], vfs: &str) -> Result<Worker> {
        Worker::start(environment, json!({"do": "open through", "library": library, "vfs": vfs}))
    }

    fn start(environment: &[(&str, String)], open: Value) -> Result<Worker> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(FLAG).envs(environment.iter().map(|(name, value)| (name, value)));
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = process.stdin.take();
        let output = BufReader::new(process.stdout.take().ok_or("no pipe from the worker")?);
        let (tell, answers) = channel();
        thread::spawn(move || output.lines().try_for_each(|line| tell.send(line)));
        let mut worker = Worker { process, requests, answers };
        worker.ask(open)?;
        Ok(worker)
    }

    /// The same, with the extension loaded.
    pub fn open_with(path: &Path, library: &Path) -> Result<Worker> {
        let mut worker = Worker::open(path)?;
        worker.ask(json!({"do": "load", "library": library}))?;
        Ok(worker)
    }

    /// Sends a request and waits for its answer.
    pub fn ask(&mut self, request: Value) -> Result<Value> {
        self.begin(request)?;
        self.answer()
    }

    /// Sends a request.
    pub fn begin(&mut self, request: Value) -> Result<()> {
        let requests = self.requests.as_mut().ok_or("the worker was told to end")?;
        Ok(writeln!(requests, "{request}")?)
    }

    /// Waits for the answer to the request that was sent.
    pub fn answer(&mut self) -> Result<Value> {
        let line =
            self.answers.recv_timeout(PATIENCE).map_err(|error| format!("no answer from a worker: {error}"))??;
        let answer: Value = serde_json::from_str(&line)?;
        match answer.get("error") {
            Some(error) => Err(error.to_string().into()),
            None => Ok(answer),
        }
    }

    /// Runs SQL and returns the first row.
    pub fn sql(&mut self, sql: &str) -> Result<Value> {
        self.ask(json!({"do": "sql", "sql": sql}))
    }

    /// Memory of the process in bytes, as the request `which` tells it: `memory` is what is resident now, from where `peak`
    /// starts again.
    pub fn bytes(&mut self, which: &str) -> Result<f64> {
        Ok(self.ask(json!({"do": which}))?.as_f64().ok_or("no number of bytes")?)
    }

    /// Processor time that the process has used, in nanoseconds.
    pub fn cpu_ns(&mut self) -> Result<f64> {
        Ok(self.ask(json!({"do": "cpu"}))?.as_f64().ok_or("no processor time")?)
    }

    /// The process, for what the system tells of it.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Runs SQL and returns how long it took, in nanoseconds.
    pub fn time(&mut self, sql: &str) -> Result<f64> {
        Ok(number(&self.ask(json!({"do": "time", "sql": sql}))?, "ns")? as f64)
    }

    /// Ends the process as a crash of it would.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Lets the process end as a program ordinarily does, and checks that it ended well.
    pub fn close(mut self) -> Result<()> {
        self.requests = None;
        let status = self.process.wait()?;
        if status.success() { Ok(()) } else { Err(format!("a worker ended with {status}").into()) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // After `close` there is no process any more, and both calls do nothing.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A request that a measurement defines: its name, its parameters, and the connection to do it on.
pub type Obey = fn(&str, &Value, &mut Connection) -> Result<Value>;

/// The main loop of a worker process: answers requests until its standard input is closed.
pub fn obey_until_closed(measurement: Obey) -> ExitCode {
    // The C library and the kernel spare a process with one thread what a server's, which has several, pays at each call: a
    // twentieth of a commit. What serves has threads, so all have.
    thread::spawn(|| {
        loop {
            thread::park();
        }
    });
    let mut connection = None;
    for line in std::io::stdin().lines() {
        let answer = line.map_err(Into::into).and_then(|line| {
            let request: Value = serde_json::from_str(&line)?;
            obey(&text(&request, "do")?, &request, &mut connection, measurement)
        });
        let answer = answer.unwrap_or_else(|error| json!({"error": error.to_string()}));
        println!("{answer}");
    }
    ExitCode::SUCCESS
}

fn obey(name: &str, request: &Value, slot: &mut Option<Connection>, measurement: Obey) -> Result<Value> {
    if name == "open" {
        *slot = Some(db::open(text(request, "path")?.as_ref())?);
        return Ok(json!({}));
    }
    if name == "open through" {
        *slot = Some(db::open_through(text(request, "library")?.as_ref(), &text(request, "vfs")?)?);
        return Ok(json!({}));
    }
    let connection = slot.as_mut().ok_or("no database is open")?;
    match name {
        "load" => {
            db::load(connection, text(request, "library")?.as_ref())?;
            Ok(json!({}))
        }
        "sql" => Ok(db::first_row(connection, &text(request, "sql")?)?.into()),
        "content" => content::read(connection),
        "time" => time(connection, &text(request, "sql")?),
        "memory" => {
            machine::forget_peak()?;
            Ok(machine::memory()?.0.into())
        }
        "cpu" => Ok(clock::process_cpu_ns().into()),
        "peak" => Ok(machine::memory()?.1.into()),
        _ => measurement(name, request, connection),
    }
}

/// Runs SQL and returns how long it took and the processor time of this process, in nanoseconds.
fn time(connection: &Connection, sql: &str) -> Result<Value> {
    let (began, cpu) = (clock::monotonic_ns(), clock::process_cpu_ns());
    db::first_row(connection, sql)?;
    Ok(json!({"ns": clock::monotonic_ns() - began, "cpu_ns": clock::process_cpu_ns() - cpu}))
}

/// A text in a request or an answer.
pub fn text(from: &Value, name: &str) -> Result<String> {
    Ok(from.get(name).and_then(Value::as_str).ok_or_else(|| format!("no text {name} in {from}"))?.to_owned())
}

/// A whole number in a request or an answer.
pub fn number(from: &Value, name: &str) -> Result<u64> {
    Ok(from.get(name).and_then(Value::as_u64).ok_or_else(|| format!("no number {name} in {from}"))?)
}
