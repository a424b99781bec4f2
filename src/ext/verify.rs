//! `litestream_checksum()` and `litestream_verify([url [, options]])`

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::credentials;
use super::options::{Options, Origin};
use super::registry::{Registry, file_of};
use super::session::Session;
use crate::base::{Error, Kind, Position, Result, limits};
use crate::format::compression::Compression;
use crate::net::{HttpUpstream, Url};
use crate::replica::{self, Compared, Follower, Upstream};
use crate::sqlite::{Call, Output, Value};
use crate::store::Sidecar;

/// What the database sums up to, in 16 hexadecimal digits. Reads every page of the file that is at
/// the path now, as a reader does.
pub fn checksum(call: &Call, _: &Session, _: &Registry) -> Result<Output> {
    let path = file_of(call.host(), "main", "a checksum")?;
    let checksum = replica::checksums(&path, &call.host().vfs("main")?, &|| call.host().is_interrupted())?
        .total()
        .unwrap_or_default();
    Ok(format!("{checksum:016x}").into())
}

/// Compares every page of the database with its upstream, or the one named. Returns what was found, as JSON. What differs on a
/// replica is mended: at once where it is followed, and otherwise when it is next fed.
pub fn verify(call: &Call, _: &Session, registry: &Registry) -> Result<Output> {
    let path = file_of(call.host(), "main", "verifying")?;
    let vfs = call.host().vfs("main")?;
    let (follower, sidecar) = (registry.follower(&path), Sidecar::of(&path));
    let (upstream, is_own) = upstream(call, &path, &follower, &sidecar)?;
    let position = match &follower {
        Some(follower) => follower.progress().position(),
        None => sidecar.position().filter(|_| sidecar.upstream().is_some()),
    };
    let found = replica::verify(&path, &vfs, upstream, position, &|| call.host().is_interrupted())?;
    if found.count > 0 && is_own {
        let why = format!("litestream_verify() found {} pages of {} that differ", found.count, path.display());
        match follower {
            Some(follower) => follower.mend(Error::new(Kind::Diverged, why)),
            None => replica::distrust(&path)?,
        }
    }
    Ok(shown(&found, position, &path).into())
}

/// The upstream to compare with, and whether it is the one that the database is a replica of.
fn upstream(
    call: &Call,
    path: &Path,
    follower: &Option<Arc<Follower>>,
    sidecar: &Sidecar,
) -> Result<(Arc<dyn Upstream>, bool)> {
    let own = follower.as_ref().map(|follower| follower.url().to_string()).or_else(|| sidecar.upstream());
    let named = match call.value(0) {
        Value::Null => None,
        _ => Some(Url::parse(super::text(call, 0, "litestream_verify", "the URL")?)?),
    };
    let known: Vec<&'static str> = ["timeout_ms"].into_iter().chain(credentials::KNOWN).collect();
    let mut options = Options::read(call, 1, "litestream_verify", &known)?;
    options.surround(None, Some(path))?;
    let silence = options.milliseconds("timeout_ms", limits::SILENCE)?;
    let (url, is_own) = match (named, follower, &own) {
        (None, Some(follower), _) => return Ok((follower.upstream().another(), true)),
        (None, None, Some(own)) => (Url::parse(own)?, true),
        (None, None, None) => {
            return Err(Error::usage(format!(
                "litestream_verify: {} follows no upstream; name one to compare it with",
                path.display()
            )));
        }
        (Some(url), ..) => {
            let is_own = own.is_some_and(|own| own == url.to_string());
            (url, is_own)
        }
    };
    let from = if is_own { Origin::Environment } else { Origin::Call };
    let credentials = credentials::read(&mut options, &url, &from)?;
    Ok((Arc::new(HttpUpstream::new(url, silence, Compression::None, credentials)?), is_own))
}

fn shown(found: &Compared, position: Option<Position>, path: &Path) -> String {
    let Compared { pages, differing, count, newer } = found;
    log::info!("{}: {count} of {pages} pages differ from the upstream's", path.display());
    json!({
        "equal": *count == 0,
        "position": position.map(|position| position.to_string()),
        "pages": pages, "differing": differing, "count": count, "newer": newer
    })
    .to_string()
}
