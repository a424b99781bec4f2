//! Sends a replica the pages it lacks, then one commit.
//!
//! Pages are read in chunks, each under the core's lock and as of what has been seen at that moment, in a read transaction
//! that lasts no longer: however slow the replica, it holds up neither the tail nor a checkpoint. What changes while a
//! round goes on is sent again in the next. A round that fits into one look is consistent, and ends with the commit.
//!
//! Which pages are lacking is known by position, by the checksums of those the replica has, or it is all of them.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::Primary;
use super::core::Core;
use super::pages::Places;
use crate::base::{Error, Headway, Kind, Lsn, PageSize, Pgno, Position, Result, limits};
use crate::format::checksum::PageChecksum;
use crate::format::record::{Begin, most_pages};

/// Pages sent within one look at first, in chunks; doubles with each round so that even a database that changes faster
/// than the replica reads comes to an end.
const LAST_ROUND_CHUNKS: usize = limits::scaled(4, 2);
/// Largest such round, in bytes.
const LAST_ROUND_BYTES: usize = limits::COMMIT_LOG_BYTES;
/// Checksums compared at once.
const COMPARED: usize = limits::scaled(1 << 14, 5);

/// What the replica lacks.
pub(super) enum Lacks {
    /// Everything.
    Everything,
    /// Pages that changed after this.
    ChangedSince(Lsn),
    /// Pages that do not have these checksums, from page 1 on.
    Other(Vec<Option<PageChecksum>>),
}

/// A catch-up under way.
pub(super) struct CatchUp {
    lacks: Lacks,
    /// Where the round goes on; none before its first chunk.
    next: Option<Pgno>,
    /// What had been seen when the round began.
    round_began: Lsn,
    rounds: u32,
    begun: bool,
    /// When the replica was last sent something.
    sent: Instant,
    /// How many pages there are to send, at most, and how many of them were.
    headway: Headway,
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
    /// With pages that the replica `lacks`.
    pub fn new(lacks: Lacks) -> CatchUp {
        CatchUp {
            lacks,
            next: None,
            round_began: Lsn::ZERO,
            rounds: 0,
            begun: false,
            sent: Instant::now(),
            headway: Headway::begin(0),
        }
    }

    /// How far it has come.
    pub fn headway(&self) -> Headway {
        self.headway
    }

    /// The next chunk; it may be empty.
    pub fn step(&mut self, primary: &Primary) -> Result<Chunk> {
        let mut core = primary.lock_core();
        let mut chunk = primary.reading(&mut core, |core, places| self.read(primary, core, places))?;
        // Reading for checksums only can take long. A replica that is new is sent pages all the time.
        let is_new = matches!(self.lacks, Lacks::Everything);
        if chunk.records.is_empty() && !is_new && self.sent.elapsed() >= primary.heartbeat() {
            chunk.records.push_back(self.begin_record(&core));
        }
        if !chunk.records.is_empty() {
            self.sent = Instant::now();
        }
        Ok(chunk)
    }

    fn read(&mut self, primary: &Primary, core: &mut Core, places: Places) -> Result<Chunk> {
        let mut records = VecDeque::new();
        if !self.begun {
            self.begun = true;
            self.headway = Headway::begin(self.pages_due(core));
            records.push_back(self.begin_record(core));
        }
        let size = core.page_size();
        let from = match self.next {
            Some(next) => next,
            None => {
                self.round_began = core.lsn();
                let most = self.last_round_pages(size);
                if let Some(due) = self.all_due(core, most) {
                    if core.map.unread() as usize > due.len() + most {
                        core.read_unread(places, most)?;
                        return Ok(Chunk { records, pages: 0, done: None });
                    }
                    return finish(primary, core, places, &due, records);
                }
                Pgno::ONE
            }
        };
        let chunk = self.next_due(core, places, from)?;
        push_pages(core, places, &chunk, &mut records)?;
        self.headway.done = match (&self.lacks, self.next) {
            (Lacks::Other(_), Some(next)) => next.slot() as u64,
            _ => self.headway.done + chunk.len() as u64,
        };
        Ok(Chunk { records, pages: chunk.len() as u64, done: None })
    }

