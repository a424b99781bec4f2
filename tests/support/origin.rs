//! A primary of which every state is remembered, to judge what a replica of it holds.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::compare::{mask_mark, pages};
use super::{Sql, Temp, bank, load, loaded, plain, with_suffix};

/// A bank that is served by this process.
pub struct Origin {
    pub temp: Temp,
    pub connection: Connection,
    pub url: String,
    states: RefCell<Vec<State>>,
}

/// One state that the primary was in.
struct State {
    position: String,
    pages: Vec<u8>,
}

impl Origin {
    /// A new one, in its first state.
    pub fn new(page_size: u32) -> Origin {
        let temp = Temp::new();
        let connection = plain(&temp.path("origin.db"));
        load(&connection);
        connection.run(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal; {}",
            bank::create(20, page_size)
        ));
        let url = connection.ask("SELECT litestream_serve('127.0.0.1:0')");
        let origin = Origin { temp, connection, url, states: RefCell::default() };
        origin.remember();
        origin
    }

    /// The database file.
    pub fn path(&self) -> PathBuf {
        self.temp.path("origin.db")
    }

    /// One more transaction, of which about `pages` pages are ballast. The position after it.
    pub fn step(&self, pages: u32) -> String {
        let count = self.states.borrow().len() as u64;
        self.does(&bank::step(count, pages))
    }

    /// The same with SQL of the caller's, one transaction.
    pub fn does(&self, sql: &str) -> String {
        self.connection.run(sql);
        self.remember()
    }

    fn remember(&self) -> String {
        let position: String = self.connection.ask("SELECT litestream_position()");
        let pages = mask(pages(&self.path()));
        self.states.borrow_mut().push(State { position: position.clone(), pages });
        position
    }

    /// Makes a replica that is up to date and that nobody has open.
    pub fn replicate(&self, path: &Path) {
        loaded(path).ask::<String>(&self.pull("{}"));
    }

    /// SQL that catches up once.
    pub fn pull(&self, options: &str) -> String {
        format!("SELECT litestream_pull('{}', '{options}')", self.url)
    }

    /// SQL that begins to follow.
    pub fn follow(&self, options: &str) -> String {
        format!("SELECT litestream_follow('{}', '{options}')", self.url)
    }

    /// Number of the newest state.
    pub fn newest(&self) -> usize {
        self.states.borrow().len() - 1
    }

    /// Number of the state at a position.
    pub fn at(&self, position: &str) -> usize {
        let found = self.states.borrow().iter().position(|state| state.position == position);
        found.unwrap_or_else(|| panic!("the primary was never known to be at {position}"))
    }

    /// Number of the state that a database is in, as a stock SQLite sees it. Fails when it is none, or a broken one.
    pub fn state_of(&self, path: &Path, what: &str) -> usize {
        let seen = plain(path);
        seen.run("PRAGMA query_only = 1");
        assert_eq!(seen.ask::<String>("PRAGMA integrity_check"), "ok", "{what}: integrity_check");
        assert_eq!(seen.ask::<i64>(bank::SUM), bank::TOTAL, "{what}: the sum of all money");
        let pages = mask(pages(path));
        let found = self.states.borrow().iter().rposition(|state| state.pages == pages);
        found.unwrap_or_else(|| panic!("{what}: the primary was never in the state that is there"))
    }
}

/// The pages of a database without what says whose they are: the mark of a replica, and the schema cookie (bytes 40 to 43),
/// which a promotion moves.
fn mask(database: Vec<u8>) -> Vec<u8> {
    let mut pages = mask_mark(database);
    if let Some(cookie) = pages.get_mut(40..44) {
        cookie.fill(0);
    }
    pages
}

/// Removes a database with all that belongs to it.
pub fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(with_suffix(path, suffix));
    }
    let _ = std::fs::remove_dir_all(with_suffix(path, "-litestream"));
}

/// Copies a database that nobody has open, with its WAL and its sidecar.
pub fn copy_all(from: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        let (from, to) = (with_suffix(from, suffix), with_suffix(to, suffix));
        if from.exists() {
            std::fs::copy(from, to).expect("copying a database");
        }
    }
    let (from, to) = (with_suffix(from, "-litestream"), with_suffix(to, "-litestream"));
    let Ok(entries) = std::fs::read_dir(from) else { return };
    std::fs::create_dir_all(&to).expect("a sidecar");
    for entry in entries {
        let path = entry.expect("an entry of a sidecar").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copying a file of a sidecar");
    }
}
