//! Commits, catch-ups, growth and shrinking by exactly as many pages as each bound of the library,
//! one fewer and one more.
//!
//! After each, the file of the replica is compared page by page with that of the primary, as any
//! reader gets them. `make seams` does all of it with every page size; the tests that are not left
//! out do the cheap part.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};

use support::*;

/// So that the WAL is restarted by no one but the test.
const UNTOUCHED: &str = r#"{"checkpoint_frames": 1000000, "wal_limit": 0}"#;
/// Frames that the first region of a wal-index has entries for, and each of the others
/// (<https://www.sqlite.org/walformat.html#the_wal_index_file_format>).
const FIRST_REGION: usize = 4062;
const REGION: usize = 4096;

#[test]
fn pages_of_512_bytes_cross_the_bounds_of_a_record() {
    Sweep::begin(512, bounds::CHUNK).all();
}

#[test]
fn pages_of_4096_bytes_cross_the_bounds_of_a_record() {
    Sweep::begin(4096, bounds::CHUNK).all();
}

#[test]
fn pages_of_65536_bytes_cross_the_bounds_up_to_a_last_round() {
    Sweep::begin(65536, bounds::LAST_ROUND).all();
}

#[test]
#[ignore = "takes minutes: make seams"]
fn every_page_size_crosses_every_bound() {
    for page_size in (9..=16).map(|n| 1 << n) {
        println!("pages of {page_size} bytes");
        Sweep::begin(page_size, bounds::STAGE).all();
    }
}

#[test]
fn commits_end_around_the_regions_of_the_wal_index() {
    let most = 2100;
    let mut sweep = Sweep::with_rows(512, bounds::CHUNK, most);
    for region in 0..2 {
        let end = FIRST_REGION + region * REGION;
        for frame in [end - 1, end, end + 1] {
            // In steps of as many rows as there are.
            while let left @ 1.. = frame - sweep.frame() {
                sweep.change(left.min(most));
            }
            assert_eq!(sweep.frame(), frame);
            sweep.follows("a WAL that ends around a region");
            // What a transaction that is rolled back has left in the wal-index is overwritten by
            // the next.
            sweep.primary.run(
                "PRAGMA cache_size = 10; BEGIN; UPDATE t SET x = randomblob(length(x)) WHERE id < 50; ROLLBACK; \
                 PRAGMA cache_size = -2000",
            );
        }
    }
}

/// A primary, a replica that follows it, and one that is brought up to date by hand.
struct Sweep {
    temp: Temp,
    page_size: usize,
    /// The largest bound to be crossed, in bytes.
    largest: usize,
    path: PathBuf,
    primary: Shell,
    url: String,
    following: Shell,
    pulling: Shell,
    replicas: u32,
}

impl Sweep {
    fn begin(page_size: usize, largest: usize) -> Sweep {
        Sweep::with_rows(page_size, largest, largest / page_size + 4)
    }

