//! `litestream_snapshot(file [, options])`

use std::path::{Path, PathBuf};

use super::options::Options;
use super::registry::{Registry, file_of};
use super::session::Session;
use crate::base::{Error, Position, Result};
use crate::sqlite::{Call, Connection, Host, OpenMode, Output};
use crate::store::{NewFile, Sidecar, check_target, copy};

const NAME: &str = "litestream_snapshot";

/// Writes what the database of the calling connection holds to a file of its own. Returns the position that the copy has at least, or
/// NULL if the database has none.
pub fn snapshot(call: &Call, _: &Session, registry: &Registry) -> Result<Output> {
    let file = super::text(call, 0, NAME, "the file")?;
    let mut options = Options::read(call, 1, NAME, &["schema", "overwrite"])?;
    let (schema, overwrite) = (options.text("schema", "main")?, options.flag("overwrite")?);
    let path = file_of(call.host(), &schema, "a snapshot")?;
    require_wal_mode(call.host(), &schema, &path)?;
    let target = target(file)?;
    check_target(&target, &path, overwrite)?;
    let new = NewFile::begin(&target, &path)?;
    let position = match registry.primary(&path) {
        Some(primary) => {
            let mut copying = primary.copy_to(new.handle()?);
            loop {
                if let Some((content, _)) = copying.step()? {
                    break Some(content.position);
                }
            }
        }
        None => {
            // Asked for before the copy begins, which may have more.
            let position = position(registry, &path);
            copy(&Connection::open(&path, &call.host().vfs(&schema)?, OpenMode::Existing)?, new.handle()?)?;
            position
        }
    };
    new.finish(overwrite)?;
    log::info!("{} was copied to {}", path.display(), target.display());
    Ok(position.map(|position| position.to_string()).into())
}

/// A position that a replica has reached.
fn position(registry: &Registry, path: &Path) -> Option<Position> {
    let sidecar = Sidecar::of(path);
    match registry.follower(path) {
        Some(follower) => follower.progress().position(),
        None => sidecar.position().filter(|_| sidecar.upstream().is_some()),
    }
}

fn target(file: &str) -> Result<PathBuf> {
    if file.is_empty() {
        return Err(Error::usage(format!("{NAME}: the name of the file is empty; expected a path, such as 'copy.db'")));
    }
    std::path::absolute(file).map_err(|e| Error::io(format!("{NAME}: {file}"), &e))
}

fn require_wal_mode(host: Host, schema: &str, path: &Path) -> Result<()> {
    let quoted = schema.replace('"', "\"\"");
    let mode = host.query_text(&format!("PRAGMA \"{quoted}\".journal_mode"))?.unwrap_or_default();
    if mode == "wal" {
        return Ok(());
    }
    let name = path.display();
    Err(Error::usage(format!(
        "litestream: {name} is not in WAL mode (journal_mode={mode}); run PRAGMA journal_mode=WAL first, or use VACUUM INTO"
    )))
}
