//! One stream from an upstream, from opening it to its end.

use super::feeder::{Feeder, Until};
use super::{Opened, Upstream, session, session2022};
use crate::base::{Kind, Result};

/// Connects once, and applies what comes until it ends or fails, or as `until` says.
pub(super) fn run(feeder: &mut Feeder, upstream: &dyn Upstream, until: Until) -> Result<()> {
    let Opened { version2, compression, page_size, body } = upstream.open(feeder.position())?;
    let ended = match version2 {
        true => session::run(feeder, body, compression, until),
        false => session2022::run(feeder, body, page_size, until),
    };
    if ended.as_ref().is_err_and(|e| e.kind() == Kind::Diverged) {
        feeder.forget_position()?;
    }
    ended
}
