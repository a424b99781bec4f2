//! Both ends, and what happens between them.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;

use super::random::Random;
use super::upstream::Link;
use super::workload::Workload;
use super::{folder, install, memory_vfs, open, pages};
use crate::base::{Error, Kind, Result};
use crate::format::checksum::PageChecksum;
use crate::format::compression::Compression;
use crate::primary::stepping::Stepped;
use crate::primary::{Ask, Feed, Options, Step, Version};
use crate::replica::stepping::{After, feed};
use crate::replica::{Have, ManualApply, Options as ReplicaOptions, Progress};

/// Where the mark of a replica is, which its pages may differ in.
const MARK: usize = 18;
/// How much of what was done is told when something is wrong.
const TOLD: usize = 60;
/// More steps than any catch-up takes.
const PATIENCE: u64 = 100_000;
/// More than any WAL gets: the tail leaves checkpoints to the workload, which needs no time to
/// pass.
const NEVER: u32 = u32::MAX / 2;

/// What a run, or several, came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Things that the application did.
    pub commits: u64,
    /// Times that the replica was compared with the primary.
    pub compared: u64,
    /// Streams that began with a catch-up, and live ones that came to need one.
    pub catch_ups: u64,
    /// WALs applied as a whole.
    pub wals: u64,
    /// Times that either end was started anew.
    pub restarts: u64,
}

impl Outcome {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Outcome) {
        self.commits += other.commits;
        self.compared += other.compared;
        self.catch_ups += other.catch_ups;
        self.wals += other.wals;
        self.restarts += other.restarts;
    }
}

/// The primary, its application, the way to the replica, and those who read the replica.
pub struct World {
    seed: u64,
    random: Random,
    folder: PathBuf,
    workload: Workload,
    stepped: Option<Stepped>,
    feed: Option<Feed>,
    progress: Arc<Progress>,
    /// What the feed gave last, and how much of it was read.
    chunk: Bytes,
    read: usize,
    /// After how many bytes the stream is cut.
    cut_in: Option<usize>,
    /// Whether the stream has ended, and what the replica does then.
    ended: Option<After>,
    /// Whether something was done that the tail has not looked at.
    unseen: bool,
    /// A reader of the replica, and one that stays in a transaction, with the pages it began with.
    reader: Option<Connection>,
    held: Option<(Connection, Vec<u8>)>,
    left: u64,
    /// How many steps of the feed there were since it last had nothing to send.
    again: u64,
    outcome: Outcome,
    story: VecDeque<String>,
}

impl World {
    /// One run: a primary and a replica, compared so many times.
    pub fn run(seed: u64, steps: u64) -> Outcome {
        install();
        let world = Arc::new(Mutex::new(World::begin(seed, steps)));
        let link = Link(Arc::clone(&world));
        let lock = || world.lock().unwrap_or_else(PoisonError::into_inner);
        while lock().left > 0 {
            let (replica, progress, frames) = {
                let mut world = lock();
                world.outcome.restarts += 1;
                let frames = world.random.one_of(&[8, 30, 200, 20_000]);
                world.progress = Arc::new(Progress::default());
                (world.replica(), Arc::clone(&world.progress), frames)
            };
            let options =
                ReplicaOptions { checkpoint_frames: frames, audit: Duration::ZERO, ..ReplicaOptions::default() };
            let fed = feed(&replica, memory_vfs::NAME, &link, options, &progress, |ended| lock().stream_ended(ended));
            if let Err(error) = fed {
                lock().fail(&format!("the replica: {error}"));
            }
        }
        let world = lock();
        world.check_integrity();
        world.outcome
    }

    fn begin(seed: u64, steps: u64) -> World {
        let mut random = Random::new(seed);
        let folder = folder(seed);
        let page_size = random.one_of(&[512, 512, 512, 1024, 1024, 4096, 65536]);
        let primary = folder.join("primary.db");
        let workload = Workload::begin(open(&primary), open(&primary), page_size, &mut random);
        World {
            seed,
            random,
            folder,
            workload,
            stepped: None,
            feed: None,
            progress: Arc::new(Progress::default()),
            chunk: Bytes::new(),
            read: 0,
            cut_in: None,
            ended: None,
            unseen: true,
            reader: None,
            held: None,
            left: steps,
            again: 0,
            outcome: Outcome::default(),
            story: VecDeque::from([format!("pages of {page_size} bytes")]),
        }
    }

    fn primary(&self) -> PathBuf {
        self.folder.join("primary.db")
    }

    fn replica(&self) -> PathBuf {
        self.folder.join("replica.db")
    }

    fn tell(&mut self, what: String) {
        if self.story.len() == TOLD {
            self.story.pop_front();
        }
        self.story.push_back(what);
    }

