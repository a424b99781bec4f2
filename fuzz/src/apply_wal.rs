use std::cell::OnceCell;
use std::fs;

use litestream::format::lz4;
use rusqlite::{Connection, Result};

use crate::database::{Files, MOST_PAGES, State, base, integrity, loaded, plain, scratch};
use crate::input::Input;
use crate::slow::{self, Frame, Wal};

/// Page size of the database.
pub const PAGE: usize = 512;
/// Rows in it.
pub const ROWS: u32 = 40;

/// A database that every input finds as it was at first.
struct Live {
    applying: Connection,
    reading: Connection,
    files: Files,
    first: State,
    /// A WAL that leads back to it from anywhere.
    back: Vec<u8>,
}

thread_local! {
    static LIVE: OnceCell<Live> = const { OnceCell::new() };
}

/// Applies the bytes of a WAL. The database holds then what SQLite would have got out of them, or what it held before;
/// whoever reads it can go on; and the next WAL can be applied.
pub fn apply_wal(data: &[u8]) {
    LIVE.with(|live| live.get_or_init(Live::new).apply(data));
}

impl Live {
    fn new() -> Live {
        let path = scratch().join("live.db");
        let first = base(PAGE, ROWS);
        fs::write(&path, &first).expect("a database");
        let (applying, reading) = (loaded(&path), plain(&path));
        reading.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, u32>(0)).expect("a row");
        let pages = first.len() as u32 / PAGE as u32;
        let frames: Vec<_> =
            (1..).zip(first.chunks(PAGE)).map(|(n, page)| (n, pages * u32::from(n == pages), page)).collect();
        let back = slow::build_wal(PAGE, &frames);
        let files = Files::of(&path);
        Live { applying, reading, files, first: State(first).unmarked(), back }
    }

    fn apply(&self, data: &[u8]) {
        let mut input = Input(data);
        let flags = input.byte();
        let mut log = input.0.to_vec();
        if flags & 1 == 1 {
            slow::repair_wal(&mut log, flags & 2 == 2, PAGE);
        }
        let blob = if flags & 4 == 4 { lz4::compress(&log).expect("LZ4") } else { log.clone() };
        let applied = self.call(&blob);
        let found = self.files.state().unmarked();
        let expected = slow::wal(&log).filter(|log| log.page_size == PAGE);
        match (applied, &expected) {
            (Ok(commits), Some(expected)) => {
                let mut state = self.first.clone();
                state.apply(expected.committed(), PAGE);
                assert!(found == state.unmarked(), "not what the frames make of the database");
                assert_eq!(commits, expected.frames.iter().filter(|frame| frame.commit > 0).count());
                if commits > 0 && expected.committed().iter().all(has_usual_versions) {
                    self.is_as_sqlite_has_it(&log, &found);
                }
            }
            (Ok(commits), None) => panic!("{commits} commits out of what is no WAL of this database"),
            (Err(error), expected) => {
                assert!(found == self.first, "something was changed: {error}");
                assert_eq!(integrity(&self.reading), "ok", "{error}");
                assert!(
                    !expected.as_ref().is_some_and(|log| is_good(log, self.first.0.len() / PAGE)),
                    "a good WAL was refused: {error}"
                );
            }
        }
        let _ = self.reading.query_row("SELECT sum(length(name)) FROM t", [], |_| Ok(()));
        assert_eq!(self.call(&self.back), Ok(1), "a good WAL");
        assert!(self.files.state().unmarked() == self.first, "a good WAL was not applied");
        assert_eq!(integrity(&self.reading), "ok");
        self.empty_the_wal();
    }

    fn call(&self, blob: &[u8]) -> Result<usize> {
        let mut call = self.applying.prepare_cached("SELECT litestream_apply_wal(?1)")?;
        call.query_row([blob], |row| row.get::<_, u32>(0)).map(|n| n as usize)
    }

    fn is_as_sqlite_has_it(&self, log: &[u8], found: &State) {
        let path = scratch().join("reference.db");
        fs::write(&path, &self.first.0).expect("a database");
        fs::write(scratch().join("reference.db-wal"), log).expect("a WAL");
        let reference = plain(&path);
        let told = integrity(&reference);
        let here = plain(&scratch().join("live.db"));
        assert_eq!(integrity(&here), told, "what a new reader finds");
        if checkpoint(&reference) == Ok((0, 0, 0)) {
            // What SQLite had to say first is what counts. It may write nothing to a database that it cannot read.
            let recovered = State(fs::read(&path).expect("a database")).unmarked();
            let few = recovered.0.len() <= MOST_PAGES as usize * PAGE;
            assert!(!few || recovered == *found, "not what SQLite makes of the WAL");
        }
        drop(reference);
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(scratch().join(format!("reference.db{suffix}")));
        }
    }

    fn empty_the_wal(&self) {
        assert_eq!(checkpoint(&self.reading), Ok((0, 0, 0)), "a lock was left behind");
    }
}

/// Whether a WAL is one that SQLite may write: its last frames end a transaction, and none is of a page that does not
/// exist after its transaction, and it makes a database of `pages` pages no larger than its frames can. Page 1 is the header
/// of a database.
fn is_good(log: &Wal, pages: usize) -> bool {
    let lock = (1 << 30) / PAGE as u32 + 1;
    let committed = log.committed();
    let most = pages + log.frames.len();
    let odd = |frame: &Frame| frame.pgno == lock || frame.commit > 0 && frame.pgno > frame.commit;
    let header = |frame: &Frame| frame.page.starts_with(b"SQLite format 3\0") && frame.page[16..18] == [2, 0];
    let grows_too_much = committed.last().is_some_and(|frame| frame.commit as usize > most);
    !grows_too_much && !log.frames.iter().any(odd) && committed.iter().filter(|frame| frame.pgno == 1).all(header)
}

/// Whether page 1 has the versions of a database in WAL mode. Any others are replaced by those of a replica, and SQLite may
/// refuse to read it with them.
fn has_usual_versions(frame: &Frame) -> bool {
    frame.pgno != 1 || frame.page[18..20] == [2, 2]
}

fn checkpoint(connection: &Connection) -> Result<(i32, i32, i32)> {
    let read = |row: &rusqlite::Row| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], read)
}
