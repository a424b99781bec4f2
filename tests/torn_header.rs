//! A process that dies while it publishes a commit leaves the two copies of the header of the wal-index different: the second
//! is new, and the first is that of before. Whoever comes next recovers the wal-index from the WAL
//! (<https://www.sqlite.org/walformat.html>, section 2.1).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use support::*;

/// Size of one copy of the header, in bytes.
const HEADER: usize = 48;

/// Does `publish` to the database at `path`, and puts the first copy of the header back to what it was before. No connection of this
/// process may have the database open.
fn die_between_the_copies(path: &Path, publish: impl FnOnce()) {
    let mut index = OpenOptions::new().read(true).write(true).open(with_suffix(path, "-shm")).unwrap();
    let mut before = [0; HEADER];
    index.read_exact(&mut before).unwrap();
    publish();
    let mut after = [0; HEADER];
    index.rewind().unwrap();
    index.read_exact(&mut after).unwrap();
    assert_ne!(before, after, "something was published");
    index.seek(SeekFrom::Start(0)).unwrap();
    index.write_all(&before).unwrap();
}

#[test]
fn a_primary_goes_on_after_a_writer_that_died_while_it_published() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 50, "{}");
    let mut replica = following(&temp.path("replica.db"), &url);
    let mut writer = Shell::stock(&temp.path("primary.db"));
    // The primary may be recovering the wal-index just then.
    writer.run(".timeout 60000");
    for seed in 0..20 {
        die_between_the_copies(&temp.path("primary.db"), || writer.run(&bank::step(seed, 20)));
        // Every second one is found by a writer first, and the others by whoever looks.
        if seed % 2 == 0 {
            writer.run(&bank::step(100 + seed, 1));
        }
        catch_up(&mut primary, &mut replica);
        assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    }
    assert_eq!(primary.ask("SELECT last_error FROM litestream_status"), "");
    assert_eq!(replica.ask("SELECT heals, reconnects FROM litestream_status"), "0|0");
}

#[test]
fn a_replica_goes_on_after_a_process_that_died_while_it_published() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 50, "{}");
    let path = temp.path("replica.db");
    let mut replica = following(&path, &url);
    let mut reader = Shell::stock(&path);
    let mut witness = bank::Witness::default();
    for seed in 0..20 {
        die_between_the_copies(&path, || {
            primary.run(&bank::step(seed, 20));
            catch_up(&mut primary, &mut replica);
        });
        if seed % 2 == 0 {
            witness.see(&reader.ask(&bank::judge("quick_check")));
            assert_eq!(witness.newest, 2 * i64::try_from(seed).unwrap() + 1);
        }
        primary.run(&bank::step(100 + seed, 1));
        catch_up(&mut primary, &mut replica);
        witness.see(&reader.ask(&bank::judge("quick_check")));
        assert_eq!(witness.newest, 2 * i64::try_from(seed).unwrap() + 2);
    }
    assert_same_pages(&temp.path("primary.db"), &path);
    assert_eq!(replica.ask("SELECT heals, reconnects, last_error FROM litestream_status"), "0|0|");
}

#[test]
fn frames_are_applied_after_a_process_that_died_while_it_published() {
    let temp = Temp::new();
    let (source, path) = (temp.path("source.db"), temp.path("replica.db"));
    let mut writer = Shell::stock(&source);
    writer.run(&format!("PRAGMA journal_mode = wal; {}; PRAGMA wal_checkpoint(TRUNCATE)", bank::create(50, 4096)));
    copy(&source, &path);
    (0..4).for_each(|seed| writer.run(&bank::step(seed, 20)));
    let mut replica = Shell::open(&path);
    replica.run("SELECT count(*) FROM account");
    let frames = wal::parse(&file_bytes(&temp.path("source.db-wal"))).1;
    for commit in wal::transactions(&frames) {
        die_between_the_copies(&path, || {
            for frame in commit {
                let page: String = frame.page.iter().map(|byte| format!("{byte:02x}")).collect();
                replica.run(&format!("SELECT litestream_apply_frame({}, {}, x'{page}')", frame.pgno, frame.commit));
            }
        });
    }
    assert_eq!(stock(&path, "PRAGMA integrity_check; SELECT n FROM counter"), "ok\n4");
    drop((writer, replica));
    assert_same_pages(&source, &path);
}
