//! Where a replica gets its stream from.

use std::io::Read;

use crate::base::{Position, Result};
use crate::format::compression::Compression;

/// A source of streams: in production an HTTP server.
pub trait Upstream: Send + Sync {
    /// Its URL, without any secret in it.
    fn url(&self) -> &str;

    /// Opens a stream that goes on from `since`, or from nothing.
    fn open(&self, since: Option<Position>) -> Result<Opened>;

    /// Makes an `open` or a read that is blocked return with an error at once, and all later ones fail.
    fn shutdown(&self);
}

/// A stream that was opened.
pub struct Opened {
    /// Whether the other end speaks version 2; otherwise it is one of 2022.
    pub version2: bool,
    /// How pages records may be compressed: what was asked for and agreed to.
    pub compression: Compression,
    /// Page size it announced in its header, in bytes.
    pub page_size: Option<u32>,
    /// The records.
    pub body: Box<dyn Read + Send>,
}
