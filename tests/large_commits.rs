//! Commits that are larger than the page buffer of a replica (16 MiB), or fill it exactly.
//!
//! Pages of 65,536 bytes make them cheap: 256 of them fill the buffer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use support::*;

const PAGE_SIZE: u32 = 65536;
/// Pages that fill the buffer.
const FULL: u32 = 256;

/// A database in WAL mode with an empty table.
fn new(path: &Path) -> Shell {
    let mut shell = Shell::open(path);
    shell.run(&format!("PRAGMA page_size = {PAGE_SIZE}; PRAGMA journal_mode = wal; CREATE TABLE t(x)"));
    shell
}

/// Makes the database `pages` pages large in one transaction that changes each of them.
fn grow_to(shell: &mut Shell, pages: u32) {
    shell.run("BEGIN");
    loop {
        let missing = pages - shell.ask("PRAGMA page_count").parse::<u32>().unwrap();
        if missing == 0 {
            return shell.run("COMMIT");
        }
        let rows = (missing / 2).max(1);
        shell.run(&format!("INSERT INTO t SELECT randomblob(60000) FROM generate_series(1, {rows})"));
    }
}

fn assert_replicated(primary: &mut Shell, replica: &mut Shell, files: [&Path; 2], what: &str) {
    catch_up(primary, replica);
    assert_eq!(differing_pages(files[0], files[1]), [] as [usize; 0], "{what}: pages that differ");
    assert_eq!(stock(files[1], "PRAGMA integrity_check"), "ok", "{what}");
}

#[test]
fn a_commit_that_fills_the_page_buffer_exactly_is_shown_with_its_page_one() {
    for pages in [FULL - 1, FULL, FULL + 1, 2 * FULL - 1, 2 * FULL, 2 * FULL + 1] {
        let temp = Temp::new();
        let (path, copied) = (temp.path("primary.db"), temp.path("replica.db"));
        let mut primary = new(&path);
        let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
        let mut replica = following(&copied, &url);
        grow_to(&mut primary, pages);
        assert_replicated(&mut primary, &mut replica, [&path, &copied], &format!("growth to {pages} pages"));
        primary.run("DELETE FROM t WHERE rowid % 2; VACUUM");
        assert_replicated(&mut primary, &mut replica, [&path, &copied], &format!("VACUUM from {pages} pages"));
    }
}

#[test]
fn a_catch_up_that_fills_the_page_buffer_exactly_is_shown_with_its_page_one() {
    for pages in [FULL - 1, FULL, FULL + 1] {
        let temp = Temp::new();
        let (path, copied) = (temp.path("primary.db"), temp.path("replica.db"));
        let mut primary = new(&path);
        let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
        let pull = format!("SELECT litestream_pull('{url}')");
        let mut replica = Shell::open(&copied);
        replica.run(&pull);
        grow_to(&mut primary, pages);
        replica.run(&pull);
        assert_eq!(differing_pages(&path, &copied), [] as [usize; 0], "{pages} pages: pages that differ");
        assert_eq!(stock(&copied, "PRAGMA integrity_check"), "ok", "{pages} pages");
    }
}

#[test]
fn a_wal_that_fills_the_page_buffer_exactly_is_applied_with_its_page_one() {
    for pages in [FULL - 1, FULL, FULL + 1] {
        let temp = Temp::new();
        let (path, copied) = (temp.path("source.db"), temp.path("replica.db"));
        let mut source = new(&path);
        source.run("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -500000");
        copy(&path, &copied);
        grow_to(&mut source, pages);
        let wal = temp.path("source.db-wal");
        let applied = Shell::open(&copied).ask(&format!("SELECT litestream_apply_wal(readfile('{}'))", wal.display()));
        assert_eq!(applied, "1", "transactions of {pages} pages");
        assert_eq!(differing_pages(&path, &copied), [] as [usize; 0], "{pages} pages: pages that differ");
        assert_eq!(stock(&copied, "PRAGMA integrity_check"), "ok", "{pages} pages");
    }
}

/// An upstream that sends a large commit in two parts, the second when it is let go on.
struct InParts {
    upstream: Upstream,
    go_on: Sender<()>,
}

impl InParts {
    /// An upstream of the database `bytes`.
    fn of(bytes: Vec<u8>) -> InParts {
        let (go_on, gate): (Sender<()>, Receiver<()>) = channel();
        let gate = Mutex::new(gate);
        let records = stream::everything(LATER, &bytes, PAGE_SIZE);
        let upstream = Upstream::start(move |_, reply| {
            let (first, second) = records.split_at(records.len() - 10);
            reply.stream_v2(PAGE_SIZE);
            reply.send(&stream::encode(first));
            gate.lock().unwrap().recv().unwrap();
            reply.send(&stream::encode(second));
            reply.hold();
        });
        InParts { upstream, go_on }
    }
}

