//! `litestream_pull(url [, options])` and `litestream_follow(url [, options])`

use std::sync::Arc;

use super::credentials;
use super::options::Options;
use super::progress::Watched;
use super::registry::{Registry, own_file_of};
use super::session::Session;
use crate::base::{Error, Result};
use crate::format::compression::Compression;
use crate::net::{HttpUpstream, Url};
use crate::replica::{self, Follower, Options as Feeding, Progress};
use crate::sqlite::{Call, Output};

const OPTIONS: [&str; 7] =
    ["schema", "overwrite", "writable", "timeout_ms", "checkpoint_frames", "compression", "progress"];

/// Catches up with the upstream once. Returns the position.
pub fn pull(call: &Call, _: &Session, registry: &Registry) -> Result<Output> {
    let (path, vfs, upstream, options, bar) = arguments(call, registry, "litestream_pull")?;
    let progress = Arc::<Progress>::default();
    let _watched = Watched::begin(registry, &path, &upstream, &progress, bar);
    let position = replica::pull(&path, &vfs, &upstream, options, &progress)?;
    Ok(position.to_string().into())
}

/// Catches up with the upstream, and goes on doing so in the background. Returns the position.
pub fn follow(call: &Call, _: &Session, registry: &Registry) -> Result<Output> {
    let (path, vfs, upstream, options, bar) = arguments(call, registry, "litestream_follow")?;
    let progress = Arc::<Progress>::default();
    let watched = Watched::begin(registry, &path, &upstream, &progress, bar);
    let follower = Arc::new(Follower::start(&path, &vfs, Arc::new(upstream), options, progress)?);
    let position = follower.progress().position();
    log::info!("{} follows {}", path.display(), follower.url());
    registry.follows(path, follower);
    drop(watched);
    Ok(position.map(|p| p.to_string()).into())
}

type Arguments = (std::path::PathBuf, std::ffi::CString, HttpUpstream, Feeding, bool);

fn arguments(call: &Call, registry: &Registry, function: &'static str) -> Result<Arguments> {
    let url = Url::parse(super::text(call, 0, function, "the URL")?)?;
    let known: Vec<&str> = OPTIONS.into_iter().chain(credentials::KNOWN).collect();
    let mut given = Options::read(call, 1, function, &known)?;
    let defaults = Feeding::default();
    let schema = given.text("schema", "main")?;
    let options = Feeding {
        overwrite: given.flag("overwrite")?,
        writable: given.flag("writable")?,
        silence: given.milliseconds("timeout_ms", defaults.silence, 1)?,
        checkpoint_frames: given.frames("checkpoint_frames", defaults.checkpoint_frames)?,
    };
    // Between processes of one machine, compressing takes longer than sending.
    let compression = if url.is_loopback() { Compression::None } else { Compression::Lz4 };
    let compression = given.choice("compression", compression, &Compression::ALL, Compression::name)?;
    let bar = given.switch("progress", true)?;
    let credentials = credentials::read(&mut given, &url)?;
    let path = own_file_of(call.host(), &schema, "following")?;
    if let Some(url) = registry.url_of(&path) {
        return Err(Error::usage(format!(
            "litestream: {} is being served here, at {url}; litestream_stop() ends that, then it can become a replica",
            path.display()
        )));
    }
    if let Some(follower) = registry.follower(&path) {
        return Err(Error::usage(format!(
            "litestream: {} follows {} already; litestream_stop() ends that",
            path.display(),
            follower.url()
        )));
    }
    let vfs = call.host().vfs(&schema)?;
    Ok((path, vfs, HttpUpstream::new(url, options.silence, compression, credentials)?, options, bar))
}
