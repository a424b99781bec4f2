//! A live `sqlite3` shell: SQL goes in, answers come out, and the process stays as long as the value does.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::{finish, library, lines_of};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A `sqlite3` process of the system with a database open.
pub struct Shell {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    database: PathBuf,
    questions: u32,
}

impl Shell {
    /// A shell on `database` with the library loaded.
    pub fn open(database: &Path) -> Shell {
        Shell::with(database, |_| ())
    }

    /// The same; `change` may change the command before it runs.
    pub fn with(database: &Path, change: impl FnOnce(&mut Command)) -> Shell {
        let mut shell = Shell::start(database, change);
        shell.run(&format!(".load '{}'", library().display()));
        shell
    }

    /// A shell on `database` as everybody has it, without the library.
    pub fn stock(database: &Path) -> Shell {
        Shell::start(database, |_| ())
    }

    /// A shell with these variables in its environment, and with the library loaded.
    pub fn told(database: &Path, variables: &[(&str, &str)]) -> Shell {
        Shell::with(database, |command| {
            command.envs(variables.iter().copied());
        })
    }

    /// The error that loading the library ends with in a shell with these variables in its environment. The shell goes on.
    pub fn not_loading(database: &Path, variables: &[(&str, &str)]) -> (Shell, String) {
        let mut shell = Shell::start(database, |command| {
            command.envs(variables.iter().copied());
        });
        let error = shell.refused(&format!(".load '{}'", library().display()));
        (shell, error)
    }

    /// What comes from both of its outputs is read as one, so that errors stay in their place among the rows.
    fn start(database: &Path, change: impl FnOnce(&mut Command)) -> Shell {
        let (output, end) = std::io::pipe().expect("a pipe");
        let mut command = Command::new("sqlite3");
        command.arg("-batch").arg(database).stdin(Stdio::piped());
        let variables = std::env::vars_os().map(|(name, _)| name);
        variables.filter(|name| name.to_string_lossy().starts_with("LITESTREAM_")).for_each(|name| {
            command.env_remove(name);
        });
        command.stdout(end.try_clone().expect("a second end of a pipe")).stderr(end);
        change(&mut command);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("starting sqlite3 (Debian's package sqlite3): {e}"));
        drop(command);
        let lines = lines_of(output);
        let input = child.stdin.take();
        Shell { child, input, lines, database: database.to_path_buf(), questions: 0 }
    }

    /// Runs SQL or a dot command that must not fail.
    pub fn run(&mut self, sql: &str) {
        self.ask(sql);
    }

    /// What SQL that must not fail gives, columns separated by `|`.
    pub fn ask(&mut self, sql: &str) -> String {
        self.answer(sql).unwrap_or_else(|e| panic!("{}: {sql}\nfailed: {e}", self.database.display()))
    }

    /// The error that SQL must end with.
    pub fn refused(&mut self, sql: &str) -> String {
        match self.answer(sql) {
            Err(error) => error,
            Ok(rows) => panic!("{}: {sql}\ngave '{rows}' and should have been refused", self.database.display()),
        }
    }

    /// What SQL gives, or the error it ends with.
    pub fn answer(&mut self, sql: &str) -> Result<String, String> {
        self.send(sql);
        self.receive()
    }

    /// Gives SQL to the shell and leaves it to [`Shell::receive`] to wait for the answer.
    pub fn send(&mut self, sql: &str) {
        self.questions += 1;
        let end = if sql.starts_with('.') { "" } else { ";" };
        let text = format!("{sql}{end}\n.print {}\n", self.end_of_answer());
        let input = self.input.as_mut().expect("a shell that takes input");
        let sent = input.write_all(text.as_bytes()).and_then(|()| input.flush());
        if let Err(e) = sent {
            let status = self.child.wait().expect("waiting for a shell that takes no more input");
            panic!("{}: the shell takes no more input ({e}) and ended with {status}", self.database.display());
        }
    }

    /// What the SQL sent last gives, or the error it ends with.
    pub fn receive(&mut self) -> Result<String, String> {
        let (end, start) = (self.end_of_answer(), Instant::now());
        let mut rows = Vec::new();
        let mut errors = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                Ok(line) if line == end => break,
                Ok(line) if is_error(&line) => errors.push(line),
                Ok(line) => rows.push(line),
                Err(why) => panic!("{}: {}; it had said {rows:?} {errors:?}", self.database.display(), gone(why)),
            }
        }
        if errors.is_empty() { Ok(rows.join("\n")) } else { Err(errors.join("\n")) }
    }

    /// What a shell still says that ends by itself.
    pub fn ended(self) -> Vec<String> {
        let start = Instant::now();
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => return lines,
                Err(why) => panic!("{}: {}; it had said {lines:?}", self.database.display(), gone(why)),
            }
        }
    }

    fn end_of_answer(&self) -> String {
        format!("--end-of-answer-{}--", self.questions)
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process where it is (`SIGKILL`): nothing of it gets to clean up.
    pub fn kill(mut self) {
        self.child.kill().expect("killing a shell");
        self.child.wait().expect("the end of a killed shell");
    }

    /// Ends the shell as a person does, by ending its input.
    pub fn quit(mut self) -> ExitStatus {
        self.input = None;
        finish(&mut self.child)
    }
}

fn is_error(line: &str) -> bool {
    ["Error", "Runtime error", "Parse error"].iter().any(|start| line.starts_with(start))
}

fn gone(why: RecvTimeoutError) -> String {
    match why {
        RecvTimeoutError::Timeout => format!("the shell did not answer within {} s", PATIENCE.as_secs()),
        RecvTimeoutError::Disconnected => "the shell has ended".to_string(),
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
