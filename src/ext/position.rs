//! `litestream_position()`, `litestream_wait(position [, timeout_ms])` and `litestream_lag()`

use std::path::Path;
use std::time::{Duration, Instant};

use super::registry::{Registry, file_of, path_of};
use super::session::Session;
use crate::base::{Error, Kind, Position, Result};
use crate::replica::{ATTENTION, interrupted};
use crate::sqlite::{Call, Output, Value};
use crate::store::Sidecar;

const DEFAULT_PATIENCE_MS: i64 = 10_000;
/// How often a position is looked at that nothing tells of: that of a primary, or of a replica fed by another process.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The position of the database right now, or NULL when it is neither served here nor a replica.
pub fn position(call: &Call, _: &Session, registry: &Registry) -> Result<Output> {
    let Some(path) = path_of(call.host(), "main")? else { return Ok(Output::Null) };
    Ok(position_of(&path, registry)?.map(|position| position.to_string()).into())
}

/// Waits until the database has reached a position. 1, or 0 when the time was over first.
pub fn wait(call: &Call, _: &Session, registry: &Registry) -> Result<Output> {
    const NAME: &str = "litestream_wait";
    let position: Position = super::text(call, 0, NAME, "the position")?.parse().map_err(|e: Error| e.within(NAME))?;
    let patience = match call.value(1) {
        Value::Null if call.count() < 2 => DEFAULT_PATIENCE_MS,
        _ => super::integer(call, 1, NAME, "the timeout in milliseconds")?,
    };
    let patience = Duration::from_millis(u64::try_from(patience).unwrap_or(0));
    let path = file_of(call.host(), "main", "waiting")?;
    let is_interrupted = || call.host().is_interrupted();
    let reached = match registry.follower(&path) {
        Some(follower) => follower.progress().wait_for(&position, patience, &is_interrupted)?,
        None => watch(&path, registry, &position, patience, &is_interrupted)?,
    };
    Ok(Output::Integer(i64::from(reached)))
}

/// Seconds since the replica was known to equal its upstream, or NULL when it follows none.
pub fn lag(call: &Call, _: &Session, registry: &Registry) -> Result<Output> {
    let Some(path) = path_of(call.host(), "main")? else { return Ok(Output::Null) };
    Ok(registry.follower(&path).and_then(|follower| follower.progress().lag()).into())
}

fn position_of(path: &Path, registry: &Registry) -> Result<Option<Position>> {
    if let Some(primary) = registry.primary(path) {
        return primary.position().map(Some);
    }
    match registry.follower(path) {
        Some(follower) => Ok(follower.progress().position()),
        None => Ok(Sidecar::of(path).position()),
    }
}

fn watch(
    path: &Path,
    registry: &Registry,
    wanted: &Position,
    patience: Duration,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<bool> {
    let deadline = Instant::now() + patience;
    let mut asked = Instant::now();
    loop {
        if asked.elapsed() > ATTENTION {
            if is_interrupted() {
                return Err(interrupted());
            }
            asked = Instant::now();
        }
        let Some(here) = position_of(path, registry)? else {
            return Err(Error::usage(format!("litestream: {} is neither served nor a replica", path.display())));
        };
        match here.reaches(wanted) {
            Some(true) => return Ok(true),
            Some(false) if Instant::now() >= deadline => return Ok(false),
            Some(false) => std::thread::sleep(LOOK_EVERY),
            None => {
                return Err(Error::new(
                    Kind::Usage,
                    format!("litestream: {wanted} is of another generation than this database, which is at {here}"),
                ));
            }
        }
    }
}
