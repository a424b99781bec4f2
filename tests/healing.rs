//! What becomes of a replica whose content is not its upstream's: it is found, never shown further, and mended.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use support::*;

/// Turns one bit of a file that nobody of this process has open.
fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("opening a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("writing a byte");
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).expect("a file").len()
}

/// A primary with some content and a replica that follows it, both at rest: nothing is in a WAL.
fn pair(temp: &Temp) -> (Shell, Shell, String) {
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 200, "{}");
    let mut replica = following(&temp.path("replica.db"), &url);
    primary.run(&bank::step(1, 50));
    catch_up(&mut primary, &mut replica);
    // The replica may be in the middle of a checkpoint of its own.
    until("all is in the replica's file", || {
        match stock(&temp.path("replica.db"), "PRAGMA wal_checkpoint(TRUNCATE)") {
            done if done == "0|0|0" => Ok(()),
            busy => Err(busy),
        }
    });
    (primary, replica, url)
}

fn verdict(shell: &mut Shell, sql: &str) -> String {
    shell.ask(&format!("SELECT v ->> 'equal', v ->> 'count', v ->> 'differing' FROM (SELECT {sql} AS v)"))
}

fn assert_mended(primary: &mut Shell, replica: &mut Shell, temp: &Temp, why: &str) {
    until_gives(replica, &format!("SELECT heals = 1 AND healed LIKE '%{why}%' FROM litestream_status"), "1");
    primary.run(&bank::step(7, 2));
    catch_up(primary, replica);
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    assert_eq!(verdict(replica, "litestream_verify()"), "1|0|[]");
    assert_eq!(replica.ask("SELECT state, heals FROM litestream_status"), "streaming|1");
    let checksum = primary.ask("SELECT litestream_checksum()");
    assert_eq!(replica.ask("SELECT litestream_checksum()"), checksum);
    assert_eq!(checksum.len(), 16);
}

#[test]
fn a_bit_flipped_in_the_file_of_a_replica_is_found_by_verifying_and_mended() {
    let temp = Temp::new();
    let (mut primary, mut replica, _) = pair(&temp);
    assert_eq!(verdict(&mut replica, "litestream_verify()"), "1|0|[]");
    flip(&temp.path("replica.db"), 4096 * 20 + 1000);
    assert_eq!(verdict(&mut replica, "litestream_verify()"), "0|1|[21]");
    assert_mended(&mut primary, &mut replica, &temp, "litestream_verify");
}

#[test]
fn a_bit_flipped_in_the_wal_of_a_replica_is_found_by_verifying_and_mended() {
    let temp = Temp::new();
    let (mut primary, mut replica, _) = pair(&temp);
    primary.run(&bank::step(2, 50));
    catch_up(&mut primary, &mut replica);
    let mut reader = Shell::stock(&temp.path("replica.db"));
    reader.run("SELECT count(*) FROM account");
    let log = temp.path("replica.db-wal");
    flip(&log, size(&log) - 2000);
    let found = verdict(&mut replica, "litestream_verify()");
    assert!(found.starts_with("0|1|["), "{found}");
    assert_mended(&mut primary, &mut replica, &temp, "litestream_verify");
    assert_recovered(&temp, replica, reader);
}

/// Fails unless a recovery finds in the WAL of the replica all that the primary has.
fn assert_recovered(temp: &Temp, replica: Shell, reader: Shell) {
    replica.kill();
    reader.kill();
    std::fs::remove_file(temp.path("replica.db-shm")).unwrap();
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
}

#[test]
fn a_bit_flipped_in_the_file_while_nobody_follows_is_found_when_following_begins() {
    let temp = Temp::new();
    let (mut primary, mut replica, url) = pair(&temp);
    replica.run("SELECT litestream_stop()");
    assert!(replica.quit().success());
    flip(&temp.path("replica.db"), 4096 * 30 + 1000);
    primary.run(&bank::step(3, 5));
    let mut replica = following(&temp.path("replica.db"), &url);
    assert_mended(&mut primary, &mut replica, &temp, "would sum up to");
}

#[test]
fn a_bit_flipped_in_the_wal_while_nobody_follows_is_found_when_following_begins() {
    let temp = Temp::new();
    let (mut primary, mut replica, url) = pair(&temp);
    primary.run(&bank::step(2, 50));
    catch_up(&mut primary, &mut replica);
    let path = temp.path("replica.db");
    let mut reader = Shell::stock(&path);
    reader.run("SELECT count(*) FROM account");
    replica.kill();
    let log = temp.path("replica.db-wal");
    flip(&log, size(&log) / 2);
    let mut replica = following(&path, &url);
    assert_mended(&mut primary, &mut replica, &temp, "");
    assert_recovered(&temp, replica, reader);
}

