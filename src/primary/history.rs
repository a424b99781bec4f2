//! What a primary keeps of its generation from one run to the next.
//!
//! The sidecar holds the generation, with an index that none of its positions has reached. When serving ends in order it holds the
//! page map, too. The next run goes on from that map: from the WAL, if that still has the frame the map ends with; or else by
//! reading every page, of which those that differ from the map count as changed since. A run that finds no map, because the
//! last one was killed, goes on in the generation at the next index, and does not know what a replica at an earlier position
//! has: such replicas are compared page by page.

use super::core::{Core, Seen};
use super::page_map::PageMap;
use super::pages::Places;
use crate::base::{FrameNo, Generation, Pgno, Position, Result, limits};
use crate::format::checksum::PageChecksum;
use crate::format::page_file::{Header, Mark};
use crate::format::record::most_pages;
use crate::format::wal::{FRAME_HEADER_SIZE, FrameHeader, frame_offset};
use crate::store::{Entry, Sidecar, State};

/// How many indexes are set aside at once. At a thousand WAL resets a second that is one small write each half minute.
const RESERVE: u64 = limits::scaled(1 << 16, 4) as u64;
/// How many pages are read at most when serving ends, for their checksums. Others count as changed when it begins again.
const READ_AT_END: usize = limits::scaled(1 << 14, 4);

/// What earlier runs left.
pub(super) struct History {
    pub generation: Generation,
    /// No position given out so far has this index or a later one.
    pub index: u64,
    /// The page map, if the last run ended in order.
    pub saved: Option<(Header, Vec<Entry>)>,
}

/// The indexes that may be given out.
pub(super) struct Reserve {
    end: u64,
}

impl Reserve {
    /// Has the next [`Reserve::keep_up`] set indexes aside again: what says which are is gone.
    pub fn forget(&mut self) {
        self.end = 0;
    }

    /// Sets aside indexes for a run that begins, before any is given out. What the run before kept is used up.
    pub fn begin(sidecar: &Sidecar, core: &Core) -> Result<Reserve> {
        let mut reserve = Reserve { end: 0 };
        reserve.keep_up(sidecar, core.position())?;
        sidecar.forget_pages()?;
        Ok(reserve)
    }

    /// Sets aside more when they come to an end.
    pub fn keep_up(&mut self, sidecar: &Sidecar, position: Position) -> Result<()> {
        if position.index + RESERVE / 2 < self.end {
            return Ok(());
        }
        let end = position.index + RESERVE;
        sidecar.set_generation(position.generation, end)?;
        self.end = end;
        Ok(())
    }
}

impl History {
    /// Reads what is there. None when the database was never served, or what says so is lost.
    pub fn load(sidecar: &Sidecar) -> Option<History> {
        let (generation, index) = sidecar.generation()?;
        let saved = sidecar.pages().filter(|(header, _)| header.position.generation == generation);
        Some(History { generation, index, saved })
    }
}

impl Core {
    /// Goes on from a page map as it was saved, now that the database is at `state`.
    pub(super) fn go_on_from(&mut self, saved: &Header, entries: &[Entry], state: &State) -> Result<()> {
        let size = self.page_size();
        if saved.page_size != size {
            self.map.resize(self.seen.pages);
            return Ok(());
        }
        self.map = PageMap::of(entries, size);
        self.floor = saved.floor;
        if self.has_mark(&saved.mark, state)? {
            // Nothing but what follows in the WAL has changed since.
            self.seen = Seen { mark: saved.mark, pages: saved.pages, ..self.seen };
            self.position = saved.position;
            return self.take_in(state).map(drop);
        }
        self.map.resize(self.seen.pages);
        self.compare_all(state)
    }

    /// Reads every page. Those that are not as the map says have changed by now.
    pub(super) fn compare_all(&mut self, state: &State) -> Result<()> {
        let (now, size) = (self.lsn(), self.page_size());
        let pages: Vec<Pgno> = self.map.changed_since(None, Pgno::ONE).collect();
        let mut images = Vec::new();
        for chunk in pages.chunks(most_pages(size)) {
            images.clear();
            self.read_images(chunk, Places::beyond(state.backfilled), &mut images)?;
            for (pgno, image) in chunk.iter().zip(images.chunks_exact(size.bytes())) {
                self.map.read_unwatched(*pgno, PageChecksum::of(*pgno, image), now);
            }
        }
        Ok(())
    }

    /// Keeps what is known, for the next run.
    pub(super) fn save(&mut self, sidecar: &Sidecar) -> Result<()> {
        self.reader.check_in_place()?;
        self.reading(|_, _| Ok(()), |core, places| core.read_unread(places, READ_AT_END))?;
        let (position, seen) = (self.position(), self.seen());
        let header =
            Header { page_size: self.page_size(), pages: seen.pages, position, floor: self.floor, mark: seen.mark };
        sidecar.set_pages(&header, self.map.entries())?;
        sidecar.set_generation(position.generation, position.index + 1)
    }

    /// Whether the WAL still has the frame that a saved state ends with. An empty WAL is no proof: it may have been removed.
    fn has_mark(&self, mark: &Mark, state: &State) -> Result<bool> {
        if mark.last == FrameNo::ZERO || mark.salts != state.header.salts || mark.last > state.header.last {
            return Ok(false);
        }
        let mut bytes = [0; FRAME_HEADER_SIZE];
        self.watcher.wal()?.read(frame_offset(mark.last, self.page_size()), &mut bytes)?;
        let frame = FrameHeader::decode(&bytes)?;
        Ok((frame.salts, frame.checksum) == (mark.salts, mark.checksum))
    }
}
