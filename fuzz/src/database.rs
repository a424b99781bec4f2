//! Databases of one process: SQLite as rusqlite carries it, with and without the library.

use std::ffi::{c_char, c_int};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rusqlite::{Connection, ffi};

use crate::slow;

/// A folder of this process, in memory where the machine has a place for that.
pub fn scratch() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        remove_those_of_dead_processes(&parent);
        let folder = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    })
}

const PREFIX: &str = "litestream-fuzz-";

/// libFuzzer ends a process without giving it a chance to tidy up.
fn remove_those_of_dead_processes(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(PREFIX).filter(|id| !Path::new("/proc").join(id).exists());
        if process.is_some() && Path::new("/proc/self").exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A connection without the library.
pub fn plain(path: &Path) -> Connection {
    Connection::open(path).expect("a connection")
}

/// A connection with the library loaded.
pub fn loaded(path: &Path) -> Connection {
    // SAFETY: the entry point is one that SQLite may call.
    unsafe { ffi::sqlite3_auto_extension(Some(enter)) };
    let connection = plain(path);
    // SAFETY: the same.
    unsafe { ffi::sqlite3_cancel_auto_extension(Some(enter)) };
    connection
}

/// The entry point of the library. "Loaded for good" is no success to SQLite if nobody loaded it from a file.
unsafe extern "C" fn enter(
    db: *mut ffi::sqlite3,
    message: *mut *mut c_char,
    routines: *const ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: SQLite's own arguments; the two types are bindings to the same header.
    match unsafe { litestream::sqlite3_litestream_init(db.cast(), message, routines.cast_mut().cast()) } {
        256 => 0,
        failed => failed,
    }
}

/// The pages of a database in WAL mode as a reader sees them, from the bytes of its files.
///
/// The files stay open for ever: closing one that SQLite has open would take its locks away.
pub struct Files {
    database: File,
    wal: File,
}

impl Files {
    pub fn of(database: &Path) -> Files {
        let open = |path: PathBuf| File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut wal = database.as_os_str().to_owned();
        wal.push("-wal");
        Files { database: open(database.to_path_buf()), wal: open(wal.into()) }
    }

    /// The state after the last commit in the WAL.
    pub fn state(&self) -> State {
        let mut state = State(read_all(&self.database));
        let wal = read_all(&self.wal);
        if let Some(wal) = slow::wal(&wal) {
            state.apply(wal.committed(), wal.page_size);
        }
        state
    }
}

fn read_all(file: &File) -> Vec<u8> {
    let size = file.metadata().expect("the size of a file").len() as usize;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0).expect("a file");
    bytes
}

/// A database of few pages, as bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct State(pub Vec<u8>);

/// A database of more pages is not looked at: the bytes would not fit.
pub const MOST_PAGES: u32 = 4096;

impl State {
    /// What frames make of it, the last of which ends a transaction.
    pub fn apply(&mut self, frames: &[slow::Frame], page_size: usize) {
        let Some(last) = frames.last() else { return };
        for frame in frames.iter().filter(|frame| frame.pgno <= MOST_PAGES) {
            self.put(frame.pgno, frame.page);
        }
        self.0.resize(last.commit.min(MOST_PAGES) as usize * page_size, 0);
    }

    /// Sets a page.
    pub fn put(&mut self, pgno: u32, page: &[u8]) {
        let start = (pgno as usize - 1) * page.len();
        if self.0.len() < start + page.len() {
            self.0.resize(start + page.len(), 0);
        }
        self.0[start..start + page.len()].copy_from_slice(page);
    }

    /// With the file format versions as every database in WAL mode has them, whether it is marked or not.
    pub fn unmarked(mut self) -> State {
        if let Some(versions) = self.0.get_mut(18..20) {
            versions.fill(2);
        }
        self
    }
}

/// The bytes of a small database in WAL mode, the same every time. `rows` makes it larger.
pub fn base(page_size: usize, rows: u32) -> Vec<u8> {
    let path = scratch().join(format!("base-{page_size}-{rows}.db"));
    let _ = fs::remove_file(&path);
    let connection = plain(&path);
    let sql = format!(
        "PRAGMA page_size = {page_size};
         CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, number INTEGER);
         WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < {rows})
         INSERT INTO t SELECT n, 'row number ' || n, n * 7 % 11 FROM i;
         CREATE INDEX t_number ON t(number, name);
         PRAGMA journal_mode = wal;"
    );
    connection.execute_batch(&sql).expect("a database");
    connection.close().expect("a connection that can be closed");
    fs::read(&path).expect("a database")
}

/// What `PRAGMA integrity_check` says, or the error it ends with.
pub fn integrity(connection: &Connection) -> String {
    let checked = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0));
    checked.unwrap_or_else(|error| error.to_string())
}
