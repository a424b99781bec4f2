//! The measurements. Each file holds one: the part that the bench does, and what its workers do on request.

mod apply;
mod catchup;
mod commits;
mod fanout;
mod files;
mod growth;
mod idle;
mod lag;
mod lag_flat_out;
mod library;
mod map;
mod peercommits;
mod peerlag;
mod replication;
mod snapshot;
mod startup;
mod subscribers;
mod throttled;
mod watch;

use std::path::PathBuf;

use rusqlite::Connection;
use serde_json::Value;

use crate::peers::{Peers, backup};
use crate::support::Result;
use crate::support::options::Options;
use crate::support::scratch::Scratch;
use crate::support::table::Table;

/// What every measurement works with.
pub struct Bench {
    /// How much to measure.
    pub options: Options,
    /// Where the databases go.
    pub scratch: Scratch,
    /// Where the figures go.
    pub table: Table,
    /// What a user would take instead.
    pub peers: Peers,
}

/// A measurement: it adds a section to the table.
pub type Take = fn(&mut Bench) -> Result<()>;

/// All measurements by the names that `--only` takes.
pub const ALL: [(&str, Take); 14] = [
    ("apply", apply::take),
    ("snapshot", snapshot::take),
    ("catchup", catchup::take),
    ("lag", lag::take),
    ("flatout", lag_flat_out::take),
    ("commits", commits::take),
    ("fanout", fanout::take),
    ("idle", idle::take),
    ("throttled", throttled::take),
    ("library", library::take),
    ("growth", growth::take),
    ("map", map::take),
    ("peerlag", peerlag::take),
    ("peercommits", peercommits::take),
];

/// Answers in a worker the requests that belong to one measurement.
pub fn obey(name: &str, request: &Value, connection: &mut Connection) -> Result<Value> {
    match name {
        "execute" => apply::execute(request, connection),
        "apply" => apply::apply(request, connection),
        "write" => apply::write(request),
        "commit at a pace" => lag::commit_at_a_pace(request, connection),
        "commit and tell" => lag::commit_and_tell(request, connection),
        "commit and note" => lag_flat_out::commit_and_note(request, connection),
        "look now and then" => lag_flat_out::look_now_and_then(connection),
        "subscribe" => fanout::subscribe(request),
        "arrivals" => fanout::arrivals(request),
        "be a link" => throttled::be_a_link(request),
        "tell of the link" => Ok(throttled::tell_of_the_link()),
        "load and count" => library::load_and_count(request, connection),
        "commit flat out" => commits::commit_flat_out(request, connection),
        "change rows" => catchup::change_rows(request, connection),
        "hash" => catchup::hash(request),
        "copy pages" => catchup::copy_pages(request),
        "hash and copy" => catchup::hash_and_copy(request),
        "change flat out" => map::change_flat_out(request, connection),
        "hash pages" => Ok(map::hash_pages()),
        "watch" => watch::watch(request, connection),
        "watch anew" => watch::watch_anew(request),
        "back up" => backup::back_up(request, connection),
        _ => Err(format!("unknown request {name}").into()),
    }
}

/// The path of the WAL that belongs to a database.
fn wal_of(database: &std::path::Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}
