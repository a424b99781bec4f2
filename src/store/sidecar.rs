//! The folder `<database>-litestream/`: where a replica was, and who feeds or serves the database.
//!
//! | file | holds |
//! |---|---|
//! | `position` | one line, `generation/index:offset`; of a replica never ahead of what is durable in it, of a primary while it is served |
//! | `upstream` | one line, the URL a replica follows |
//! | `generation` | one line, `generation/index`: the history that is written here, and an index that no position of it has reached |
//! | `pages` | what was known of every page when the database was last let go of ([`crate::format::page_file`]) |
//! | `config.json` | settings of the database, which people write, too |
//! | `copy-*` | nothing, for an instant: a copy of the database that is being sent, which has no name from then on |
//! | `lock` | the process id of whoever serves or feeds the database, locked while it does |
//!
//! Every file is replaced as a whole: written beside, synced, renamed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::copy::private;
use super::page_file::{self, Entry};
use crate::base::{Error, Generation, Kind, Position, Result};
use crate::format::page_file::Header;
use crate::sqlite::{FileId, random_bytes};

/// The longest file of settings, in bytes.
const LONGEST_CONFIG: u64 = 1 << 20;

/// How often, and after which pause, a lock that somebody has is tried again.
const ASKERS: u32 = 3;
const ASKING: Duration = Duration::from_millis(2);

/// How often the holder of a lock sees whether it is still the one at its path.
const KEPT_EVERY: Duration = Duration::from_secs(1);

/// The sidecar folder of one database.
pub struct Sidecar {
    folder: PathBuf,
}

/// The right to serve or feed the database, kept from all other processes until dropped.
pub struct SidecarLock {
    folder: PathBuf,
    role: String,
    held: Mutex<Held>,
}

/// The file that is locked, and when it was last known to be the one at its path.
struct Held {
    file: File,
    seen: Instant,
}

impl SidecarLock {
    /// Sees once a second whether the lock that other processes would take is the one held here,
    /// and takes it anew where the folder was removed. Whether it was, and what else was in it is
    /// gone.
    ///
    /// # Errors
    /// Another process has taken the lock meanwhile, or the folder cannot be made.
    pub fn keep(&self) -> Result<bool> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.seen.elapsed() < KEPT_EVERY {
            return Ok(false);
        }
        let own = held.file.metadata().ok().map(|file| FileId::of(&file));
        // Where the system does not tell for now, the lock is held as it was.
        let Ok(at_path) = FileId::find(&self.folder.join("lock")) else { return Ok(false) };
        if own.is_some() && own == at_path {
            held.seen = Instant::now();
            return Ok(false);
        }
        let was_removed =
            |e: Error| e.within(format!("litestream: {} was removed while it was in use", self.folder.display()));
        held.file = take(&self.folder, &self.role).map_err(was_removed)?;
        held.seen = Instant::now();
        log::warn!("{} was removed while it was in use, and is made again", self.folder.display());
        Ok(true)
    }
}

impl Drop for SidecarLock {
    /// Closing the file would not do: a child that the host is just forking has it open too.
    fn drop(&mut self) {
        let _ = self.held.get_mut().unwrap_or_else(PoisonError::into_inner).file.unlock();
    }
}

impl Sidecar {
    /// The folder beside `database`. Nothing is made or read yet.
    pub fn of(database: &Path) -> Sidecar {
        Sidecar { folder: beside(database, "-litestream") }
    }

    /// Makes the folder where it is missing, and takes its lock. `role` says in errors what for.
    pub fn lock(&self, role: &str) -> Result<SidecarLock> {
        let held = Mutex::new(Held { file: take(&self.folder, role)?, seen: Instant::now() });
        Ok(SidecarLock { folder: self.folder.clone(), role: role.into(), held })
    }

    /// Whether somebody serves or feeds the database just now.
    pub fn is_taken(&self) -> bool {
        let Ok(file) = File::open(self.folder.join("lock")) else { return false };
        // Others that ask do so, too, and must not be taken for somebody who has it.
        let taken = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        let _ = file.unlock();
        taken
    }

