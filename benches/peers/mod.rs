//! What a user would take instead: each in a file of its own, found where `benches/peers/setup` puts it.
//!
//! A peer that is not there, or that does not do its work, is left out, and the table says so.

pub mod backup;
pub mod litestream;
pub mod rsync;
pub mod vfs;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value};

use crate::support::Result;
use crate::support::options::Options;

/// Where Python's packages are below a virtual environment; the folder of the version is found.
const PACKAGES: &str = "lib";

/// The peers that are there.
pub struct Peers {
    folder: Option<PathBuf>,
}

impl Peers {
    /// Looks where the options say.
    pub fn find(options: &Options) -> Peers {
        Peers { folder: options.peers.clone() }
    }

    /// Litestream's program.
    pub fn litestream(&self) -> Result<PathBuf> {
        self.must_have(&self.folder()?.join("bin/litestream"))
    }

    /// The library with Litestream's VFS.
    pub fn litestream_vfs(&self) -> Result<PathBuf> {
        let name = format!("litestream-vfs{}", std::env::consts::DLL_SUFFIX);
        self.must_have(&self.packages()?.join("litestream_vfs").join(name))
    }

    /// SQLite's own program for copying what differs, as the wheel of apsw brings it.
    pub fn rsync(&self) -> Result<PathBuf> {
        self.must_have(&self.packages()?.join("apsw/sqlite_extra_binaries/sqlite3_rsync"))
    }

    /// The versions of those that are there, by their names.
    pub fn versions(&self) -> Map<String, Value> {
        let mut versions = Map::new();
        let programs =
            [("Litestream", self.litestream(), litestream::VERSION), ("sqlite3_rsync", self.rsync(), rsync::VERSION)];
        for (name, program, argument) in programs {
            let told = program.and_then(|program| Ok(Command::new(program).arg(argument).output()?));
            if let Ok(told) = told {
                versions.insert(name.to_owned(), String::from_utf8_lossy(&told.stdout).trim().into());
            }
        }
        versions
    }

    fn folder(&self) -> Result<&Path> {
        Ok(self.folder.as_deref().ok_or("left out by --no-peers")?)
    }

    /// The folder of Python's packages.
    fn packages(&self) -> Result<PathBuf> {
        let versions = self.folder()?.join(PACKAGES);
        let python = std::fs::read_dir(&versions).ok().and_then(|mut found| found.find_map(std::result::Result::ok));
        let python = python.ok_or_else(|| format!("nothing in {}; benches/peers/setup gets it", versions.display()))?;
        Ok(python.path().join("site-packages"))
    }

    fn must_have(&self, path: &Path) -> Result<PathBuf> {
        if path.is_file() {
            return Ok(path.to_owned());
        }
        Err(format!("not at {}; benches/peers/setup gets it", path.display()).into())
    }
}
