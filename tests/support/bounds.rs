//! The bounds that the library under test was built with, in bytes (`src/base/limits.rs`).

/// Whether they are tiny.
pub const ARE_TINY: bool = cfg!(feature = "tiny-limits");

/// Pages of one record, and of one write to a WAL.
pub const CHUNK: usize = scaled(1 << 20, 4 << 10);
/// Largest commit that the log of a primary keeps.
pub const LIVE_COMMIT: usize = scaled(1 << 20, 8 << 10);
/// Pages sent within one look, in the first round of a catch-up.
pub const LAST_ROUND: usize = scaled(4 << 20, 8 << 10);
/// Pages of a commit that a replica holds in memory; half of it counts as a large commit.
pub const STAGE: usize = scaled(16 << 20, 16 << 10);
/// What the log of a primary keeps.
pub const COMMIT_LOG: usize = scaled(16 << 20, 24 << 10);

const fn scaled(real: usize, tiny: usize) -> usize {
    if ARE_TINY { tiny } else { real }
}
