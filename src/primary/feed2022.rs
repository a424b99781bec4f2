//! The stream as Litestream sent it in 2022: the database file, then the WAL as segments.
//!
//! A replica of that time replays the WAL of one index from its start, so that is what it is sent: first, unless it names
//! the index the WAL is at, a snapshot as of now; then all of the WAL so far; then, from the log, what comes.

use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;

use super::Primary;
use super::core::Core;
use super::pages::Places;
use super::served::locked;
use crate::base::{Error, FrameNo, Generation, Kind, Lsn, PageSize, Pgno, Position, Result, limits};
use crate::format::record::{HEADER_SIZE, Header, Type};
use crate::format::{lz4, wal};
use crate::sqlite::{Connection, OpenMode};

/// What a replica of 2022 is sent before it follows the log.
pub(super) struct Resend {
    asked: Option<(Generation, u64)>,
    snapshot: Option<Snapshot>,
}

/// A snapshot being sent, and what follows it.
struct Snapshot {
    /// Keeps every page where it is until the last one was sent, or the WAL has grown past its
    /// limit.
    reader: Arc<Mutex<Connection>>,
    size: PageSize,
    /// Where each page was when the snapshot began.
    places: Vec<Source>,
    sent: usize,
    segments: Bytes,
    then: (u64, Position, Lsn),
}

/// The read transactions of all snapshots that are being sent. Each keeps the WAL from being
/// restarted, however slow its replica is. So it is the tail that ends them.
#[derive(Default)]
pub(super) struct Pins(Mutex<Vec<Weak<Mutex<Connection>>>>);

/// Where the snapshot finds a page.
#[derive(Clone, Copy)]
enum Source {
    Log(FrameNo),
    Database,
}

/// Bytes to be sent, and, when they are the last before the log takes over, where in the log to go on.
type Sent = (Bytes, Option<(u64, Position, Lsn)>);

impl Resend {
    /// For a replica that knows `generation` and `index`.
    pub fn new(generation: Option<Generation>, index: Option<u64>) -> Resend {
        Resend { asked: generation.zip(index), snapshot: None }
    }

    /// The next bytes.
    pub fn step(&mut self, primary: &Primary) -> Result<Sent> {
        if let Some(snapshot) = &mut self.snapshot {
            return snapshot.step();
        }
        let reader = Connection::open(primary.path(), primary.vfs(), OpenMode::Existing)?;
        let mut core = primary.lock_core();
        reader.pin()?;
        reader.check_same(&core.watcher)?;
        primary.reading(&mut core, |core, places| self.begin(primary, core, places, reader))
    }

    /// What is sent first. The places are of after `reader` began, so that what counts as in the database it finds there.
    fn begin(&mut self, primary: &Primary, core: &Core, places: Places, reader: Connection) -> Result<Sent> {
        let segments = segments(core, FrameNo::ZERO, core.seen().mark.last)?.unwrap_or_default();
        let then = (primary.raw_log.end(), core.position(), core.lsn());
        if self.asked == Some((core.position().generation, core.position().index)) {
            return Ok((segments, Some(then)));
        }
        let places_of = (1..=core.seen().pages).filter_map(|n| Pgno::new(n).ok());
        let places: Result<Vec<Source>> = places_of.map(|p| source(core, p, places)).collect();
        let size = core.page_size();
        let reader = primary.pins.add(reader);
        self.snapshot = Some(Snapshot { reader, size, places: places?, sent: 0, segments, then });
        Ok((snapshot_header(core), None))
    }
}

fn source(core: &Core, pgno: Pgno, places: Places) -> Result<Source> {
    Ok(core.log_frame(pgno, places)?.map_or(Source::Database, Source::Log))
}

fn snapshot_header(core: &Core) -> Bytes {
    let position = Position { offset: 0, ..core.position() };
    let size = u64::from(core.seen().pages) * u64::from(core.page_size().get());
    Bytes::copy_from_slice(&Header::new(Type::Snapshot, position, size).encode())
}

impl Snapshot {
    fn step(&mut self) -> Result<Sent> {
        let reader = locked(&self.reader);
        if !reader.is_pinned() {
            let limit = limits::SNAPSHOT_2022_WAL_BYTES;
            let text = format!("a snapshot was read so slowly that the WAL grew past {limit} bytes; connect again");
            return Err(Error::new(Kind::Busy, text));
        }
        if self.sent == self.places.len() {
            reader.unpin();
            return Ok((std::mem::take(&mut self.segments), Some(self.then)));
        }
        let many = (limits::CHUNK_BYTES / self.size.bytes()).max(1);
        let chunk = self.places.get(self.sent..).unwrap_or_default();
        let chunk = chunk.get(..many).unwrap_or(chunk);
        let mut out = vec![0; chunk.len() * self.size.bytes()];
        reader.database()?.read(self.sent as u64 * u64::from(self.size.get()), &mut out)?;
        for (image, place) in out.chunks_exact_mut(self.size.bytes()).zip(chunk) {
            if let Source::Log(frame) = place {
                let offset = wal::frame_offset(*frame, self.size) + wal::FRAME_HEADER_SIZE as u64;
                reader.wal()?.read(offset, image)?;
            }
        }
        self.sent += chunk.len();
        Ok((Bytes::from(out), None))
    }
}

impl Pins {
    /// Keeps an eye on the read transaction of `reader`.
    fn add(&self, reader: Connection) -> Arc<Mutex<Connection>> {
        let reader = Arc::new(Mutex::new(reader));
        let mut all = locked(&self.0);
        all.retain(|pin| pin.strong_count() > 0);
        all.push(Arc::downgrade(&reader));
        reader
    }

    /// Ends them all if a WAL of `bytes` is past the limit. One that is just being read through is
    /// left to the next call.
    pub fn check(&self, bytes: u64) {
        if bytes <= limits::SNAPSHOT_2022_WAL_BYTES {
            return;
        }
        for reader in locked(&self.0).iter().filter_map(Weak::upgrade) {
            if let Ok(reader) = reader.try_lock() {
                reader.unpin();
            }
        }
    }
}

/// Segment records for the frames (from, to] of the WAL; the WAL header as a segment of its own before the first of them.
/// None if that is nothing, or more than the log takes.
pub(super) fn segments(core: &Core, from: FrameNo, to: FrameNo) -> Result<Option<Bytes>> {
    let bytes = wal::frame_size(core.page_size()) * u64::from(to.0.saturating_sub(from.0));
    if bytes > limits::MAX_SEGMENT_BYTES || to == FrameNo::ZERO {
        return Ok(Some(Bytes::new()).filter(|_| to == FrameNo::ZERO));
    }
    let raw = core.raw_frames(from, to)?;
    let mut out = Vec::new();
    let frames = match raw.split_at_checked(wal::HEADER_SIZE) {
        Some((header, frames)) if from == FrameNo::ZERO => {
            segment(core, 0, header, &mut out)?;
            frames
        }
        _ => &raw,
    };
    segment(core, wal::frame_offset(from.next(), core.page_size()), frames, &mut out)?;
    Ok(Some(Bytes::from(out)))
}

fn segment(core: &Core, offset: u64, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let payload = lz4::compress(raw)?;
    let position = Position { offset, ..core.position() };
    let header = Header::new(Type::Segment, position, payload.len() as u64);
    out.reserve(HEADER_SIZE + payload.len());
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(&payload);
    Ok(())
}
