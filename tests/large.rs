//! Databases beyond 1 GiB, where the lock-byte page is: byte 2^30 is in it, SQLite keeps its locks there and nothing else
//! (<https://www.sqlite.org/fileformat2.html#the_lock_byte_page>).
//!
//! They are mostly holes, so that making them takes neither space nor time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use support::*;

/// Where a database header has its numbers, in bytes.
const SIZE_IN_PAGES: u64 = 28;
const FIRST_TRUNK: u64 = 32;
const FREE_PAGES: u64 = 36;

/// How many pages the databases take up just before the lock-byte page.
const BEFORE: u32 = 20;
/// And how many behind it.
const BEHIND: u32 = 100;

fn lock_page(page_size: u32) -> u32 {
    (1 << 30) / page_size + 1
}

/// SQL that takes up some `pages` pages: one row, most of which overflows the page it is in.
fn insert(pages: u32, page_size: u32) -> String {
    format!("INSERT INTO t(x) VALUES (randomblob({}))", pages * page_size)
}

/// A small database at rest, its file open to be changed while no SQLite has it open, and how many pages it has.
fn small(path: &Path, page_size: u32) -> (File, u32) {
    let pages = stock(path, &format!("PRAGMA page_size = {page_size}; {NEW}; PRAGMA page_count"));
    let file = OpenOptions::new().write(true).open(path).unwrap();
    (file, pages.lines().last().unwrap().parse().unwrap())
}

/// Makes a database `pages` pages long, the new ones zeros. Its count of changes stays what it is in both places
/// (bytes 24 and 92), so that SQLite takes the size in the header for true.
fn set_size(file: &File, pages: u32, page_size: u32) {
    file.set_len(u64::from(pages) * u64::from(page_size)).unwrap();
    file.write_all_at(&pages.to_be_bytes(), SIZE_IN_PAGES).unwrap();
}

/// Makes a database of [`BEHIND`] pages more than there are up to the lock-byte page. All but a few are free, and those
/// around the lock-byte page are the first to be taken.
fn with_free_pages(path: &Path, page_size: u32) {
    let (file, used) = small(path, page_size);
    let (lock, last) = (lock_page(page_size), lock_page(page_size) + BEHIND);
    set_size(&file, last, page_size);
    let near: Vec<u32> = (lock - BEFORE..last).filter(|pgno| *pgno != lock).collect();
    let far: Vec<u32> = (used + 1..lock - BEFORE).collect();
    // A trunk page of the freelist holds as many leaves as SQLite puts there. They stand together, to fill few blocks.
    let most = page_size as usize / 4 - 8;
    let (trunks, leaves) = far.split_at(far.len().div_ceil(most + 1));
    let leaves = leaves.chunks(most).chain(std::iter::repeat([].as_slice()));
    let trunks: Vec<_> = [(last, near.as_slice())].into_iter().chain(trunks.iter().copied().zip(leaves)).collect();
    for (n, (trunk, leaves)) in trunks.iter().enumerate() {
        let next = trunks.get(n + 1).map_or(0, |(next, _)| *next);
        let words = [next, leaves.len() as u32].into_iter().chain(leaves.iter().copied());
        let bytes: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
        file.write_all_at(&bytes, u64::from(trunk - 1) * u64::from(page_size)).unwrap();
    }
    file.write_all_at(&last.to_be_bytes(), FIRST_TRUNK).unwrap();
    file.write_all_at(&((far.len() + near.len() + 1) as u32).to_be_bytes(), FREE_PAGES).unwrap();
    drop(file);
    assert_eq!(stock(path, "PRAGMA integrity_check; PRAGMA page_count"), format!("ok\n{last}"), "the database made");
}

/// How many pages of table `t` are before the lock-byte page but near it, and behind it.
fn pages_around(path: &Path, lock: u32) -> (u32, u32) {
    let connection = plain(path);
    let count = |range: String| {
        connection.ask(&format!("SELECT count(*) FROM dbstat WHERE name = 't' AND pageno BETWEEN {range}"))
    };
    (count(format!("{} AND {}", lock - BEFORE, lock - 1)), count(format!("{} AND {}", lock + 1, lock + BEHIND)))
}

fn assert_same_at_rest(one: &Path, other: &Path) {
    for database in [one, other] {
        assert_eq!(stock(database, "PRAGMA wal_checkpoint(TRUNCATE)"), "0|0|0");
    }
    assert_same_files(one, other);
}

fn free_pages_are_taken_up(page_size: u32) {
    let temp = Temp::new();
    let (path, copied, late) = (temp.path("primary.db"), temp.path("replica.db"), temp.path("late.db"));
    with_free_pages(&path, page_size);
    let mut primary = Shell::open(&path);
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    let mut replica = Shell::open(&copied);
    let position = replica.ask(&format!("SELECT litestream_pull('{url}')"));
    assert_eq!(position, primary.ask("SELECT litestream_position()"));
    primary.run(&insert(BEFORE + BEHIND / 2, page_size));
    replica.run(&format!("SELECT litestream_follow('{url}')"));
    assert_eq!(replica.ask("SELECT count(*) FROM t"), "2", "what changed while it was away");
    primary.run(&insert(BEHIND / 2, page_size));
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("SELECT count(*) FROM t"), "3", "what changed while it follows");
    Shell::open(&late).run(&format!("SELECT litestream_pull('{url}')"));
    for database in [&copied, &late] {
        assert_eq!(pages_around(database, lock_page(page_size)), (BEFORE, BEHIND), "pages of the table");
        assert_eq!(stock(database, "PRAGMA integrity_check"), "ok");
    }
    drop((primary, replica));
    assert_same_at_rest(&path, &copied);
    assert_same_at_rest(&path, &late);
}

