//! A reader that asks for the newest row as fast as it can.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::support::worker::{number, text};
use crate::support::{Result, clock};

/// Longest time without a new row, in nanoseconds, before the reader gives up.
const PATIENCE_NS: u64 = 30_000_000_000;
/// Pause of a reader that opens the file anew between two looks: time in which nobody has it open.
const PAUSE: Duration = Duration::from_micros(500);
const NEWEST: &str = "SELECT max(id) FROM row";

/// What a reader saw: the newest id, and the monotonic time in nanoseconds at which it was first seen.
pub type Seen = Vec<(u64, u64)>;

/// Worker: polls table `row`, on a connection that stays open, until it shows the id `until`. Answers with [`Seen`].
pub fn watch(request: &Value, connection: &mut Connection) -> Result<Value> {
    let mut newest = connection.prepare(NEWEST)?;
    until(number(request, "until")?, || Ok(newest.query_row([], |row| row.get(0))?))
}

/// Worker: the same with the file at `path` opened anew for each look, and closed again.
pub fn watch_anew(request: &Value) -> Result<Value> {
    let path = text(request, "path")?;
    until(number(request, "until")?, || {
        std::thread::sleep(PAUSE);
        look(path.as_ref())
    })
}

/// The newest row of a file that is opened for this look alone.
fn look(path: &Path) -> Result<Option<i64>> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    Ok(connection.query_row(NEWEST, [], |row| row.get(0))?)
}

fn until(until: u64, mut newest: impl FnMut() -> Result<Option<i64>>) -> Result<Value> {
    let mut seen = Seen::new();
    let (mut last_id, mut last_ns) = (0, clock::monotonic_ns());
    while last_id < until {
        let id = newest()?.unwrap_or(0) as u64;
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
