//! Litestream's VFS: a reader that takes the pages it needs out of the archive, and asks it for new ones every second.

use std::path::Path;

use crate::support::Result;
use crate::support::worker::Worker;

/// Starts a worker that reads the archive at a URL.
pub fn open(library: &Path, url: &str) -> Result<Worker> {
    Worker::open_through(library, &[("LITESTREAM_REPLICA_URL", url.to_owned())], "litestream")
}
