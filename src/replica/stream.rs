//! One stream from an upstream, from opening it to its end.

use super::feeder::{Feeder, Until};
use super::trust::Doubted;
use super::{Have, Opened, Upstream, session, session2022};
use crate::base::{Kind, Result};
use crate::format::record::NO_TIME;

/// Connects, and applies what comes until the stream ends or fails, or as `until` says. Where the replica turns out not to hold
/// what it should, connects once more to have it mended.
pub(super) fn run(feeder: &mut Feeder, upstream: &dyn Upstream, until: Until) -> Result<()> {
    loop {
        let have = feeder.have()?;
        // One that does not know what a new replica has is none to ask again.
        let is_new = have == Have::Nothing;
        let opened = upstream.open(have);
        let is_open = opened.is_ok();
        let ended = opened.and_then(|opened| apply(feeder, opened, until));
        // A commit that the stream did not end.
        feeder.database.abandon();
        match ended {
            Err(error) if error.kind() == Kind::Diverged && (is_open || !is_new) => {
                // An upstream that does not know the position has not seen the content.
                let doubted = if is_open { Doubted::Content } else { Doubted::Position };
                match doubted {
                    Doubted::Content => log::warn!("{error}"),
                    Doubted::Position => log::info!("{error}"),
                }
                if !feeder.distrust(doubted, error.clone())? {
                    return Err(error);
                }
            }
            Err(error) if error.kind() == Kind::Refused && !is_open && !is_new => {
                if !feeder.gives_up_comparing()? {
                    return Err(error);
                }
                log::info!("{error}");
            }
            ended => return ended,
        }
    }
}

fn apply(feeder: &mut Feeder, opened: Opened, until: Until) -> Result<()> {
    feeder.progress.connected();
    let Opened { version2, compression, mut clock, page_size, body } = opened;
    match version2 {
        true => session::run(feeder, body, compression, clock, until),
        false => session2022::run(feeder, body, page_size, clock.newest(NO_TIME), until),
    }
}
