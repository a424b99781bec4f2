//! Layer 2: everything that touches SQLite's C interface, and the only place with `unsafe` in it besides the entry point.
//!
//! The rest of the library sees safe types: a private [`Connection`], the files behind it, the words and locks of
//! the wal-index, and the arguments and results of SQL functions.
#![allow(unsafe_code)]

mod api;
mod clock;
mod connection;
mod doorbell;
mod entry;
mod file;
mod function;
mod guard;
mod host;
mod place;
mod process;
mod shm;
#[cfg(unix)]
mod signals;
mod table;
mod value;
mod writeback;

pub use api::{has_wal_reset_bug, install, log_to_sqlite, needs_all_locks_to_recover, random_bytes, version};
pub use clock::{steady, steady_id, steady_ms, steady_since};
pub use connection::{Checkpointed, Connection, OpenMode, close_left_open};
pub use doorbell::{Doorbell, Woken};
pub use entry::enter;
pub use file::{Exclusive, File};
pub use function::{Call, Output, define_function};
pub use guard::guarded;
pub use host::{CommitHook, Host};
pub use process::{FileId, PerProcess, at_exit, count_open, is_exiting, join, names_of_open, open_files_limit, spawn};
pub use shm::{Held, LockMode, WalIndex};
#[cfg(unix)]
pub use signals::wait_for_end;
pub use table::{Cells, Table, define_table};
pub use value::Value;
pub use writeback::Writeback;
