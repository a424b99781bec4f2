//! `litestream_apply_frame(pgno, commit, page)` and `litestream_apply_wal(blob)`

use super::registry::{Registry, own_file_of};
use super::session::{Manual, Session};
use crate::base::{Error, Result};
use crate::replica::ManualApply;
use crate::sqlite::{Call, Output};

/// Stages one frame; one with a commit size applies all that are staged. Returns its number in the WAL.
pub fn frame(call: &Call, session: &Session, registry: &Registry) -> Result<Output> {
    const NAME: &str = "litestream_apply_frame";
    let pgno = super::integer(call, 0, NAME, "the page number")?;
    let commit = super::integer(call, 1, NAME, "the commit size")?;
    let page = super::blob(call, 2, NAME, "the page")?;
    with(call, session, registry, |manual| manual.frame(pgno, commit, page)).map(|n| u64::from(n).into())
}

/// Applies the commits in the bytes of a WAL, raw or in an LZ4 frame. Returns how many.
pub fn log(call: &Call, session: &Session, registry: &Registry) -> Result<Output> {
    let bytes = super::blob(call, 0, "litestream_apply_wal", "the WAL")?;
    with(call, session, registry, |manual| manual.log(bytes)).map(Into::into)
}

fn with<T>(
    call: &Call,
    session: &Session,
    registry: &Registry,
    apply: impl FnOnce(&mut ManualApply) -> Result<T>,
) -> Result<T> {
    let host = call.host();
    let name = host.file("main")?;
    let mut session = session.lock();
    let kept = session.manual.take().filter(|kept| Some(&kept.name) == name.as_ref());
    let manual = match kept {
        Some(kept) => kept,
        None => {
            let path = own_file_of(host, "main", "applying frames")?;
            let apply = ManualApply::open(&path, &host.vfs("main")?)?;
            Manual { name: name.unwrap_or_default(), path, apply }
        }
    };
    if let Some(follower) = registry.follower(&manual.path) {
        return Err(Error::usage(format!(
            "litestream: {} follows {}; litestream_stop() ends that, then frames can be applied by hand",
            manual.path.display(),
            follower.url()
        )));
    }
    apply(&mut session.manual.insert(manual).apply)
}
