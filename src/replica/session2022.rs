//! A stream as Litestream sent it in 2022: a snapshot, then segments of the WAL.
//!
//! A snapshot is followed by segments that are older than it in part, and replaying them shows states that never were. So
//! nothing is applied until the stream pauses, which it does when it has sent all there is; and nothing at all if it ends
//! before. On resuming, the WAL comes from
//! its start again: what the replica has already is only followed for its checksums.

use std::io::Read;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use super::feeder::{Feeder, Until};
use super::pending::Pending;
use super::records::Records;
use super::session::unexpected;
use super::status::State;
use super::upstream_clock::Newest;
use crate::base::{Error, Generation, Kind, PageSize, Pgno, Position, Result, limits};
use crate::format::lz4;
use crate::format::record::{Header, Type};
use crate::format::wal::{self, Chain, FRAME_HEADER_SIZE, FrameHeader};
use crate::sqlite::spawn;
use crate::store::Checksums;

/// How long the stream must pause before a snapshot counts as followed by all there is.
const PAUSE: Duration = Duration::from_millis(500);
/// After this time the pause asked for halves, and again each time the second time has passed: what was there when the
/// stream began must have come, and only new commits keep it from pausing.
const LONG_ENOUGH: Duration = Duration::from_secs(2);
const HALVES: Duration = Duration::from_millis(500);
/// After this time no pause is waited for.
const TOO_LONG: Duration = Duration::from_secs(30);

/// Applies a stream to a replica until it ends or fails, or as `until` says.
pub(super) fn run(
    feeder: &mut Feeder,
    body: Box<dyn Read + Send>,
    page_size: Option<u32>,
    newest: Newest,
    until: Until,
) -> Result<()> {
    let size = PageSize::new(page_size.unwrap_or(0)).map_err(|e| e.within("Litestream-Page-Size of the upstream"))?;
    let silence = feeder.options.silence;
    let mut records = Records::new(Pump::start(body, silence)?).silent_for(silence);
    feeder.progress.set_state(State::CatchingUp, Some("from an upstream of 2022".into()));
    let first = match first_record(feeder, &mut records, newest, until)? {
        Some(first) => first,
        None => return Ok(()),
    };
    let snapshot = first.kind == Type::Snapshot;
    feeder.adopt(first.position.generation, snapshot, size)?;
    let new = feeder.is_new()?;
    let mut log = Log::new(size, first.position.generation, if snapshot { None } else { feeder.position() });
    if new {
        let (position, pages, checksums) = bootstrap(feeder, &mut log, &mut records, &first)?;
        feeder.made(position, newest, pages, checksums)?;
    }
    let pending = feeder.pending(size)?;
    let mut session = Session { log, pending, newest, reached: None, from_snapshot: None };
    match (new, snapshot) {
        (true, _) => {}
        (false, true) => session.snapshot(feeder, &mut records, &first)?,
        (false, false) => session.segment(feeder, &mut records, &first)?,
    }
    session.go_on(feeder, &mut records, until)
}

/// Whether all that was there when the stream began has come, `since` the end of the snapshot.
fn has_paused(records: &mut Records<Pump>, since: Instant) -> bool {
    let elapsed = since.elapsed();
    let halved = elapsed.saturating_sub(LONG_ENOUGH).as_millis() / HALVES.as_millis();
    let pause = PAUSE / (1 << halved.min(30));
    elapsed >= TOO_LONG || !(records.has_more() || records.body().has_data_within(pause))
}

/// The first record. An upstream that has nothing new for a replica says nothing at all; a pull is then complete.
fn first_record(
    feeder: &mut Feeder,
    records: &mut Records<Pump>,
    newest: Newest,
    until: Until,
) -> Result<Option<Header>> {
    if let (Until::CaughtUp, Some(position)) = (until, feeder.position())
        && !records.body().has_data_within(PAUSE)
    {
        feeder.stand(position, newest)?;
        return Ok(None);
    }
    // Where it has to send a snapshot, it does so at once.
    if feeder.position().is_some() && !wait_for_data(feeder, records)? {
        return Ok(None);
    }
    records.header()?.map(Some).ok_or_else(ended)
}

