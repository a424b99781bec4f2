//! A power loss at every moment: all that was synced is there, and of the rest whatever the disk had got round to. What is
//! found then is a state of the primary, not older than the sidecar says, and the replica goes on from it.
//!
//! What happens is recorded once, through a VFS of the tests' own; then each moment's images of the files are made from the
//! record. `FAULTS=all` looks at many more of them (`make faults`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use support::*;

/// How many random choices of what was kept are looked at after each thing done.
fn choices() -> u64 {
    if std::env::var_os("FAULTS").is_some() { 40 } else { 2 }
}

/// Records what `operate` does to a database that `prepare` makes.
fn record(path: &Path, prepare: impl FnOnce(&Path), operate: impl FnOnce(&Connection)) -> Journal {
    prepare(path);
    let disk = Disk::of(path);
    disk.begin_journal();
    let connection = disk.open();
    operate(&connection);
    drop(connection);
    disk.end_journal()
}

/// Looks at each image that a power loss could leave. How many there were.
fn each_image(journal: &Journal, look: impl FnMut(&Image, &str)) -> usize {
    images_of_each(1, journal, look)
}

/// The same where every look takes long: after each so manieth thing done.
fn images_of_each(step: usize, journal: &Journal, mut look: impl FnMut(&Image, &str)) -> usize {
    let step = if std::env::var_os("FAULTS").is_some() { 1 } else { step };
    let mut seen = HashSet::new();
    for at in (0..=journal.len()).step_by(step) {
        let random = (0..choices()).map(|n| Kept::Some(at as u64 * 1000 + n));
        for kept in [Kept::Nothing, Kept::All].into_iter().chain(random) {
            for image in journal.images(at, kept) {
                let mut hasher = DefaultHasher::new();
                image.hash(&mut hasher);
                if seen.insert(hasher.finish()) {
                    let what = format!("after {at} of {} things, {}, {kept:?} kept", journal.len(), journal.last(at));
                    look(&image, &what);
                }
            }
        }
    }
    seen.len()
}

/// Fails unless each image is a state of the primary, or no database yet, not older than its sidecar says, and catches up.
fn survives(origin: &Origin, journal: &Journal) {
    let temp = Temp::new();
    let path = temp.path("replica.db");
    let images = each_image(journal, |image, what| {
        remove(&path);
        image.put(temp.as_ref(), "replica.db");
        if plain(&path).ask::<i64>("SELECT count(*) FROM sqlite_schema") > 0 {
            let state = origin.state_of(&path, what);
            let claimed = image.position().map_or(0, |position| origin.at(&position));
            assert!(state >= claimed, "{what}: in state {state}, and the sidecar says {claimed}");
        } else {
            assert_eq!(image.position(), None, "{what}: a position, and no database");
        }
        remove(&path);
        image.put(temp.as_ref(), "replica.db");
        let replica = loaded(&path);
        if let Err(error) = replica.query_row(&origin.pull("{\"overwrite\": false}"), [], |row| row.get::<_, String>(0))
        {
            panic!("{what}: the replica does not catch up: {error}");
        }
        assert_eq!(origin.state_of(&path, what), origin.newest(), "{what}: after catching up");
    });
    println!("{} things done, {images} images", journal.len());
    assert!(images > 3 && journal.len() > 3, "{images} images of {} things", journal.len());
}

#[test]
fn a_new_replica_is_there_as_a_whole_or_not_at_all() {
    for page_size in [512, 4096] {
        let origin = Origin::new(page_size);
        origin.step(5);
        let temp = Temp::new();
        let journal =
            record(&temp.path("replica.db"), |_| (), |replica| drop(replica.ask::<String>(&origin.pull("{}"))));
        survives(&origin, &journal);
    }
}

#[test]
fn a_replica_that_catches_up_keeps_what_it_had_or_has_what_came() {
    let origin = Origin::new(512);
    let temp = Temp::new();
    let replicate = |path: &Path| origin.replicate(path);
    let journal = record(&temp.path("replica.db"), replicate, |replica| {
        for _ in 0..3 {
            origin.step(10);
            replica.ask::<String>(&origin.pull("{}"));
        }
    });
    survives(&origin, &journal);
}

#[test]
fn a_replica_that_follows_and_restarts_its_wal_is_never_behind_its_position() {
    let origin = Origin::new(512);
    let temp = Temp::new();
    let journal = record(
        &temp.path("replica.db"),
        |path| origin.replicate(path),
        |replica| {
            replica.ask::<String>(&origin.follow("{\"checkpoint_frames\": 12}"));
            for n in 0..6 {
                let position = origin.step(if n == 4 { 20 } else { 2 });
                assert_eq!(replica.ask::<i64>(&format!("SELECT litestream_wait('{position}', 60000)")), 1);
            }
            replica.ask::<String>("SELECT litestream_stop()");
        },
    );
    survives(&origin, &journal);
}

