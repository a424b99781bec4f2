//! `litestream_run()`

use super::registry::Registry;
use super::session::Session;
use crate::base::{Error, Result};
#[cfg(unix)]
use crate::replica::interrupted;
use crate::sqlite::{Call, Output};

/// Keeps the calling thread, and so its process, until a signal asks for the end. Returns the name of the signal. Fails when there is
/// nothing to keep it for, or a replica is not followed any more.
#[cfg(unix)]
pub fn run(call: &Call, _: &Session, registry: &Registry) -> Result<Output> {
    let look = || if call.host().is_interrupted() { Err(interrupted()) } else { look(registry) };
    crate::sqlite::wait_for_end(look).map(|signal| signal.into())
}

/// The same where there are no such signals.
#[cfg(not(unix))]
pub fn run(_: &Call, _: &Session, _: &Registry) -> Result<Output> {
    Err(Error::usage("litestream_run: this system has no signals to wait for; keep the process in its own language"))
}

fn look(registry: &Registry) -> Result<()> {
    let running = registry.running();
    // An address for metrics alone is something, too.
    if running.servers.is_empty() && running.followed.is_empty() {
        return Err(Error::usage(
            "litestream_run: nothing is served or followed by this process; call litestream_serve or litestream_follow first",
        ));
    }
    running.followed.values().find_map(|followed| followed.follower.progress().ended()).map_or(Ok(()), Err)
}
