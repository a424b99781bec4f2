//! One stream from an upstream, from opening it to its end.

use super::feeder::{Feeder, Until};
use super::{Opened, Upstream, session, session2022};
use crate::base::{Kind, Result};

/// Connects, and applies what comes until the stream ends or fails, or as `until` says. Where the replica turns out not to hold
/// what it should, connects once more to have it mended.
pub(super) fn run(feeder: &mut Feeder, upstream: &dyn Upstream, until: Until) -> Result<()> {
    loop {
        match connect(feeder, upstream, until) {
            Err(error) if error.kind() == Kind::Diverged => {
                log::warn!("{error}");
                if !feeder.distrust(error.clone())? {
                    return Err(error);
                }
            }
            ended => return ended,
        }
    }
}

fn connect(feeder: &mut Feeder, upstream: &dyn Upstream, until: Until) -> Result<()> {
    let Opened { version2, compression, page_size, body } = upstream.open(feeder.have()?)?;
    match version2 {
        true => session::run(feeder, body, compression, until),
        false => session2022::run(feeder, body, page_size, until),
    }
}
