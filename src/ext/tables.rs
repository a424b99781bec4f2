//! The tables `litestream_status`, `litestream_replicas` and `litestream_wal`.

use std::ffi::c_int;
use std::path::Path;

use super::registry::registry;
use crate::base::{Error, Kind, Position, Result};
use crate::sqlite::{Cells, Output, Table, Value, has_wal_reset_bug, version};
use crate::store::LogFile;

type Rows = Box<dyn Iterator<Item = Result<Cells>>>;

/// One row for each database served or followed by this process.
pub struct Status;

impl Table for Status {
    const NAME: &'static str = "litestream_status";
    const COLUMNS: &'static str = "database TEXT, role TEXT, state TEXT, reason TEXT, url TEXT, position TEXT, lag REAL, \
        replicas INTEGER, commits INTEGER, pages INTEGER, bytes INTEGER, reconnects INTEGER, heals INTEGER, healed TEXT, last_error TEXT, \
        wal_bytes INTEGER, sqlite_version TEXT, wal_reset_bug INTEGER";
    const ARGUMENT: Option<c_int> = None;

    fn rows(_: Value<'_>) -> Result<Rows> {
        let running = registry()?.running();
        let (sqlite, number) = version();
        let wal_reset_bug = u64::from(has_wal_reset_bug(number));
        let mut rows: Vec<Result<Cells>> = Vec::new();
        for (path, served) in &running.served {
            let status = served.primary.status();
            rows.push(Ok(vec![
                shown(path),
                if served.primary.is_relay() { "relay" } else { "primary" }.into(),
                if status.failing { "stalled" } else { "serving" }.into(),
                status
                    .last_error
                    .clone()
                    .filter(|_| status.failing)
                    .or_else(|| served.server.warning().map(String::from))
                    .into(),
                served.url.as_str().into(),
                position(status.position),
                Output::Null,
                (served.primary.replicas().len() as u64).into(),
                status.commits.into(),
                status.pages.into(),
                status.bytes.into(),
                Output::Null,
                Output::Null,
                Output::Null,
                status.last_error.into(),
                status.wal_bytes.into(),
                sqlite.as_str().into(),
                wal_reset_bug.into(),
            ]));
        }
        for (path, follower) in &running.followed {
            let status = follower.status();
            rows.push(Ok(vec![
                shown(path),
                "replica".into(),
                status.state.into(),
                status.reason.into(),
                follower.url().into(),
                position(status.position),
                status.lag.map(milli).into(),
                Output::Null,
                status.commits.into(),
                status.pages.into(),
                status.bytes.into(),
                status.reconnects.into(),
                status.heals.into(),
                status.healed.into(),
                status.last_error.into(),
                status.wal_bytes.into(),
                sqlite.as_str().into(),
                wal_reset_bug.into(),
            ]));
        }
        Ok(Box::new(rows.into_iter()))
    }
}

/// One row for each replica connected to a database served by this process.
pub struct Replicas;

impl Table for Replicas {
    const NAME: &'static str = "litestream_replicas";
    const COLUMNS: &'static str = "database TEXT, client TEXT, version INTEGER, state TEXT, position TEXT, \
        commits INTEGER, pages INTEGER, bytes INTEGER, seconds REAL";
    const ARGUMENT: Option<c_int> = None;

    fn rows(_: Value<'_>) -> Result<Rows> {
        let running = registry()?.running();
        let mut rows: Vec<Result<Cells>> = Vec::new();
        for (path, served) in &running.served {
            for replica in served.primary.replicas() {
                rows.push(Ok(vec![
                    shown(path),
                    replica.client.into(),
                    u64::from(replica.version).into(),
                    if replica.live { "live" } else { "catching up" }.into(),
                    position(replica.position),
                    replica.commits.into(),
                    replica.pages.into(),
                    replica.bytes.into(),
                    milli(replica.seconds).into(),
                ]));
            }
        }
        Ok(Box::new(rows.into_iter()))
    }
}

/// The frames of a WAL file, as they stand in it.
pub struct Wal;

impl Table for Wal {
    const NAME: &'static str = "litestream_wal";
    const COLUMNS: &'static str = "frame INTEGER, pgno INTEGER, \"commit\" INTEGER, salt1 INTEGER, salt2 INTEGER, \
        checksum1 INTEGER, checksum2 INTEGER, valid INTEGER, page BLOB, path TEXT HIDDEN";
    const ARGUMENT: Option<c_int> = Some(9);

    fn rows(argument: Value<'_>) -> Result<Rows> {
        let Value::Text(path) = argument else {
            return Err(Error::new(
                Kind::Mismatch,
                format!(
                    "litestream_wal: the path is {}, expected text: litestream_wal('app.db-wal')",
                    argument.type_name()
                ),
            ));
        };
        let Some(log) = LogFile::open(Path::new(path))? else { return Ok(Box::new(std::iter::empty())) };
        Ok(Box::new(log.map(|frame| {
            let frame = frame?;
            let header = frame.header;
            let numbers = [
                frame.number,
                header.pgno,
                header.commit,
                header.salts.0,
                header.salts.1,
                header.checksum.0,
                header.checksum.1,
                u32::from(frame.valid),
            ];
            let mut cells: Cells = numbers.into_iter().map(|n| u64::from(n).into()).collect();
            cells.push(Output::Blob(frame.page));
            Ok(cells)
        })))
    }
}

/// Seconds with no more digits than mean something.
fn milli(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

fn shown(path: &Path) -> Output {
    path.to_string_lossy().into_owned().into()
}

fn position(position: Option<Position>) -> Output {
    position.map(|position| position.to_string()).into()
}
