//! Copies a served database into a file, as of one commit, while it is written to.
//!
//! Pages come as for a replica that has nothing ([`super::catch_up`]): each piece in a short read transaction, and those that
//! change meanwhile once more. A file takes a page twice, in place, and a download does not. So the copy is made before any of it
//! is sent; however large the database is and however slow the client, nothing is pinned and no writer waits.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::Primary;
use super::catch_up::{CatchUp, Lacks};
use super::counters::Sending;
use crate::base::{Error, Headway, Kind, PageSize, Position, Result};
use crate::format::record::{Commit, HEADER_SIZE, Header, Pages, Type};
use crate::store::{Copy, Sidecar};

/// Copies of one database for downloads that there can be at once. Each takes as much of the disk as the database.
const MOST_COPIES: usize = 4;

/// What a database holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Its position.
    pub position: Position,
    /// What its pages sum up to.
    pub checksum: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A copy under way.
pub struct Copying {
    primary: Arc<Primary>,
    catch_up: CatchUp,
    size: PageSize,
    /// None when it is complete.
    copy: Option<Copy>,
    /// How many generations the upstream of a relay had had when this began.
    generations: u64,
}

/// The right to have one of the copies for downloads, until dropped.
pub struct Permit(Arc<Primary>);

impl Primary {
    /// What the database holds now; none if that took more reading than is done at once, and the next call goes on.
    pub fn content(&self) -> Result<Option<Content>> {
        let page_size = u64::from(self.page_size().get());
        self.with_more_read(|core| Content {
            position: core.position(),
            checksum: core.map.total().unwrap_or_default(),
            bytes: u64::from(core.seen().pages) * page_size,
        })
    }

    /// Begins to copy the database into `file`, which is empty.
    pub fn copy_to(self: &Arc<Self>, file: File) -> Copying {
        self.counters.snapshots.fetch_add(1, Relaxed);
        Copying {
            primary: Arc::clone(self),
            catch_up: CatchUp::new(Lacks::Everything),
            size: self.page_size(),
            copy: Some(Copy::new(file, self.page_size())),
            generations: self.generations(),
        }
    }

    /// Begins to copy it into a file without a name, on the same disk, which is gone with the last handle of it.
    pub fn copy_to_nowhere(self: &Arc<Self>) -> Result<(Copying, Permit)> {
        let permit = Permit::of(self)?;
        let file = Sidecar::of(self.path()).nameless()?;
        Ok((self.copy_to(file), permit))
    }

    /// Counts what was sent of a copy.
    pub fn sent_copy(&self, bytes: u64) {
        self.counters.sent(Sending::Snapshot, bytes / u64::from(self.page_size().get()), bytes);
    }
}

impl Copying {
    /// Copies the next piece. What the file holds, and the file, when that was the last one.
    pub fn step(&mut self) -> Result<Option<(Content, File)>> {
        self.primary.check_serving()?;
        if self.primary.generations() != self.generations {
            return Err(Error::new(Kind::Busy, "the upstream of this relay has begun a new generation; try again"));
        }
        let chunk = self.catch_up.step(&self.primary)?;
        for record in &chunk.records {
            let (header, payload) = record.split_at_checked(HEADER_SIZE).unwrap_or_default();
            if let Some(copied) = self.take(&Header::decode(header)?, payload)? {
                return Ok(Some(copied));
            }
        }
        Ok(None)
    }

    /// How far it has come.
    pub fn headway(&self) -> Headway {
        self.catch_up.headway()
    }

    fn take(&mut self, header: &Header, payload: &[u8]) -> Result<Option<(Content, File)>> {
        match (header.kind, &mut self.copy) {
            (Type::Pages, Some(copy)) => {
                for run in Pages::decode(payload, self.size)?.runs() {
                    let (first, images) = run?;
                    copy.write(first, images)?;
                }
            }
            (Type::Commit, copy) => {
                let Commit { pages, checksum, .. } = Commit::decode(header, payload)?;
                let bytes = u64::from(pages) * u64::from(self.size.get());
                let content = Content { position: header.position, checksum, bytes };
                return copy
                    .take()
                    .map(|copy| copy.finish(pages, Some(checksum)).map(|file| (content, file)))
                    .transpose();
            }
            _ => {}
        }
        Ok(None)
    }
}

impl Permit {
    fn of(primary: &Arc<Primary>) -> Result<Permit> {
        let copies: &AtomicUsize = &primary.copies;
        match copies.fetch_update(Relaxed, Relaxed, |n| (n < MOST_COPIES).then_some(n + 1)) {
            Ok(_) => Ok(Permit(Arc::clone(primary))),
            Err(n) => {
                Err(Error::new(Kind::Busy, format!("{n} copies of this database are being sent; try again later")))
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.copies.fetch_sub(1, Relaxed);
    }
}
