//! `litestream_promote()`

use super::registry::{Registry, own_file_of};
use super::session::Session;
use crate::base::Result;
use crate::replica;
use crate::sqlite::{Call, Output};

/// Makes the replica writable for everyone and forgets its upstream. Returns the position it had reached.
pub fn promote(call: &Call, session: &Session, registry: &Registry) -> Result<Output> {
    let path = own_file_of(call.host(), "main", "promoting")?;
    registry.stop_following(&path);
    session.lock().manual = None;
    let position = replica::promote(&path, &call.host().vfs("main")?)?;
    log::info!("{} is writable now", path.display());
    Ok(position.map(|position| position.to_string()).into())
}
