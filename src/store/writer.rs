//! Appends transactions to a live WAL from outside SQLite's pager.
//!
//! It does what the pager does, through the VFS methods of a private connection: under the write lock, frames go to
//! the WAL file, page numbers to the wal-index, and one change of the wal-index header shows the transaction to every
//! reader that starts from then on (<https://www.sqlite.org/walformat.html>).

use std::collections::HashMap;

use byteorder::{ByteOrder, LittleEndian};

use super::walindex::{self, State};
use crate::base::{Error, FrameNo, Kind, PageSize, Pgno, Result, limits};
use crate::format::checksum::PageChecksum;
use crate::format::wal::{self, Chain, FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, Salts, WordOrder};
use crate::format::walindex::{Header, READ_MARKS, lock};
use crate::sqlite::{Connection, Held, WalIndex, random_bytes};

/// A transaction on its way into the WAL: frames after the last commit that no reader can see yet.
/// They stay until they are committed by [`WalWriter::commit`], or are overwritten by whatever is
/// written next.
pub struct Appended {
    before: Header,
    after: Header,
    chain: Chain,
    frames: Vec<Pgno>,
    changes: Changes,
}

/// The checksum of each page of a transaction, computed from the page's last frame as that frame
/// was written.
pub type Changes = HashMap<Pgno, PageChecksum>;

/// The right to append to the WAL: holds the write lock until dropped.
pub struct WalWriter<'c> {
    connection: &'c Connection,
    index: WalIndex<'c>,
    page_size: PageSize,
    header: Header,
    lock: Held<'c>,
}

/// Frames that are encoded and not yet in the file.
struct Encoded {
    at: u64,
    bytes: Vec<u8>,
}

impl<'c> WalWriter<'c> {
    /// Takes the write lock. None while somebody else has it.
    ///
    /// The connection must have read the database in WAL mode and be in no transaction. `page_size` is the database's.
    pub fn try_begin(connection: &'c Connection, page_size: PageSize) -> Result<Option<WalWriter<'c>>> {
        loop {
            // Rebuilds the wal-index where a writer died while it published: only SQLite can do that, and not under our lock.
            walindex::valid_state(connection)?;
            let index = connection.wal_index()?;
            let Some(lock) = index.try_lock(lock::WRITE, 1)? else { return Ok(None) };
            if let Some(State { header, .. }) = walindex::state(&index)? {
                check_page_size(connection, &header, page_size)?;
                return Ok(Some(WalWriter { connection, index, page_size, header, lock }));
            }
        }
    }

    /// Ends the use of this writer and keeps the write lock, until [`WalWriter::resume`] takes it
    /// over.
    pub fn keep_lock(self) {
        self.lock.keep();
    }

    /// Takes over the write lock that [`WalWriter::keep_lock`] left with `connection`.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if the wal-index became invalid under the lock.
    pub fn resume(connection: &'c Connection, page_size: PageSize) -> Result<WalWriter<'c>> {
        let index = connection.wal_index()?;
        let lock = index.held(lock::WRITE, 1);
        match walindex::state(&index)? {
            Some(State { header, .. }) => Ok(WalWriter { connection, index, page_size, header, lock }),
            None => Err(Error::corrupt(format!(
                "litestream: {}: the wal-index became invalid during a transaction; is something else writing to the \
                 -shm file?",
                connection.path().display()
            ))),
        }
    }

    /// Gives back the write lock that [`WalWriter::keep_lock`] left with `connection`.
    pub fn give_back(connection: &Connection) -> Result<()> {
        connection.wal_index().map(|index| drop(index.held(lock::WRITE, 1)))
    }

    /// The last commit.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Writes all of the WAL once more, as it is, so that the next sync is about all of it: when a sync fails, the system may take
    /// what it could not write for written, and the next sync succeeds without it.
    ///
    /// A frame that is not what was written fits in again afterwards, so that a recovery reaches what follows it; but what page it
    /// holds now is not known, and that is the error.
    pub fn write_again(&mut self) -> Result<()> {
        let (log, last) = (self.connection.wal()?, self.header.last);
        if last == FrameNo::ZERO {
            return Ok(());
        }
        let mut bytes = vec![0; HEADER_SIZE];
        log.read(0, &mut bytes)?;
        log.write(0, &bytes)?;
        let mut chain = Chain::start(&wal::Header::decode(&bytes)?);
        let mut lost = None;
        let mut bytes = vec![0; wal::frame_size(self.page_size) as usize];
        for frame in (1..=last.0).map(FrameNo) {
            let at = wal::frame_offset(frame, self.page_size);
            log.read(at, &mut bytes)?;
            let (head, page) = bytes.split_at(FRAME_HEADER_SIZE);
            if lost.is_some() || !chain.accept(head, page) {
                lost.get_or_insert(frame);
                bytes = self.fit_in(&mut chain, frame, &bytes)?;
            }
            log.write(at, &bytes)?;
        }
        let Some(lost) = lost else { return Ok(()) };
        let header = Header { frame_checksum: chain.checksum(), ..self.header };
        walindex::publish(&self.index, &header)?;
        self.header = header;
        let name = self.connection.path().display();
        Err(Error::new(
            Kind::Diverged,
            format!("litestream: {name}: frame {} of the WAL is not what was written there", lost.0),
        ))
    }

    /// The bytes of a frame with a header that follows `chain`.
    fn fit_in(&self, chain: &mut Chain, frame: FrameNo, bytes: &[u8]) -> Result<Vec<u8>> {
        let (head, page) = bytes.split_at(FRAME_HEADER_SIZE);
        let (pgno, found) = (walindex::page_of(&self.index, frame)?, FrameHeader::decode(head)?);
        let commit = match frame == self.header.last {
            true => self.header.pages,
            false if (found.pgno, found.salts) == (pgno.get(), self.header.salts) => found.commit,
            false => 0,
        };
        let mut fitting = Vec::with_capacity(bytes.len());
        chain.append(&mut fitting, pgno.get(), commit, page);
        Ok(fitting)
    }

    /// Starts a transaction after the last commit.
    pub fn start(&self) -> Result<Appended> {
        let before = self.header;
        let (after, chain) = if before.last > FrameNo::ZERO {
            (before, Chain::resume(before.order, before.salts, before.frame_checksum))
        } else {
            let header = self.write_wal_header()?;
            let after = Header { order: header.order, salts: header.salts, page_size: Some(self.page_size), ..before };
            (after, Chain::start(&header))
        };
        Ok(Appended { before, after, chain, frames: Vec::new(), changes: Changes::new() })
    }

    /// Writes frames that stay invisible. The lock must be kept until the transaction ends: nothing
    /// else keeps others from overwriting them.
    pub fn append<'p>(&self, to: &mut Appended, pages: impl Iterator<Item = (Pgno, &'p [u8])>) -> Result<()> {
        let rest = self.encode(to, pages, |_| 0)?;
        self.connection.wal()?.write(rest.at, &rest.bytes)
    }