#[test]
fn a_replica_that_nobody_follows_is_mended_by_the_next_pull() {
    let temp = Temp::new();
    let (mut primary, mut replica, url) = pair(&temp);
    replica.run("SELECT litestream_stop()");
    let pull = format!("SELECT litestream_pull('{url}')");
    flip(&temp.path("replica.db"), 4096 * 40 + 1000);
    assert_eq!(verdict(&mut replica, "litestream_verify()"), "0|1|[41]");
    replica.run(&pull);
    assert_eq!(primary.ask("SELECT max(pages) FROM litestream_replicas"), "");
    assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    assert_eq!(verdict(&mut replica, "litestream_verify()"), "1|0|[]");
}

#[test]
fn a_replica_whose_schema_cannot_be_read_is_mended_too() {
    let temp = Temp::new();
    let (mut primary, mut replica, url) = pair(&temp);
    replica.run("SELECT litestream_stop()");
    assert!(replica.quit().success());
    // What kind of page it is: the root of the schema is of none then.
    flip(&temp.path("replica.db"), 100);
    let mut broken = Shell::stock(&temp.path("replica.db"));
    let error = broken.refused("SELECT count(*) FROM account");
    assert!(error.contains("malformed"), "{error}");
    drop(broken);
    primary.run(&bank::step(3, 5));
    let mut replica = following(&temp.path("replica.db"), &url);
    assert_mended(&mut primary, &mut replica, &temp, "would sum up to");
}

#[test]
fn what_is_written_to_a_replica_that_lost_its_mark_is_undone_with_the_next_commit() {
    let temp = Temp::new();
    let (mut primary, mut replica, _) = pair(&temp);
    // The file format version is put back: the raw write first, then one through SQLite.
    let path = temp.path("replica.db");
    take_mark_away(&path);
    stock(&path, "UPDATE account SET balance = 1000000 WHERE id < 100; CREATE TABLE mine(x)");
    primary.run(&bank::step(4, 1));
    assert_mended(&mut primary, &mut replica, &temp, "written to by somebody else");
    assert!(is_marked(&path));
}

#[test]
fn verifying_names_the_pages_of_any_copy_that_differ() {
    let temp = Temp::new();
    let (mut primary, replica, url) = pair(&temp);
    let copied = temp.path("copy.db");
    primary.run("PRAGMA wal_checkpoint(TRUNCATE)");
    copy(&temp.path("primary.db"), &copied);
    let mut other = Shell::open(&copied);
    assert!(other.refused("SELECT litestream_verify()").contains("follows no upstream; name one"));
    assert_eq!(verdict(&mut other, &format!("litestream_verify('{url}')")), "1|0|[]");
    flip(&copied, 4096 * 10 + 7);
    flip(&copied, 4096 * 90 + 7);
    assert_eq!(verdict(&mut other, &format!("litestream_verify('{url}')")), "0|2|[11,91]");
    other.run("CREATE TABLE more(x); INSERT INTO more VALUES (zeroblob(40000))");
    let found = verdict(&mut other, &format!("litestream_verify('{url}')"));
    let beyond = primary.ask("SELECT page_count + 1 FROM pragma_page_count");
    assert!(found.ends_with(&format!(",11,91,{beyond}]")), "a page beyond the end differs, too: {found}");
    drop(replica);
}

#[test]
fn a_copy_made_by_other_means_is_taken_over_for_the_pages_that_differ() {
    let temp = Temp::new();
    let (mut primary, replica, url) = pair(&temp);
    replica.kill();
    primary.run("PRAGMA wal_checkpoint(TRUNCATE)");
    let copied = temp.path("copy.db");
    copy(&temp.path("primary.db"), &copied);
    primary.run(&bank::step(5, 20));
    let differing = count_differing(&temp.path("primary.db"), &copied);
    let mut other = Shell::open(&copied);
    assert!(other.refused(&format!("SELECT litestream_follow('{url}')")).contains("overwrite"));
    other.run(&format!("SELECT litestream_follow('{url}', '{{\"overwrite\": true}}')"));
    catch_up(&mut primary, &mut other);
    assert_same_pages(&temp.path("primary.db"), &copied);
    let sent = "SELECT pages FROM litestream_replicas ORDER BY seconds LIMIT 1";
    assert_eq!(primary.ask(sent), differing.to_string());
    assert!(is_marked(&copied));
    assert_eq!(other.ask("SELECT heals FROM litestream_status"), "0");
}

