//! Layer 4: a database served to replicas.
//!
//! ```text
//! commit in the WAL -> tail -> page map + commit log -> one feed per replica
//! ```
//!
//! The tail follows the WAL under a hold that lets no frame be overwritten before it was seen, and no writer ever waits. What it
//! saw goes into the page map (which commit changed which page last, and what the pages sum up to) and, as ready-made bytes
//! shared by all replicas, into the commit log. A feed reads the log while its replica keeps up; one that is behind is sent
//! the pages that changed since, or that differ from those it has, each once, whatever happened in between.

mod catch_up;
mod checkpoints;
mod commit_log;
mod compare;
mod core;
mod counters;
mod feed;
mod feed2022;
mod freshness;
mod history;
mod page_map;
mod pages;
mod relay;
mod replicas;
mod rest;
mod served;
mod snapshot;
mod tail;
mod unwatched;

#[cfg(test)]
pub mod stepping;

#[doc(hidden)]
pub mod counting;

pub use self::core::Seen;
pub use compare::Comparison;
pub use counters::{Counts, Effort, Sending};
pub use feed::{Ask, Feed, Step, Version};
pub use relay::Feeding;
pub use replicas::ReplicaRow;
pub use served::{Options, Primary, Status};
pub use snapshot::{Content, Copying, Permit};
