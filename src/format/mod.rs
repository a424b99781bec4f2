//! Layer 1: what is written in files, in shared memory and on the wire, byte by byte.
//!
//! Pure codecs: no I/O, no clock, no allocation that a length from outside decides alone.

mod cursor;

pub mod checksum;
pub mod compression;
pub mod lz4;
pub mod page_file;
pub mod record;
pub mod wal;
pub mod walindex;

pub use cursor::Cursor;