/// Waits for as long as the upstream says nothing, which it does when it has nothing to say. False
/// if the replica is to stop.
fn wait_for_data(feeder: &mut Feeder, records: &mut Records<Pump>) -> Result<bool> {
    while !records.has_more() && !records.body().has_data_within(PAUSE) {
        if (feeder.stop)() {
            return Ok(false);
        }
        feeder.audit()?;
    }
    Ok(true)
}

/// Hands the pages of a snapshot to `write`, in runs.
fn read_snapshot(
    records: &mut Records<Pump>,
    header: &Header,
    size: PageSize,
    mut write: impl FnMut(Pgno, &[u8]) -> Result<()>,
) -> Result<()> {
    if header.kind != Type::Snapshot {
        return Err(unexpected(header.kind, "a snapshot"));
    }
    let page = u64::from(size.get());
    let pages = u32::try_from(header.size / page).ok().filter(|_| header.size.is_multiple_of(page));
    let Some(pages) = pages else {
        return Err(Error::corrupt(format!("stream: a snapshot of {} bytes, no multiple of {page}", header.size)));
    };
    let many = (limits::CHUNK_BYTES / size.bytes()).max(1);
    let mut images = vec![0; many * size.bytes()];
    for first in (1..=pages).step_by(many) {
        let count = many.min((pages - first + 1) as usize);
        let images = images.get_mut(..count * size.bytes()).unwrap_or_default();
        records.fill(images)?;
        write(Pgno::new(first)?, images)?;
    }
    Ok(())
}

/// Writes a new replica: the snapshot, and over it in the file what the segments after it change.
fn bootstrap(
    feeder: &Feeder,
    log: &mut Log,
    records: &mut Records<Pump>,
    snapshot: &Header,
) -> Result<(Position, u32, Option<Checksums>)> {
    let mut file = feeder.bootstrap(log.size)?;
    read_snapshot(records, snapshot, log.size, |first, images| file.write(first, images))?;
    let mut pages = (snapshot.size / u64::from(log.size.get())) as u32;
    let mut position = snapshot.position;
    let since = Instant::now();
    while !has_paused(records, since) {
        let header = records.header()?.ok_or_else(ended)?;
        let mut held = Vec::new();
        for frame in log.frames(&header, records.payload(&header)?)? {
            held.push((frame.pgno, frame.page));
            if frame.commit > 0 {
                for (pgno, page) in held.drain(..) {
                    file.write(pgno, &page)?;
                }
                pages = frame.commit;
            }
        }
        position = log.position(header.position);
    }
    let checksums = file.finish_unchecked(pages, || feeder.claim())?;
    Ok((position, pages, checksums))
}

/// Where a stream is.
struct Session {
    log: Log,
    pending: Pending,
    /// When what the stream pauses after was the newest.
    newest: Newest,
    /// Database size and position after the last commit in `pending`.
    reached: Option<(u32, Position)>,
    /// Since when what is pending begins with a snapshot.
    from_snapshot: Option<Instant>,
}

impl Session {
    fn go_on(&mut self, feeder: &mut Feeder, records: &mut Records<Pump>, until: Until) -> Result<()> {
        let began = Instant::now();
        loop {
            let paused = match (self.from_snapshot, until) {
                (Some(since), _) => has_paused(records, since),
                (None, Until::CaughtUp) => has_paused(records, began),
                (None, Until::Stopped) => !records.has_more() && !records.body().has_data_within(Duration::ZERO),
            };
            if paused {
                self.apply(feeder, self.newest)?;
                feeder.count(records.bytes);
                if until == Until::CaughtUp {
                    return Ok(());
                }
            }
            if (feeder.stop)() || !wait_for_data(feeder, records)? {
                return Ok(());
            }
            let Some(header) = records.header()? else {
                // After a snapshot, what came so far may be older than it in part.
                if self.from_snapshot.is_none() {
                    self.apply(feeder, Newest { at: None, ..self.newest })?;
                }
                return Err(ended());
            };
            match header.kind {
                Type::Snapshot => return Err(unexpected(header.kind, "a segment")),
                _ => self.segment(feeder, records, &header)?,
            }
        }
    }

