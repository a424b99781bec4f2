//! The latest commits, ready to be sent, shared by all feeds.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::base::{Lsn, Position};
use crate::format::compression::compress;

/// A bounded log of encoded commits, numbered from 0. The oldest go first; whoever still needed them catches up by pages.
pub(super) struct CommitLog {
    limit: usize,
    inner: Mutex<Inner>,
    end: watch::Sender<u64>,
}

struct Inner {
    first: u64,
    /// Each with the bytes it is counted with.
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    reached: Position,
}

/// What was committed, and what it led to.
#[derive(Clone)]
pub(super) struct Entry {
    /// The records; none when they were too many to keep, or nobody was there to read them.
    pub records: Option<Bytes>,
    /// The same compressed, once a feed has asked for it; none if that gains too little.
    pub compressed: Arc<OnceLock<Option<Bytes>>>,
    /// How many page images are in them.
    pub pages: u64,
    /// How many commits of the primary they stand for.
    pub commits: u64,
    /// The position after them.
    pub reached: Position,
    /// The same as an LSN.
    pub lsn: Lsn,
    /// When the look began that found it, in ms by this process' clock.
    pub at: i64,
}

/// What the log has for a reader.
pub(super) enum Got {
    /// The entry asked for.
    Entry(Entry),
    /// It is gone, or was never kept.
    Gone,
    /// It is not there yet.
    NotYet,
}

impl Entry {
    /// Whether [`Entry::compressed_records`] has nothing to compress any more.
    pub fn is_compressed(&self) -> bool {
        self.compressed.get().is_some()
    }

    /// The records with their pages compressed. The first caller does that, others wait for it.
    pub fn compressed_records(&self) -> Bytes {
        let records = self.records.clone().unwrap_or_default();
        self.compressed.get_or_init(|| compress(&records).map(Bytes::from)).clone().unwrap_or(records)
    }
}

impl CommitLog {
    /// An empty log that keeps up to `limit` bytes.
    pub fn new(limit: usize, reached: Position) -> CommitLog {
        let inner = Inner { first: 0, entries: VecDeque::new(), bytes: 0, reached };
        CommitLog { limit, inner: Mutex::new(inner), end: watch::Sender::new(0) }
    }

    /// Adds an entry at the end and wakes the readers.
    pub fn push(&self, entry: Entry) {
        let mut inner = self.lock();
        inner.reached = entry.reached;
        let bytes = size(&entry);
        inner.bytes += bytes;
        inner.entries.push_back((entry, bytes));
        inner.shrink(self.limit);
        let end = inner.end();
        drop(inner);
        self.end.send_replace(end);
    }

    /// Counts entry number `n` anew, after its records were compressed: both copies are kept, and bounded together.
    pub fn count_again(&self, n: u64) {
        let mut inner = self.lock();
        let Some(i) = inner.place_of(n) else { return };
        let Some((entry, counted)) = inner.entries.get_mut(i) else { return };
        let before = std::mem::replace(counted, size(entry));
        inner.bytes += *counted - before;
        inner.shrink(self.limit);
    }

    /// Entry number `n`.
    pub fn get(&self, n: u64) -> Got {
        let inner = self.lock();
        let Some(i) = inner.place_of(n) else { return Got::Gone };
        match inner.entries.get(i) {
            Some((entry, _)) if entry.records.is_some() => Got::Entry(entry.clone()),
            Some(_) => Got::Gone,
            None => Got::NotYet,
        }
    }

    /// Number of the next entry to come.
    pub fn end(&self) -> u64 {
        self.lock().end()
    }

    /// The position after the last entry, if `n` is the number of the next one.
    pub fn position_at(&self, n: u64) -> Option<Position> {
        let inner = self.lock();
        (inner.end() == n).then_some(inner.reached)
    }

    /// The position after the last entry.
    pub fn reached(&self) -> Position {
        self.lock().reached
    }

    /// Since when entry number `n` is there to be read; none if it is not there yet. For one that is gone, the oldest that is kept
    /// says since when at least.
    pub fn waiting_since(&self, n: u64) -> Option<i64> {
        let inner = self.lock();
        let i = usize::try_from(n.saturating_sub(inner.first)).unwrap_or(usize::MAX);
        inner.entries.get(i).map(|(entry, _)| entry.at)
    }

    /// Tells of every change of [`CommitLog::end`].
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic elsewhere cannot leave the log half-changed: nothing in here calls out.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Where entry number `n` is, or will be; none if it is gone.
    fn place_of(&self, n: u64) -> Option<usize> {
        n.checked_sub(self.first).map(|i| usize::try_from(i).unwrap_or(usize::MAX))
    }

    fn shrink(&mut self, limit: usize) {
        while self.bytes > limit {
            let Some((_, bytes)) = self.entries.pop_front() else { break };
            self.bytes -= bytes;
            self.first += 1;
        }
    }
}

