//! What the measurements share.

pub mod child;
pub mod clock;
pub mod content;
pub mod db;
pub mod hash;
pub mod machine;
pub mod options;
pub mod scratch;
pub mod sizes;
pub mod stats;
pub mod table;
pub mod wal;
pub mod worker;

/// The result of anything here; the text of an error is all that matters.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