    fn snapshot(&mut self, feeder: &mut Feeder, records: &mut Records<Pump>, header: &Header) -> Result<()> {
        let size = self.log.size;
        read_snapshot(records, header, size, |first, images| {
            for (pgno, image) in (first.get()..).zip(images.chunks_exact(size.bytes())) {
                let pgno = Pgno::new(pgno)?;
                if pgno != size.lock_page() {
                    feeder.database.put(&mut self.pending, pgno, image, feeder.stop)?;
                }
            }
            Ok(())
        })?;
        self.from_snapshot = Some(Instant::now());
        self.reached = Some(((header.size / u64::from(size.get())) as u32, header.position));
        Ok(())
    }

    fn segment(&mut self, feeder: &mut Feeder, records: &mut Records<Pump>, header: &Header) -> Result<()> {
        let frames = self.log.frames(header, records.payload(header)?)?;
        for frame in frames {
            feeder.database.put(&mut self.pending, frame.pgno, &frame.page, feeder.stop)?;
            if frame.commit > 0 {
                self.reached = Some((frame.commit, self.log.position(header.position)));
            }
        }
        // More of what was there when it was asked for may be to come.
        let newest = Newest { at: None, ..self.newest };
        if self.pending.is_large() && self.from_snapshot.is_none() { self.apply(feeder, newest) } else { Ok(()) }
    }

    fn apply(&mut self, feeder: &mut Feeder, newest: Newest) -> Result<()> {
        self.from_snapshot = None;
        let Some((pages, position)) = self.reached.take() else { return Ok(()) };
        let empty = Pending::new(self.log.size, feeder.read_only());
        let pending = std::mem::replace(&mut self.pending, empty);
        feeder.commit(pending, pages, None, position, newest)
    }
}

/// The WAL as the segments give it.
struct Log {
    size: PageSize,
    generation: Generation,
    /// Where the next segment must start, once there was one.
    next: Option<(u64, u64)>,
    chain: Option<Chain>,
    /// Frames up to here are known to the replica.
    known: Option<Position>,
}

/// A frame whose checksum was right.
struct Frame {
    pgno: Pgno,
    commit: u32,
    page: Vec<u8>,
}

impl Log {
    fn new(size: PageSize, generation: Generation, known: Option<Position>) -> Log {
        Log { size, generation, next: None, chain: None, known }
    }

    /// The position after what has been read of WAL `at.index`.
    fn position(&self, at: Position) -> Position {
        Position { offset: self.next.map_or(at.offset, |(_, offset)| offset), ..at }
    }

    /// The frames of a segment that the replica does not know.
    fn frames(&mut self, header: &Header, payload: &[u8]) -> Result<Vec<Frame>> {
        if header.kind != Type::Segment {
            return Err(unexpected(header.kind, "a segment"));
        }
        let raw = lz4::decompress(payload, limits::MAX_SEGMENT_BYTES)?;
        let raw = self.place(header.position, &raw)?;
        let frame_size = wal::frame_size(self.size) as usize;
        if raw.len() % frame_size != 0 {
            return Err(Error::corrupt(format!(
                "stream: a segment of {} bytes, no multiple of {frame_size}",
                raw.len()
            )));
        }
        let mut frames = Vec::new();
        for bytes in raw.chunks_exact(frame_size) {
            frames.extend(self.frame(header.position, bytes)?);
        }
        Ok(frames)
    }

