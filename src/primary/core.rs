//! What the tail knows of the database, and the hold on its WAL that makes it safe to know it.

use std::cell::Cell;
use std::ffi::CStr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::history::History;
use super::page_map::PageMap;
use crate::base::{Error, FrameNo, Generation, Kind, Lsn, PageSize, Pgno, Position, Result};
use crate::format::page_file::Mark;
use crate::format::wal::{FRAME_HEADER_SIZE, Salts, frame_offset};
use crate::sqlite::{Connection, OpenMode, needs_all_locks_to_recover, random_bytes, steady_ms, version};
use crate::store::{HeaderWatch, State, Watch, page_of, page_size, pages, state, valid_state};

/// How long a writer is given to publish a commit that it has begun to publish.
const PUBLISHED: Duration = Duration::from_millis(20);

/// Where a frame of page 1 says how many pages the database has
/// (<https://www.sqlite.org/fileformat2.html#in_header_database_size>).
const SIZE_IN_FRAME: u64 = FRAME_HEADER_SIZE as u64 + 28;

/// Where the tail has read the WAL up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Last frame read.
    pub mark: Mark,
    /// Database size after it, in pages.
    pub pages: u32,
    /// SQLite's count of transactions at it.
    pub(super) change: u32,
}

/// Frames that were committed since the last look.
pub(super) struct News {
    /// The frames, without their first: (from, to].
    pub from: FrameNo,
    /// The last of them.
    pub to: FrameNo,
    /// How many commits they are.
    pub commits: u64,
    /// Whether pages became part of the database without being written: nothing of their content matters to SQLite, but a
    /// replica must have the same.
    pub has_unwritten: bool,
    /// Whether more has changed than these frames say.
    pub is_partial: bool,
}

/// The tail's state. One thread at a time has it.
pub(super) struct Core {
    /// Looks at the wal-index and reads the WAL; the hold is its.
    pub(super) watcher: Connection,
    pub(super) watch: Watch,
    /// Notices writes to the database file that are no checkpoint's.
    header: HeaderWatch,
    /// Whether the hold was let go of since the last look.
    pub(super) unwatched: bool,
    /// Whether every page is to be compared with the map, which does not know of all that has changed.
    pub(super) uncompared: bool,
    /// Reads the database file, in read transactions that last as long as one chunk.
    pub(super) reader: Connection,
    page_size: PageSize,
    pub(super) position: Position,
    pub(super) seen: Seen,
    /// Which commit changed each page last, and the checksums.
    pub map: PageMap,
    /// Changes after this are in the map. What a replica at an earlier position has is not known.
    pub(super) floor: Lsn,
    /// How many pages were found to have changed without a commit, and the first of them.
    pub(super) unexplained: u64,
    pub(super) overwritten: Option<Pgno>,
    /// Why the database is not served any more. The WAL is held no more from then on.
    ended: Option<Error>,
    /// For a database that is a replica itself: when its position was the newest, by this process'
    /// clock.
    pub(super) origin_time: Option<i64>,
    /// When the last look at the wal-index began.
    look_began: Cell<i64>,
    /// When the last look began of which all was taken in: whatever was committed before is in the
    /// map.
    pub(super) looked: i64,
}

impl Core {
    /// Begins to follow the database at `path`: where `history` ends, or in a new generation.
    pub fn open(path: &Path, vfs: &CStr, history: Option<History>) -> Result<Core> {
        let (generation, index) = history.as_ref().map_or((new_generation(), 0), |h| (h.generation, h.index));
        let (mut core, state) = Core::begin(path, vfs)?;
        core.position = Position::after_frame(generation, index, state.header.last, core.page_size);
        core.floor = core.lsn();
        match history.and_then(|history| history.saved) {
            Some((header, entries)) => core.go_on_from(&header, &entries, &state)?,
            None => core.map.resize(core.seen.pages),
        }
        Ok(core)
    }

    /// The same for a database that is a replica, at a position of its upstream that was the newest
    /// at `time`.
    pub fn open_replica(path: &Path, vfs: &CStr, position: Position, time: i64) -> Result<Core> {
        let (mut core, _) = Core::begin(path, vfs)?;
        core.position = position;
        core.floor = core.lsn();
        core.origin_time = Some(time);
        core.map.resize(core.seen.pages);
        Ok(core)
    }

