//! What one replica is sent, step by step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use tokio::sync::watch;

use super::Primary;
use super::catch_up::{CatchUp, Lacks};
use super::commit_log::{CommitLog, Entry, Got};
use super::counters::Sending;
use super::feed2022::Resend;
use super::replicas::Replica;
use crate::base::{Error, Generation, Kind, Lsn, Position, Result};
use crate::format::checksum::PageChecksum;
use crate::format::compression::{Compression, compress};
use crate::format::record;

/// Which protocol a replica speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Snapshots and WAL segments, as Litestream sent them in 2022.
    V2022,
    /// Pages and commits.
    V2,
}

/// What a replica asks for.
pub struct Ask {
    /// The protocol it speaks.
    pub version: Version,
    /// The generation it knows.
    pub generation: Option<Generation>,
    /// Its WAL index in that generation.
    pub index: Option<u64>,
    /// Its offset in that WAL in bytes; version 1 does not send one.
    pub offset: Option<u64>,
    /// Checksums of the pages it has, from page 1 on: it is sent what differs, whatever its position.
    pub checksums: Option<Vec<Option<PageChecksum>>>,
    /// How it takes pages records compressed; version 1 has a way of its own.
    pub compression: Compression,
    /// Address and port of the other end.
    pub client: String,
}

/// What is to be done next.
pub enum Step {
    /// Send these bytes.
    Send(Bytes),
    /// Ask again: the next step may read files, or compress.
    Again,
    /// Nothing is there; wait for [`Feed::changed`].
    Wait,
    /// The stream is over.
    End,
}

/// The stream to one replica. Dropping it forgets the replica.
pub struct Feed {
    primary: Arc<Primary>,
    replica: Arc<Replica>,
    version: Version,
    compression: Compression,
    changed: watch::Receiver<u64>,
    /// Pieces of a catch-up, not compressed yet.
    queue: VecDeque<Bytes>,
    mode: Mode,
    /// What is being sent: what the queue was filled with, until an entry of the log is.
    sending: Sending,
    /// Whether the next step compresses an entry of the log, if nobody else has by then.
    compresses_entry: bool,
    /// How many generations the upstream of a relay had had when this began.
    generations: u64,
}

enum Mode {
    CatchUp(CatchUp),
    Resend(Box<Resend>),
    /// Reading the log: number of the next entry, and what was last sent.
    Live(u64, Lsn),
    Ended,
}

impl Primary {
    /// Opens a feed for one connection.
    pub fn open_feed(self: &Arc<Self>, mut ask: Ask) -> Result<Feed> {
        self.check_serving()?;
        let version = if ask.version == Version::V2 { 2 } else { 1 };
        if version == 1 && self.is_relay() {
            return Err(Error::usage("this is a relay, which speaks version 2 only; follow its origin"));
        }
        let generations = self.generations();
        let replica = self.replicas.add(ask.client.clone(), version);
        let is_new = ask.checksums.is_none() && ask.generation.is_none();
        let sending = if is_new { Sending::Snapshot } else { Sending::CatchUp };
        let mode = match (ask.version, ask.checksums.take()) {
            (Version::V2022, _) => Mode::Resend(Box::new(Resend::new(ask.generation, ask.index))),
            (Version::V2, Some(checksums)) => Mode::CatchUp(CatchUp::new(Lacks::Other(checksums))),
            (Version::V2, None) => Mode::CatchUp(CatchUp::new(self.lacks(&ask)?)),
        };
        let (log, compression) = match ask.version {
            Version::V2 => (&self.log, ask.compression),
            Version::V2022 => (&self.raw_log, Compression::None),
        };
        let changed = log.subscribe();
        self.counters.connections.fetch_add(1, Relaxed);
        Ok(Feed {
            primary: Arc::clone(self),
            replica,
            version: ask.version,
            compression,
            changed,
            queue: VecDeque::new(),
            mode,
            sending,
            compresses_entry: false,
            generations,
        })
    }

    /// What a replica lacks by its position. Fails if this primary does not know what it has there.
    fn lacks(&self, ask: &Ask) -> Result<Lacks> {
        let Some(generation) = ask.generation else { return Ok(Lacks::Everything) };
        let (index, offset) = (ask.index.unwrap_or(u64::MAX), ask.offset.unwrap_or(u64::MAX));
        let there = Position { generation, index, offset };
        let core = self.lock_core();
        match core.known(&there) {
            Some(lsn) => Ok(Lacks::ChangedSince(lsn)),
            None if self.is_relay() && there.reaches(&core.position()) == Some(true) => Err(Error::new(
                Kind::Busy,
                format!(
                    "this relay is at {}, behind the replica; it must wait until it has caught up",
                    core.position()
                ),
            )),
            None => Err(Error::new(
                Kind::Diverged,
                format!("what a replica at {there} has is not known here; it must send its checksums"),
            )),
        }
    }
}

impl Feed {
    /// What to send next. May read files and compress, unless [`Feed::is_quick`] says otherwise.
    pub fn step(&mut self) -> Result<Step> {
        match self.try_step() {
            // An empty chunk would end a chunked body.
            Ok(Step::Send(bytes)) if bytes.is_empty() => Ok(Step::Again),
            Ok(step) => Ok(step),
            Err(error) => self.give_up(&error),
        }
    }

    /// Whether the next step only looks into memory.
    pub fn is_quick(&self) -> bool {
        match self.mode {
            _ if !self.queue.is_empty() => self.compression == Compression::None,
            Mode::Live(..) => !self.compresses_entry,
            Mode::Ended => true,
            Mode::CatchUp(_) | Mode::Resend(_) => false,
        }
    }