#[test]
fn a_replica_that_is_compared_by_checksum_is_in_one_state_or_the_other() {
    let origin = Origin::new(1024);
    let temp = Temp::new();
    let prepare = |path: &Path| {
        origin.replicate(path);
        std::fs::remove_file(with_suffix(path, "-litestream").join("position")).unwrap();
        origin.step(10);
    };
    let journal = record(&temp.path("replica.db"), prepare, |replica| drop(replica.ask::<String>(&origin.pull("{}"))));
    survives(&origin, &journal);
}

#[test]
fn what_a_failed_sync_lost_is_not_claimed_after_a_later_one() {
    let origin = Origin::new(512);
    for nth in 0..4 {
        let temp = Temp::new();
        let path = temp.path("replica.db");
        origin.replicate(&path);
        let disk = Disk::of(&path);
        disk.begin_journal();
        let replica = disk.open();
        replica.ask::<String>(&origin.follow("{}"));
        disk.fail(Fault { call: Call::Sync, nth, lasting: false, short: false });
        for _ in 0..4 {
            let position = origin.step(5);
            until("the position is durable", || {
                let shown = std::fs::read_to_string(with_suffix(&path, "-litestream").join("position"));
                shown.ok().filter(|shown| shown.trim() == position).ok_or("not yet")
            });
        }
        replica.ask::<String>("SELECT litestream_stop()");
        drop(replica);
        survives(&origin, &disk.end_journal());
    }
}

/// A replica at `path` that followed, and whose syncs have failed since its first commit; with a journal of all of that.
fn failed_to_sync(origin: &Origin, path: &Path) -> (Arc<Disk>, Connection) {
    origin.replicate(path);
    let disk = Disk::of(path);
    disk.begin_journal();
    let replica = disk.open();
    replica.ask::<String>(&origin.follow("{}"));
    let wait = |position: String| {
        assert_eq!(replica.ask::<i64>(&format!("SELECT litestream_wait('{position}', 60000)")), 1);
    };
    wait(origin.step(5));
    disk.fail(Fault { call: Call::Sync, nth: 0, lasting: true, short: false });
    wait(origin.step(5));
    until("a sync has failed", || if disk.fired() > 0 { Ok(()) } else { Err("none") });
    replica.ask::<String>("SELECT litestream_stop()");
    disk.heal();
    (disk, replica)
}

#[test]
fn what_the_failed_syncs_of_one_run_lost_is_not_claimed_by_the_next() {
    let (origin, temp) = (Origin::new(512), Temp::new());
    let (disk, replica) = failed_to_sync(&origin, &temp.path("replica.db"));
    origin.step(5);
    replica.ask::<String>(&origin.pull("{}"));
    survives(&origin, &disk.end_journal());
}

#[test]
fn a_promotion_is_done_or_not() {
    let origin = Origin::new(512);
    let temp = Temp::new();
    let journal = record(
        &temp.path("replica.db"),
        |path| origin.replicate(path),
        |replica| drop(replica.ask::<String>("SELECT litestream_promote()")),
    );
    let temp = Temp::new();
    let path = temp.path("replica.db");
    let (mut promoted, mut kept) = (0, 0);
    each_image(&journal, |image, what| {
        remove(&path);
        image.put(temp.as_ref(), "replica.db");
        assert_eq!(origin.state_of(&path, what), 0, "{what}");
        match (image.sidecar.contains_key("upstream"), is_marked(&path)) {
            (false, marked) => {
                promoted += 1;
                assert!(!marked, "{what}: read-only, and nobody's replica");
                assert_eq!(image.position(), None, "{what}: nobody's replica at a position");
            }
            (true, _) => {
                kept += 1;
                loaded(&path).ask::<Option<String>>("SELECT litestream_promote()");
                assert!(!is_marked(&path), "{what}: promoted again");
            }
        }
        stock(&path, &bank::step(1, 1));
    });
    assert!(promoted > 0 && kept > 0, "{promoted} images of a database, {kept} of a replica");
}

#[test]
fn a_promotion_makes_durable_what_failed_syncs_left_behind() {
    let (origin, temp) = (Origin::new(512), Temp::new());
    let (disk, replica) = failed_to_sync(&origin, &temp.path("replica.db"));
    replica.ask::<Option<String>>("SELECT litestream_promote()");
    let journal = disk.end_journal();
    let house = Temp::new();
    for kept in [Kept::Nothing, Kept::All, Kept::Some(1), Kept::Some(2)] {
        for image in journal.images(journal.len(), kept) {
            let path = house.path("replica.db");
            remove(&path);
            image.put(house.as_ref(), "replica.db");
            assert_eq!(origin.state_of(&path, "after the promotion"), origin.newest(), "{kept:?} kept");
            assert!(!is_marked(&path), "{kept:?} kept");
        }
    }
}

