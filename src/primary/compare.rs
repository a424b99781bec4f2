//! Says which pages of a replica are not what they should be.

use super::Primary;
use super::core::Core;
use crate::base::{Pgno, Position, Result, limits};
use crate::format::checksum::PageChecksum;

/// Pages read for their checksums at once, while nobody else has the core.
const AT_ONCE: usize = limits::scaled(1 << 12, 3);

/// What came of comparing the pages of a replica with those of its primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Position of the primary when it compared.
    pub position: Position,
    /// Database size of the primary in pages.
    pub pages: u32,
    /// Pages that differ although they did not change since the replica's position.
    pub differing: Vec<Pgno>,
    /// How many pages cannot be compared, since they changed after the replica's position.
    pub newer: u32,
}

impl Primary {
    /// Compares the pages of a replica at `position`, whose checksums from page 1 on are `theirs`. Where it is not known what a
    /// replica at that position has, it is compared with what is here now.
    pub fn compare(&self, theirs: &[Option<PageChecksum>], position: Option<Position>) -> Result<Comparison> {
        self.with_all_read(|core| compare(core, theirs, position))
    }

    /// Calls `then` when the checksum of every page is known.
    fn with_all_read<T>(&self, then: impl Fn(&Core) -> T) -> Result<T> {
        loop {
            if let Some(done) = self.with_more_read(&then)? {
                return Ok(done);
            }
        }
    }

    /// Reads some pages whose checksum is not known, and calls `then` if there are none left.
    pub(super) fn with_more_read<T>(&self, then: impl Fn(&Core) -> T) -> Result<Option<T>> {
        self.check_serving()?;
        let mut core = self.lock_core();
        self.reading(&mut core, |core, places| core.read_unread(places, AT_ONCE))?;
        Ok((core.map.unread() == 0).then(|| then(&core)))
    }
}

fn compare(core: &Core, theirs: &[Option<PageChecksum>], position: Option<Position>) -> Comparison {
    let since = position.and_then(|position| core.known(&position));
    let has_changed = |pgno| core.map.newest(pgno) > since;
    let (mut differing, mut newer) = (Vec::new(), 0);
    for pgno in core.map.changed_since(None, Pgno::ONE) {
        match since {
            Some(_) if has_changed(pgno) => newer += 1,
            _ if core.map.checksum(pgno) != theirs.get(pgno.slot()).copied().flatten() => differing.push(pgno),
            _ => {}
        }
    }
    // A change of size is a change of page 1. Without one, pages beyond the end are wrong.
    if since.is_none() || !has_changed(Pgno::ONE) {
        let end = u32::try_from(theirs.len()).unwrap_or(u32::MAX);
        differing.extend((core.map.pages().saturating_add(1)..=end).filter_map(|n| Pgno::new(n).ok()));
    }
    Comparison { position: core.position(), pages: core.map.pages(), differing, newer }
}
