//! What the integration tests share: processes, connections, sockets, and ways to look at a database from outside.
//!
//! The tests reach the library as everybody does, by loading it into SQLite. Two SQLites take part: the one rusqlite
//! carries, in this process, and the `sqlite3` shell of the system, in child processes. What the library writes is
//! judged by them and by codecs of the tests' own ([`wal`], [`stream`]), never by the library's.
#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used)]

mod compare;
mod container;
mod crash;
mod db;
mod document;
mod end;
mod faulty_vfs;
mod http;
mod library;
mod limits;
mod origin;
mod pair;
mod preload;
mod process;
mod second;
mod shell;
mod stall;
mod temp;
mod terminal;
mod tracer;
mod upstream;
mod victim;
mod wait;

pub mod bank;
pub mod bounds;
pub mod stream;
pub mod wal;

pub use compare::{
    assert_same_files, assert_same_pages, copy, count_differing, differing_pages, file_bytes, is_marked, mask_mark,
    pages, stock, take_mark_away,
};
pub use container::{Container, command, last_stage};
pub use crash::{Change, Image, Journal, Kept, with_suffix};
pub use db::{Sql, load, loaded, plain, try_load};
pub use document::{Block, blocks, matches};
pub use end::{End, Kind};
pub use faulty_vfs::{Call, Disk, Fault, HeldCalls, Role};
pub use http::{Response, get, request, request_over};
pub use library::library;
pub use limits::{allow_open_files, limit_open_files};
pub use origin::{Origin, copy_all, remove};
pub use pair::{NEW, address, catch_up, following, serving, serving_bank, serving_with, until_gives};
pub use preload::with_gate_and_clock;
pub use process::{
    Signal, again, caught, finish, forked, lines_of, send_signal, signal, started_again, until_it_waits,
};
pub use second::{Second, SecondConnection};
pub use shell::Shell;
pub use stall::Stall;
pub use temp::Temp;
pub use terminal::Terminal;
pub use tracer::{About, CALLS, Ended, How, Interruption, can_trace, run_interrupted};
pub use upstream::{Proxy, Reply, Request, Upstream, proxy, strip_version};
pub use victim::{Answer, FIRST, LATER, OTHER, Victim, database, segment, version_one};
pub use wait::{DEADLINE, StopOnDrop, until};
