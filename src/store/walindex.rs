//! Reading and publishing the wal-index: its header, its page numbers and their hash tables.

use crate::base::{Error, FrameNo, Pgno, Result};
use crate::format::walindex::{
    AT_BACKFILL, AT_BACKFILL_ATTEMPTED, AT_HASH, AT_READ_MARKS, AT_SECOND_HEADER, Header, MARK_UNUSED, Place,
    READ_MARKS, SLOTS, entries_start, first_slot, lock, next_slot,
};
use crate::sqlite::{Connection, WalIndex};

/// What the wal-index says at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The header.
    pub header: Header,
    /// Frames already copied into the database.
    pub backfilled: u32,
    /// Frames that a checkpoint has begun to copy.
    pub attempted: u32,
}

impl State {
    /// Whether a checkpoint is copying frames. One that died doing so leaves this true until the next.
    pub fn is_being_backfilled(&self) -> bool {
        self.attempted > self.backfilled
    }

    /// Whether everything in the WAL is in the database too.
    pub fn is_backfilled(&self) -> bool {
        self.backfilled >= self.header.last.0
    }
}

/// The state now; None when the two copies of the header differ or are not valid: a writer is just publishing, or
/// died doing so, or nobody has read the database yet.
pub fn state(index: &WalIndex) -> Result<Option<State>> {
    // The order matters: writers change the second copy first.
    let first = index.header(0)?;
    index.barrier();
    let second = index.header(AT_SECOND_HEADER)?;
    let (backfilled, attempted) = (index.word(0, AT_BACKFILL)?, index.word(0, AT_BACKFILL_ATTEMPTED)?);
    let header = if first == second { Header::decode(&first) } else { None };
    Ok(header.map(|header| State { header, backfilled, attempted }))
}

/// The state now, from a connection that may have to wait for a writer in the middle of publishing, or to have SQLite
/// rebuild the index after one that died there.
pub fn valid_state(connection: &Connection) -> Result<State> {
    for _ in 0..100 {
        if let Some(state) = state(&connection.wal_index()?)? {
            return Ok(state);
        }
        if !connection.is_pinned() {
            connection.pin()?;
            connection.unpin();
        }
        std::thread::yield_now();
    }
    let name = connection.path().display();
    Err(Error::corrupt(format!(
        "litestream: {name}: the wal-index stays invalid; is something else writing to the -shm file?"
    )))
}

/// Publishes `header`: from here on every reader that starts sees it. Under the write lock only.
pub fn publish(index: &WalIndex, header: &Header) -> Result<()> {
    let words = header.encode();
    for copy in [AT_SECOND_HEADER, 0] {
        for (i, word) in words.iter().enumerate() {
            index.set_word(0, copy + i * 4, *word)?;
        }
        index.barrier();
    }
    Ok(())
}

/// Marks the WAL as started anew: nothing backfilled, no read mark in use. Under the locks of [`super::restart`] only.
pub fn forget_backfill(index: &WalIndex) -> Result<()> {
    index.set_word(0, AT_BACKFILL, 0)?;
    index.set_word(0, AT_BACKFILL_ATTEMPTED, 0)?;
    index.set_word(0, AT_READ_MARKS + 4, 0)?;
    for mark in 2..READ_MARKS {
        index.set_word(0, AT_READ_MARKS + mark * 4, MARK_UNUSED)?;
    }
    Ok(())
}

/// Sees to it that there is a read mark for readers that may not write the wal-index: they share
/// one that a reader set before them, and fail without one. `last` is the last committed frame.
/// Under the write lock only.
pub fn offer_read_mark(index: &WalIndex, last: FrameNo) -> Result<()> {
    let at = |mark: usize| AT_READ_MARKS + mark * 4;
    for mark in 1..READ_MARKS {
        if index.word(0, at(mark))? <= last.0 {
            return Ok(());
        }
    }
    for mark in 1..READ_MARKS {
        if let Some(_lock) = index.try_lock(lock::read(mark as i32), 1)? {
            return index.set_word(0, at(mark), last.0);
        }
    }
    // Readers hold all four, and so have set them.
    Ok(())
}

/// The page number of `frame`.
pub fn page_of(index: &WalIndex, frame: FrameNo) -> Result<Pgno> {
    let place = Place::of(frame);
    Pgno::new(index.word(place.region, place.offset())?)
        .map_err(|e| e.within(format!("wal-index: entry of frame {}", frame.0)))
}

/// The newest frame up to `last` that holds page `pgno`, if one does.
pub fn newest_frame(index: &WalIndex, pgno: Pgno, last: FrameNo) -> Result<Option<FrameNo>> {
    if last == FrameNo::ZERO {
        return Ok(None);
    }
    for region in (0..=Place::of(last).region).rev() {
        let before = frames_before(region);
        let mut found = None;
        let mut slot = first_slot(pgno.get());
        for _ in 0..SLOTS {
            let entry = index.slot(region, AT_HASH + slot as usize * 2)?;
            if entry == 0 {
                break;
            }
            let frame = FrameNo(before + u32::from(entry));
            if frame <= last && index.word(region, Place { region, entry }.offset())? == pgno.get() {
                found = found.max(Some(frame));
            }
            slot = next_slot(slot);
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Enters the page number of `frame`, the frame after those entered so far. Under the write lock only.
pub fn enter(index: &WalIndex, frame: FrameNo, pgno: Pgno) -> Result<()> {
    let place = Place::of(frame);
    if place.entry == 1 {
        clear_from(index, place.region, entries_start(place.region))?;
    }
    let mut slot = first_slot(pgno.get());
    for _ in 0..SLOTS {
        if index.slot(place.region, AT_HASH + slot as usize * 2)? == 0 {
            index.set_word(place.region, place.offset(), pgno.get())?;
            return index.set_slot(place.region, AT_HASH + slot as usize * 2, place.entry);
        }
        slot = next_slot(slot);
    }
    Err(Error::corrupt(format!("wal-index: the hash table of region {} is full", place.region)))
}

/// Takes out what a writer that died, or a transaction given up, entered for frames after `last`. Entries in later
/// regions need nothing: the first frame of a region clears it. Under the write lock only.
pub fn remove_after(index: &WalIndex, last: FrameNo) -> Result<()> {
    let next = Place::of(last.next());
    if next.entry == 1 || index.word(next.region, next.offset())? == 0 {
        return Ok(());
    }
    for slot in 0..SLOTS as usize {
        if index.slot(next.region, AT_HASH + slot * 2)? >= next.entry {
            index.set_slot(next.region, AT_HASH + slot * 2, 0)?;
        }
    }
    clear_entries(index, next.region, next.offset())
}

fn clear_from(index: &WalIndex, region: u32, start: usize) -> Result<()> {
    for slot in (0..SLOTS as usize).step_by(2) {
        index.set_word(region, AT_HASH + slot * 2, 0)?;
    }
    clear_entries(index, region, start)
}

fn clear_entries(index: &WalIndex, region: u32, start: usize) -> Result<()> {
    for offset in (start..AT_HASH).step_by(4) {
        index.set_word(region, offset, 0)?;
    }
    Ok(())
}

/// Frames in the regions before `region`.
fn frames_before(region: u32) -> u32 {
    let in_first = ((AT_HASH - entries_start(0)) / 4) as u32;
    if region == 0 { 0 } else { in_first + (region - 1) * (AT_HASH / 4) as u32 }
}
