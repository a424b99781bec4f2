//! Lets the WAL be restarted while nothing holds it, and finds out afterwards what happened.
//!
//! A writer that never pauses restarts the WAL microseconds after its checkpoint, or not at all. The tail may miss that moment
//! again and again, so past a limit it lets go for a short time. What it has not seen by the restart is still in the WAL file,
//! behind the new frames, until those have come that far. Three things must fit for what was found to be all: the salts went on
//! by one restart, the first unseen frame was not overwritten, and the commits are as many as SQLite has counted. Where they
//! do not, every page is read and compared.

use super::core::{Core, News};
use crate::base::{FrameNo, Lsn, Pgno, Position, Result};
use crate::format::wal::{Chain, FRAME_HEADER_SIZE, FrameHeader, Salts, WordOrder, frame_offset, frame_size};
use crate::store::{State, valid_state};

/// Commits that were found in the WAL file behind those of the WAL that came after.
struct Behind {
    /// The pages that they wrote.
    pages: Vec<Pgno>,
    commits: u32,
    /// The smallest database size among them, in pages.
    least: u32,
}

impl Core {
    /// Lets go of the WAL, until [`Core::take_in`].
    pub fn let_go(&mut self) -> Result<()> {
        self.unwatched = true;
        self.watch.let_go(&self.watcher)
    }

    /// Whether the WAL was restarted since.
    pub fn was_restarted(&self) -> Result<bool> {
        Ok(self.look()?.header.salts != self.seen.mark.salts)
    }

    /// Holds the WAL again, and takes in what has happened.
    pub(super) fn take_back(&mut self) -> Result<Option<News>> {
        self.check_file()?;
        self.watch.forbid_restart(&self.watcher)?;
        let state = valid_state(&self.reader)?;
        if self.uncompared {
            return self.compare_again(&state);
        }
        if state.header.salts == self.seen.mark.salts {
            self.unwatched = false;
            return self.follow(&state);
        }
        let (begins, commits) = (self.position.index + 1, state.header.change.wrapping_sub(self.seen.change));
        let behind = self.read_behind(&state)?;
        let position = Position::after_frame(self.position.generation, begins, state.header.last, self.page_size());
        let least = behind.as_ref().map_or(u32::MAX, |behind| behind.least);
        let news = self.advance(&state, position, least)?;
        let is_partial = behind.as_ref().is_none_or(|behind| !behind.pages.is_empty());
        match behind {
            Some(Behind { pages, .. }) => {
                let begins = Lsn::new(begins, FrameNo::ZERO);
                pages.iter().for_each(|pgno| self.map.changed_before(*pgno, begins));
            }
            None => {
                let name = self.watcher.path().display();
                log::warn!("{name}: the WAL was overwritten before all of it was seen; every page is compared");
                self.uncompared = true;
                self.compare_all(&state)?;
                self.uncompared = false;
            }
        }
        self.unwatched = false;
        // A count that begins anew, after a recovery, says nothing.
        let counted = |news: &News| if commits < u32::MAX / 2 { u64::from(commits) } else { news.commits };
        Ok(news.map(|news| News { is_partial, commits: counted(&news), ..news }))
    }

    /// Ends a comparison that failed. What has come since goes out with it, as one.
    fn compare_again(&mut self, state: &State) -> Result<Option<News>> {
        let commits = self.follow(state)?.map_or(1, |news| news.commits);
        self.compare_all(state)?;
        (self.uncompared, self.unwatched) = (false, false);
        let to = self.seen.mark.last;
        Ok(Some(News { from: FrameNo::ZERO, to, commits, has_unwritten: true, is_partial: true }))
    }

    /// What was not seen of the WAL before this one. None if it is not sure that this is all.
    fn read_behind(&self, state: &State) -> Result<Option<Behind>> {
        let (seen, now) = (self.seen, &state.header);
        if now.salts.0 != seen.mark.salts.0.wrapping_add(1) || self.is_overwritten(now.salts)? {
            return Ok(None);
        }
        let behind = self.read_chain(now.order)?;
        let commits = behind.commits.wrapping_add(self.count_commits(now.last)?);
        let complete = commits == now.change.wrapping_sub(seen.change) && !self.is_overwritten(now.salts)?;
        Ok(complete.then_some(behind))
    }

    /// Whether the place after the last frame seen holds a frame of the WAL with these salts. They are written in order, so if it
    /// does not, none behind it was overwritten.
    fn is_overwritten(&self, by: Salts) -> Result<bool> {
        Ok(self.frame_header(self.seen.mark.last.next())?.salts == by)
    }

    /// The commits that follow the last frame seen, as their checksums say.
    fn read_chain(&self, order: WordOrder) -> Result<Behind> {
        let mark = self.seen.mark;
        let mut chain = Chain::resume(order, mark.salts, mark.checksum);
        let mut behind = Behind { pages: Vec::new(), commits: 0, least: u32::MAX };
        let (mut frame, mut bytes) = (mark.last.next(), vec![0; frame_size(self.page_size()) as usize]);
        let mut uncommitted = Vec::new();
        loop {
            self.watcher.wal()?.read(frame_offset(frame, self.page_size()), &mut bytes)?;
            let Some((head, page)) = bytes.split_at_checked(FRAME_HEADER_SIZE) else { break };
            if !chain.accept(head, page) {
                break;
            }
            let head = FrameHeader::decode(head)?;
            uncommitted.push(Pgno::new(head.pgno)?);
            if head.commit > 0 {
                behind.commits = behind.commits.wrapping_add(1);
                behind.least = behind.least.min(head.commit);
                behind.pages.append(&mut uncommitted);
            }
            frame = frame.next();
        }
        Ok(behind)
    }

    /// Commits in the WAL up to frame `last`.
    fn count_commits(&self, last: FrameNo) -> Result<u32> {
        let mut commits = 0;
        for frame in (1..=last.0).map(FrameNo) {
            commits += u32::from(self.frame_header(frame)?.commit > 0);
        }
        Ok(commits)
    }

    fn frame_header(&self, frame: FrameNo) -> Result<FrameHeader> {
        let mut bytes = [0; FRAME_HEADER_SIZE];
        self.watcher.wal()?.read(frame_offset(frame, self.page_size()), &mut bytes)?;
        FrameHeader::decode(&bytes)
    }
}