    /// Checks that a segment follows the last one, and takes the WAL header off the first of a WAL.
    fn place<'a>(&mut self, at: Position, raw: &'a [u8]) -> Result<&'a [u8]> {
        let fits = match self.next {
            None => at.offset == 0,
            Some((index, offset)) => {
                (at.index == index && at.offset == offset) || (index.checked_add(1) == Some(at.index) && at.offset == 0)
            }
        };
        if !fits || at.generation != self.generation {
            return Err(Error::corrupt(format!(
                "stream: a segment at {at}, expected one of generation {} at (index, offset) {:x?}",
                self.generation, self.next
            )));
        }
        if at.offset > 0 {
            return Ok(raw);
        }
        let Some((header, frames)) = raw.split_at_checked(wal::HEADER_SIZE) else {
            return Err(Error::corrupt("stream: a first segment without a WAL header"));
        };
        let header = wal::Header::decode(header).map_err(|e| e.within("stream"))?;
        if header.page_size != self.size {
            return Err(Error::corrupt(format!(
                "stream: a WAL with pages of {} bytes, expected {}",
                header.page_size.get(),
                self.size.get()
            )));
        }
        self.chain = Some(Chain::start(&header));
        self.next = Some((at.index, wal::HEADER_SIZE as u64));
        Ok(frames)
    }

    fn frame(&mut self, at: Position, bytes: &[u8]) -> Result<Option<Frame>> {
        let wrong = || Error::corrupt("stream: a WAL frame with wrong salts or checksum");
        let (header, page) = bytes.split_at_checked(FRAME_HEADER_SIZE).ok_or_else(wrong)?;
        if !self.chain.as_mut().is_some_and(|chain| chain.accept(header, page)) {
            return Err(wrong());
        }
        let offset = self.next.map_or(0, |(_, offset)| offset) + bytes.len() as u64;
        self.next = Some((at.index, offset));
        let after = Position { offset, ..at };
        if self.known.is_some_and(|known| known.reaches(&after) == Some(true)) {
            return Ok(None);
        }
        let header = FrameHeader::decode(header)?;
        let pgno = Pgno::new(header.pgno).map_err(|e| e.within("stream"))?;
        if pgno == self.size.lock_page() {
            return Err(Error::corrupt("stream: a frame for the lock-byte page"));
        }
        Ok(Some(Frame { pgno, commit: header.commit, page: page.to_vec() }))
    }
}

/// Reads a stream on a thread of its own, so that it can be known whether anything has come.
struct Pump {
    chunks: Receiver<std::io::Result<Vec<u8>>>,
    current: Vec<u8>,
    at: usize,
    /// How long nothing may come in the middle of a record.
    silence: Duration,
    /// What the stream failed with, once that was seen ahead.
    failure: Option<std::io::Error>,
}

impl Pump {
    fn start(mut body: Box<dyn Read + Send>, silence: Duration) -> Result<Pump> {
        let (sender, chunks) = sync_channel(8);
        let pump = move || loop {
            let mut chunk = vec![0; 64 << 10];
            let read = body.read(&mut chunk).map(|n| {
                chunk.truncate(n);
                chunk
            });
            let last = !matches!(&read, Ok(chunk) if !chunk.is_empty());
            if sender.send(read).is_err() || last {
                return;
            }
        };
        spawn("litestream-read", pump)?;
        Ok(Pump { chunks, current: Vec::new(), at: 0, silence, failure: None })
    }

    /// Whether there is something to read, or comes within `time`. The end of the stream is something.
    fn has_data_within(&mut self, time: Duration) -> bool {
        if self.at < self.current.len() || self.failure.is_some() {
            return true;
        }
        match self.chunks.recv_timeout(time) {
            Ok(Ok(chunk)) => {
                (self.current, self.at) = (chunk, 0);
                true
            }
            Ok(Err(error)) => {
                self.failure = Some(error);
                true
            }
            Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
        }
    }
}

impl Read for Pump {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.current.len() {
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            let chunk = match self.chunks.recv_timeout(self.silence) {
                Ok(chunk) => chunk?,
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) => {
                    let message = format!("nothing came for {} ms in the middle of a record", self.silence.as_millis());
                    return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, message));
                }
            };
            (self.current, self.at) = (chunk, 0);
        }
        let rest = self.current.get(self.at..).unwrap_or_default();
        let n = rest.len().min(out.len());
        let (to, from) = (out.get_mut(..n).unwrap_or_default(), rest.get(..n).unwrap_or_default());
        to.copy_from_slice(from);
        self.at += n;
        Ok(n)
    }
}

fn ended() -> Error {
    Error::new(Kind::Io, "stream: the upstream ended it")
}
