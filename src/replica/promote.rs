//! Ends a replica: it becomes a database of its own.

use std::ffi::CStr;
use std::path::Path;

use super::database::{Content, Database};
use crate::base::{Error, Position, Result, limits};
use crate::store::Sidecar;

/// Takes the read-only mark off the database at `path` and forgets its upstream. Returns the position it had reached.
pub fn promote(path: &Path, vfs: &CStr) -> Result<Option<Position>> {
    let sidecar = Sidecar::of(path);
    let mut database = Database::open(path, vfs, limits::REPLICA_CHECKPOINT_FRAMES)?;
    if !is_replica(&database, &sidecar)? {
        return Err(Error::usage(format!(
            "litestream: {} is not a replica; there is nothing to promote",
            path.display()
        )));
    }
    let _lock = sidecar.lock("promote it")?;
    database.require_alone()?;
    let position = sidecar.position();
    database.make_writable(&|| false)?;
    database.sync(&|| false)?;
    sidecar.forget()?;
    Ok(position)
}

fn is_replica(database: &Database, sidecar: &Sidecar) -> Result<bool> {
    if database.content()? == Content::Nothing {
        return Ok(false);
    }
    Ok(sidecar.upstream().is_some() || database.is_read_only()?)
}
