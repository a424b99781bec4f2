//! Compares what a database holds with an upstream.

use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;

use super::attended::attended;
use super::upstream::{Compared, PageSums, Upstream};
use crate::base::{Position, Result};
use crate::sqlite::{Connection, OpenMode};
use crate::store::{Checksums, Sidecar, page_size, read_checksums};

/// Reads every page of the database at `path` and has `upstream` compare them, as those of a replica at `position`: one that it
/// had reached before this was called. Ends, with an error, when `is_interrupted` says so.
pub fn verify(
    path: &Path,
    vfs: &CStr,
    upstream: Arc<dyn Upstream>,
    position: Option<Position>,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<Compared> {
    let (path, vfs, asked) = (path.to_path_buf(), vfs.to_owned(), Arc::clone(&upstream));
    let compare = move || {
        let connection = Connection::open(&path, &vfs, OpenMode::Existing)?;
        let size = page_size(&connection)?;
        let sums = PageSums::of(&read_checksums(&connection, size)?.0, size);
        drop(connection);
        asked.compare(sums, position)
    };
    attended(is_interrupted, || upstream.shutdown(), compare)
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
