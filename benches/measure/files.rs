//! Database files of a given size: making them, reading them and comparing them page by page.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::wal_of;
use crate::support::{Result, db};

/// Size of a page: SQLite's default.
pub const PAGE: u64 = 4096;
/// Read at once.
const PIECE: usize = 1 << 20;
/// Bytes of page 1 that the read-only mark changes: the file format versions.
const MARK: std::ops::Range<usize> = 18..20;

/// Makes a database of `bytes`: a table `row` with a row of random bytes to each page, so that compression gains nothing.
pub fn fill(path: &Path, bytes: u64) -> Result<()> {
    let connection = db::open(path)?;
    connection.execute_batch("PRAGMA journal_mode = off; PRAGMA synchronous = off")?;
    connection.execute_batch(
        "CREATE TABLE row(id INTEGER PRIMARY KEY, changed INTEGER NOT NULL DEFAULT 0, content BLOB NOT NULL)",
    )?;
    connection.execute(
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO row(id, content) SELECT i, randomblob(3900) FROM n",
        [rows(bytes) as i64],
    )?;
    connection.execute_batch("PRAGMA journal_mode = wal")?;
    Ok(())
}

/// How many rows [`fill`] puts into a database of `bytes`.
pub fn rows(bytes: u64) -> u64 {
    (bytes / PAGE).max(1)
}

/// Reads the file once, so that it is in the page cache.
pub fn warm(path: &Path) -> Result<()> {
    io::copy(&mut File::open(path)?, &mut io::sink())?;
    Ok(())
}

/// Fails unless the files are the same, but for the read-only mark. No process has them open.
pub fn same(source: &Path, copy: &Path) -> Result<()> {
    if fs::metadata(wal_of(copy)).is_ok_and(|wal| wal.len() > 0) {
        return Err("the copy has a WAL, so the files cannot be compared".into());
    }
    match differing(source, copy)? {
        0 => Ok(()),
        pages => Err(format!("{} differs from the source in {pages} pages", copy.display()).into()),
    }
}

/// How many pages differ, without regard to the read-only mark; a page that only one file has differs.
pub fn differing(one: &Path, other: &Path) -> Result<u64> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut ours, mut theirs) = (Vec::with_capacity(PIECE), Vec::with_capacity(PIECE));
    let mut count = 0;
    for piece in 0_u64.. {
        ours.clear();
        theirs.clear();
        one.by_ref().take(PIECE as u64).read_to_end(&mut ours)?;
        other.by_ref().take(PIECE as u64).read_to_end(&mut theirs)?;
        if piece == 0 {
            for bytes in [&mut ours, &mut theirs] {
                bytes.get_mut(MARK).ok_or("a file without a database header")?.fill(0);
            }
        }
        let page = PAGE as usize;
        let both = ours.chunks(page).zip(theirs.chunks(page)).filter(|(ours, theirs)| ours != theirs).count();
        count += (both + ours.len().div_ceil(page).abs_diff(theirs.len().div_ceil(page))) as u64;
        if ours.is_empty() && theirs.is_empty() {
            break;
        }
    }
    Ok(count)
}

/// The same numbers each time.
pub struct Random(pub u64);

impl Random {
    /// The next one, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end.max(1)
    }
}
