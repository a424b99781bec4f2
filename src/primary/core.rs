//! What the tail knows of the database, and the hold on its WAL that makes it safe to know it.

use std::ffi::CStr;
use std::path::Path;

use bytes::Bytes;

use super::page_map::PageMap;
use crate::base::{Error, FrameNo, Generation, Kind, Lsn, PageSize, Pgno, Position, Result, limits, unix_ms};
use crate::format::record;
use crate::format::wal::{FRAME_HEADER_SIZE, Salts, frame_offset, frame_size};
use crate::sqlite::{Connection, OpenMode, random_bytes};
use crate::store::{State, Watch, page_of, state, valid_state};

/// Where the tail has read the WAL up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Number of the WAL in this generation.
    pub index: u64,
    /// Its salts.
    pub salts: Salts,
    /// Last frame read.
    pub last: FrameNo,
    /// Database size after it, in pages.
    pub pages: u32,
    /// SQLite's count of transactions at it.
    change: u32,
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
    has_unwritten: bool,
}

/// The tail's state. One thread at a time has it.
pub(super) struct Core {
    /// Looks at the wal-index and reads the WAL; the hold is its.
    watcher: Connection,
    watch: Watch,
    /// Reads the database file, in read transactions that last as long as one chunk.
    reader: Connection,
    page_size: PageSize,
    generation: Generation,
    seen: Seen,
    /// Which commit changed each page last.
    pub map: PageMap,
}

impl Core {
    /// Begins to follow the database at `path`, in a new generation.
    pub fn open(path: &Path, vfs: &CStr) -> Result<Core> {
        let open = || Connection::open(path, vfs, OpenMode::Existing);
        let (watcher, reader) = (open()?, open()?);
        require_wal_mode(&watcher)?;
        for connection in [&watcher, &reader] {
            // A connection opens the WAL when it first reads.
            connection.pin()?;
            connection.unpin();
        }
        let page_size = page_size_of(&reader)?;
        let watch = Watch::begin(&watcher)?;
        let state = valid_state(&reader)?;
        let header = state.header;
        let mut core = Core {
            page_size,
            generation: new_generation(),
            seen: Seen { index: 0, salts: header.salts, last: header.last, pages: 0, change: header.change },
            map: PageMap::new(0),
            watcher,
            watch,
            reader,
        };
        core.seen.pages = core.pages(&state)?;
        core.map.resize(core.seen.pages);
        core.enter_frames(FrameNo::ZERO, header.last)?;
        Ok(core)
    }

    /// Page size of the database.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// The history being written.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// How far the WAL has been read.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// Position after what has been seen.
    pub fn position(&self) -> Position {
        Position::after_frame(self.generation, self.seen.index, self.seen.last, self.page_size)
    }

    /// LSN of what has been seen.
    pub fn lsn(&self) -> Lsn {
        Lsn::new(self.seen.index, self.seen.last)
    }

    /// The position of the database right now, which may be ahead of what has been seen.
    pub fn position_now(&self) -> Result<Position> {
        let header = self.look()?.header;
        let index = self.index_of(header.salts);
        Ok(Position::after_frame(self.generation, index, header.last, self.page_size))
    }

    /// What the wal-index says now.
    pub fn look(&self) -> Result<State> {
        match state(&self.watcher.wal_index()?)? {
            Some(state) => Ok(state),
            None => valid_state(&self.reader),
        }
    }

    /// Takes in what was committed since the last look. None if nothing was; a WAL restarted without a commit since is
    /// something, from frame 0 to frame 0.
    pub fn take_in(&mut self, state: &State) -> Result<Option<News>> {
        let header = &state.header;
        if !self.is_news(state) {
            return Ok(None);
        }
        self.watch.forbid_restart(&self.watcher)?;
        let index = self.index_of(header.salts);
        let restarted = index != self.seen.index;
        let from = if restarted || header.salts != self.seen.salts { FrameNo::ZERO } else { self.seen.last };
        if header.last < from {
            return Err(Error::corrupt(format!(
                "litestream: {}: the WAL went back from frame {} to {}",
                self.watcher.path().display(),
                from.0,
                header.last.0
            )));
        }
        let (had, pages) = (self.seen.pages, self.pages(state)?);
        let frames = header.last.0.saturating_sub(from.0);
        let commits = header.change.wrapping_sub(self.seen.change).clamp(1, frames.max(1));
        self.seen = Seen { index, salts: header.salts, last: header.last, pages, change: header.change };
        self.map.resize(pages);
        self.enter_frames(from, header.last)?;
        if from == header.last && !restarted {
            return Ok(None);
        }
        let has_unwritten = self.note_unwritten(had, pages);
        let commits = if from == header.last { 0 } else { u64::from(commits) };
        Ok(Some(News { from, to: header.last, commits, has_unwritten }))
    }

