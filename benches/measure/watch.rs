//! A reader that keeps its connection open and asks for the newest row as fast as it can.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::worker::number;
use crate::support::{Result, clock};

/// Longest time without a new row, in nanoseconds, before the reader gives up.
const PATIENCE_NS: u64 = 30_000_000_000;

/// What a reader saw: the newest id, and the monotonic time in nanoseconds at which it was first seen.
pub type Seen = Vec<(u64, u64)>;

/// Worker: polls table `row` until it shows the id `until`. Answers with [`Seen`].
pub fn watch(request: &Value, connection: &mut Connection) -> Result<Value> {
    let until = number(request, "until")?;
    let mut newest = connection.prepare("SELECT max(id) FROM row")?;
    let mut seen = Seen::new();
    let (mut last_id, mut last_ns) = (0, clock::monotonic_ns());
    while last_id < until {
        let id = newest.query_row([], |row| row.get::<_, Option<i64>>(0))?.unwrap_or(0) as u64;
        let now = clock::monotonic_ns();
        if id != last_id {
            if id < last_id {
                return Err(format!("row {id} is the newest after row {last_id} was").into());
            }
            seen.push((id, now));
            (last_id, last_ns) = (id, now);
        }
        if now - last_ns > PATIENCE_NS {
            return Err(format!("row {until} did not arrive: the newest is {last_id}").into());
        }
    }
    Ok(json!(seen))
}