#[test]
fn a_copy_that_is_longer_or_shorter_than_the_primary_is_taken_over() {
    for change in ["DELETE FROM ballast; VACUUM", "INSERT INTO ballast SELECT id + 1000, 0, bytes FROM ballast"] {
        let temp = Temp::new();
        let (mut primary, replica, url) = pair(&temp);
        replica.kill();
        primary.run("PRAGMA wal_checkpoint(TRUNCATE)");
        let copied = temp.path("copy.db");
        copy(&temp.path("primary.db"), &copied);
        primary.run(change);
        let mut other = Shell::open(&copied);
        other.run(&format!("SELECT litestream_pull('{url}', '{{\"overwrite\": true}}')"));
        assert_same_pages(&temp.path("primary.db"), &copied);
        assert_eq!(other.ask("PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn a_copy_with_pages_of_another_size_cannot_be_compared() {
    let temp = Temp::new();
    let (_primary, url) = serving(&temp.path("primary.db"));
    let mut other = Shell::open(&temp.path("other.db"));
    other.run(&format!("PRAGMA page_size = 8192; {NEW}"));
    let refused = other.refused(&format!("SELECT litestream_verify('{url}')"));
    assert!(refused.contains("8192") && refused.contains("4096"), "{refused}");
    assert_eq!(other.ask("PRAGMA integrity_check; SELECT x FROM t"), "ok\none");
}

#[test]
fn a_bit_flipped_on_the_wire_is_never_shown() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 200, "{\"heartbeat_ms\": 20}");
    // Passes on what comes, with a bit turned at the byte that is asked for next.
    let turn = Arc::new(AtomicU64::new(u64::MAX));
    let at = Arc::clone(&turn);
    let flipping = proxy(address(&url), move |from, bytes| {
        let place = at.load(Ordering::SeqCst);
        if let Some(byte) = place.checked_sub(from).and_then(|i| bytes.get_mut(i as usize)) {
            *byte ^= 4;
            at.store(u64::MAX, Ordering::SeqCst);
        }
    });
    let mut replica = Shell::open(&temp.path("replica.db"));
    // In the middle of a new replica: it comes to nothing, and is begun again.
    turn.store(400_000, Ordering::SeqCst);
    let refused = replica.refused(&format!("SELECT litestream_pull('{}/primary.db')", flipping.url()));
    assert!(refused.contains("sum up to"), "{refused}");
    assert!(file_bytes(&temp.path("replica.db")).is_empty());
    // A length that became too large is waited for in vain.
    replica.run(&format!("SELECT litestream_follow('{}/primary.db', '{{\"timeout_ms\": 1000}}')", flipping.url()));
    let mut reader = Shell::stock(&temp.path("replica.db"));
    let mut witness = bank::Witness::default();
    for round in 0..8u64 {
        // In what comes next: in a record's header, in the numbers of pages, in pages.
        let (seen, places) = (flipping.passed(), [30u64, 44, 60, 300, 3000, 9000, 12_345, 20_000]);
        turn.store(seen + places[round as usize], Ordering::SeqCst);
        primary.run(&bank::step(round, 10));
        catch_up(&mut primary, &mut replica);
        witness.see(&reader.ask(&bank::judge("integrity_check")));
        assert_same_pages(&temp.path("primary.db"), &temp.path("replica.db"));
    }
    assert!(replica.ask("SELECT heals + reconnects >= 4 FROM litestream_status") == "1");
}

#[test]
fn a_replica_that_a_primary_does_not_know_is_not_sent_everything() {
    let temp = Temp::new();
    let (mut primary, url) = serving_bank(&temp.path("primary.db"), 200, "{}");
    let answer = get(
        &url,
        "/stream?path=primary.db&generation=00000000000000ab&index=1&offset=20",
        &[("Litestream-Stream-Version", "2")],
    );
    assert_eq!(answer.status, 409);
    assert!(answer.text().contains("it must send its checksums"));
    primary.run(&bank::step(1, 1));
    let position = primary.ask("SELECT litestream_position()");
    let (generation, rest) = position.split_once('/').expect("a position");
    let (index, _) = rest.split_once(':').expect("a position");
    let ahead = format!("/stream?path=primary.db&generation={generation}&index={index}&offset=0000000000ffffff");
    assert_eq!(get(&url, &ahead, &[("Litestream-Stream-Version", "2")]).status, 409, "a position that never was");
}

#[test]
fn a_comparison_that_takes_long_shows_that_it_is_alive() {
    let temp = Temp::new();
    let (mut primary, _) = serving(&temp.path("primary.db"));
    primary
        .run("SELECT litestream_stop(); INSERT INTO t(x) VALUES (zeroblob(40000000)); PRAGMA wal_checkpoint(TRUNCATE)");
    // Without what the last run left, no checksum is known.
    std::fs::remove_dir_all(temp.path("primary.db-litestream")).expect("removing the sidecar");
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0', '{\"heartbeat_ms\": 1}')");
    let headers = [("Litestream-Stream-Version", "2"), ("Content-Length", "0")];
    let mut stream = request("POST", &url, "/stream?path=primary.db&page_size=4096", &headers);
    let records = std::iter::from_fn(|| stream::Record::read(&mut stream));
    let begun = records.take_while(|record| record.kind == stream::BEGIN).count();
    assert!(begun > 1, "nothing was sent while all pages were read");
}
