//! `litestream_pull([url [, options]])` and `litestream_follow([url [, options]])`

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::credentials;
use super::options::{Options, Origin};
use super::progress::Watched;
use super::registry::{Followed, Registry, file_of};
use super::session::Session;
use crate::base::{Error, Result};
use crate::format::compression::Compression;
use crate::net::{Credentials, HttpUpstream, Url};
use crate::replica::{self, Follower, Options as Feeding, Progress};
use crate::sqlite::{Call, Host, Output};

const PULL: &str = "litestream_pull";
const FOLLOW: &str = "litestream_follow";
const OPTIONS: [&str; 8] =
    ["schema", "overwrite", "writable", "timeout_ms", "checkpoint_frames", "audit_ms", "compression", "progress"];

/// Catches up with the upstream once. Returns the position.
pub fn pull(call: &Call, session: &Session, registry: &Registry) -> Result<Output> {
    session.lock().manual = None;
    let (place, asked) = Asked::of(call.host(), given(call, PULL)?)?;
    registry.check_not_served(&place.path)?;
    if let Some(follower) = registry.follower(&place.path) {
        return Err(follows_already(&follower, ""));
    }
    let (upstream, progress) = (Arc::new(asked.upstream()?), Arc::<Progress>::default());
    let _watched = Watched::begin(registry, &place.path, &upstream, &progress, place.bar);
    let is_interrupted = || call.host().is_interrupted();
    let position = replica::pull(&place.path, &place.vfs, upstream, asked.feeding, progress, &is_interrupted)?;
    Ok(position.to_string().into())
}

/// Catches up with the upstream, and goes on doing so in the background. Returns the position.
pub fn follow(call: &Call, session: &Session, registry: &Registry) -> Result<Output> {
    session.lock().manual = None;
    begin(call.host(), registry, given(call, FOLLOW)?)
}

/// The options of which nothing is given by a call.
pub fn not_given() -> Options {
    Options::none(FOLLOW, &known())
}

/// Begins to follow, unless the database follows the same upstream in the same way already. Returns the position.
pub fn begin(host: Host, registry: &Registry, options: Options) -> Result<Output> {
    let (place, asked) = Asked::of(host, options)?;
    registry.check_not_served(&place.path)?;
    let position = |follower: &Follower| follower.progress().position().map(|p| p.to_string()).into();
    if let Some((follower, before)) = registry.followed(&place.path) {
        return match asked.difference(&before) {
            None => Ok(position(&follower)),
            Some(difference) => Err(follows_already(&follower, difference)),
        };
    }
    let (upstream, progress) = (asked.upstream()?, Arc::<Progress>::default());
    let watched = Watched::begin(registry, &place.path, &upstream, &progress, place.bar);
    let (upstream, is_interrupted) = (Arc::new(upstream), || host.is_interrupted());
    let follower = Follower::start(&place.path, &place.vfs, upstream, asked.feeding, progress, &is_interrupted)?;
    let follower = Arc::new(follower);
    log::info!("{} follows {}", place.path.display(), follower.url());
    registry.follows(place.path, Followed { follower: Arc::clone(&follower), asked });
    drop(watched);
    Ok(position(&follower))
}

/// The URL that `text` is. One that stands in the environment is for all databases of a process: where it names none, it means the
/// one that is called as `database` is.
pub fn full_url(text: &str, from: &Origin, database: Option<&Path>) -> Result<Url> {
    let url = Url::parse(text).map_err(|e| match from {
        Origin::Call => e,
        _ => e.within(from.naming("upstream")),
    })?;
    Ok(match (from, database.and_then(Path::file_name)) {
        (Origin::Environment, Some(name)) => url.or_database(&name.to_string_lossy()),
        _ => url,
    })
}

fn known() -> Vec<&'static str> {
    OPTIONS.into_iter().chain(credentials::KNOWN).collect()
}

fn given(call: &Call, function: &'static str) -> Result<Options> {
    let mut options = Options::read(call, 1, function, &known())?;
    if call.count() > 0 {
        options.put("upstream", super::text(call, 0, function, "the URL")?);
    }
    Ok(options)
}

/// Which database is to follow.
struct Place {
    path: PathBuf,
    vfs: CString,
    /// Whether a bar may show how far it is.
    bar: bool,
}

/// What is to be followed, and how.
#[derive(Clone, PartialEq)]
pub struct Asked {
    url: Url,
    feeding: Feeding,
    compression: Compression,
    credentials: Credentials,
}

impl Asked {
    fn of(host: Host, mut given: Options) -> Result<(Place, Asked)> {
        let schema = given.text("schema", "main")?;
        let path = file_of(host, &schema, "following")?;
        host.share_close_settings(&schema, &path);
        given.surround(Some("upstream"), Some(&path))?;
        let (url, from) = given.place("upstream", "a URL")?;
        let url = full_url(&url, &from, Some(&path))?;
        let defaults = Feeding::default();
        let feeding = Feeding {
            overwrite: given.flag("overwrite")?,
            writable: given.flag("writable")?,
            silence: given.milliseconds("timeout_ms", defaults.silence)?,
            checkpoint_frames: given.frames("checkpoint_frames", defaults.checkpoint_frames)?,
            audit: given.milliseconds("audit_ms", defaults.audit)?,
        };
        // Between processes of one machine, compressing takes longer than sending.
        let compression = if url.is_loopback() { Compression::None } else { Compression::Lz4 };
        let compression = given.choice("compression", compression, &Compression::ALL, Compression::name)?;
        let bar = given.switch("progress", true)?;
        let credentials = credentials::read(&mut given, &url, &from)?;
        Ok((Place { path, vfs: host.vfs(&schema)?, bar }, Asked { url, feeding, compression, credentials }))
    }

    fn upstream(&self) -> Result<HttpUpstream> {
        HttpUpstream::new(self.url.clone(), self.feeding.silence, self.compression, self.credentials.clone())
    }

    /// In what it differs from what was asked for before.
    fn difference(&self, before: &Asked) -> Option<&'static str> {
        match self {
            _ if self == before => None,
            _ if self.url.to_string() == before.url.to_string() => Some(", with other options"),
            _ => Some(""),
        }
    }
}

fn follows_already(follower: &Follower, how: &str) -> Error {
    Error::usage(format!(
        "litestream: {} follows {} already{how}; litestream_stop() ends that",
        follower.path().display(),
        follower.url()
    ))
}