    /// Writes the last frames of a transaction and shows it to all readers. `size` is the database size it leads to, in pages.
    ///
    /// `check` decides whether the transaction takes place. It gets the checksum of every page as
    /// its last frame has it, and the number of frames that the WAL will have. All frames but those
    /// of the last write are in the file by then, and nothing is added, dropped or replaced after
    /// it. The frame that carries the commit is written only when `check` agrees: recovery never
    /// finds a transaction that was refused.
    ///
    /// At least one page must be given; the last of them carries the commit.
    ///
    /// # Errors
    /// The error of `check`, of the storage, or [`Kind::Internal`] without a page. No reader sees
    /// anything of the transaction.
    pub fn commit<'p>(
        &mut self,
        mut to: Appended,
        pages: impl ExactSizeIterator<Item = (Pgno, &'p [u8])>,
        size: u32,
        check: impl FnOnce(&Changes, u64) -> Result<()>,
    ) -> Result<Changes> {
        let Some(last) = pages.len().checked_sub(1) else {
            return Err(Error::new(Kind::Internal, "litestream: a commit without a page"));
        };
        if to.before != self.header {
            return Err(Error::new(Kind::Internal, "litestream: a commit that does not follow the last one"));
        }
        let rest = self.encode(&mut to, pages, |i| if i == last { size } else { 0 })?;
        check(&to.changes, u64::from(self.header.last.0) + to.frames.len() as u64)?;
        self.connection.wal()?.write(rest.at, &rest.bytes)?;
        let mut frame = self.header.last;
        walindex::remove_after(&self.index, frame)?;
        for pgno in &to.frames {
            frame = frame.next();
            walindex::enter(&self.index, frame, *pgno)?;
        }
        let header = Header {
            change: to.after.change.wrapping_add(1),
            page_size: Some(self.page_size),
            last: frame,
            pages: size,
            frame_checksum: to.chain.checksum(),
            ..to.after
        };
        // Before the header is published: what fails after that would deny a commit that readers
        // see.
        walindex::offer_read_mark(&self.index, frame)?;
        self.index.barrier();
        walindex::publish(&self.index, &header)?;
        self.header = header;
        Ok(to.changes)
    }

