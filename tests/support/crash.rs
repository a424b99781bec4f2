//! What a power loss leaves of a database: all that was synced, and of the rest whatever the disk had got round to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::faulty_vfs::Role;

/// What is written as a whole or not at all.
const SECTOR: usize = 512;

/// The names and bytes of the files in a sidecar, without the one that is only locked.
pub type Sidecar = BTreeMap<String, Vec<u8>>;

/// Something done to a file.
#[derive(Clone, Debug)]
pub enum Change {
    /// Bytes written at an offset.
    Write(usize, Vec<u8>),
    /// Cut to a size, or removed (0).
    Truncate(usize),
    /// What was done before is durable.
    Sync,
    /// What was done before may be lost even when a later sync succeeds: the system does not keep what it could not write.
    FailedSync,
}

/// All that was done to the files of a database, in order.
pub struct Journal {
    before: [Vec<u8>; 2],
    events: Vec<Event>,
    last_sidecar: Arc<Sidecar>,
}

struct Event {
    role: Role,
    change: Change,
    /// The sidecar when it happened.
    sidecar: Arc<Sidecar>,
}

/// What became of that which was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Kept {
    Nothing,
    All,
    /// A half of all sectors and truncations, chosen by this seed.
    Some(u64),
}

/// What is found after a power loss.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Image {
    pub database: Vec<u8>,
    pub wal: Vec<u8>,
    pub sidecar: Sidecar,
}

impl Journal {
    /// Begins with the files as they are, which nobody may have open.
    pub fn begin(database: &Path) -> Journal {
        let read = |path: PathBuf| std::fs::read(path).unwrap_or_default();
        let before = [read(database.to_path_buf()), read(with_suffix(database, "-wal"))];
        Journal { before, events: Vec::new(), last_sidecar: Arc::new(sidecar(database)) }
    }

    /// Adds what was just done.
    pub fn note(&mut self, database: &Path, role: Role, change: Change) {
        let now = self.sidecar_now(database);
        self.events.push(Event { role, change, sidecar: now });
    }

    /// Takes down what the sidecar was in the end.
    pub fn ended(mut self, database: &Path) -> Journal {
        self.sidecar_now(database);
        self
    }

    fn sidecar_now(&mut self, database: &Path) -> Arc<Sidecar> {
        let now = sidecar(database);
        if now != *self.last_sidecar {
            self.last_sidecar = Arc::new(now);
        }
        Arc::clone(&self.last_sidecar)
    }

    /// How many things were done.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// What was done last before moment `at`.
    pub fn last(&self, at: usize) -> String {
        match at.checked_sub(1).and_then(|i| self.events.get(i)) {
            None => "nothing".to_string(),
            Some(Event { role, change: Change::Write(to, bytes), .. }) => {
                format!("{} bytes written to the {role:?} at {to}", bytes.len())
            }
            Some(Event { role, change, .. }) => format!("{change:?} of the {role:?}"),
        }
    }

    /// What a power loss after the first `at` things would leave: with the sidecar as it was just after them, and as it was just
    /// before the next.
    pub fn images(&self, at: usize, kept: Kept) -> Vec<Image> {
        let database = self.file(Role::Database, at, kept);
        let wal = self.file(Role::Wal, at, kept);
        let after = at.checked_sub(1).and_then(|i| self.events.get(i)).map(|event| &event.sidecar);
        let next = self.events.get(at).map_or(&self.last_sidecar, |event| &event.sidecar);
        let mut sidecars = vec![after.unwrap_or(next), next];
        sidecars.dedup();
        let image = |sidecar: &Arc<Sidecar>| Image {
            database: database.clone(),
            wal: wal.clone(),
            sidecar: Sidecar::clone(sidecar),
        };
        sidecars.into_iter().map(image).collect()
    }

    fn file(&self, role: Role, at: usize, kept: Kept) -> Vec<u8> {
        let mut random = Random(match kept {
            Kept::Some(seed) => seed.wrapping_mul(2).wrapping_add(role as u64) ^ 0x9e37_79b9_7f4a_7c15,
            _ => 0,
        });
        let events: Vec<&Change> =
            self.events[..at].iter().filter(|event| event.role == role).map(|event| &event.change).collect();
        let mut bytes = self.before[role as usize].clone();
        for (i, change) in events.iter().enumerate() {
            // The next sync decides; what it failed to make durable may be lost for ever.
            let sync = events[i..].iter().find(|change| matches!(change, Change::Sync | Change::FailedSync));
            let durable = matches!(sync, Some(Change::Sync));
            let mut stays = || match kept {
                _ if durable => true,
                Kept::Nothing => false,
                Kept::All => true,
                Kept::Some(_) => random.next() & 1 == 1,
            };
            match change {
                Change::Write(to, new) => write_sectors(&mut bytes, *to, new, stays),
                Change::Truncate(size) if stays() => bytes.resize(*size, 0),
                _ => {}
            }
        }
        bytes
    }
}

impl Image {
    /// Puts it into `folder` as `name`, with its sidecar.
    pub fn put(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, &self.database).expect("writing a database");
        if !self.wal.is_empty() {
            std::fs::write(with_suffix(&path, "-wal"), &self.wal).expect("writing a WAL");
        }
        let beside = with_suffix(&path, "-litestream");
        std::fs::create_dir_all(&beside).expect("a sidecar");
        for (name, bytes) in &self.sidecar {
            std::fs::write(beside.join(name), bytes).expect("writing a file of a sidecar");
        }
        path
    }

    /// The position in the sidecar.
    pub fn position(&self) -> Option<String> {
        self.sidecar.get("position").map(|bytes| String::from_utf8_lossy(bytes).trim().to_string())
    }
}

fn write_sectors(bytes: &mut Vec<u8>, mut to: usize, mut new: &[u8], mut stays: impl FnMut() -> bool) {
    while !new.is_empty() {
        let (piece, rest) = new.split_at((SECTOR - to % SECTOR).min(new.len()));
        if stays() {
            if bytes.len() < to + piece.len() {
                bytes.resize(to + piece.len(), 0);
            }
            bytes[to..to + piece.len()].copy_from_slice(piece);
        }
        (to, new) = (to + piece.len(), rest);
    }
}

fn sidecar(database: &Path) -> Sidecar {
    let Ok(entries) = std::fs::read_dir(with_suffix(database, "-litestream")) else { return Sidecar::new() };
    let files = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?.to_string();
        // One that is gone meanwhile is gone.
        if name == "lock" { None } else { Some((name, std::fs::read(path).ok()?)) }
    });
    files.collect()
}

/// `path` with something behind it.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Numbers that look random, and are the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) >> 7
    }
}