    fn with_rows(page_size: usize, largest: usize, rows: usize) -> Sweep {
        let temp = Temp::new();
        let path = temp.path("primary.db");
        let mut primary = Shell::open(&path);
        let row = page_size * 7 / 10;
        primary.run(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = 2; PRAGMA journal_mode = wal; PRAGMA synchronous = off; \
             PRAGMA wal_autocheckpoint = 0; \
             CREATE TABLE t(id INTEGER PRIMARY KEY, x); \
             INSERT INTO t SELECT value, randomblob({row}) FROM generate_series(1, {rows}); PRAGMA wal_checkpoint(TRUNCATE)"
        ));
        let url = primary.ask(&format!("SELECT litestream_serve('127.0.0.1:0', '{UNTOUCHED}')"));
        let mut following = Shell::open(&temp.path("following.db"));
        following.run(&format!(r#"SELECT litestream_follow('{url}', '{{"checkpoint_frames": 1000000}}')"#));
        let pulling = Shell::open(&temp.path("pulling.db"));
        Sweep { temp, page_size, largest, path, primary, url, following, pulling, replicas: 0 }
    }

    /// Changes and sizes around each bound.
    fn all(&mut self) {
        for pages in self.around() {
            let (wal, before) = self.position();
            self.change(pages);
            let (now, frame) = self.position();
            assert_eq!(frame - if now == wal { before } else { 0 }, pages, "the frames of a commit of {pages} pages");
            self.compare(&format!("a commit of {pages} pages"));
            self.primary.run("PRAGMA wal_checkpoint(TRUNCATE)");
        }
        self.primary.run("DELETE FROM t WHERE id % 4 = 0; VACUUM");
        self.compare("VACUUM");
        self.primary.run("DELETE FROM t WHERE id > 1; INSERT INTO t SELECT value, 0 FROM generate_series(2, 9)");
        let mut sizes = self.around();
        sizes.reverse();
        for pages in sizes {
            self.size(pages);
            self.compare(&format!("a database of {pages} pages"));
            self.anew(&format!("a new replica of {pages} pages"));
        }
    }

    /// Numbers of pages around each bound up to the largest, from the smallest on.
    fn around(&self) -> Vec<usize> {
        let bounds = [
            bounds::CHUNK,
            bounds::LIVE_COMMIT,
            bounds::LAST_ROUND,
            bounds::STAGE / 2,
            bounds::STAGE,
            bounds::COMMIT_LOG,
        ];
        let bounds = bounds.into_iter().filter(|bound| *bound <= self.largest).map(|bound| bound / self.page_size);
        let mut pages: Vec<usize> = bounds.flat_map(|n| [n.saturating_sub(1), n, n + 1]).filter(|n| *n > 0).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// Commits a change of so many pages, and of no other.
    fn change(&mut self, pages: usize) {
        self.primary.run(&format!("UPDATE t SET x = randomblob(length(x)) WHERE id <= {pages}"));
    }

    /// Commits a change of the size of the database to so many pages, if it is larger.
    fn size(&mut self, pages: usize) {
        let now: usize = self.primary.ask("PRAGMA page_count").parse().unwrap();
        if let Some(free) = now.checked_sub(pages).filter(|free| *free > 0) {
            self.primary.run(&format!("PRAGMA incremental_vacuum({free})"));
        }
    }

    /// Which WAL it is, and its last frame.
    fn position(&mut self) -> (String, usize) {
        let position = self.primary.ask("SELECT litestream_position()");
        let (wal, offset) = position.rsplit_once(':').expect("an offset");
        let offset = usize::from_str_radix(offset, 16).expect("a number");
        (wal.to_string(), offset.saturating_sub(32) / (self.page_size + 24))
    }

    fn frame(&mut self) -> usize {
        self.position().1
    }

    /// Both replicas are what the primary is.
    fn compare(&mut self, what: &str) {
        self.follows(what);
        self.pulling.run(&format!("SELECT litestream_pull('{}')", self.url));
        self.same("pulling.db", what);
    }

    fn follows(&mut self, what: &str) {
        catch_up(&mut self.primary, &mut self.following);
        self.same("following.db", what);
        let told = self.following.ask("SELECT heals || ' ' || reconnects FROM litestream_status");
        assert_eq!(told, "0 0", "{what}: heals and reconnects");
    }

    /// A replica that is made now is what the primary is.
    fn anew(&mut self, what: &str) {
        self.replicas += 1;
        let name = format!("new{}.db", self.replicas);
        Shell::open(&self.temp.path(&name)).run(&format!("SELECT litestream_pull('{}')", self.url));
        self.same(&name, what);
    }

    fn same(&self, name: &str, what: &str) {
        let replica: &Path = &self.temp.path(name);
        assert_eq!(
            differing_pages(&self.path, replica),
            [] as [usize; 0],
            "pages of {} bytes, {what}: {name}",
            self.page_size
        );
        assert_eq!(stock(replica, "PRAGMA integrity_check"), "ok", "pages of {} bytes, {what}: {name}", self.page_size);
    }
}
