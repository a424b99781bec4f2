//! A commit that has not ended yet.

use super::stage::Stage;
use crate::base::{PageSize, limits};
use crate::store::Appended;

/// The pages of one commit on their way into a [`super::database::Database`]: in memory, and what
/// does not fit there in the WAL, unseen.
///
/// Once a page has come, at least one is in memory: the frame that carries the commit has a page of
/// the commit to hold.
pub(super) struct Pending {
    pub stage: Stage,
    /// What is in the WAL of it already.
    pub appended: Option<Appended>,
    /// The newest page 1 of the commit, if it has one.
    pub page_one: Option<Vec<u8>>,
}

impl Pending {
    /// An empty commit. `read_only` says whether page 1 gets the mark.
    pub fn new(size: PageSize, read_only: bool) -> Pending {
        Pending { stage: Stage::new(size, read_only), appended: None, page_one: None }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.stage.len() == 0
    }

    /// Whether it has come to need more memory than a commit should.
    pub fn is_large(&self) -> bool {
        self.appended.is_some() || self.stage.bytes() >= limits::STAGE_BYTES / 2
    }

    /// Whether page 1 is in it.
    pub fn has_page_one(&self) -> bool {
        self.page_one.is_some()
    }
}
