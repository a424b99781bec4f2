//! Every bound the library keeps to, in one place.
//!
//! A bound at which work is divided (chunks, stages, rounds, blocks) is a seam: code on one side of
//! it differs from code on the other. [`scaled`] makes these bounds so small in test builds that
//! every commit crosses some of them. Limits past which something is refused, and times, stay the
//! same in every build.

use std::time::Duration;

/// Whether the bounds are tiny: in the unit tests, and with the feature `tiny-limits`.
pub const ARE_TINY: bool = cfg!(any(test, feature = "tiny-limits"));

/// A bound with the value `real`, or `tiny` in a build with tiny bounds.
pub const fn scaled(real: usize, tiny: usize) -> usize {
    if ARE_TINY { tiny } else { real }
}

/// Pages of one record or one write to a file: about this many bytes at once.
pub const CHUNK_BYTES: usize = scaled(1 << 20, 4 << 10);

/// Largest payload a version 2 record may announce, in bytes: a full chunk of the largest pages with room
/// for their numbers. A record that says more is refused before anything is allocated.
pub const MAX_RECORD_BYTES: u64 = 4 << 20;

/// Largest decompressed WAL segment of the 2022 protocol taken in, in bytes. That protocol sends a transaction
/// as one segment however large it is.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;

/// Commits kept ready for followers that are nearly up to date, in bytes for each database served, with what is kept of
/// them compressed. A follower further behind is sent the pages that changed instead.
pub const COMMIT_LOG_BYTES: usize = scaled(16 << 20, 24 << 10);

/// Largest commit put into that log, in bytes. Larger ones are read by each follower piece by piece: putting them together
/// would keep the tail from looking for too long.
pub const LIVE_COMMIT_BYTES: usize = scaled(1 << 20, 8 << 10);

/// Pages of a commit held in memory on a replica before they are written to the WAL unseen, in bytes.
pub const STAGE_BYTES: usize = scaled(16 << 20, 16 << 10);

/// How many WAL frames make a checkpoint worth its while: what SQLite's own auto-checkpoint uses.
pub const CHECKPOINT_FRAMES: u32 = scaled(1000, 40) as u32;

/// The same for a replica, whose only writer is this library. A checkpoint costs three syncs whatever its size; they are
/// most of the price of applying small commits.
pub const REPLICA_CHECKPOINT_FRAMES: u32 = scaled(4000, 30) as u32;

/// WAL size past which it is let be restarted unwatched, in bytes: four times what makes a checkpoint worth its while.
pub const WAL_LIMIT_BYTES: u64 = scaled(16 << 20, 640 << 10) as u64;

/// WAL size past which a snapshot for a replica of 2022, which keeps the WAL from being restarted, is given up, in bytes.
pub const SNAPSHOT_2022_WAL_BYTES: u64 = scaled(64 << 20, 4 << 20) as u64;

/// How often an idle stream says that it is alive, and where its primary is.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// An age at which what a primary or a replica knows counts as stalled: a healthy one is a
/// heartbeat old at most.
pub const STALLED: Duration = Duration::from_secs(3);

/// How long a stream may be silent before its reader gives it up.
pub const SILENCE: Duration = Duration::from_secs(10);

/// Bytes a second that everything on a connection comes and goes with at the least, past the
/// silence that is allowed. What is slower is not waited for: a record whose size was damaged on
/// the way would otherwise be waited for as long as heartbeats come, which are taken for the rest
/// of it.
pub const SLOWEST_BYTES: u64 = 16 << 10;

/// Bytes a second with which a primary reads its database at the least that says it is busy with
/// that.
pub const SLOWEST_READ: u64 = 256 << 10;

/// How long a client may take nothing of what is sent to it before it is dropped.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections at one address; less where the process may have few file descriptors.
pub const CONNECTIONS: u64 = 1024;

/// Connections that wait to be taken on, if the system has room for as many.
pub const WAITING_CONNECTIONS: i32 = 4096;

/// Connections of one client at one address.
pub const CONNECTIONS_PER_ADDRESS: u64 = 256;

/// Streams of one database.
pub const STREAMS: u64 = 512;

/// Size of the head of a request, in bytes.
pub const HEAD_BYTES: u64 = 16 << 10;

/// How long a connection may take for its TLS handshake, and for the head of each request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the body of a request may bring nothing.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What a client is told to wait for that came past one of these limits.
pub const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The longest that a client lets itself be told to wait.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// First pause before a lost upstream is tried again; doubles up to [`RETRY_MAX`].
pub const RETRY_MIN: Duration = Duration::from_millis(50);

/// Longest pause between two tries to reach an upstream.
pub const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long a lock of SQLite's that others hold for moments is tried for.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How long the audit of a replica takes for all of its pages.
pub const AUDIT: Duration = Duration::from_secs(3600);