#[test]
fn free_pages_of_512_bytes_around_the_lock_byte_page_are_replicated_when_taken() {
    free_pages_are_taken_up(512);
}

#[test]
fn free_pages_of_4096_bytes_around_the_lock_byte_page_are_replicated_when_taken() {
    free_pages_are_taken_up(4096);
}

#[test]
fn free_pages_of_65536_bytes_around_the_lock_byte_page_are_replicated_when_taken() {
    free_pages_are_taken_up(65536);
}

fn grows_past_the_lock_byte_page(page_size: u32) {
    let temp = Temp::new();
    let (path, copied) = (temp.path("primary.db"), temp.path("replica.db"));
    let (file, _) = small(&path, page_size);
    let lock = lock_page(page_size);
    // Pages that nothing refers to are no harm.
    set_size(&file, lock - BEFORE - 1, page_size);
    drop(file);
    let mut primary = Shell::open(&path);
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    let mut replica = following(&copied, &url);
    let mut pages = String::new();
    for step in [BEFORE / 2, BEFORE, BEHIND] {
        primary.run(&insert(step, page_size));
        catch_up(&mut primary, &mut replica);
        pages = primary.ask("PRAGMA page_count");
        assert_eq!(replica.ask("PRAGMA page_count"), pages);
    }
    assert!(pages.parse::<u32>().unwrap() > lock + BEHIND, "the last page is {pages}");
    assert_eq!(pages_around(&copied, lock), (BEFORE, BEHIND), "pages of the table");
    assert_eq!(replica.ask("PRAGMA integrity_check(t); SELECT count(*) FROM t"), "ok\n4");
    drop((primary, replica));
    assert_same_at_rest(&path, &copied);
}

#[test]
fn a_database_with_pages_of_512_bytes_grows_past_the_lock_byte_page_while_it_is_followed() {
    grows_past_the_lock_byte_page(512);
}

#[test]
fn a_database_with_pages_of_4096_bytes_grows_past_the_lock_byte_page_while_it_is_followed() {
    grows_past_the_lock_byte_page(4096);
}

#[test]
fn a_database_with_pages_of_65536_bytes_grows_past_the_lock_byte_page_while_it_is_followed() {
    grows_past_the_lock_byte_page(65536);
}

#[test]
fn a_database_shrinks_from_behind_the_lock_byte_page_while_it_is_followed() {
    let temp = Temp::new();
    let (path, copied) = (temp.path("primary.db"), temp.path("replica.db"));
    with_free_pages(&path, 4096);
    let mut primary = Shell::open(&path);
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    let mut replica = following(&copied, &url);
    primary.run("VACUUM");
    catch_up(&mut primary, &mut replica);
    assert_eq!(replica.ask("PRAGMA integrity_check; PRAGMA page_count"), "ok\n2");
    drop((primary, replica));
    assert_same_at_rest(&path, &copied);
}

#[test]
fn a_replica_of_2022_gets_a_database_past_the_lock_byte_page() {
    let temp = Temp::new();
    let (path, copied) = (temp.path("primary.db"), temp.path("replica.db"));
    with_free_pages(&path, 4096);
    let mut primary = Shell::open(&path);
    let url = primary.ask("SELECT litestream_serve('127.0.0.1:0')");
    let old = strip_version(url.trim_end_matches("/primary.db"));
    let mut replica = following(&copied, &format!("{}/primary.db", old.url()));
    primary.run(&insert(BEFORE + BEHIND, 4096));
    catch_up(&mut primary, &mut replica);
    assert_eq!(pages_around(&copied, lock_page(4096)), (BEFORE, BEHIND), "pages of the table");
    assert_eq!(replica.ask("PRAGMA integrity_check"), "ok");
    drop((primary, replica));
    assert_same_at_rest(&path, &copied);
}

#[test]
fn a_page_that_has_become_zeros_while_it_was_sent_is_zeros() {
    let temp = Temp::new();
    let (path, copied) = (temp.path("primary.db"), temp.path("replica.db"));
    let (file, used) = small(&path, 512);
    set_size(&file, used + 2, 512);
    let bytes = file_bytes(&path);
    let mut records = stream::everything(FIRST, &bytes, 512);
    let commit = records.pop().unwrap();
    records.push(stream::pages(&[(used + 2, &[7; 512])]));
    records.push(stream::pages(&[(used + 2, &[0; 512])]));
    records.push(commit);
    let upstream = Upstream::of_bytes(512, stream::encode(&records));
    let mut replica = Shell::open(&copied);
    replica.run(&format!("SELECT litestream_pull('{}')", upstream.url()));
    drop(replica);
    assert!(mask_mark(file_bytes(&copied)) == bytes, "the replica differs from what was sent last");
}
