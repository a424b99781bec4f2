//! Litestream: a daemon beside the primary ships what changes into an archive, here a folder, and `restore` makes a database of
//! it; with `-f` it goes on to apply what comes.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Result;
use crate::support::child::{self, Daemon, Ran};

/// What makes it tell its version.
pub const VERSION: &str = "version";

/// How often the daemon looks for commits and ships them, and how often a follower looks for what was shipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As it comes: a second for each.
    Defaults,
    /// So many milliseconds for each.
    Millis(u64),
}

impl Pace {
    /// What the table calls it.
    pub fn title(self) -> String {
        match self {
            Pace::Defaults => "at its defaults".to_owned(),
            Pace::Millis(millis) => format!("every {millis} ms"),
        }
    }
}

/// A database and its archive.
pub struct Archive {
    program: PathBuf,
    database: PathBuf,
    folder: PathBuf,
    configuration: PathBuf,
    pace: Pace,
}

impl Archive {
    /// Describes an archive beside the database.
    pub fn of(program: PathBuf, database: &Path, pace: Pace) -> Result<Archive> {
        let (folder, configuration) = (database.with_extension("archive"), database.with_extension("yml"));
        let archive = Archive { program, database: database.to_owned(), folder, configuration, pace };
        fs::write(&archive.configuration, archive.settings())?;
        Ok(archive)
    }

    fn settings(&self) -> String {
        let (database, folder) = (self.database.display(), self.folder.display());
        let (monitor, sync) = match self.pace {
            Pace::Defaults => (String::new(), String::new()),
            Pace::Millis(millis) => {
                (format!("    monitor-interval: {millis}ms\n"), format!("      sync-interval: {millis}ms\n"))
            }
        };
        format!("dbs:\n  - path: {database}\n{monitor}    replica:\n      type: file\n      path: {folder}\n{sync}")
    }

    /// What `restore` and the VFS take.
    pub fn url(&self) -> String {
        format!("file://{}", self.folder.display())
    }

    /// Starts the daemon, and waits until the archive holds all of the database.
    pub fn replicate(&self) -> Result<Daemon> {
        let mut daemon = Daemon::start(
            self.command("replicate").arg("-config").arg(&self.configuration),
            &self.database.with_extension("log"),
        )?;
        daemon.says("snapshot complete")?;
        Ok(daemon)
    }

    /// Ships all of the database once.
    pub fn replicate_once(&self) -> Result<Ran> {
        child::run(self.command("replicate").arg("-once").arg("-config").arg(&self.configuration))
    }

    /// Makes a database of the archive.
    pub fn restore(&self, to: &Path) -> Result<Ran> {
        child::run(self.command("restore").arg("-o").arg(to).arg(self.url()))
    }

    /// Starts to follow the archive into a database, and waits until that holds what there is; one that was followed into before
    /// is taken up where it stands.
    pub fn follow(&self, to: &Path) -> Result<Daemon> {
        let mut follower = self.take_up(to)?;
        follower.says("entering follow mode")?;
        Ok(follower)
    }

    /// The same without the wait.
    pub fn take_up(&self, to: &Path) -> Result<Daemon> {
        let mut command = self.command("restore");
        command.arg("-f").arg("-o").arg(to);
        if let Pace::Millis(millis) = self.pace {
            command.arg("-follow-interval").arg(format!("{millis}ms"));
        }
        Daemon::start(command.arg(self.url()), &to.with_extension("log"))
    }

    /// The newest transaction in the archive: 16 hex digits.
    pub fn newest(&self) -> Result<String> {
        let mut newest = String::new();
        for level in fs::read_dir(self.folder.join("ltx"))? {
            for file in fs::read_dir(level?.path())? {
                let path = file?.path();
                // First and last transaction in it: two numbers with a dash between.
                let name = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
                let last = name.rsplit('-').next().unwrap_or_default();
                if path.extension() == Some(OsStr::new("ltx")) && last > newest.as_str() {
                    newest = last.to_owned();
                }
            }
        }
        if newest.is_empty() { Err("the archive is empty".into()) } else { Ok(newest) }
    }

    /// The transaction up to which a database has followed.
    pub fn reached(replica: &Path) -> String {
        let mut path = replica.as_os_str().to_owned();
        path.push("-txid");
        fs::read_to_string(path).unwrap_or_default().trim().to_owned()
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(name);
        command
    }
}