/// Bytes an entry is counted with; the log must stay bounded also when it holds nothing but gaps.
fn size(entry: &Entry) -> usize {
    let compressed = entry.compressed.get().and_then(Option::as_ref);
    let records = [entry.records.as_ref(), compressed].into_iter().flatten().map(Bytes::len).sum::<usize>();
    size_of::<Entry>() + size_of::<OnceLock<Option<Bytes>>>() + records
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{FrameNo, Generation, PageSize, Result};
    use crate::format::record::start_pages;

    fn entry(records: Option<&'static [u8]>, frame: u32) -> Entry {
        let reached = Position { generation: Generation(1), index: 0, offset: u64::from(frame) };
        let lsn = Lsn::new(0, FrameNo(frame));
        let records = records.map(Bytes::from_static);
        Entry { records, compressed: Arc::default(), pages: 1, commits: 1, reached, lsn, at: i64::from(frame) }
    }

    #[test]
    fn a_reader_that_falls_behind_is_told_so() {
        let log = CommitLog::new(2 * size(&entry(Some(&[7; 10]), 0)), entry(None, 0).reached);
        for frame in 1..=3 {
            log.push(entry(Some(&[7; 10]), frame));
        }
        assert!(matches!(log.get(0), Got::Gone));
        assert!(matches!(log.get(1), Got::Entry(e) if e.lsn == Lsn::new(0, FrameNo(2))));
        assert!(matches!(log.get(3), Got::NotYet));
        assert!(log.waiting_since(0).is_some() && log.waiting_since(0) == log.waiting_since(1));
        assert!(log.waiting_since(1) < log.waiting_since(2) && log.waiting_since(3).is_none());
        assert_eq!(log.position_at(3).map(|p| p.offset), Some(3));
        assert_eq!(log.position_at(2), None);
    }

    #[test]
    fn a_commit_that_was_not_kept_is_gone() {
        let log = CommitLog::new(1000, entry(None, 0).reached);
        log.push(entry(None, 1));
        assert!(matches!(log.get(0), Got::Gone));
        assert_eq!(log.end(), 1);
    }
    /// An entry whose records are a commit of one page that holds nothing but zeros.
    fn compressible(frame: u32) -> Result<Entry> {
        let (size, mut records) = (PageSize::new(65536)?, Vec::new());
        start_pages(1, size, &mut records);
        records.extend_from_slice(&1u32.to_be_bytes());
        records.resize(records.len() + size.bytes(), 0);
        Ok(Entry { records: Some(Bytes::from(records)), ..entry(None, frame) })
    }

    #[test]
    fn an_entry_is_compressed_once_for_all_who_read_it() -> Result<()> {
        let log = CommitLog::new(1 << 20, entry(None, 0).reached);
        log.push(compressible(1)?);
        let (Got::Entry(one), Got::Entry(other)) = (log.get(0), log.get(0)) else { panic!("it was kept") };
        assert!(!one.is_compressed() && !other.is_compressed());
        let compressed = one.compressed_records();
        assert!(other.is_compressed() && compressed.len() < 1000);
        assert_eq!(compressed.as_ptr(), other.compressed_records().as_ptr());
        assert_eq!(one.records, other.records);
        Ok(())
    }

    #[test]
    fn what_gains_nothing_is_tried_once_and_not_kept_twice() {
        let entry = entry(Some(&[7; 10]), 1);
        let before = size(&entry);
        assert_eq!(entry.compressed_records().as_ptr(), entry.records.clone().unwrap_or_default().as_ptr());
        assert!(entry.is_compressed());
        assert_eq!(size(&entry), before);
    }

    #[test]
    fn compressed_records_count_towards_the_limit() -> Result<()> {
        let plain = size(&compressible(1)?);
        let log = CommitLog::new(2 * plain, entry(None, 0).reached);
        log.push(compressible(1)?);
        log.push(compressible(2)?);
        let Got::Entry(second) = log.get(1) else { panic!("two fit") };
        let compressed = second.compressed_records().len();
        assert!(matches!(log.get(0), Got::Entry(_)));
        for _ in 0..2 {
            log.count_again(1);
            assert_eq!(log.lock().bytes, plain + compressed, "the first had to go");
        }
        assert!(matches!(log.get(0), Got::Gone) && matches!(log.get(1), Got::Entry(_)));
        // Entries that are gone, or to come, count nothing.
        log.count_again(0);
        log.count_again(2);
        assert_eq!(log.lock().bytes, plain + compressed);
        log.push(entry(None, 3));
        log.push(compressible(4)?);
        assert!(matches!(log.get(1), Got::Gone));
        assert_eq!(log.lock().bytes, size(&entry(None, 3)) + plain, "all of an entry goes with it");
        Ok(())
    }
}
