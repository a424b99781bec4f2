//! A replica that a test feeds: the follower's work without its thread. There only in the unit
//! tests.

use std::ffi::CStr;
use std::path::Path;

use super::feeder::{Feeder, Until};
use super::relay::RelaySlot;
use super::{Options, Progress, Upstream, stream};
use crate::base::Result;

/// What to do after a stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Open another, as a follower does.
    Reconnect,
    /// End in order.
    End,
    /// Leave everything as a killed process does.
    Die,
}

/// Takes the database at `path` as a replica of `upstream` and applies stream after stream, until
/// `ended` says otherwise.
pub fn feed(
    path: &Path,
    vfs: &CStr,
    upstream: &dyn Upstream,
    options: Options,
    progress: &Progress,
    mut ended: impl FnMut(Result<()>) -> After,
) -> Result<()> {
    let (relay, stop) = (RelaySlot::default(), || false);
    let mut feeder = Feeder::open(path, vfs, upstream, options, progress, &relay, &stop)?;
    loop {
        match ended(stream::run(&mut feeder, upstream, Until::Stopped)) {
            After::Reconnect if feeder.is_new()? => {}
            After::Reconnect => feeder.make_durable()?,
            After::End => return feeder.end(),
            After::Die => return Ok(()),
        }
    }
}