    /// Takes hold of the database at `path`, at no position yet.
    fn begin(path: &Path, vfs: &CStr) -> Result<(Core, State)> {
        let open = || Connection::open(path, vfs, OpenMode::Existing);
        let (watcher, reader) = (open()?, open()?);
        require_wal_mode(&watcher)?;
        for connection in [&watcher, &reader] {
            // A connection opens the WAL when it first reads.
            connection.pin()?;
            connection.unpin();
        }
        let page_size = page_size(&reader)?;
        let watch = Watch::begin(&watcher)?;
        let looked = steady_ms();
        let state = valid_state(&reader)?;
        let header = state.header;
        let mark = Mark { salts: header.salts, last: header.last, checksum: header.frame_checksum };
        let pages = pages(&watcher, &state, page_size)?;
        let core = Core {
            page_size,
            position: Position { generation: Generation(0), index: 0, offset: 0 },
            seen: Seen { mark, pages, change: header.change },
            map: PageMap::new(0, page_size),
            floor: Lsn::ZERO,
            unexplained: 0,
            overwritten: None,
            ended: None,
            origin_time: None,
            look_began: Cell::new(looked),
            looked,
            watcher,
            watch,
            header: HeaderWatch::default(),
            unwatched: false,
            uncompared: false,
            reader,
        };
        Ok((core, state))
    }

    /// Page size of the database.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// How far the WAL has been read.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// Position after what has been seen.
    pub fn position(&self) -> Position {
        self.position
    }

    /// LSN of what has been seen.
    pub fn lsn(&self) -> Lsn {
        self.position.lsn(self.page_size).unwrap_or_default()
    }

    /// The LSN of a position, if it is known what a replica there has.
    pub fn known(&self, position: &Position) -> Option<Lsn> {
        let lsn = position.lsn(self.page_size).filter(|_| position.generation == self.position.generation)?;
        (self.floor <= lsn && lsn <= self.lsn()).then_some(lsn)
    }

    /// The position of the database right now, which may be ahead of what has been seen. A replica is where its upstream was,
    /// which its own WAL does not tell; whoever feeds it says so.
    pub fn position_now(&self) -> Result<Position> {
        if self.origin_time.is_some() {
            return Ok(self.position);
        }
        let header = self.look()?.header;
        self.watcher.check_in_place()?;
        Ok(self.position_after(header.salts, header.last))
    }

    /// What the wal-index says now.
    pub fn look(&self) -> Result<State> {
        self.look_began.set(steady_ms());
        match state(&self.watcher.wal_index()?)? {
            Some(state) => Ok(state),
            None => valid_state(&self.reader),
        }
    }