#[test]
fn commits_applied_by_hand_are_there_as_a_whole_and_in_their_order() {
    let temp = Temp::new();
    let (source, path) = (temp.path("source.db"), temp.path("replica.db"));
    let writer = plain(&source);
    writer.run(&format!("PRAGMA page_size = 512; {}; PRAGMA journal_mode = wal", bank::create(20, 512)));
    copy(&source, &path);
    (0..4).for_each(|seed| writer.run(&bank::step(seed, 10)));
    let log = file_bytes(&temp.path("source.db-wal"));
    let apply = |replica: &Connection| {
        for frame in wal::parse(&log).1 {
            let frame = (frame.pgno, frame.commit, frame.page);
            replica
                .query_row("SELECT litestream_apply_frame(?1, ?2, ?3)", frame, |_| Ok(()))
                .expect("applying a frame");
        }
    };
    let journal = record(&path, |_| (), |replica| apply(replica));
    let images = each_image(&journal, |image, what| {
        remove(&path);
        image.put(temp.as_ref(), "replica.db");
        let found = plain(&path);
        assert_eq!(found.ask::<String>("PRAGMA integrity_check"), "ok", "{what}");
        assert_eq!(found.ask::<i64>(bank::SUM), bank::TOTAL, "{what}");
        drop(found);
        apply(&loaded(&path));
        assert_same_pages(&source, &path);
    });
    assert!(images > 10, "{images} images");
}

/// What a power loss leaves of a primary, after commits that were synced or not; its follower has all of them.
fn a_primary_loses_power(synchronous: &str) {
    let temp = Temp::new();
    let (path, follower) = (temp.path("primary.db"), temp.path("replica.db"));
    let mut states = Vec::new();
    let journal = record(
        &path,
        |path| {
            plain(path).run(&format!("PRAGMA page_size = 512; PRAGMA journal_mode = wal; {}", bank::create(20, 512)))
        },
        |primary| {
            primary.run(&format!("PRAGMA synchronous = {synchronous}"));
            let url: String = primary.ask("SELECT litestream_serve('127.0.0.1:0', '{\"checkpoint_frames\": 30}')");
            let replica = loaded(&follower);
            replica.ask::<String>(&format!("SELECT litestream_follow('{url}')"));
            states.push(pages(&path));
            for seed in 0..4 {
                primary.run(&bank::step(seed, 15));
                states.push(pages(&path));
                let position: String = primary.ask("SELECT litestream_position()");
                assert_eq!(replica.ask::<i64>(&format!("SELECT litestream_wait('{position}', 60000)")), 1);
            }
            replica.ask::<String>("SELECT litestream_stop()");
            primary.ask::<String>("SELECT litestream_stop()");
        },
    );
    let house = Temp::new();
    let (path, copied) = (house.path("primary.db"), house.path("replica.db"));
    let (mut lost, newest) = (0, states.len() - 1);
    let images = images_of_each(11, &journal, |image, what| {
        for path in [&path, &copied] {
            remove(path);
        }
        image.put(house.as_ref(), "primary.db");
        copy_all(&follower, &copied);
        let found = pages(&path);
        let state = states.iter().position(|state| *state == found);
        let state = state.unwrap_or_else(|| panic!("{what}: the primary was never in the state that is there"));
        lost += usize::from(state < newest);
        let (primary, replica) = (loaded(&path), loaded(&copied));
        let url: String = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
        let pull = format!("SELECT litestream_pull('{url}', '{{\"overwrite\": true}}')");
        let pulled = replica.query_row(&pull, [], |row| row.get::<_, String>(0));
        let position = pulled.unwrap_or_else(|e| panic!("{what}: the replica does not catch up: {e}"));
        assert_eq!(position, primary.ask::<String>("SELECT litestream_position()"), "{what}");
        let differing = differing_pages(&path, &copied);
        assert!(differing.is_empty(), "{what}: both are at {position} and differ in pages {differing:?}");
        primary.ask::<String>("SELECT litestream_stop()");
    });
    println!("{} things done, {images} images, {lost} of them with commits that are lost", journal.len());
    assert!(lost > 3, "only {lost} images with commits that are lost");
}

#[test]
fn a_primary_that_syncs_each_commit_and_loses_power_has_its_replica_follow_what_is_left() {
    a_primary_loses_power("FULL");
}

#[test]
fn a_primary_that_does_not_sync_commits_and_loses_power_has_its_replica_follow_what_is_left() {
    a_primary_loses_power("NORMAL");
}
