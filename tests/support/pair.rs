//! A primary and its replica in `sqlite3` shells.

use std::path::Path;

use super::{Shell, bank, until};

/// SQL that makes a database in WAL mode with one table and one row.
pub const NEW: &str =
    "PRAGMA journal_mode = wal; CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t(x) VALUES ('one')";

/// A served database, and its URL.
pub fn serving(database: &Path) -> (Shell, String) {
    serving_with(database, "{}")
}

/// The same, served with options.
pub fn serving_with(database: &Path, options: &str) -> (Shell, String) {
    let mut primary = Shell::open(database);
    primary.run(NEW);
    let url = primary.ask(&format!("SELECT litestream_serve('127.0.0.1:0', '{options}')"));
    (primary, url)
}

/// The same with a bank in it, and ballast of so many rows.
pub fn serving_bank(database: &Path, ballast: u32, options: &str) -> (Shell, String) {
    let mut primary = Shell::open(database);
    primary.run(".timeout 60000");
    primary.run(&format!("PRAGMA journal_mode = wal; {}", bank::create(ballast, 4096)));
    let url = primary.ask(&format!("SELECT litestream_serve('127.0.0.1:0', '{options}')"));
    (primary, url)
}

/// A replica that follows `url`.
pub fn following(database: &Path, url: &str) -> Shell {
    let mut replica = Shell::open(database);
    replica.run(&format!("SELECT litestream_follow('{url}')"));
    replica
}

/// Waits until the replica has what the primary has now, and gives the position.
pub fn catch_up(primary: &mut Shell, replica: &mut Shell) -> String {
    let position = primary.ask("SELECT litestream_position()");
    assert_eq!(replica.ask(&format!("SELECT litestream_wait('{position}', 60000)")), "1", "waiting for {position}");
    position
}

/// `127.0.0.1:port` of a URL.
pub fn address(url: &str) -> &str {
    url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).expect("an http URL")
}

/// Waits until `sql` gives `wanted`.
pub fn until_gives(shell: &mut Shell, sql: &str, wanted: &str) {
    until(&format!("{sql} gives {wanted}"), || match shell.ask(sql) {
        seen if seen == wanted => Ok(()),
        seen => Err(seen),
    });
}