    fn fail(&self, what: &str) -> ! {
        let story: Vec<&str> = self.story.iter().map(String::as_str).collect();
        panic!(
            "model: {what}\nafter {} comparisons; again by `make model SEED={} SECONDS=1`. What was done last:\n  {}",
            self.outcome.compared,
            self.seed,
            story.join("\n  ")
        );
    }

    /// Panics if something failed.
    fn sure<T>(&self, what: &str, result: Result<T>) -> T {
        result.unwrap_or_else(|error| self.fail(&format!("{what}: {error}")))
    }

    // --- the primary
    // -------------------------------------------------------------------------------------------------

    fn stepped(&mut self) -> &mut Stepped {
        if self.stepped.is_none() {
            let options = Options { checkpoint_frames: NEVER, wal_limit: 0, heartbeat: Duration::from_secs(3600) };
            let started = Stepped::start(&self.primary(), memory_vfs::NAME, options);
            self.stepped = Some(self.sure("serving", started));
            self.outcome.restarts += 1;
        }
        self.stepped.as_mut().expect("just made")
    }

    /// A feed for a replica that has this.
    pub fn open_feed(&mut self, have: Have) -> Result<Compression> {
        let compression = self.random.one_of(&[Compression::None, Compression::Lz4]);
        let (mut position, mut checksums) = (None, None);
        match &have {
            Have::Nothing => {}
            Have::Position(at) => position = Some(*at),
            Have::Pages(known) => {
                let sums = known.sums.chunks_exact(8).map(|sum| u64::from_be_bytes(sum.try_into().expect("8 bytes")));
                checksums = Some(sums.map(PageChecksum::from_u64).collect());
            }
        }
        let ask = Ask {
            version: Version::V2,
            generation: position.map(|p| p.generation),
            index: position.map(|p| p.index),
            offset: position.map(|p| p.offset),
            checksums,
            compression,
            client: "model".into(),
        };
        let has = match &have {
            Have::Nothing => "nothing".to_string(),
            Have::Position(at) => at.to_string(),
            Have::Pages(known) => format!("{} checksums", known.sums.len() / 8),
        };
        self.tell(format!("a stream for a replica that has {has}"));
        let primary = Arc::clone(self.stepped().primary());
        self.feed = Some(primary.open_feed(ask)?);
        self.outcome.catch_ups += 1;
        (self.chunk, self.read, self.cut_in, self.ended) = (Bytes::new(), 0, None, None);
        if self.random.once_in(6) {
            self.cut_in = Some(self.random.below(3 << 14));
        }
        Ok(compression)
    }

    fn work(&mut self) {
        let did = self.workload.step(&mut self.random);
        self.tell(did);
        self.outcome.commits += 1;
        self.unseen = true;
    }

    fn turn(&mut self) {
        self.unseen = false;
        let turned = self.stepped().turn();
        self.sure("a turn of the tail", turned);
    }

    fn restart_primary(&mut self) {
        let in_order = self.random.once_in(2);
        self.tell(format!("the primary ends {}", if in_order { "in order" } else { "by being killed" }));
        self.feed = None;
        if let Some(stepped) = self.stepped.take() {
            let ended = stepped.end(in_order);
            self.sure("ending to serve", ended);
        }
        for _ in 0..self.random.below(4) {
            self.work();
        }
    }

    // --- the stream
    // --------------------------------------------------------------------------------------------------