    /// Allows the WAL to be restarted if all of it is in the database and has been seen. Whether it did.
    pub fn allow_restart(&mut self, state: &State) -> Result<bool> {
        if !state.is_backfilled() || self.is_news(state) {
            return Ok(false);
        }
        self.watch.allow_restart(&self.watcher, &state.header)
    }

    /// Whether something was committed since the last look.
    pub fn is_news(&self, state: &State) -> bool {
        (state.header.salts, state.header.last) != (self.seen.salts, self.seen.last)
    }

    /// Whether others are kept from restarting the WAL although all of it is in the database.
    pub fn holds_others_up(&self, state: &State) -> bool {
        state.is_backfilled() && !self.watch.allows_restart()
    }

    /// Size of the WAL file in bytes.
    pub fn wal_bytes(&self) -> u64 {
        self.watcher.wal().and_then(|wal| wal.size()).unwrap_or(0)
    }

    /// Runs `read` with a read transaction that keeps every page where [`Core::read_pages`] finds it. What was committed up
    /// to then is given to `seen` first.
    pub fn reading<T>(
        &mut self,
        mut seen: impl FnMut(&mut Core, News) -> Result<()>,
        read: impl FnOnce(&Core, Places) -> Result<T>,
    ) -> Result<T> {
        self.reader.pin()?;
        let done = self.look().and_then(|state| {
            if let Some(news) = self.take_in(&state)? {
                seen(self, news)?;
            }
            // Looked at after the transaction began, and so true for as long as it lasts.
            read(self, Places { floor: state.backfilled })
        });
        self.reader.unpin();
        done
    }

    /// Records for what came new: its pages, each once and in its newest version, and a commit. None if that is more than
    /// `limit` bytes, or not all of it is in the WAL.
    pub fn records(&self, news: &News, limit: usize) -> Result<Option<(Bytes, u64)>> {
        let pages = self.newest_in(news.from, news.to)?;
        if pages.len().saturating_mul(self.page_size.bytes()) > limit || news.has_unwritten {
            return Ok(None);
        }
        let mut out = Vec::with_capacity(pages.len() * (self.page_size.bytes() + 4) + 256);
        for chunk in pages.chunks(record::most_pages(self.page_size)) {
            // Nobody restarts the WAL before what is in it was seen, so all of it is there from the first frame on.
            self.pages_record(chunk, Places { floor: 0 }, &mut out)?;
        }
        self.commit_record(&mut out);
        Ok(Some((Bytes::from(out), pages.len() as u64)))
    }

    /// Appends a pages record with the newest image of each page.
    pub fn pages_record(&self, pages: &[Pgno], places: Places, out: &mut Vec<u8>) -> Result<()> {
        record::start_pages(u32::try_from(pages.len()).unwrap_or(u32::MAX), self.page_size, out);
        for pgno in pages {
            out.extend_from_slice(&pgno.get().to_be_bytes());
        }
        self.read_pages(pages, places, out)
    }

    /// Appends the commit record for what has been seen.
    pub fn commit_record(&self, out: &mut Vec<u8>) {
        let commit = record::Commit { pages: self.seen.pages, checksum: 0, time: unix_ms() };
        commit.encode(self.position(), out);
    }

    /// Appends the images of `pages`, as of what has been seen.
    fn read_pages(&self, pages: &[Pgno], places: Places, out: &mut Vec<u8>) -> Result<()> {
        let size = self.page_size.bytes();
        let mut rest = pages;
        while let Some((first, _)) = rest.split_first() {
            let place = self.place(*first, places);
            let run =
                (1..rest.len()).take_while(|i| place.is_followed(*i as u32, rest, |p| self.place(p, places))).count()
                    + 1;
            let start = out.len();
            match place {
                Place::Log(frame) => self.read_frames(frame, run, out)?,
                Place::Database(pgno) => {
                    out.resize(start + run * size, 0);
                    self.reader.database()?.read(pgno.file_offset(self.page_size), &mut out[start..])?;
                }
            }
            rest = rest.get(run..).unwrap_or_default();
        }
        Ok(())
    }

    /// Bytes of the WAL from just after frame `from` to the end of frame `to`, as they are in the file; from the very start
    /// when `from` is frame 0.
    pub fn raw_frames(&self, from: FrameNo, to: FrameNo) -> Result<Vec<u8>> {
        let start = if from == FrameNo::ZERO { 0 } else { frame_offset(from.next(), self.page_size) };
        let end = frame_offset(to.next(), self.page_size);
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
        for (i, chunk) in bytes.chunks_mut(limits::CHUNK_BYTES).enumerate() {
            self.watcher.wal()?.read(start + (i * limits::CHUNK_BYTES) as u64, chunk)?;
        }
        Ok(bytes)
    }

