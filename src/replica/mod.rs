//! Layer 4: a database fed from an upstream.
//!
//! ```text
//! HTTP response -> records -> one staged commit -> WAL frames -> wal-index header -> position
//! ```
//!
//! A new replica is written straight into its file, page 1 last. From then on every commit goes through the WAL and
//! becomes visible to all readers in one step.

mod anew;
mod attended;
mod audit;
mod bootstrap;
mod checks;
mod database;
mod feeder;
mod follower;
mod manual;
mod pending;
mod promote;
mod records;
mod relay;
mod session;
mod session2022;
mod stage;
mod status;
mod stream;
mod trust;
mod upstream;
mod upstream_clock;
mod verify;

#[cfg(test)]
pub mod stepping;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

pub use attended::{ATTENTION, interrupted};
pub use feeder::Options;
pub use follower::{Follower, pull};
pub use manual::ManualApply;
pub use promote::promote;
pub use relay::{Feeding, Relay};
pub use status::{Progress, StatusRow};
pub use upstream::{Compared, Have, Opened, PageSums, Upstream};
pub use upstream_clock::{CompareClocks, Times, UpstreamClock};
pub use verify::{checksums, distrust, verify};