    /// What comes next on the stream. 0 when it has ended.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        loop {
            if self.ended.is_some() {
                return 0;
            }
            let rest = self.chunk.len() - self.read;
            if rest > 0 {
                let n = out.len().min(rest).min(self.cut_in.unwrap_or(usize::MAX));
                if n == 0 {
                    self.tell("the stream is cut".into());
                    self.ended = Some(After::Reconnect);
                    return 0;
                }
                out[..n].copy_from_slice(&self.chunk[self.read..self.read + n]);
                self.read += n;
                self.cut_in = self.cut_in.map(|left| left - n);
                return n;
            }
            let Some(feed) = &mut self.feed else {
                self.ended = Some(After::Reconnect);
                return 0;
            };
            match feed.step() {
                Ok(Step::Send(bytes)) => (self.chunk, self.read) = (bytes, 0),
                Ok(Step::Again) => {
                    self.again += 1;
                    if self.again > PATIENCE {
                        self.fail("the feed comes to no end");
                    }
                }
                Ok(Step::Wait) => {
                    self.again = 0;
                    self.quiet();
                    continue;
                }
                Ok(Step::End) => self.fail("the feed has ended"),
                Err(error) => self.fail(&format!("the feed: {error}")),
            }
            if self.random.once_in(12) {
                self.work();
            }
            if self.unseen && self.random.once_in(3) {
                self.turn();
            }
        }
    }

    /// The replica has applied everything that the feed had.
    fn quiet(&mut self) {
        if self.unseen {
            return self.turn();
        }
        self.compare();
        if self.left == 0 {
            self.ended = Some(After::End);
            return;
        }
        self.left -= 1;
        match self.random.below(1000) {
            0..=24 => self.beat(),
            25..=54 => self.let_go(),
            55..=74 => self.cut_in = Some(self.random.below(3 << 13)),
            75..=84 => self.restart_primary(),
            85..=94 => self.end_replica(),
            95..=99 => self.remove_replica(),
            100..=129 => self.hold(),
            130..=149 => self.die_writing(),
            150..=174 => self.apply_wal(),
            175..=189 => {
                // More than the log keeps.
                for _ in 0..30 {
                    self.work();
                    self.turn();
                }
            }
            _ => {
                for _ in 0..=self.random.one_of(&[0, 0, 0, 1, 3]) {
                    self.work();
                }
            }
        }
    }

    fn beat(&mut self) {
        if let Some(bytes) = self.feed.as_mut().and_then(Feed::heartbeat) {
            (self.chunk, self.read) = (bytes, 0);
        }
    }

    fn let_go(&mut self) {
        let let_go = self.stepped().let_go();
        self.sure("letting go of the WAL", let_go);
        self.tell("the tail lets go".into());
        for _ in 0..1 + self.random.below(5) {
            self.work();
        }
    }

    /// The stream has ended with this. What the replica does next.
    fn stream_ended(&mut self, result: Result<()>) -> After {
        let after = self.ended.take();
        self.feed = None;
        match (&result, after) {
            (Err(error), Some(after)) if is_of_a_cut(error) => return after,
            // A primary that was killed asks what the replica has; but once in five seconds the
            // follower would pause first.
            (Err(error), None) if error.kind() == Kind::Diverged && error.to_string().contains("is not known here") => {
                return After::Reconnect;
            }
            _ => {}
        }
        self.fail(&format!("the stream ended with {result:?}"))
    }

    // --- the replica
    // -------------------------------------------------------------------------------------------------

    /// Holds what the replica's readers see against what the primary's do.
    fn compare(&mut self) {
        self.outcome.compared += 1;
        let row = self.progress.row();
        if row.failures > 0 {
            self.fail(&format!("what was applied did not sum up to what the primary says: {:?}", row.healed));
        }
        let position = self.stepped().primary().position();
        let position = self.sure("the position", position);
        if row.position != Some(position) {
            self.fail(&format!(
                "the replica is at {:?} and the primary at {position}",
                row.position.map(|p| p.to_string())
            ));
        }
        let path = self.replica();
        let theirs = pages(self.reader.get_or_insert_with(|| open(&path)));
        self.same("the replica", theirs);
        let file = memory_vfs::bytes(&path.to_string_lossy()).map_or(0, |bytes| bytes.len());
        let pages = self.workload.pages_now().len();
        if World::backfilled(&path).is_some_and(|[done, last]| done == last) && file != pages {
            self.fail(&format!(
                "the replica's file has {file} bytes, its pages {pages}, and nothing is left in the WAL"
            ));
        }
    }

    fn same(&self, what: &str, theirs: std::result::Result<Vec<u8>, String>) {
        let ours = self.workload.pages_now();
        let mut theirs = theirs.unwrap_or_else(|said| self.fail(&format!("{what} cannot be read: {said}")));
        if let Some(mark) = theirs.get_mut(MARK) {
            *mark = 2;
        }
        if ours == theirs {
            return;
        }
        let size = self.workload.page_size();
        let differing: Vec<usize> = (0..ours.len().max(theirs.len()) / size)
            .filter(|n| ours.get(n * size..(n + 1) * size) != theirs.get(n * size..(n + 1) * size))
            .map(|n| n + 1)
            .collect();
        let (has, should) = (theirs.len() / size, ours.len() / size);
        self.fail(&format!("{what} has {has} pages, the primary {should}; these differ: {differing:?}"));
    }

    fn end_replica(&mut self) {
        let after = self.random.one_of(&[After::End, After::Die]);
        self.tell(format!("the replica: {after:?}"));
        self.ended = Some(after);
        if self.random.once_in(2) {
            // The last one to close the file takes its WAL away.
            (self.reader, self.held) = (None, None);
        }
    }

    fn remove_replica(&mut self) {
        self.tell("the replica is removed".into());
        self.ended = Some(After::Die);
        (self.reader, self.held) = (None, None);
        memory_vfs::remove(&self.replica().to_string_lossy());
        let _ = std::fs::remove_dir_all(self.folder.join("replica.db-litestream"));
    }

    /// A reader begins a long transaction, or ends it: it must see what it saw.
    fn hold(&mut self) {
        if let Some((reader, began_with)) = self.held.take() {
            self.tell("a long transaction of the replica's ends".into());
            if pages(&reader).as_ref() != Ok(&began_with) {
                self.fail("a read transaction saw something else at its end");
            }
            return;
        }
        self.tell("a long transaction on the replica begins".into());
        let reader = open(&self.replica());
        reader.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").expect("a reader of the replica");
        let began_with = pages(&reader).unwrap_or_else(|said| self.fail(&format!("a reader of the replica: {said}")));
        self.held = Some((reader, began_with));
    }

    /// Leaves in the replica's wal-index what a writer leaves that died before it published:
    /// entries after the last frame.
    fn die_writing(&mut self) {
        const ENTRIES: usize = 136;
        const HASH: usize = 16384;
        let count = 1 + self.random.below(20);
        let numbers: Vec<u32> = (0..count).map(|_| 1 + self.random.below(50) as u32).collect();
        self.tell(format!("entries of a dead writer in the replica's wal-index: {numbers:?}"));
        memory_vfs::change_shm(&self.replica().to_string_lossy(), |regions| {
            let Some(region) = regions.first_mut() else { return };
            let word = |region: &[u8], at: usize| u32::from_ne_bytes(region[at..at + 4].try_into().expect("4 bytes"));
            let last = word(region, 16);
            for (i, number) in (last + 1..).zip(numbers).take_while(|(i, _)| (2..=4062).contains(i)) {
                let at = ENTRIES + (i as usize - 1) * 4;
                region[at..at + 4].copy_from_slice(&number.to_ne_bytes());
                let mut slot = (number as usize * 383) % 8192;
                while region[HASH + slot * 2..HASH + slot * 2 + 2] != [0, 0] {
                    slot = (slot + 1) % 8192;
                }
                region[HASH + slot * 2..HASH + slot * 2 + 2].copy_from_slice(&(i as u16).to_ne_bytes());
            }
        });
    }

    /// Applies the primary's WAL to a copy of its file, as `litestream_apply_wal` does.
    fn apply_wal(&mut self) {
        let (primary, copy) = (self.primary(), self.folder.join("copy.db"));
        let wal = memory_vfs::bytes(&format!("{}-wal", primary.display())).unwrap_or_default();
        let database = memory_vfs::bytes(&primary.to_string_lossy()).unwrap_or_default();
        // A part of a WAL makes no database.
        let is_whole = World::backfilled(&primary).is_some_and(|[done, last]| done == 0 || done == last);
        if wal.is_empty() || database.is_empty() || !is_whole {
            return;
        }
        self.tell(format!("its WAL of {} bytes is applied to a copy of {} bytes", wal.len(), database.len()));
        self.outcome.wals += 1;
        let name = copy.to_string_lossy().into_owned();
        memory_vfs::remove(&name);
        memory_vfs::put(&name, database);
        let opened = ManualApply::open(&copy, memory_vfs::NAME);
        let mut manual = self.sure("opening a copy", opened);
        let applied = manual.log(&wal);
        self.sure("applying a WAL", applied);
        self.same("the copy", pages(&open(&copy)));
        drop(manual);
    }

    /// How many frames of a database's WAL are in its file, and how many there are.
    fn backfilled(database: &Path) -> Option<[u32; 2]> {
        const LAST: usize = 16;
        const BACKFILL: usize = 96;
        let mut found = None;
        memory_vfs::change_shm(&database.to_string_lossy(), |regions| {
            let word = |at: usize| Some(u32::from_ne_bytes(regions.first()?.get(at..at + 4)?.try_into().ok()?));
            found = word(BACKFILL).zip(word(LAST)).map(|(backfilled, last)| [backfilled, last]);
        });
        found
    }

    fn check_integrity(&self) {
        let replica = open(&self.replica());
        let found: String = replica.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a check");
        if found != "ok" {
            self.fail(&format!("integrity_check: {found}"));
        }
    }
}

fn is_of_a_cut(error: &Error) -> bool {
    let text = error.to_string();
    error.kind() == Kind::Io && (text.contains("the upstream ended it") || text.contains("cut in the middle"))
}

impl Drop for World {
    fn drop(&mut self) {
        (self.feed, self.stepped, self.reader, self.held) = (None, None, None, None);
        for path in [self.primary(), self.replica(), self.folder.join("copy.db")] {
            memory_vfs::remove(&path.to_string_lossy());
        }
        let _ = std::fs::remove_dir_all(Path::new(&self.folder));
    }
}
