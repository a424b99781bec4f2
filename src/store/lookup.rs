//! The newest committed image of a page, wherever it is.

use super::walindex;
use crate::base::{PageSize, Pgno, Result};
use crate::format::wal::{FRAME_HEADER_SIZE, frame_offset};
use crate::sqlite::Connection;

/// Reads page `pgno` as the newest commit has it.
pub fn read_page(connection: &Connection, pgno: Pgno, size: PageSize) -> Result<Vec<u8>> {
    let pinned = connection.is_pinned();
    connection.pin()?;
    let page = read_pinned(connection, pgno, size);
    if !pinned {
        connection.unpin();
    }
    page
}

fn read_pinned(connection: &Connection, pgno: Pgno, size: PageSize) -> Result<Vec<u8>> {
    let state = walindex::valid_state(connection)?;
    let mut page = vec![0; size.bytes()];
    match walindex::newest_frame(&connection.wal_index()?, pgno, state.header.last)? {
        Some(frame) if frame.0 > state.backfilled => {
            connection.wal()?.read(frame_offset(frame, size) + FRAME_HEADER_SIZE as u64, &mut page)?;
        }
        _ => connection.database()?.read(pgno.file_offset(size), &mut page)?,
    }
    Ok(page)
}
