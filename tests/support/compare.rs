//! Looking at databases and their files from outside.
//!
//! A process that has a database open through SQLite must not open the file in another way: closing it again would
//! drop the locks that the process holds (<https://www.sqlite.org/howtocorrupt.html>, section 2.2). So pages are read
//! through SQLite, and files by child processes.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use rusqlite::{Connection, ffi};

use super::plain;

/// Where the write version of the file format is: the mark of a replica, in bytes from the start of page 1.
const MARK: usize = 18;

/// Fails unless both databases hold the same pages, as any reader gets them. The mark of a replica is left aside.
pub fn assert_same_pages(one: &Path, other: &Path) {
    let pages = differing_pages(one, other);
    assert!(pages.is_empty(), "{} and {} differ in pages {pages:?}", one.display(), other.display());
}

/// The numbers of the first pages in which two databases differ.
pub fn differing_pages(one: &Path, other: &Path) -> Vec<usize> {
    all_differing(one, other).into_iter().take(50).collect()
}

/// In how many pages two databases differ.
pub fn count_differing(one: &Path, other: &Path) -> usize {
    all_differing(one, other).len()
}

fn all_differing(one: &Path, other: &Path) -> Vec<usize> {
    let (one, other) = (mask_mark(pages(one)), mask_mark(pages(other)));
    let size = page_size(&one);
    let count = one.len().max(other.len()) / size;
    (1..=count).filter(|n| page(&one, *n, size) != page(&other, *n, size)).collect()
}

fn page(database: &[u8], n: usize, size: usize) -> Option<&[u8]> {
    database.get((n - 1) * size..n * size)
}

/// Fails unless two database files that nobody has open are the same but for the mark, however large they are.
pub fn assert_same_files(one: &Path, other: &Path) {
    let output = Command::new("cmp").arg("-l").arg(one).arg(other).output().expect("running cmp");
    let differences = String::from_utf8_lossy(&output.stdout);
    let places: Vec<&str> = differences.lines().filter_map(|line| line.split_whitespace().next()).take(5).collect();
    // It counts from 1.
    assert!(places.is_empty() || places == ["19"], "{} and {} differ at {places:?}", one.display(), other.display());
    assert!(output.stderr.is_empty(), "cmp: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether page 1 carries the mark that makes the database read-only for every SQLite.
pub fn is_marked(database: &Path) -> bool {
    match pages(database)[MARK..MARK + 2] {
        [3, 2] => true,
        [2, 2] => false,
        ref other => panic!("{}: file format versions {other:?}, expected 3 or 2, and 2", database.display()),
    }
}

/// Takes the mark of a replica away by a raw write to the file, which this process must not have open through SQLite.
pub fn take_mark_away(database: &Path) {
    let file = OpenOptions::new().write(true).open(database).expect("opening a file");
    file.write_all_at(&[2], MARK as u64).expect("taking the mark away");
}

/// All pages of a database in one piece, as a reader gets them now: those of the WAL included.
pub fn pages(database: &Path) -> Vec<u8> {
    serialize(&plain(database))
}

#[allow(unsafe_code)]
fn serialize(connection: &Connection) -> Vec<u8> {
    let mut size = 0;
    // SAFETY: the connection is open and used by this thread alone; what is returned is `size` bytes of ours to free.
    unsafe {
        let bytes = ffi::sqlite3_serialize(connection.handle(), c"main".as_ptr(), &mut size, 0);
        assert!(!bytes.is_null(), "reading the pages of a database");
        let copied = std::slice::from_raw_parts(bytes, size as usize).to_vec();
        ffi::sqlite3_free(bytes.cast());
        copied
    }
}

fn page_size(database: &[u8]) -> usize {
    match u16::from_be_bytes([database[16], database[17]]) {
        1 => 65536,
        size => usize::from(size),
    }
}

/// What a `sqlite3` process started for this one question says.
pub fn stock(database: &Path, sql: &str) -> String {
    let output =
        Command::new("sqlite3").arg("-batch").arg("-cmd").arg(".timeout 10000").arg(database).arg(sql).output();
    text(output.expect("running sqlite3 (Debian's package sqlite3)"), sql)
}

/// The bytes of a file, empty when it does not exist.
pub fn file_bytes(path: &Path) -> Vec<u8> {
    if !path.exists() {
        return Vec::new();
    }
    let output = Command::new("cat").arg(path).output().expect("running cat");
    assert!(output.status.success(), "cat {}: {}", path.display(), output.status);
    output.stdout
}

/// The bytes of a database file without the mark of a replica.
pub fn mask_mark(mut database: Vec<u8>) -> Vec<u8> {
    if let Some(mark) = database.get_mut(MARK) {
        *mark = 2;
    }
    database
}

/// Copies a file.
pub fn copy(from: &Path, to: &Path) {
    let output = Command::new("cp").arg(from).arg(to).output().expect("running cp");
    text(output, "cp");
}

fn text(output: Output, what: &str) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{what}\nfailed with {}: {err}", output.status);
    out.trim_end().to_string()
}
