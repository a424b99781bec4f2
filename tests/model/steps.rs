//! Single steps of a primary, in an order that its threads come to once in many runs.

use std::time::Duration;

use rusqlite::Connection;

use super::{folder, install, memory_vfs, open};
use crate::base::{Error, Kind, Result};
use crate::format::compression::Compression;
use crate::primary::stepping::Stepped;
use crate::primary::{Ask, Options, Step, Version};

/// A primary and its application, in a folder that no seed of the model has.
fn begin(number: u64) -> (Connection, Stepped) {
    install();
    let path = folder(u64::MAX - number).join("primary.db");
    let app = open(&path);
    app.execute_batch(
        "PRAGMA page_size = 512; PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0; PRAGMA secure_delete = 0; \
         PRAGMA cache_spill = 0; CREATE TABLE t(x)",
    )
    .unwrap();
    let options = Options { checkpoint_frames: u32::MAX / 2, wal_limit: 0, heartbeat: Duration::from_secs(3600) };
    (app, Stepped::start(&path, memory_vfs::NAME, options).unwrap())
}

fn fill(rows: u32) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
             INSERT INTO t SELECT randomblob(400) FROM n"
    )
}

/// Everything that a replica without anything is sent.
fn send_all(stepped: &Stepped) -> Result<()> {
    let ask = Ask {
        version: Version::V2,
        generation: None,
        index: None,
        offset: None,
        checksums: None,
        compression: Compression::None,
        client: "steps".into(),
    };
    let mut feed = stepped.primary().open_feed(ask)?;
    while !matches!(feed.step()?, Step::Wait) {}
    Ok(())
}

#[test]
fn nothing_takes_the_wal_again_once_serving_has_ended() {
    let (app, mut stepped) = begin(1);
    app.execute_batch(&fill(10)).unwrap();
    stepped.turn().unwrap();
    stepped.lose(Error::new(Kind::Refused, "lost"));
    app.execute_batch(&fill(10)).unwrap();
    let looked = stepped.look();
    let restarted: i64 = app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).unwrap();
    assert_eq!(restarted, 0, "the WAL is held");
    assert_eq!(looked.unwrap_err().to_string(), "lost");
}

/// Pages that a commit cut off and a later one brought back without writing them have another
/// content than before, and no commit says so.
#[test]
fn pages_that_grow_back_unwritten_are_not_taken_for_overwritten() {
    for is_unwatched in [false, true] {
        let (app, mut stepped) = begin(2 + u64::from(is_unwatched));
        app.execute_batch(&fill(400)).unwrap();
        stepped.turn().unwrap();
        send_all(&stepped).unwrap();
        if is_unwatched {
            stepped.let_go().unwrap();
        }
        app.execute_batch("DELETE FROM t; VACUUM").unwrap();
        let (log, copied): (i64, i64) =
            app.query_row("PRAGMA wal_checkpoint", [], |row| Ok((row.get(1)?, row.get(2)?))).unwrap();
        assert!(log > 0 && log == copied, "all is in the database, and what was cut off is gone");
        app.execute_batch(&format!("BEGIN; {}; DELETE FROM t; COMMIT", fill(300))).unwrap();
        let pages: i64 = app.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        assert!(pages > 200, "{pages}");
        stepped.turn().unwrap();
        let sent = send_all(&stepped);
        assert!(sent.is_ok(), "let go of: {is_unwatched}: {sent:?}");
        stepped.turn().unwrap();
    }
}
