//! Sends a replica the pages it lacks, then one commit.
//!
//! Pages are read in chunks, each under the core's lock and as of what has been seen at that moment, in a read transaction
//! that lasts no longer: however slow the replica, it holds up neither the tail nor a checkpoint. What changes while a
//! round goes on is sent again in the next. A round that fits into one look is consistent, and ends with the commit.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Primary;
use super::core::{Core, Places};
use crate::base::{Lsn, PageSize, Pgno, Position, Result, limits};
use crate::format::record::{Begin, most_pages};

/// Pages sent within one look at first, in chunks; doubles with each round so that even a database that changes faster
/// than the replica reads comes to an end.
const LAST_ROUND_CHUNKS: usize = 4;
/// Largest such round, in bytes.
const LAST_ROUND_BYTES: usize = limits::COMMIT_LOG_BYTES;

/// A catch-up under way.
pub(super) struct CatchUp {
    /// Pages that changed after this are due; all pages when none.
    since: Option<Lsn>,
    /// Where the round goes on; none before its first chunk.
    next: Option<Pgno>,
    /// What had been seen when the round began.
    round_began: Lsn,
    rounds: u32,
    begun: bool,
}

/// One step of it.
pub(super) struct Chunk {
    /// Records to be sent, in order.
    pub records: VecDeque<Bytes>,
    /// How many pages are in them.
    pub pages: u64,
    /// When they end with the commit: the number of the log's entry that follows, the position, and the LSN.
    pub done: Option<(u64, Position, Lsn)>,
}

impl CatchUp {
    /// From `since` on, or everything.
    pub fn new(since: Option<Lsn>) -> CatchUp {
        CatchUp { since, next: None, round_began: Lsn::ZERO, rounds: 0, begun: false }
    }

    /// The next chunk.
    pub fn step(&mut self, primary: &Primary) -> Result<Chunk> {
        let mut core = primary.lock_core();
        core.reading(|core, news| primary.publish(core, &news), |core, places| self.read(primary, core, places))
    }

    fn read(&mut self, primary: &Primary, core: &Core, places: Places) -> Result<Chunk> {
        let mut records = VecDeque::new();
        if !self.begun {
            self.begun = true;
            records.push_back(self.begin_record(core));
        }
        let size = core.page_size();
        let from = match self.next {
            Some(next) => next,
            None => {
                self.round_began = core.lsn();
                let due: Vec<Pgno> = self.due(core, Pgno::ONE).take(self.last_round_pages(size) + 1).collect();
                if due.len() <= self.last_round_pages(size) {
                    return self.finish(primary, core, places, &due, records);
                }
                Pgno::ONE
            }
        };
        let chunk: Vec<Pgno> = self.due(core, from).take(most_pages(size)).collect();
        self.next = chunk.last().and_then(|last| Pgno::new(last.get().saturating_add(1)).ok());
        if chunk.len() < most_pages(size) || self.next.is_none() {
            self.next = None;
            self.since = Some(self.round_began);
            self.rounds += 1;
        }
        push_pages(core, places, &chunk, &mut records)?;
        Ok(Chunk { records, pages: chunk.len() as u64, done: None })
    }

    /// The last round: all that is due, as of one look, and the commit.
    fn finish(
        &mut self,
        primary: &Primary,
        core: &Core,
        places: Places,
        due: &[Pgno],
        mut records: VecDeque<Bytes>,
    ) -> Result<Chunk> {
        for chunk in due.chunks(most_pages(core.page_size())) {
            push_pages(core, places, chunk, &mut records)?;
        }
        let mut commit = Vec::new();
        core.commit_record(&mut commit);
        records.push_back(Bytes::from(commit));
        // The core is locked, so nothing is added to the log between the look and here.
        let done = Some((primary.log.end(), core.position(), core.lsn()));
        Ok(Chunk { records, pages: due.len() as u64, done })
    }

    fn due<'c>(&self, core: &'c Core, from: Pgno) -> impl Iterator<Item = Pgno> + use<'c> {
        core.map.changed_since(self.since, from, core.page_size().lock_page())
    }

    fn last_round_pages(&self, size: PageSize) -> usize {
        let chunks = LAST_ROUND_CHUNKS << self.rounds.min(8);
        (chunks * limits::CHUNK_BYTES).min(LAST_ROUND_BYTES) / size.bytes()
    }

    fn begin_record(&self, core: &Core) -> Bytes {
        let pages = self.due(core, Pgno::ONE).count() as u64;
        let begin = Begin { page_size: core.page_size(), everything: self.since.is_none(), pages };
        let mut out = Vec::new();
        begin.encode(core.position(), &mut out);
        Bytes::from(out)
    }
}

fn push_pages(core: &Core, places: Places, pages: &[Pgno], records: &mut VecDeque<Bytes>) -> Result<()> {
    if pages.is_empty() {
        return Ok(());
    }
    let mut out = Vec::with_capacity(pages.len() * (core.page_size().bytes() + 4) + 64);
    core.pages_record(pages, places, &mut out)?;
    records.push_back(Bytes::from(out));
    Ok(())
}
