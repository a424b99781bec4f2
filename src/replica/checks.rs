//! What a commit must fulfil before readers see it.

use crate::base::{Error, Kind, PageSize, Result};
use crate::sqlite::Connection;
use crate::store::{Changes, Checksums};

/// Fails unless a database of `pages` pages sums up to `expected` after `changes`. What is not
/// known is not compared.
pub(super) fn check_total(
    connection: &Connection,
    checksums: Option<&Checksums>,
    changes: &Changes,
    pages: u32,
    expected: Option<u64>,
) -> Result<()> {
    let (Some(expected), Some(checksums)) = (expected, checksums) else { return Ok(()) };
    let changes = changes.iter().map(|(pgno, checksum)| (*pgno, *checksum));
    let found = checksums.total_after(changes, pages);
    if found == Some(expected) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Diverged,
        format!(
            "litestream: {} would sum up to {:016x} with the next commit, and its upstream does to {expected:016x}",
            connection.path().display(),
            found.unwrap_or(0)
        ),
    ))
}

/// Fails if a database would grow to `pages` pages by a WAL that has too few `frames` for that.
/// SQLite takes it for damaged then, and never gets that WAL into the database.
pub(super) fn check_growth(connection: &Connection, size: PageSize, pages: u32, frames: u64) -> Result<()> {
    const SLACK: u64 = 65536;
    let page = u64::from(size.get());
    let most = (connection.database()?.size()? + SLACK) / page + frames;
    if u64::from(pages) <= most {
        return Ok(());
    }
    let name = connection.path().display();
    Err(Error::corrupt(format!(
        "litestream: {name}: a commit to {pages} pages, expected at most {most} with {frames} frames in the WAL"
    )))
}