    /// Resolves when there is something new.
    pub async fn changed(&mut self) {
        // An error means the primary is gone, and then the next step says so.
        let _ = self.changed.changed().await;
    }

    /// What to send when nothing came for a while. None in version 1, where silence is normal, and while it is not known
    /// that the replica was sent everything.
    pub fn heartbeat(&mut self) -> Option<Bytes> {
        let Mode::Live(next, _) = self.mode else { return None };
        if self.version != Version::V2 || self.primary.is_stopped() {
            return None;
        }
        // In this order: what was found by then is in the log.
        let time = self.primary.known_at();
        let position = self.log().position_at(next)?;
        let mut out = Vec::new();
        record::heartbeat(position, time, &mut out);
        self.sending = Sending::Live;
        self.count(0, 0, out.len());
        Some(Bytes::from(out))
    }

    fn try_step(&mut self) -> Result<Step> {
        if let Some(step) = self.send_queued() {
            return Ok(step);
        }
        if !matches!(self.mode, Mode::Ended) && self.primary.generations() != self.generations {
            return self.give_up(&Error::usage("the upstream of this relay has begun a new generation; connect again"));
        }
        if !matches!(self.mode, Mode::Ended)
            && let Err(error) = self.primary.check_serving()
        {
            return self.give_up(&error);
        }
        match &mut self.mode {
            Mode::Ended => return Ok(Step::End),
            Mode::CatchUp(catch_up) => {
                let chunk = catch_up.step(&self.primary)?;
                self.replica.set_headway(catch_up.headway());
                self.queue = chunk.records;
                self.count(0, chunk.pages, 0);
                if let Some((next, position, lsn)) = chunk.done {
                    self.go_live(next, position, lsn);
                }
            }
            Mode::Resend(resend) => {
                let (bytes, done) = resend.step(&self.primary)?;
                self.count(0, 0, bytes.len());
                if let Some((next, position, lsn)) = done {
                    self.go_live(next, position, lsn);
                }
                return Ok(Step::Send(bytes));
            }
            Mode::Live(next, _) => {
                // Marked before the look: what comes after it wakes the next wait.
                self.changed.mark_unchanged();
                let next = *next;
                return match self.log().get(next) {
                    Got::NotYet => Ok(Step::Wait),
                    Got::Gone => self.fall_behind(),
                    Got::Entry(entry) => Ok(self.send_entry(next, entry)),
                };
            }
        }
        Ok(self.send_queued().unwrap_or(Step::Again))
    }

    /// The next piece of a catch-up, if one is left. Compressed only now, so that one piece is sent while the next is.
    fn send_queued(&mut self) -> Option<Step> {
        let mut bytes = self.queue.pop_front()?;
        if self.compression == Compression::Lz4
            && let Some(compressed) = compress(&bytes)
        {
            bytes = Bytes::from(compressed);
        }
        self.count(0, 0, bytes.len());
        Some(Step::Send(bytes))
    }

    /// Entry number `n` of the log; in a step of its own if it has to be compressed first.
    fn send_entry(&mut self, n: u64, entry: Entry) -> Step {
        let due = self.compression == Compression::Lz4 && !entry.is_compressed();
        if due && !self.compresses_entry {
            self.compresses_entry = true;
            return Step::Again;
        }
        self.compresses_entry = false;
        let bytes = match self.compression {
            Compression::None => entry.records.unwrap_or_default(),
            Compression::Lz4 => entry.compressed_records(),
        };
        if due {
            self.log().count_again(n);
        }
        self.mode = Mode::Live(n + 1, entry.lsn);
        self.sending = Sending::Live;
        self.count(entry.commits, entry.pages, bytes.len());
        self.replica.set_live(n + 1);
        self.replica.set_position(entry.reached);
        Step::Send(bytes)
    }

    fn go_live(&mut self, next: u64, position: Position, lsn: Lsn) {
        self.mode = Mode::Live(next, lsn);
        self.replica.set_live(next);
        self.replica.set_position(position);
    }

    /// The log has moved on. A replica of 2022 must connect anew; the others are sent what changed.
    fn fall_behind(&mut self) -> Result<Step> {
        let Mode::Live(_, lsn) = self.mode else { return Ok(Step::Wait) };
        if self.version == Version::V2022 {
            self.mode = Mode::Ended;
            return Ok(Step::End);
        }
        self.replica.fell_behind();
        self.sending = Sending::CatchUp;
        self.mode = Mode::CatchUp(CatchUp::new(Lacks::ChangedSince(lsn)));
        Ok(Step::Again)
    }

    /// Counts what was handed to the connection.
    fn count(&self, commits: u64, pages: u64, bytes: usize) {
        self.replica.sent(commits, pages, bytes);
        self.primary.counters.sent(self.sending, pages, bytes as u64);
    }

    /// Ends the stream, and says why where the protocol has words for it.
    fn give_up(&mut self, error: &Error) -> Result<Step> {
        self.mode = Mode::Ended;
        self.queue.clear();
        if self.version == Version::V2022 {
            return Ok(Step::End);
        }
        // Where the log ends is known without waiting for anyone: this may be the thread that all
        // streams share.
        let position = self.log().reached();
        let mut out = Vec::new();
        record::error(position, &self.primary.told_to_others(error), &mut out);
        Ok(Step::Send(Bytes::from(out)))
    }

    fn log(&self) -> &CommitLog {
        if self.version == Version::V2 { &self.primary.log } else { &self.primary.raw_log }
    }
}
