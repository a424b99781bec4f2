//! Compares what a database holds with an upstream.

use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

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
    let stop = Arc::<AtomicBool>::default();
    let stopped = Arc::clone(&stop);
    let compare = move || {
        let connection = Connection::open(&path, &vfs, OpenMode::Existing)?;
        let size = page_size(&connection)?;
        let sums = PageSums::of(&read_checksums(&connection, size, &|| stopped.load(Relaxed))?.0, size);
        drop(connection);
        asked.compare(sums, position)
    };
    let cancel = || {
        stop.store(true, Relaxed);
        upstream.shutdown();
    };
    attended(is_interrupted, cancel, compare)
}

/// Reads every page of the database at `path`, for its checksums. Ends, with an error, when
/// `is_interrupted` says so.
pub fn checksums(path: &Path, vfs: &CStr, is_interrupted: &dyn Fn() -> bool) -> Result<Checksums> {
    let connection = Connection::open(path, vfs, OpenMode::Existing)?;
    read_checksums(&connection, page_size(&connection)?, is_interrupted).map(|(checksums, _)| checksums)
}

/// Has the next pull or follow compare the replica at `path` page by page, whatever its position. Fails while somebody feeds it.
pub fn distrust(path: &Path) -> Result<()> {
    let sidecar = Sidecar::of(path);
    let _lock = sidecar.lock("have it mended")?;
    sidecar.forget_position()?;
    sidecar.forget_pages()
}
