//! `litestream_stop()`

use super::registry::{Doing, Registry, path_of};
use super::session::Session;
use crate::base::Result;
use crate::sqlite::{Call, Output};

/// Ends serving and following the database of the calling connection, and the addresses for metrics that were opened from it.
/// Returns what was ended, or NULL.
pub fn stop(call: &Call, session: &Session, registry: &Registry) -> Result<Output> {
    // Frames that were staged by hand and not committed may hold the write lock.
    session.lock().manual = None;
    let path = path_of(call.host(), "main")?;
    let served = path.as_deref().and_then(|path| registry.stop_serving(path)).map(|url| format!("served {url}"));
    let followed = path.as_deref().and_then(|path| registry.stop_following(path)).map(|url| format!("followed {url}"));
    let told: Vec<_> = registry.stop_telling(path.as_deref());
    let ended = [(Doing::Serving, served.is_some() || !told.is_empty()), (Doing::Following, followed.is_some())];
    for (doing, _) in ended.into_iter().filter(|(_, ended)| *ended) {
        path.iter().for_each(|path| registry.lets_go(path, doing));
    }
    let told = told.into_iter().map(|url| format!("metrics at {url}"));
    let ended: Vec<String> = served.into_iter().chain(followed).chain(told).collect();
    Ok(Some(ended.join("; ")).filter(|ended| !ended.is_empty()).into())
}