    /// Encodes one frame for each page, and writes all but the last of them, which are at most one
    /// chunk.
    fn encode<'p>(
        &self,
        to: &mut Appended,
        pages: impl Iterator<Item = (Pgno, &'p [u8])>,
        commit: impl Fn(usize) -> u32,
    ) -> Result<Encoded> {
        let log = self.connection.wal()?;
        let mut rest = Encoded { at: self.offset_after(to), bytes: Vec::new() };
        for (i, (pgno, page)) in pages.enumerate() {
            if page.len() != self.page_size.bytes() {
                return Err(Error::new(Kind::Internal, format!("litestream: a page of {} bytes", page.len())));
            }
            if rest.bytes.len() >= limits::CHUNK_BYTES {
                log.write(rest.at, &rest.bytes)?;
                rest.at += rest.bytes.len() as u64;
                rest.bytes.clear();
            }
            let start = rest.bytes.len();
            to.chain.append(&mut rest.bytes, pgno.get(), commit(i), page);
            let written = rest.bytes.get(start + FRAME_HEADER_SIZE..).unwrap_or_default();
            to.changes.insert(pgno, PageChecksum::of(pgno, written));
            to.frames.push(pgno);
        }
        Ok(rest)
    }

    fn offset_after(&self, to: &Appended) -> u64 {
        let frames = to.after.last.0.saturating_add(u32::try_from(to.frames.len()).unwrap_or(u32::MAX));
        wal::frame_offset(FrameNo(frames).next(), self.page_size)
    }

    /// Begins a new life of the WAL with a header of its own.
    ///
    /// It is synced before any frame is written, as SQLite does: after a power loss an old header with its first frames
    /// overwritten would replay old pages over newer ones.
    fn write_wal_header(&self) -> Result<wal::Header> {
        let log = self.connection.wal()?;
        let mut old = [0; HEADER_SIZE];
        log.read(0, &mut old)?;
        let sequence = wal::Header::decode(&old).map_or(0, |old| old.sequence.wrapping_add(1));
        let salts = match self.header.salts {
            Salts(0, 0) => random_salts(),
            set_by_restart => set_by_restart,
        };
        let header = wal::Header { order: WordOrder::NATIVE, page_size: self.page_size, sequence, salts };
        log.write(0, &header.encode())?;
        log.sync()?;
        Ok(header)
    }
}

/// Starts the WAL anew when all of it is in the database and nobody reads from it at this instant; whether it did.
///
/// What a writer of SQLite does before its first frame, and under more locks: the checkpoint lock is held as well, so no
/// checkpoint can run meanwhile that would take the old frame count for the new WAL's (the WAL-reset bug of SQLite up to
/// 3.51.2, <https://www.sqlite.org/wal.html>). The file keeps its bytes until the next transaction overwrites them:
/// recovered from, they give what the database holds already.
pub fn restart(connection: &Connection) -> Result<bool> {
    let index = connection.wal_index()?;
    let marks = READ_MARKS as i32 - 1;
    let Some(_write) = index.try_lock(lock::WRITE, 1)? else { return Ok(false) };
    let Some(_checkpoint) = index.try_lock(lock::CHECKPOINT, 1)? else { return Ok(false) };
    let Some(_readers) = index.try_lock(lock::read(1), marks)? else { return Ok(false) };
    let Some(state) = walindex::state(&index)? else { return Ok(false) };
    if state.header.last == FrameNo::ZERO || state.header.last.0 != state.backfilled {
        return Ok(false);
    }
    let salts = Salts(state.header.salts.0.wrapping_add(1), random_salts().1);
    walindex::publish(&index, &Header { last: FrameNo::ZERO, salts, ..state.header })?;
    walindex::forget_backfill(&index)?;
    Ok(true)
}

fn random_salts() -> Salts {
    let bytes: [u8; 8] = random_bytes();
    let (a, b) = bytes.split_at(4);
    Salts(LittleEndian::read_u32(a), LittleEndian::read_u32(b))
}

fn check_page_size(connection: &Connection, header: &Header, expected: PageSize) -> Result<()> {
    match header.page_size {
        Some(found) if header.last > FrameNo::ZERO && found != expected => Err(Error::new(
            Kind::Refused,
            format!(
                "litestream: {}: pages of {} bytes do not fit a database with pages of {} bytes",
                connection.path().display(),
                expected.get(),
                found.get()
            ),
        )),
        _ => Ok(()),
    }
}