    /// The frame of the WAL that has the newest image of a page, unless the database file has it.
    pub fn log_frame(&self, pgno: Pgno, places: Places) -> Option<FrameNo> {
        match self.place(pgno, places) {
            Place::Log(frame) => Some(frame),
            Place::Database(_) => None,
        }
    }

    /// Where the newest image of a page is.
    fn place(&self, pgno: Pgno, places: Places) -> Place {
        match self.map.newest(pgno) {
            Some(lsn) if lsn.index() == self.seen.index && lsn.frame().0 > places.floor => Place::Log(lsn.frame()),
            _ => Place::Database(pgno),
        }
    }

    fn read_frames(&self, first: FrameNo, count: usize, out: &mut Vec<u8>) -> Result<()> {
        let mut frames = vec![0; count * frame_size(self.page_size) as usize];
        self.watcher.wal()?.read(frame_offset(first, self.page_size), &mut frames)?;
        for frame in frames.chunks_exact(frame_size(self.page_size) as usize) {
            out.extend_from_slice(frame.get(FRAME_HEADER_SIZE..).unwrap_or_default());
        }
        Ok(())
    }

    /// Pages of the frames (from, to], each where its newest frame is, in the order of frames.
    fn newest_in(&self, from: FrameNo, to: FrameNo) -> Result<Vec<Pgno>> {
        let index = self.watcher.wal_index()?;
        let lock_page = self.page_size.lock_page();
        let mut pages = Vec::new();
        for frame in (from.next().0..=to.0).map(FrameNo) {
            let pgno = page_of(&index, frame)?;
            if self.map.newest(pgno) == Some(Lsn::new(self.seen.index, frame)) && pgno != lock_page {
                pages.push(pgno);
            }
        }
        Ok(pages)
    }

    fn enter_frames(&mut self, from: FrameNo, to: FrameNo) -> Result<()> {
        let index = self.watcher.wal_index()?;
        for frame in (from.next().0..=to.0).map(FrameNo) {
            self.map.changed(page_of(&index, frame)?, Lsn::new(self.seen.index, frame));
        }
        Ok(())
    }

    /// Pages from `had` on that came into the database without a frame of their own count as changed by its last commit.
    /// Whether there were any.
    fn note_unwritten(&mut self, had: u32, pages: u32) -> bool {
        let (Ok(first), true) = (Pgno::new(had.saturating_add(1)), pages > had) else { return false };
        let grown = self.map.changed_since(None, first, self.page_size.lock_page());
        let unwritten: Vec<Pgno> = grown.filter(|p| self.map.newest(*p) == Some(Lsn::ZERO)).collect();
        let lsn = self.lsn();
        for pgno in &unwritten {
            self.map.changed(*pgno, lsn);
        }
        !unwritten.is_empty()
    }

    /// Number of the WAL with these salts. A WAL that was empty when it got new salts keeps its number: nothing was in it.
    fn index_of(&self, salts: Salts) -> u64 {
        let restarted = salts != self.seen.salts && self.seen.last > FrameNo::ZERO;
        self.seen.index + u64::from(restarted)
    }

    /// Database size in pages. An empty WAL does not always know it, but then the file has it.
    fn pages(&self, state: &State) -> Result<u32> {
        if state.header.last > FrameNo::ZERO {
            return Ok(state.header.pages);
        }
        let bytes = self.watcher.database()?.size()?;
        u32::try_from(bytes / u64::from(self.page_size.get()))
            .map_err(|_| Error::corrupt(format!("litestream: a database of {bytes} bytes has too many pages")))
    }
}

/// What [`Core::reading`] knows of where pages are: frames up to the floor are in the database, and may be gone from the WAL.
#[derive(Clone, Copy)]
pub(super) struct Places {
    floor: u32,
}

/// Where the newest image of a page is.
enum Place {
    Log(FrameNo),
    Database(Pgno),
}

impl Place {
    /// Whether the page `i` after the first of `pages` lies `i` places after this one.
    fn is_followed(&self, i: u32, pages: &[Pgno], place: impl Fn(Pgno) -> Place) -> bool {
        let Some(pgno) = pages.get(i as usize) else { return false };
        match (self, place(*pgno)) {
            (Place::Log(first), Place::Log(frame)) => frame.0 == first.0 + i,
            (Place::Database(first), Place::Database(pgno)) => pgno.get() == first.get() + i,
            _ => false,
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

fn page_size_of(connection: &Connection) -> Result<PageSize> {
    let text = connection.query_text(c"PRAGMA main.page_size")?.unwrap_or_default();
    let size = text.parse().map_err(|_| Error::new(Kind::Internal, format!("litestream: page_size is '{text}'")))?;
    PageSize::new(size)
}

fn new_generation() -> Generation {
    Generation(u64::from_le_bytes(random_bytes()).max(1))
}
