//! `litestream_promote()`

use super::config;
use super::registry::{Doing, Registry, file_of};
use super::session::Session;
use crate::base::Result;
use crate::replica;
use crate::sqlite::{Call, Output};

/// Makes the replica writable for everyone and forgets its upstream. Returns the position it had reached.
pub fn promote(call: &Call, session: &Session, registry: &Registry) -> Result<Output> {
    let path = file_of(call.host(), "main", "promoting")?;
    registry.stop_following(&path);
    registry.lets_go(&path, Doing::Following);
    session.lock().manual = None;
    let position = replica::promote(&path, &call.host().vfs("main")?)?;
    config::forget_upstream(&path)?;
    log::info!("{} is writable now", path.display());
    Ok(position.map(|position| position.to_string()).into())
}
