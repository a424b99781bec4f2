//! What the fuzz targets do with their input: one function from bytes to nothing for each, which panics when something
//! does not hold. `fuzz_targets/` hands them to libFuzzer.
//!
//! | target | its input is |
//! |---|---|
//! | [`record`] | the header or payload of a record of a stream |
//! | [`records`] | a stream, cut into pieces of any size on its way |
//! | [`lz4`] | an LZ4 frame, or a compressed record |
//! | [`wal`] | a WAL file, shown by `litestream_wal` |
//! | [`sidecar`] | a file of the sidecar |
//! | [`position`] | the text of a position |
//! | [`url`] | the URL of an upstream |
//! | [`arguments`] | the arguments of the SQL functions |
//! | [`query`] | the address and the headers of a request |
//! | [`request`] | what a client sends to a server that serves a database |
//! | [`head`] | what a server answers to a replica |
//! | [`apply_wal`] | what is given to `litestream_apply_wal` on a live database |
//! | [`pull`] | the stream that a replica gets |
//!
//! What is right is said by [`slow`]: the formats read once more, byte by byte, with no code of the library's; and by
//! SQLite.

mod apply_wal;
mod arguments;
mod database;
mod head;
mod input;
mod lz4;
mod meter;
mod position;
mod pull;
mod query;
mod record;
mod records;
mod request;
mod sidecar;
mod url;
mod wal;

pub mod seeds;
pub mod slow;

pub use apply_wal::apply_wal;
pub use arguments::arguments;
pub use head::head;
pub use lz4::lz4;
pub use position::position;
pub use pull::pull;
pub use query::query;
pub use record::record;
pub use records::records;
pub use request::request;
pub use sidecar::sidecar;
pub use url::url;
pub use wal::wal;
