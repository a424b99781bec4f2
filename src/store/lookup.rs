//! The newest committed images of pages, wherever they are.

use super::Checksums;
use super::walindex::{self, State};
use crate::base::{Error, FrameNo, Kind, PageSize, Pgno, Result, limits};
use crate::format::checksum::PageChecksum;
use crate::format::wal::{FRAME_HEADER_SIZE, frame_offset};
use crate::format::walindex::Header;
use crate::sqlite::Connection;

/// Where a database says how large its pages are, in 2 bytes, big-endian
/// (<https://www.sqlite.org/fileformat2.html#page_size>).
const AT_PAGE_SIZE: usize = 16;

/// Reads page `pgno` as the newest commit has it.
pub fn read_page(connection: &Connection, pgno: Pgno, size: PageSize) -> Result<Vec<u8>> {
    pinned(connection, |state| {
        let mut page = vec![0; size.bytes()];
        match log_frame(connection, pgno, &state)? {
            Some(frame) => read_frame(connection, frame, size, &mut page)?,
            None => connection.database()?.read(pgno.file_offset(size), &mut page)?,
        }
        Ok(page)
    })
}

/// Reads all pages as the newest commit has them, for their checksums, unless `stop` says to end.
/// Returns the wal-index header
/// of that commit, too.
pub fn read_checksums(connection: &Connection, size: PageSize, stop: &dyn Fn() -> bool) -> Result<(Checksums, Header)> {
    let mut checksums = Checksums::new(0, size);
    let (pages, header) = read_all(connection, size, |first, images| {
        if stop() {
            return Err(Error::new(Kind::Interrupted, "litestream: interrupted"));
        }
        for (n, image) in (first.get()..).zip(images.chunks_exact(size.bytes())) {
            let pgno = Pgno::new(n)?;
            checksums.resize(checksums.pages().max(n));
            checksums.set(pgno, Some(PageChecksum::of(pgno, image)));
        }
        Ok(())
    })?;
    checksums.resize(pages);
    Ok((checksums, header))
}

/// Reads all pages as the newest commit has them, in one read transaction. `take` gets consecutive ones, the number of the first
/// and the images. Returns how many there are, and the wal-index header of that commit.
pub(super) fn read_all(
    connection: &Connection,
    size: PageSize,
    mut take: impl FnMut(Pgno, &[u8]) -> Result<()>,
) -> Result<(u32, Header)> {
    pinned(connection, |state| {
        let pages = pages(connection, &state, size)?;
        let many = (limits::CHUNK_BYTES / size.bytes()).max(1);
        let mut images = vec![0; many * size.bytes()];
        for first in (1..=pages).step_by(many) {
            let first = Pgno::new(first)?;
            let wanted = images.len().min(bytes_to_end(first, pages, size));
            let images = images.get_mut(..wanted).unwrap_or_default();
            read_images(connection, &state, size, first, images)?;
            take(first, images)?;
        }
        Ok((pages, state.header))
    })
}

/// Reads up to `many` consecutive pages from `first` on as the newest commit has them, in one read
/// transaction. `take` gets each of them. Pages beyond the end of the database are left out.
pub fn read_run(
    connection: &Connection,
    size: PageSize,
    first: Pgno,
    many: u32,
    mut take: impl FnMut(Pgno, &[u8]),
) -> Result<()> {
    pinned(connection, |state| {
        let pages = pages(connection, &state, size)?;
        let mut images = vec![0; (many as usize * size.bytes()).min(bytes_to_end(first, pages, size))];
        read_images(connection, &state, size, first, &mut images)?;
        for (n, image) in (first.get()..=pages).zip(images.chunks_exact(size.bytes())) {
            take(Pgno::new(n)?, image);
        }
        Ok(())
    })
}

/// Fills `images` with consecutive pages from `first` on, within a read transaction at `state`.
fn read_images(connection: &Connection, state: &State, size: PageSize, first: Pgno, images: &mut [u8]) -> Result<()> {
    connection.database()?.read(first.file_offset(size), images)?;
    for (n, image) in (first.get()..).zip(images.chunks_exact_mut(size.bytes())) {
        if let Some(frame) = log_frame(connection, Pgno::new(n)?, state)? {
            read_frame(connection, frame, size, image)?;
        }
    }
    Ok(())
}

/// Bytes from the start of page `first` to the end of a database of `pages` pages.
fn bytes_to_end(first: Pgno, pages: u32, size: PageSize) -> usize {
    (pages as usize + 1).saturating_sub(first.get() as usize) * size.bytes()
}

/// Runs `read` within a read transaction, at the newest commit.
fn pinned<T>(connection: &Connection, read: impl FnOnce(State) -> Result<T>) -> Result<T> {
    let pinned = connection.is_pinned();
    connection.pin()?;
    let done = walindex::valid_state(connection).and_then(read);
    if !pinned {
        connection.unpin();
    }
    done
}

/// The frame that has the newest image of a page, unless the database file has it.
fn log_frame(connection: &Connection, pgno: Pgno, state: &State) -> Result<Option<FrameNo>> {
    let newest = walindex::newest_frame(&connection.wal_index()?, pgno, state.header.last)?;
    Ok(newest.filter(|frame| frame.0 > state.backfilled))
}

fn read_frame(connection: &Connection, frame: FrameNo, size: PageSize, page: &mut [u8]) -> Result<()> {
    connection.wal()?.read(frame_offset(frame, size) + FRAME_HEADER_SIZE as u64, page)
}

/// Database size in pages. An empty WAL does not always know it, but then the file has it.
pub fn pages(connection: &Connection, state: &State, size: PageSize) -> Result<u32> {
    if state.header.last > FrameNo::ZERO {
        return Ok(state.header.pages);
    }
    let bytes = connection.database()?.size()?;
    u32::try_from(bytes / u64::from(size.get()))
        .map_err(|_| Error::corrupt(format!("litestream: a database of {bytes} bytes has too many pages")))
}

/// Page size of a database with content.
pub fn page_size(connection: &Connection) -> Result<PageSize> {
    // The connection then has the WAL open, too.
    connection.pin()?;
    connection.unpin();
    let mut header = [0; AT_PAGE_SIZE + 2];
    connection.database()?.read(0, &mut header)?;
    let [.., high, low] = header;
    let size = PageSize::from_u16(u16::from_be_bytes([high, low]))?;
    connection.require_plain_pages(size.bytes())?;
    Ok(size)
}