/// A database of 400 pages as bytes.
fn large() -> Vec<u8> {
    let temp = Temp::new();
    let path = temp.path("made.db");
    grow_to(&mut new(&path), 400);
    stock(&path, "PRAGMA wal_checkpoint(TRUNCATE)");
    file_bytes(&path)
}

/// A small replica that was fed from elsewhere and that begins to take a large commit, of which the
/// first part is in its WAL.
fn in_the_middle_of_a_commit(temp: &Temp, parts: &InParts) -> Shell {
    let path = temp.path("replica.db");
    drop(new(&path));
    let mut replica = Shell::open(&path);
    replica.send(&format!("SELECT litestream_follow('{}', '{{\"overwrite\": true}}')", parts.upstream.url()));
    until_it_is_in_the_wal(temp);
    replica
}

/// Waits until the first part of a large commit is in the WAL of the replica.
fn until_it_is_in_the_wal(temp: &Temp) {
    until("the first part of the commit is in the WAL", || {
        match std::fs::metadata(temp.path("replica.db-wal")).map_or(0, |file| file.len()) {
            large if large > 16 << 20 => Ok(()),
            size => Err(size),
        }
    });
}

#[test]
fn a_large_commit_arrives_while_others_try_to_truncate_the_wal() {
    let (temp, bytes) = (Temp::new(), large());
    let parts = InParts::of(bytes.clone());
    let mut replica = in_the_middle_of_a_commit(&temp, &parts);
    let path = temp.path("replica.db");
    let truncate = Shell::stock(&path).ask("PRAGMA wal_checkpoint(TRUNCATE)");
    assert!(truncate.starts_with("1|"), "a checkpoint that restarts the WAL waits for the transaction: {truncate}");
    parts.go_on.send(()).unwrap();
    assert_eq!(replica.receive().unwrap(), LATER.to_string());
    let status = replica.ask("SELECT reconnects, heals, last_error IS NULL FROM litestream_status");
    assert_eq!(status, "0|0|1", "reconnects, heals and whether there was no error");
    assert!(mask_mark(pages(&path)) == bytes, "the replica is not what was sent");
}

#[test]
fn a_large_commit_that_is_cut_leaves_no_lock_behind() {
    let (temp, bytes) = (Temp::new(), large());
    let (go_on, gate): (Sender<()>, Receiver<()>) = channel();
    let gate = Mutex::new(Some(gate));
    let upstream = Upstream::start(move |_, reply| {
        // All later requests wait for ever.
        let Some(gate) = gate.lock().unwrap().take() else { return reply.hold() };
        reply.stream_v2(PAGE_SIZE);
        reply.send(&stream::encode(&stream::everything(FIRST, &database(PAGE_SIZE, 3), PAGE_SIZE)));
        gate.recv().unwrap();
        let records = stream::everything(LATER, &bytes, PAGE_SIZE);
        reply.send(&stream::encode(&records[..records.len() - 10]));
    });
    let path = temp.path("replica.db");
    let mut replica = following(&path, &upstream.url());
    assert_eq!(stock(&path, "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
    go_on.send(()).unwrap();
    until_it_is_in_the_wal(&temp);
    // A checkpoint that restarts the WAL needs every lock there is.
    until("the locks are free while the replica connects again", || {
        match stock(&path, "PRAGMA wal_checkpoint(TRUNCATE)") {
            done if done == "0|0|0" => Ok(()),
            busy => Err(busy),
        }
    });
    assert_eq!(replica.ask("SELECT count(*) FROM t; SELECT litestream_position()"), format!("3\n{FIRST}"));
}

#[test]
fn recovery_does_not_find_a_commit_that_was_refused() {
    let mut victim = Victim::new(4096);
    let bytes = database(4096, 30);
    let mut records = stream::everything(LATER, &bytes, 4096);
    let commit = records.pop().unwrap();
    records[0] = stream::begin(LATER, 4096, false, 9);
    // A database checksum that no pages have.
    records.push(commit.with(|fields| fields[4..12].copy_from_slice(&(1u64 << 63 | 77).to_be_bytes())));
    let path = victim.path();
    // What a reader that stays keeps the WAL from being put into the file when the call ends.
    let mut reader = Shell::stock(&path);
    reader.run("BEGIN; SELECT count(*) FROM t");
    let pull = victim.pull();
    victim.says(Answer::V2(stream::encode(&records)));
    let error = victim.shell.refused(&pull);
    assert!(error.contains("sum up to"), "{error}");
    let crashed = Temp::new();
    copy(&path, &crashed.path("replica.db"));
    copy(&victim.temp.path("replica.db-wal"), &crashed.path("replica.db-wal"));
    assert_eq!(stock(&crashed.path("replica.db"), "PRAGMA integrity_check; SELECT count(*) FROM t"), "ok\n20");
}
