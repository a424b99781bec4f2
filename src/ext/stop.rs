//! `litestream_stop()`

use super::registry::{Registry, path_of};
use super::session::Session;
use crate::base::Result;
use crate::sqlite::{Call, Output};

/// Ends serving and following the database of the calling connection. Returns what was ended, or NULL.
pub fn stop(call: &Call, session: &Session, registry: &Registry) -> Result<Output> {
    let Some(path) = path_of(call.host(), "main")? else { return Ok(Output::Null) };
    let served = registry.stop_serving(&path).map(|url| format!("served {url}"));
    let followed = registry.stop_following(&path).map(|url| format!("followed {url}"));
    if let (Some(_), Some(frames)) = (&served, session.lock().auto_checkpoint.take()) {
        call.host().auto_checkpoint(frames);
    }
    let ended: Vec<String> = served.into_iter().chain(followed).collect();
    Ok(Some(ended.join("; ")).filter(|ended| !ended.is_empty()).into())
}
