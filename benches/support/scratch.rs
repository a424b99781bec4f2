//! A folder for the databases, removed at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;

/// A folder of this process alone; dropping it deletes it.
pub struct Scratch {
    root: PathBuf,
}

impl Scratch {
    /// Makes the folder below `parent`.
    pub fn create(parent: &Path) -> Result<Scratch> {
        let root = parent.join(std::process::id().to_string());
        fs::create_dir_all(&root)?;
        Ok(Scratch { root })
    }

    /// The path of an empty folder in it. What was there before is gone, and is off the disk's queue as well, so that
    /// nobody's measurement pays for what the one before left to be written.
    pub fn fresh(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        settle()?;
        Ok(folder)
    }

    /// Gives back the space of a folder that is not needed any more.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(fs::remove_dir_all(self.root.join(name))?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("bench: {} is left behind: {error}", self.root.display());
        }
    }
}

/// Waits until all file systems have written what they hold.
pub fn settle() -> Result<()> {
    let done = Command::new("sync").status()?;
    if done.success() { Ok(()) } else { Err("sync failed".into()) }
}
