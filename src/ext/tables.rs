//! The tables `litestream_status`, `litestream_replicas` and `litestream_wal`.

use std::ffi::c_int;
use std::path::Path;

use super::registry::{registry, told};
use crate::base::{Error, Kind, Position, Result, utc};
use crate::net::{Part, Row, state_of};
use crate::primary::ReplicaRow;
use crate::sqlite::{Cells, Host, Output, Table, Value, has_wal_reset_bug, version};
use crate::store::LogFile;

type Rows = Box<dyn Iterator<Item = Result<Cells>>>;

/// One row for each database served or followed by this process.
pub struct Status;

impl Table for Status {
    const NAME: &'static str = "litestream_status";
    const COLUMNS: &'static str = "database TEXT, role TEXT, state TEXT, reason TEXT, url TEXT, position TEXT, lag REAL, \
        replicas INTEGER, commits INTEGER, pages INTEGER, bytes INTEGER, reconnects INTEGER, heals INTEGER, healed TEXT, last_error TEXT, \
        last_error_at TEXT, progress REAL, seconds_left REAL, db_bytes INTEGER, wal_bytes INTEGER, sqlite_version TEXT, \
        wal_reset_bug INTEGER";
    const ARGUMENT: Option<c_int> = None;

    fn rows(_: Host, _: Value<'_>) -> Result<Rows> {
        registry()?;
        Ok(Box::new(told().rows().into_iter().map(|row| Ok(status(row)))))
    }
}

fn status(row: Row) -> Cells {
    let (sqlite, number) = version();
    let replicas = row.counts().map(|_| row.replicas().len() as u64);
    let (reconnects, heals, healed) = match row.part {
        Part::Followed { reconnects, heals, healed, .. } => (Some(reconnects), Some(heals), healed),
        Part::Served(..) => (None, None, None),
    };
    let (error, error_at) = row.last_error.map(|error| (error.text, utc(error.at))).unzip();
    vec![
        shown(&row.path),
        row.role.into(),
        row.state.into(),
        row.reason.into(),
        row.url.into(),
        position(row.position),
        row.lag.map(milli).into(),
        replicas.into(),
        row.commits.into(),
        row.pages.into(),
        row.bytes.into(),
        reconnects.into(),
        heals.into(),
        healed.into(),
        error.into(),
        error_at.into(),
        row.headway.map(|headway| milli(headway.percent())).into(),
        row.headway.and_then(|headway| headway.seconds_left()).map(milli).into(),
        row.db_bytes.into(),
        row.wal_bytes.into(),
        sqlite.into(),
        u64::from(has_wal_reset_bug(number)).into(),
    ]
}

/// One row for each replica connected to a database served by this process.
pub struct Replicas;

impl Table for Replicas {
    const NAME: &'static str = "litestream_replicas";
    const COLUMNS: &'static str = "database TEXT, client TEXT, version INTEGER, state TEXT, position TEXT, lag REAL, \
        commits INTEGER, pages INTEGER, bytes INTEGER, progress REAL, seconds_left REAL, seconds REAL";
    const ARGUMENT: Option<c_int> = None;

    fn rows(_: Host, _: Value<'_>) -> Result<Rows> {
        registry()?;
        let mut rows: Vec<Result<Cells>> = Vec::new();
        for row in told().rows() {
            rows.extend(row.replicas().iter().map(|replica| Ok(replica_cells(&row.path, replica))));
        }
        Ok(Box::new(rows.into_iter()))
    }
}

fn replica_cells(path: &Path, replica: &ReplicaRow) -> Cells {
    vec![
        shown(path),
        replica.client.as_str().into(),
        u64::from(replica.version).into(),
        state_of(replica).into(),
        position(replica.position),
        milli(replica.lag).into(),
        replica.commits.into(),
        replica.pages.into(),
        replica.bytes.into(),
        replica.headway.map(|headway| milli(headway.percent())).into(),
        replica.headway.and_then(|headway| headway.seconds_left()).map(milli).into(),
        milli(replica.seconds).into(),
    ]
}

/// The frames of a WAL file, as they stand in it.
pub struct Wal;

impl Table for Wal {
    const NAME: &'static str = "litestream_wal";
    const COLUMNS: &'static str = "frame INTEGER, pgno INTEGER, \"commit\" INTEGER, salt1 INTEGER, salt2 INTEGER, \
        checksum1 INTEGER, checksum2 INTEGER, valid INTEGER, page BLOB, path TEXT HIDDEN";
    const ARGUMENT: Option<c_int> = Some(9);

    fn rows(_: Host, argument: Value<'_>) -> Result<Rows> {
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