    /// Where the settings of the database are.
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// The settings of the database as they stand in their file. None if there is no such file.
    pub fn config(&self) -> Result<Option<String>> {
        let path = self.config_path();
        let failed = |what: &dyn std::fmt::Display| {
            Error::new(Kind::CantOpen, format!("litestream: {} cannot be read: {what}", path.display()))
        };
        let file = match File::open(&path) {
            // A link that leads nowhere is there.
            Err(e) if e.kind() == ErrorKind::NotFound && fs::symlink_metadata(&path).is_err() => return Ok(None),
            // What is in the way of the folder holds no settings.
            Err(e) if e.kind() == ErrorKind::NotADirectory => return Ok(None),
            file => file.map_err(|e| failed(&e))?,
        };
        let mut bytes = Vec::new();
        file.take(LONGEST_CONFIG + 1).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
        if bytes.len() as u64 > LONGEST_CONFIG {
            return Err(failed(&format!("it is larger than {LONGEST_CONFIG} bytes")));
        }
        String::from_utf8(bytes).map(Some).map_err(|_| failed(&"it is not UTF-8"))
    }

    /// Records the settings. A file that is there keeps its permissions, unless only this user is to read it from now on.
    pub fn set_config(&self, text: &str, for_user_only: bool) -> Result<()> {
        let path = self.config_path();
        let failed = |e: std::io::Error| Error::io(format!("litestream: writing {}", path.display()), &e);
        make_folder(&self.folder).map_err(failed)?;
        let permissions = fs::metadata(&path).map(|file| file.permissions()).ok().filter(|_| !for_user_only);
        let beside = path.with_extension("tmp");
        // One that is left over may be readable to others.
        let _ = fs::remove_file(&beside);
        let made = if for_user_only { private(&beside) } else { File::create(&beside) }.map_err(failed)?;
        permissions.map_or(Ok(()), |permissions| made.set_permissions(permissions)).map_err(failed)?;
        drop(made);
        replace(&path, |mut file| writeln!(file, "{text}"))
    }

    /// The position the replica is known to have reached. A missing or damaged file is none.
    pub fn position(&self) -> Option<Position> {
        self.read("position")?.parse().ok()
    }

    /// The upstream the replica follows.
    pub fn upstream(&self) -> Option<String> {
        self.read("upstream")
    }

    /// Records the position. What it speaks of must be durable already.
    pub fn set_position(&self, position: &Position) -> Result<()> {
        self.replace("position", &position.to_string())
    }

    /// Shows the position of a primary, for people and other processes. Nothing depends on it, so it is not made durable.
    pub fn show_position(&self, position: &Position) -> Result<()> {
        let (beside, path) = (self.folder.join("position.tmp"), self.folder.join("position"));
        let written = fs::write(&beside, format!("{position}\n")).and_then(|()| fs::rename(&beside, &path));
        written.map_err(|e| Error::io(format!("litestream: writing {}", path.display()), &e))
    }

    /// The generation of the primary, and an index that none of its positions has reached. None if it was never served, or the
    /// file is damaged.
    pub fn generation(&self) -> Option<(Generation, u64)> {
        // Written in the form of a position, whose offset says nothing.
        let Position { generation, index, .. } = format!("{}:{:016x}", self.read("generation")?, 0).parse().ok()?;
        Some((generation, index))
    }

    /// Records the generation, and an index that none of its positions will reach before this is called again.
    pub fn set_generation(&self, generation: Generation, index: u64) -> Result<()> {
        self.replace("generation", &format!("{generation}/{index:016x}"))
    }

    /// What was known of the pages. Missing, damaged or of another version is nothing.
    pub fn pages(&self) -> Option<(Header, Vec<Entry>)> {
        page_file::read(&self.folder.join("pages")).inspect_err(|e| log::info!("{}: {e}", self.folder.display())).ok()
    }

