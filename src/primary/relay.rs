//! A database that is a replica and is served on: a relay.
//!
//! Its positions are those of its origin, so that a position taken there can be waited for anywhere, and a follower can go from
//! one to the other. There is no tail: whoever feeds the replica says what it has written, and where that led, before anybody
//! else can look.

use std::ffi::CStr;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::sync::{Arc, MutexGuard};

use super::core::Core;
use super::served::Role;
use super::{Options, Primary};
use crate::base::{Position, Result};
use crate::format::record::NO_TIME;

/// What a relay knows of the upstream of its database.
pub(super) struct Origin {
    /// When the database was last known to equal it, by this process' clock, or [`NO_TIME`].
    equal_at: AtomicI64,
    /// Counts the generations that it has had.
    generations: AtomicU64,
}

/// A relay whose database is being written to by who feeds it. Nobody else reads through the relay meanwhile.
pub struct Feeding<'p> {
    primary: &'p Primary,
    core: MutexGuard<'p, Core>,
}

impl Primary {
    /// Begins to serve the database at `path`, a replica at `position`, while nobody writes to it. From here on everything is
    /// written to it under [`Primary::feeding`]. At `time` by this process' clock, if that is
    /// known, it equalled its upstream.
    pub fn relay(
        path: &Path,
        vfs: &CStr,
        position: Position,
        time: Option<i64>,
        options: Options,
    ) -> Result<Arc<Primary>> {
        let time = time.unwrap_or(NO_TIME);
        let core = Core::open_replica(path, vfs, position, time)?;
        let origin = Origin { equal_at: AtomicI64::new(time), generations: AtomicU64::new(0) };
        Ok(Arc::new(Primary::of(path, vfs, options, core, Role::Relay(origin))))
    }

    /// Whether the database is a replica.
    pub fn is_relay(&self) -> bool {
        self.origin().is_some()
    }

    fn origin(&self) -> Option<&Origin> {
        match &self.role {
            Role::Primary { .. } => None,
            Role::Relay(origin) => Some(origin),
        }
    }

    /// Keeps everybody else from reading while the database is written to.
    pub fn feeding(&self) -> Feeding<'_> {
        Feeding { primary: self, core: self.lock_core() }
    }

    /// For a relay, when what its log ends with was the newest, as far as its upstream has said.
    pub(super) fn origin_known_at(&self) -> Option<i64> {
        self.origin().map(|origin| origin.equal_at.load(Acquire))
    }

    /// How often the generation has changed.
    pub(super) fn generations(&self) -> u64 {
        self.origin().map_or(0, |origin| origin.generations.load(Relaxed))
    }
}

impl Feeding<'_> {
    /// What has been written so far led to `position`; at `time` by this process' clock, if that is
    /// known, it was the newest.
    pub fn reached(&mut self, position: Position, time: Option<i64>) -> Result<()> {
        let Some(origin) = self.primary.origin() else { return Ok(()) };
        let time = time.unwrap_or(NO_TIME);
        self.core.origin_time = Some(time);
        if position.generation != self.core.position().generation {
            self.core.map.forget_changes();
            self.core.floor = position.lsn(self.core.page_size()).unwrap_or_default();
            origin.generations.fetch_add(1, Relaxed);
        }
        let state = self.core.look()?;
        let news = self.core.advance(&state, position, u32::MAX);
        if let Some(news) = news? {
            self.primary.publish(&mut self.core, &news)?;
        }
        origin.equal_at.store(time, Release);
        Ok(())
    }

    /// Allows the WAL to be restarted, if all of it is in the database.
    pub fn allow_restart(&mut self) -> Result<()> {
        let state = self.core.look()?;
        self.core.take_in(&state)?;
        self.core.allow_restart(&state).map(drop)
    }
}
