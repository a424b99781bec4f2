//! What `benches/counts.rs` reaches of this layer and nobody else does.

use std::path::Path;

use super::core::Core;
use super::page_map::PageMap;
use super::pages::Places;
use crate::base::{FrameNo, Lsn, PageSize, Pgno, Result, limits};
use crate::format::checksum::PageChecksum;

/// A page map.
pub struct Map(PageMap);

impl Map {
    /// Of `pages` pages, each of which has a checksum.
    pub fn new(pages: u32, size: PageSize) -> Map {
        let mut map = Map(PageMap::new(pages, size));
        map.read_all();
        map
    }

    /// Takes in frames of these pages, the first ones of the WAL after `index` restarts, and then what the pages sum up to. What the
    /// database sums up to.
    pub fn take_in(&mut self, index: u64, changed: &[Pgno]) -> Option<u64> {
        for (frame, pgno) in (1..).map(FrameNo).zip(changed) {
            self.0.changed(*pgno, Lsn::new(index, frame));
        }
        self.read_all();
        self.0.total()
    }

    /// How many pages changed in the WAL as it was after `index` restarts, or later.
    pub fn changed_since(&self, index: u64) -> usize {
        self.0.changed_since(Some(Lsn::new(index, FrameNo::ZERO)), Pgno::ONE).count()
    }

    /// Gives each page without a checksum some checksum.
    fn read_all(&mut self) {
        for pgno in self.0.take_unread(usize::MAX) {
            if let Some(checksum) = PageChecksum::from_u64(1 << 63 | u64::from(pgno.get())) {
                self.0.read(pgno, checksum);
            }
        }
    }
}

/// A database whose commits are made into records.
pub struct Tailed(Core);

impl Tailed {
    /// Follows the database at `path`, after all of its pages were read.
    pub fn open(path: &Path) -> Result<Tailed> {
        let mut core = Core::open(path, c"unix", None)?;
        core.read_unread(Places::beyond(0), usize::MAX)?;
        Ok(Tailed(core))
    }

    /// Bytes of the records of what was committed since the last call.
    pub fn records(&mut self) -> Result<usize> {
        let state = self.0.look()?;
        let Some(news) = self.0.take_in(&state)? else { return Ok(0) };
        let made = self.0.records(&news, limits::LIVE_COMMIT_BYTES)?;
        Ok(made.map_or(0, |(records, _)| records.len()))
    }
}
