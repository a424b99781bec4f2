//! Where a replica gets its stream from.

use std::io::Read;
use std::sync::Arc;

use super::upstream_clock::UpstreamClock;
use crate::base::{PageSize, Position, Result};
use crate::format::compression::Compression;
use crate::store::Checksums;

/// What a replica has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Have {
    /// Nothing.
    Nothing,
    /// What the upstream had at a position.
    Position(Position),
    /// Pages of which only this is known.
    Pages(PageSums),
}

/// The checksums of all pages of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSums {
    /// Page size of the database.
    pub page_size: PageSize,
    /// A checksum for each page from the first on, 8 bytes big-endian; 0 for the lock-byte page.
    pub sums: Vec<u8>,
}

impl PageSums {
    /// Those of a database with pages of `page_size`.
    pub fn of(checksums: &Checksums, page_size: PageSize) -> PageSums {
        let sums = checksums.iter().flat_map(|checksum| checksum.map_or(0, |c| c.get()).to_be_bytes());
        PageSums { page_size, sums: sums.collect() }
    }
}

/// A source of streams: in production an HTTP server.
pub trait Upstream: Send + Sync {
    /// Its URL, without any secret in it.
    fn url(&self) -> &str;

    /// What is dangerous about the way there, if anything is.
    fn warning(&self) -> Option<String> {
        None
    }

    /// Opens a stream of what a replica lacks that has this. An upstream that does not know what a replica at a position has
    /// answers with an error of kind [`crate::base::Kind::Diverged`].
    fn open(&self, have: Have) -> Result<Opened>;

    /// Has the pages of a replica at `position` compared with the upstream's.
    fn compare(&self, have: PageSums, position: Option<Position>) -> Result<Compared>;

    /// The same upstream, with requests of its own: what ends those of the one does not end those
    /// of the other.
    fn another(&self) -> Arc<dyn Upstream>;

    /// Makes a read of the stream that is open, if one is, return with an error at once.
    fn interrupt(&self);

    /// Makes an `open`, a `compare` or a read that is blocked return with an error at once, and all
    /// later ones fail.
    fn shutdown(&self);
}

/// A stream that was opened.
pub struct Opened {
    /// Whether the other end speaks version 2; otherwise it is one of 2022.
    pub version2: bool,
    /// How pages records may be compressed: what was asked for and agreed to.
    pub compression: Compression,
    /// What the times in it mean.
    pub clock: UpstreamClock,
    /// Page size it announced in its header, in bytes.
    pub page_size: Option<u32>,
    /// The records.
    pub body: Box<dyn Read + Send>,
}

/// What an upstream says of the pages of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Database size of the upstream in pages.
    pub pages: u64,
    /// The first pages that differ although they did not change since the replica's position.
    pub differing: Vec<u64>,
    /// How many there are altogether.
    pub count: u64,
    /// How many pages changed since, and so could not be compared.
    pub newer: u64,
}
