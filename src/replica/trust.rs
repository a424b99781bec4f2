//! What a replica has, as far as it is known, and what is done when it is not what it should be.

use std::time::Instant;

use super::feeder::Feeder;
use super::pending::Pending;
use super::status::State;
use super::upstream::{Have, PageSums};
use crate::base::{Error, FrameNo, Pgno, Position, Result, limits};
use crate::store::Checksums;

/// What of a replica is not to be relied upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubted {
    /// That its pages are those of its position: the upstream cannot tell. What they sum up to stands.
    Position,
    /// What the pages sum up to, too.
    Content,
}

impl Feeder<'_> {
    /// What the replica has. Reads all of it unless it is known what it sums up to.
    pub fn have(&mut self) -> Result<Have> {
        self.compares = false;
        if std::mem::take(&mut self.takes_everything) || self.is_new()? {
            return Ok(Have::Nothing);
        }
        if let Some(position) = self.position {
            if self.database.checksums().is_none() && !self.load_checksums()? {
                self.database.read_checksums(self.stop)?;
            }
            return Ok(Have::Position(position));
        }
        if !self.same_upstream && self.lineage.is_none() && !self.may_be_replaced()? {
            return Err(self.belongs_to_another());
        }
        // Between here and the next durable position, what the file holds is no state that an older one speaks of.
        self.forget_position()?;
        // A recovery would end before a frame that was damaged, and the commit that mends its page comes after it.
        self.database.mend_wal(self.stop)?;
        self.compares = true;
        let why = match self.distrust {
            None => "a state that is not known",
            Some((Doubted::Position, _)) => "a position that the upstream does not know",
            Some((Doubted::Content, _)) => "a state that is not the upstream's",
        };
        self.progress.set_state(State::CatchingUp, Some(format!("from {why}, page by page")));
        let page_size = self.database.page_size()?;
        Ok(Have::Pages(PageSums::of(self.database.read_checksums(self.stop)?, page_size)))
    }

    /// What the pages sum up to, as the run before left it, if nothing was written since.
    fn load_checksums(&mut self) -> Result<bool> {
        let Some((header, entries)) = self.sidecar.pages() else { return Ok(false) };
        let mark = self.database.mark()?;
        // An empty WAL is no proof: it may have been removed.
        if header.mark != mark || mark.last == FrameNo::ZERO || header.page_size != self.database.page_size()? {
            return Ok(false);
        }
        let mut checksums = Checksums::new(header.pages, header.page_size);
        for (n, (_, checksum)) in (1..).zip(entries) {
            checksums.set(Pgno::new(n)?, checksum);
        }
        // The run before wrote this after a sync, and nothing has come since.
        self.database.trust_syncs();
        let complete = checksums.total().is_some();
        self.database.set_checksums(Some(checksums).filter(|_| complete));
        Ok(complete)
    }

    /// What the replica holds is not what it should be, or is not known to be, for the reason given: it is compared with the
    /// upstream next. Whether that is worth doing at once, and was not just done.
    pub fn distrust(&mut self, doubted: Doubted, why: Error) -> Result<bool> {
        self.forget_position()?;
        if doubted == Doubted::Content {
            self.progress.failed_verification();
            self.database.forget_published();
            self.database.set_checksums(None);
        }
        // What its content was found to be stays so until it was mended.
        if doubted == Doubted::Content || self.distrust.is_none() {
            self.distrust = Some((doubted, why));
        }
        Ok(!self.compares && self.mended_at.is_none_or(|at| at.elapsed() > limits::RETRY_MAX))
    }

    /// The upstream cannot compare what the replica has. Whether it is asked for everything next:
    /// if what is there may be replaced.
    pub fn gives_up_comparing(&mut self) -> Result<bool> {
        if !self.compares || !self.may_be_replaced()? {
            return Ok(false);
        }
        self.takes_everything = true;
        Ok(true)
    }

    /// Adds page 1 to a commit that takes a database over as it is, if only the read-only mark of it is not as it should be:
    /// checksums do not tell.
    pub fn add_mark(&mut self, pending: &mut Pending) -> Result<()> {
        if !self.replaces || self.database.is_read_only()? == self.read_only() || pending.has_page_one() {
            return Ok(());
        }
        let page_one = self.database.page_one()?;
        self.database.put(pending, Pgno::ONE, &page_one, self.stop)
    }

    /// What came led to `position`, a state of the upstream's.
    pub(super) fn mended(&mut self, pages: u64, position: Position) {
        self.compares = false;
        let Some((doubted, why)) = self.distrust.take() else { return };
        self.mended_at = Some(Instant::now());
        let name = self.database.connection.path().display();
        if doubted == Doubted::Position {
            // An upstream that was killed asks everybody what they have. What was sent are the
            // commits since, as far as anyone knows.
            log::info!("{name}: up to date by {pages} pages, found by their checksums: {why}");
            return;
        }
        log::warn!("{name}: {pages} pages mended: {why}");
        self.progress.healed(format!("{pages} pages at {position}, since {why}"));
    }
}
