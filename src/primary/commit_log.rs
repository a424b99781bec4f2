//! The latest commits, ready to be sent, shared by all feeds.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::base::{Lsn, Position};

/// A bounded log of encoded commits, numbered from 0. The oldest go first; whoever still needed them catches up by pages.
pub(super) struct CommitLog {
    limit: usize,
    inner: Mutex<Inner>,
    end: watch::Sender<u64>,
}

struct Inner {
    first: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
    reached: Position,
}

/// What was committed, and what it led to.
#[derive(Clone)]
pub(super) struct Entry {
    /// The records; none when they were too many to keep, or nobody was there to read them.
    pub records: Option<Bytes>,
    /// How many page images are in them.
    pub pages: u64,
    /// How many commits of the primary they stand for.
    pub commits: u64,
    /// The position after them.
    pub reached: Position,
    /// The same as an LSN.
    pub lsn: Lsn,
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
        inner.bytes += size(&entry);
        inner.entries.push_back(entry);
        while inner.bytes > self.limit {
            let Some(oldest) = inner.entries.pop_front() else { break };
            inner.bytes -= size(&oldest);
            inner.first += 1;
        }
        let end = inner.end();
        drop(inner);
        self.end.send_replace(end);
    }

    /// Entry number `n`.
    pub fn get(&self, n: u64) -> Got {
        let inner = self.lock();
        let Some(i) = n.checked_sub(inner.first) else { return Got::Gone };
        match usize::try_from(i).ok().and_then(|i| inner.entries.get(i)) {
            Some(entry) if entry.records.is_some() => Got::Entry(entry.clone()),
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
}

/// Bytes an entry is counted with; the log must stay bounded also when it holds nothing but gaps.
fn size(entry: &Entry) -> usize {
    size_of::<Entry>() + entry.records.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{FrameNo, Generation};

    fn entry(records: Option<&'static [u8]>, frame: u32) -> Entry {
        let reached = Position { generation: Generation(1), index: 0, offset: u64::from(frame) };
        let lsn = Lsn::new(0, FrameNo(frame));
        Entry { records: records.map(Bytes::from_static), pages: 1, commits: 1, reached, lsn }
    }

    #[test]
    fn a_reader_that_falls_behind_is_told_so() {
        let log = CommitLog::new(2 * (size_of::<Entry>() + 10), entry(None, 0).reached);
        for frame in 1..=3 {
            log.push(entry(Some(&[7; 10]), frame));
        }
        assert!(matches!(log.get(0), Got::Gone));
        assert!(matches!(log.get(1), Got::Entry(e) if e.lsn == Lsn::new(0, FrameNo(2))));
        assert!(matches!(log.get(3), Got::NotYet));
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
}