    /// All pages due, if they are few enough for the last round.
    fn all_due(&self, core: &Core, most: usize) -> Option<Vec<Pgno>> {
        let since = match self.lacks {
            Lacks::Everything => None,
            Lacks::ChangedSince(lsn) => Some(lsn),
            Lacks::Other(_) => return None,
        };
        let due: Vec<Pgno> = core.map.changed_since(since, Pgno::ONE).take(most + 1).collect();
        (due.len() <= most).then_some(due)
    }

    /// The next pages due from `from` on. Says where to go on, and ends the round.
    fn next_due(&mut self, core: &mut Core, places: Places, from: Pgno) -> Result<Vec<Pgno>> {
        let size = core.page_size();
        let chunk: Vec<Pgno> = match &self.lacks {
            Lacks::Everything => core.map.changed_since(None, from).take(most_pages(size)).collect(),
            Lacks::ChangedSince(lsn) => core.map.changed_since(Some(*lsn), from).take(most_pages(size)).collect(),
            Lacks::Other(theirs) => {
                let most = self.last_round_pages(size);
                core.read_unread(places, most)?;
                let (chunk, next) = match core.map.unread() {
                    0 => differing(core, theirs, from),
                    _ => (Vec::new(), Some(from)),
                };
                self.end_chunk(next);
                return Ok(chunk);
            }
        };
        let is_last = chunk.len() < most_pages(size);
        self.end_chunk(chunk.last().filter(|_| !is_last).and_then(|last| Pgno::new(last.get().saturating_add(1)).ok()));
        Ok(chunk)
    }

    fn end_chunk(&mut self, next: Option<Pgno>) {
        self.next = next;
        if next.is_none() {
            self.lacks = Lacks::ChangedSince(self.round_began);
            self.rounds += 1;
        }
    }

    fn last_round_pages(&self, size: PageSize) -> usize {
        let chunks = LAST_ROUND_CHUNKS << self.rounds.min(8);
        ((chunks * limits::CHUNK_BYTES).min(LAST_ROUND_BYTES) / size.bytes()).max(1)
    }

    fn pages_due(&self, core: &Core) -> u64 {
        match &self.lacks {
            Lacks::ChangedSince(lsn) => core.map.changed_since(Some(*lsn), Pgno::ONE).count() as u64,
            _ => u64::from(core.map.pages()),
        }
    }

    fn begin_record(&self, core: &Core) -> Bytes {
        let everything = matches!(self.lacks, Lacks::Everything);
        let mut out = Vec::new();
        Begin { page_size: core.page_size(), everything, pages: self.headway.due }.encode(core.position(), &mut out);
        Bytes::from(out)
    }
}

/// The last round: all that is due, as of one look, and the commit.
fn finish(
    primary: &Primary,
    core: &mut Core,
    places: Places,
    due: &[Pgno],
    mut records: VecDeque<Bytes>,
) -> Result<Chunk> {
    for chunk in due.chunks(most_pages(core.page_size())) {
        push_pages(core, places, chunk, &mut records)?;
    }
    core.read_unread(places, usize::MAX)?;
    let mut commit = Vec::new();
    if !core.commit_record(&mut commit) {
        return Err(Error::new(Kind::Internal, "litestream: pages without a checksum after all of them were read"));
    }
    records.push_back(Bytes::from(commit));
    // The core is locked, so nothing is added to the log between the look and here.
    let done = Some((primary.log.end(), core.position(), core.lsn()));
    Ok(Chunk { records, pages: due.len() as u64, done })
}

/// Pages from `from` on that do not have the checksums of `theirs`, up to what fits one record, and where to go on.
fn differing(core: &Core, theirs: &[Option<PageChecksum>], from: Pgno) -> (Vec<Pgno>, Option<Pgno>) {
    let mut due = Vec::new();
    for (i, pgno) in core.map.changed_since(None, from).enumerate() {
        if due.len() == most_pages(core.page_size()) || i == COMPARED {
            return (due, Some(pgno));
        }
        if core.map.checksum(pgno) != theirs.get(pgno.slot()).copied().flatten() {
            due.push(pgno);
        }
    }
    (due, None)
}

fn push_pages(core: &mut Core, places: Places, pages: &[Pgno], records: &mut VecDeque<Bytes>) -> Result<()> {
    if pages.is_empty() {
        return Ok(());
    }
    let mut out = Vec::with_capacity(pages.len() * (core.page_size().bytes() + 4) + 64);
    core.pages_record(pages, places, &mut out)?;
    records.push_back(Bytes::from(out));
    Ok(())
}
