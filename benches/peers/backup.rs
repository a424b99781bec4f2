//! SQLite's backup API: what `.backup` of the sqlite3 shell calls.

use std::path::PathBuf;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use serde_json::{Value, json};

use crate::support::worker::text;
use crate::support::{Result, clock};

/// All pages that are left, in one step.
const ALL_PAGES: i32 = -1;

/// Worker: copies the database that is open to a new file, and syncs that. Answers with the nanoseconds that it took.
pub fn back_up(request: &Value, connection: &mut Connection) -> Result<Value> {
    let to = PathBuf::from(text(request, "to")?);
    let began = clock::monotonic_ns();
    let mut copy = Connection::open(&to)?;
    match Backup::new(connection, &mut copy)?.step(ALL_PAGES)? {
        StepResult::Done => {}
        other => return Err(format!("the backup stopped: {other:?}").into()),
    }
    copy.close().map_err(|(_, error)| error)?;
    std::fs::File::open(&to)?.sync_all()?;
    Ok(json!({"ns": clock::monotonic_ns() - began}))
}