    /// Lets go of a WAL whose index stays as a writer left it that died, where SQLite could not
    /// rebuild it otherwise.
    pub fn let_go_if_damaged(&mut self) -> Result<()> {
        let began = Instant::now();
        while state(&self.watcher.wal_index()?)?.is_none() {
            if !needs_all_locks_to_recover(version().1) {
                return Ok(());
            }
            if began.elapsed() > PUBLISHED {
                return self.let_go();
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Ends all that needs the WAL held, with `error`, and lets go of it.
    pub fn end(&mut self, error: Error) -> Result<()> {
        self.ended.get_or_insert(error);
        self.let_go()
    }

    /// Fails once [`Core::end`] was called: nothing would let go of a WAL that is held again.
    pub fn check_not_ended(&self) -> Result<()> {
        self.ended.clone().map_or(Ok(()), Err)
    }

    /// Takes in what was committed up to the last look, which found `state`. None if nothing was; a
    /// WAL restarted without a commit since is something, from frame 0 to frame 0.
    pub fn take_in(&mut self, state: &State) -> Result<Option<News>> {
        self.check_not_ended()?;
        let began = self.look_began.get();
        let news = match self.unwatched {
            true => self.take_back(),
            false => self.follow(state),
        }?;
        self.looked = began;
        Ok(news)
    }

    /// Whether all that was committed has been taken in, by a glance at shared memory: it never
    /// waits and reads no file. None if that cannot be said.
    pub fn is_up_to_date(&self) -> Result<Option<bool>> {
        if self.unwatched || self.uncompared {
            return Ok(None);
        }
        Ok(state(&self.watcher.wal_index()?)?.map(|state| !self.is_news(&state)))
    }

    /// The same, for a WAL that was held all the time.
    pub(super) fn follow(&mut self, state: &State) -> Result<Option<News>> {
        if !self.is_news(state) {
            return self.watch.settle(&self.watcher).map(|()| None);
        }
        // Looked at after the wal-index: what is new was written to the file that is open here.
        self.check_file()?;
        match self.origin_time {
            None => self.advance(state, self.position_after(state.header.salts, state.header.last), u32::MAX),
            Some(_) => self.check_restarted(state).map(|()| None),
        }
    }

    /// Fails if the database is not the file at its path any more, or a program other than SQLite
    /// has written to it.
    pub fn check_file(&mut self) -> Result<()> {
        self.watcher.check_in_place()?;
        match self.origin_time {
            // The thread that feeds a replica looks for itself.
            Some(_) => Ok(()),
            None => self.header.check(&self.watcher),
        }
    }

    /// Takes in the commits that led to `state`, which is at `position`. Forbids the WAL to be restarted before all of it was seen.
    /// Before them, commits that were not in this WAL may have left the database with only `least` pages for a time.
    pub(super) fn advance(&mut self, state: &State, position: Position, least: u32) -> Result<Option<News>> {
        self.check_not_ended()?;
        self.watch.forbid_restart(&self.watcher)?;
        let header = &state.header;
        let from = if header.salts == self.seen.mark.salts { self.seen.mark.last } else { FrameNo::ZERO };
        if header.last < from {
            return Err(Error::corrupt(format!(
                "litestream: {}: the WAL went back from frame {} to {}",
                self.watcher.path().display(),
                from.0,
                header.last.0
            )));
        }
        // All that can fail comes first: what was taken for seen and is not in the map would be missed for ever.
        let pages = pages(&self.watcher, state, self.page_size)?;
        let changed = self.pages_in(from, header.last)?;
        let had = self.seen.pages.min(least).min(self.least_size(from, &changed)?);
        let frames = header.last.0.saturating_sub(from.0);
        let commits = header.change.wrapping_sub(self.seen.change).clamp(1, frames.max(1));
        let mark = Mark { salts: header.salts, last: header.last, checksum: header.frame_checksum };
        self.seen = Seen { mark, pages, change: header.change };
        let before = std::mem::replace(&mut self.position, position);
        // What was cut off is gone, and what grew again in its place need not be the same.
        self.map.resize(self.map.pages().min(had));
        self.map.resize(pages);
        self.enter_frames(from, &changed);
        if from == header.last && position == before {
            return Ok(None);
        }
        let has_unwritten = self.note_unwritten(had, pages);
        let commits = if from == header.last { 0 } else { u64::from(commits) };
        Ok(Some(News { from, to: header.last, commits, has_unwritten, is_partial: false }))
    }

    /// A replica's WAL changes by what comes from its upstream, or else it was only restarted.
    fn check_restarted(&mut self, state: &State) -> Result<()> {
        let header = &state.header;
        if header.last == FrameNo::ZERO && header.change == self.seen.change {
            self.seen.mark = Mark { salts: header.salts, last: header.last, checksum: header.frame_checksum };
            return Ok(());
        }
        let name = self.watcher.path().display();
        Err(Error::new(
            Kind::Diverged,
            format!("litestream: {name} was written to by somebody else while it is a replica"),
        ))
    }

    /// Allows the WAL to be restarted if all of it is in the database and has been seen. Whether it did.
    pub fn allow_restart(&mut self, state: &State) -> Result<bool> {
        self.check_not_ended()?;
        if !state.is_backfilled() || self.is_news(state) {
            return Ok(false);
        }
        self.watch.allow_restart(&self.watcher, &state.header)
    }

    /// Whether something was committed since the last look.
    pub fn is_news(&self, state: &State) -> bool {
        (state.header.salts, state.header.last) != (self.seen.mark.salts, self.seen.mark.last)
    }

    /// Whether others are kept from restarting the WAL although all of it is in the database.
    pub fn holds_others_up(&self, state: &State) -> bool {
        state.is_backfilled() && !self.watch.allows_restart()
    }

    /// Whether the end of a checkpoint is waited for, after which others may go on.
    pub fn is_settling(&self) -> bool {
        self.watch.is_settling()
    }

    /// Size of the database file in bytes.
    pub fn db_bytes(&self) -> u64 {
        self.reader.database().and_then(|file| file.size()).unwrap_or(0)
    }

    /// Size of the WAL file in bytes.
    pub fn wal_bytes(&self) -> u64 {
        self.watcher.wal().and_then(|wal| wal.size()).unwrap_or(0)
    }

    /// The page of each frame after `from` up to `to`.
    fn pages_in(&self, from: FrameNo, to: FrameNo) -> Result<Vec<Pgno>> {
        let index = self.watcher.wal_index()?;
        (from.next().0..=to.0).map(|frame| page_of(&index, FrameNo(frame))).collect()
    }

    /// The least size in pages that page 1 gives the database in the frames after `from`. A commit that changes the size
    /// writes page 1.
    fn least_size(&self, from: FrameNo, changed: &[Pgno]) -> Result<u32> {
        let mut least = u32::MAX;
        for (frame, _) in (from.next().0..).map(FrameNo).zip(changed).filter(|(_, pgno)| **pgno == Pgno::ONE) {
            let (mut size, at) = ([0; 4], frame_offset(frame, self.page_size) + SIZE_IN_FRAME);
            self.watcher.wal()?.read(at, &mut size)?;
            let size = u32::from_be_bytes(size);
            least = if size > 0 { least.min(size) } else { least };
        }
        Ok(least)
    }

    /// Puts the pages of the frames after `from` into the map.
    fn enter_frames(&mut self, from: FrameNo, changed: &[Pgno]) {
        let end = self.lsn();
        for (frame, pgno) in (from.next().0..).map(FrameNo).zip(changed) {
            let lsn = if self.origin_time.is_some() { end } else { Lsn::new(self.position.index, frame) };
            self.map.changed(*pgno, lsn);
        }
    }

    /// Pages from `had` on that came into the database without a frame of their own count as changed by its last commit.
    /// Whether there were any.
    fn note_unwritten(&mut self, had: u32, pages: u32) -> bool {
        let (Ok(first), true) = (Pgno::new(had.saturating_add(1)), pages > had) else { return false };
        let grown = self.map.changed_since(None, first);
        let unwritten: Vec<Pgno> = grown.filter(|p| self.map.newest(*p) == Some(Lsn::ZERO)).collect();
        let lsn = self.lsn();
        for pgno in &unwritten {
            self.map.changed(*pgno, lsn);
        }
        !unwritten.is_empty()
    }

    /// The position after `frame` of the WAL with these salts, which is the one seen or the one after it. A WAL that was empty
    /// when it got new salts keeps its number: nothing was in it.
    fn position_after(&self, salts: Salts, frame: FrameNo) -> Position {
        let restarted = salts != self.seen.mark.salts && self.seen.mark.last > FrameNo::ZERO;
        let index = self.position.index + u64::from(restarted);
        Position::after_frame(self.position.generation, index, frame, self.page_size)
    }
}

impl Drop for Core {
    /// SQLite keeps the locks of a connection that closes if the process has others to the same database.
    fn drop(&mut self) {
        if !self.watcher.is_usable() {
            return;
        }
        if let Err(error) = self.watch.let_go(&self.watcher) {
            log::warn!("{error}");
        }
    }
}

fn require_wal_mode(connection: &Connection) -> Result<()> {
    let mode = connection.query_text(c"PRAGMA main.journal_mode")?.unwrap_or_default();
    if mode == "wal" {
        return Ok(());
    }
    let name = connection.path().display();
    Err(Error::usage(format!(
        "litestream: {name} is not in WAL mode (journal_mode={mode}); run PRAGMA journal_mode=WAL first"
    )))
}

fn new_generation() -> Generation {
    Generation(u64::from_le_bytes(random_bytes()).max(1))
}