    /// Records what is known of the pages.
    pub fn set_pages(&self, header: &Header, entries: impl Iterator<Item = Entry>) -> Result<()> {
        page_file::write(&self.folder.join("pages"), header, entries)
    }

    /// Forgets what was known of the pages.
    pub fn forget_pages(&self) -> Result<()> {
        self.remove("pages")
    }

    /// Forgets that the database was a primary: it becomes a replica, and what was said of its history is no longer true.
    pub fn forget_generation(&self) -> Result<()> {
        self.remove("generation")?;
        self.forget_pages()
    }

    /// Records the upstream.
    pub fn set_upstream(&self, url: &str) -> Result<()> {
        self.replace("upstream", url)
    }

    /// Forgets position and upstream: the database is nobody's replica any more, or about to be another's.
    pub fn forget(&self) -> Result<()> {
        self.forget_position()?;
        self.forget_pages()?;
        self.remove("upstream")
    }

    /// Forgets the position: what the replica holds is not known any more.
    pub fn forget_position(&self) -> Result<()> {
        self.remove("position")
    }

    /// An empty file without a name, on the disk that the database is on. It is gone with the last handle.
    pub fn nameless(&self) -> Result<File> {
        let path = self.folder.join(format!("copy-{:016x}", u64::from_le_bytes(random_bytes())));
        let made = private(&path).and_then(|file| fs::remove_file(&path).map(|()| file));
        made.map_err(|e| Error::io(format!("litestream: making a file in {}", self.folder.display()), &e))
    }

    /// Removes a file for good: one that comes back after a power loss would say again what is not true any more.
    fn remove(&self, name: &str) -> Result<()> {
        let path = self.folder.join(name);
        match fs::remove_file(&path).and_then(|()| sync_folder_of(&path)) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(Error::io(format!("litestream: removing {}", path.display()), &e))
            }
            _ => Ok(()),
        }
    }

    fn read(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder.join(name)).ok()?;
        Some(text.strip_suffix('\n')?.to_string())
    }

    fn replace(&self, name: &str, line: &str) -> Result<()> {
        replace(&self.folder.join(name), |mut file| writeln!(file, "{line}"))
    }
}

/// Makes a sidecar folder where it is missing, and takes its lock. `role` says in errors what for.
fn take(folder: &Path, role: &str) -> Result<File> {
    let cannot = |e: std::io::Error| {
        let folder = folder.display();
        Error::new(
            Kind::CantOpen,
            format!("litestream: the folder {folder} cannot be written: {e}; it must be, to {role}"),
        )
    };
    make_folder(folder).map_err(cannot)?;
    let path = folder.join("lock");
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(cannot)?;
    match patiently_lock(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            return Err(Error::new(
                Kind::Taken,
                format!(
                    "litestream: cannot {role}: process {} already serves or follows this database; stop it there first",
                    holder.trim()
                ),
            ));
        }
        Err(TryLockError::Error(e)) => return Err(cannot(e)),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(cannot)?;
    Ok(file)
}

/// Makes a folder that outlasts a power loss: what is made durable in it would be lost with it.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    sync_folder_of(folder)
}

/// Takes the lock of a file. Whoever only asks whether it is taken has it for an instant, too.
fn patiently_lock(file: &File) -> std::result::Result<(), TryLockError> {
    for _ in 0..ASKERS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(ASKING),
            done => return done,
        }
    }
    file.try_lock()
}

/// Replaces the file at `path` as a whole by what `write` writes. It is durable then, and was never half there.
pub(super) fn replace(path: &Path, write: impl FnOnce(&File) -> std::io::Result<()>) -> Result<()> {
    let beside = path.with_extension("tmp");
    let written = File::create(&beside).and_then(|file| {
        write(&file)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync_folder_of(path)
    });
    written.map_err(|e| Error::io(format!("litestream: writing {}", path.display()), &e))
}

/// A rename is durable when its folder is.
pub fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// What belongs to `database` and has its name with `suffix` added, such as its WAL with `-wal`.
pub fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}
