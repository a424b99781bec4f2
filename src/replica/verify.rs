//! Compares what a database holds with an upstream.

use std::ffi::CStr;
use std::path::Path;

use super::upstream::{Compared, PageSums, Upstream};
use crate::base::{Position, Result};
use crate::sqlite::{Connection, OpenMode};
use crate::store::{Checksums, Sidecar, page_size, read_checksums};

/// Reads every page of the database at `path` and has `upstream` compare them, as those of a replica at `position`: one that it
/// had reached before this was called.
pub fn verify(path: &Path, vfs: &CStr, upstream: &dyn Upstream, position: Option<Position>) -> Result<Compared> {
    let connection = Connection::open(path, vfs, OpenMode::Existing)?;
    let size = page_size(&connection)?;
    let (checksums, _) = read_checksums(&connection, size)?;
    upstream.compare(&PageSums::of(&checksums, size), position)
}

/// Reads every page of the database at `path`, for its checksums.
pub fn checksums(path: &Path, vfs: &CStr) -> Result<Checksums> {
    let connection = Connection::open(path, vfs, OpenMode::Existing)?;
    read_checksums(&connection, page_size(&connection)?).map(|(checksums, _)| checksums)
}

/// Has the next pull or follow compare the replica at `path` page by page, whatever its position. Fails while somebody feeds it.
pub fn distrust(path: &Path) -> Result<()> {
    let sidecar = Sidecar::of(path);
    let _lock = sidecar.lock("have it mended")?;
    sidecar.forget_position()?;
    sidecar.forget_pages()
}
