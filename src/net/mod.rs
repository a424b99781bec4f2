//! Layer 5: HTTP. Carries records from a feed to a replica, and knows neither what is in them nor SQLite.
//!
//! ```text
//! primary::Feed -> stream -> routes -> door -> server  ~~ HTTP/1.1, chunked ~~>  client -> replica
//! ```
//!
//! - [`Server`] listens at one address, on one thread with one event loop for all connections. Its door knows who may come in,
//!   and how many.
//! - [`HttpUpstream`] is the other end: a blocking reader for the thread that follows.
//! - [`Running`] is what the process serves and follows, for those who ask: `/metrics`, `/`, `/status.json`.
//! - [`Url`] says where a database is served.

mod access;
mod address;
mod admission;
mod answer;
mod client;
mod clock;
mod connection;
mod credentials;
mod databases;
mod door;
mod metrics;
mod page;
mod pem;
mod percent;
mod reloaded;
mod report;
mod routes;
mod server;
mod settings;
mod snapshot;
mod stop;
mod stream;
mod stream_body;
mod tls;
mod token;
mod upload;
mod url;
mod watched;
mod write_timeout;

#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

pub use address::check as check_address;
pub use client::HttpUpstream;
pub use credentials::{Credentials, TokenSource};
pub use report::{Followed, Part, Row, Running, Served, Source, state_of};
pub use server::Server;
pub use settings::{Limits, Settings};
pub use token::Token;
pub use url::Url;

/// Text from outside as it may stand in a message: one line, at most 200 characters, nothing that moves a cursor.
fn printable(text: &str) -> String {
    const LIMIT: usize = 200;
    let mut out: String = text.chars().take(LIMIT).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(LIMIT).is_some() {
        out.push_str("...");
    }
    out
}
