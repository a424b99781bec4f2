//! The hot paths whose instructions are counted. Each does the same for the same number of rounds, on any machine.

use std::ffi::{c_char, c_int};
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use litestream::base::{Generation, PageSize, Pgno, Position};
use litestream::format::checksum::PageChecksum;
use litestream::format::compression::Compression;
use litestream::format::record::{Commit, HEADER_SIZE, Header, Pages, start_pages};
use litestream::primary::counting::{Map, Tailed};
use litestream::primary::{Ask, Options, Primary, Step, Version};
use rusqlite::{Connection, ffi};

/// Whatever went wrong, in words.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// One path.
pub struct Counted {
    pub name: &'static str,
    /// What one round is.
    pub round: &'static str,
    /// How many rounds are enough to count.
    pub rounds: u32,
    pub run: fn(u32) -> Result<()>,
}

/// All of them.
pub const ALL: &[Counted] = &[
    Counted { name: "decode", round: "the records of a commit of 256 pages are read", rounds: 2000, run: decode },
    Counted { name: "checksum", round: "256 pages of 4 KiB are summed up", rounds: 50, run: checksum },
    Counted { name: "map-take-in", round: "the page map takes in 1,000 frames", rounds: 200, run: map_take_in },
    Counted {
        name: "map-changed",
        round: "of 65,536 pages those are found that changed",
        rounds: 100,
        run: map_changed,
    },
    Counted { name: "apply", round: "100 commits are applied, frame by frame", rounds: 4, run: apply },
    Counted { name: "apply-wal", round: "a WAL of 100 commits is applied as a whole", rounds: 10, run: apply_wal },
    Counted {
        name: "records",
        round: "a page that was in 1,000 commits before is committed, and put up for replicas",
        rounds: 100,
        run: records,
    },
    Counted { name: "snapshot", round: "a replica without anything is sent 1 MiB", rounds: 10, run: snapshot },
];

const SIZE: u32 = 4096;

fn decode(rounds: u32) -> Result<()> {
    let stream = commit_of(256)?;
    for _ in 0..rounds {
        let (mut rest, mut seen) = (black_box(&stream[..]), 0);
        let header = Header::decode(&rest[..HEADER_SIZE])?;
        let (payload, commit) = rest[HEADER_SIZE..].split_at(header.size as usize);
        for run in Pages::decode(payload, PageSize::new(SIZE)?)?.runs() {
            seen += black_box(run?).1.len();
        }
        rest = &commit[HEADER_SIZE..];
        black_box(Commit::decode(&Header::decode(&commit[..HEADER_SIZE])?, rest)?);
        assert_eq!(seen, 256 * SIZE as usize, "bytes of pages");
    }
    Ok(())
}

/// The records of a commit of so many pages, every third of which follows the one before.
fn commit_of(pages: u32) -> Result<Vec<u8>> {
    let mut stream = Vec::new();
    start_pages(pages, PageSize::new(SIZE)?, &mut stream);
    (0..pages).for_each(|n| stream.extend((1 + n + n / 3).to_be_bytes()));
    stream.extend(some_bytes((pages * SIZE) as usize));
    let position = Position { generation: Generation(1), index: 2, offset: 3 };
    Commit { pages: 2 * pages, checksum: u64::MAX, time: 1 }.encode(position, &mut stream);
    Ok(stream)
}

fn checksum(rounds: u32) -> Result<()> {
    let images = some_bytes(256 * SIZE as usize);
    for _ in 0..rounds {
        for (n, image) in (1..).zip(images.chunks(SIZE as usize)) {
            black_box(PageChecksum::of(Pgno::new(n)?, black_box(image)));
        }
    }
    Ok(())
}

/// Pages of a map, and which of them change.
fn map() -> Result<(Map, Vec<Pgno>)> {
    const PAGES: u32 = 1 << 16;
    let changed = (0..1000).map(|n| Pgno::new(1 + n * 7919 % PAGES)).collect::<std::result::Result<_, _>>()?;
    Ok((Map::new(PAGES, PageSize::new(SIZE)?), changed))
}

fn map_take_in(rounds: u32) -> Result<()> {
    let (mut map, changed) = map()?;
    for round in 0..rounds {
        assert!(map.take_in(u64::from(round), black_box(&changed)).is_some(), "a sum of all pages");
    }
    Ok(())
}

fn map_changed(rounds: u32) -> Result<()> {
    let (mut map, changed) = map()?;
    map.take_in(1, &changed);
    for _ in 0..rounds {
        assert_eq!(black_box(&map).changed_since(1), changed.len(), "pages that changed");
    }
    Ok(())
}

fn apply(rounds: u32) -> Result<()> {
    let logged = Logged::new()?;
    let mut apply = logged.copy.prepare("SELECT litestream_apply_frame(?1, ?2, ?3)")?;
    for _ in 0..rounds {
        for frame in logged.wal[WAL_HEADER..].chunks_exact(FRAME_HEADER + SIZE as usize) {
            let word =
                |at: usize| i64::from(u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]));
            apply.query_row((word(0), word(4), &frame[FRAME_HEADER..]), |row| row.get::<_, i64>(0))?;
        }
    }
    logged.check()
}

fn apply_wal(rounds: u32) -> Result<()> {
    let logged = Logged::new()?;
    for _ in 0..rounds {
        let apply = "SELECT litestream_apply_wal(?1)";
        let commits: u32 = logged.copy.query_row(apply, [&logged.wal], |row| row.get(0))?;
        assert_eq!(commits, COMMITS, "commits");
    }
    logged.check()
}

/// Sizes of the headers of a WAL and of its frames, in bytes.
const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// Transactions in the WAL that is applied, of one row each.
const COMMITS: u32 = 100;

/// A database with a WAL, and what it was without that.
struct Logged {
    source: Connection,
    wal: Vec<u8>,
    copy: Connection,
    _folder: Folder,
}

impl Logged {
    fn new() -> Result<Logged> {
        let folder = Folder::new()?;
        let (path, copied) = (folder.0.join("source.db"), folder.0.join("copy.db"));
        let source = Connection::open(&path)?;
        source.execute_batch(
            "PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, x TEXT); CREATE INDEX t_n ON t(n);
             WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 5000)
             INSERT INTO t SELECT n, n * 7919 % 5000, 'the text of row ' || n FROM i; PRAGMA wal_checkpoint(TRUNCATE);",
        )?;
        fs::copy(&path, &copied)?;
        for n in 0..COMMITS {
            source.execute("UPDATE t SET n = n + 1 WHERE id % 1000 = ?1", [n])?;
        }
        let wal = fs::read(folder.0.join("source.db-wal"))?;
        Ok(Logged { source, wal, copy: loaded(&copied)?, _folder: folder })
    }

    /// Fails unless the copy holds what the database does.
    fn check(&self) -> Result<()> {
        let sum = |of: &Connection| of.query_row("SELECT sum(id * n) FROM t", [], |row| row.get::<_, i64>(0));
        assert_eq!(sum(&self.copy)?, sum(&self.source)?, "what was applied");
        Ok(())
    }
}

fn records(rounds: u32) -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.0.join("app.db");
    let writer = loaded(&path)?;
    writer.execute_batch(
        "PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(n INTEGER); INSERT INTO t VALUES (0);",
    )?;
    let mut update = writer.prepare("UPDATE t SET n = n + 1")?;
    for _ in 0..1000 {
        update.execute([])?;
    }
    let mut tailed = Tailed::open(&path)?;
    for _ in 0..rounds {
        update.execute([])?;
        assert!(tailed.records()? > SIZE as usize, "a page and what goes with it");
    }
    Ok(())
}

fn snapshot(rounds: u32) -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.0.join("app.db");
    let writer = loaded(&path)?;
    writer.execute_batch(
        "PRAGMA journal_mode = wal; CREATE TABLE t(x BLOB);
         WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 1024) INSERT INTO t SELECT zeroblob(1000) FROM i;",
    )?;
    let primary = Primary::start(&path, c"unix", Options::default())?;
    for _ in 0..rounds {
        let (compression, client) = (Compression::None, "counts".to_string());
        let (generation, index, offset, checksums) = (None, None, None, None);
        let ask = Ask { version: Version::V2, generation, index, offset, checksums, compression, client };
        let (mut feed, mut sent) = (primary.open_feed(ask)?, 0);
        loop {
            match feed.step()? {
                Step::Send(bytes) => sent += bytes.len(),
                Step::Again => {}
                Step::Wait | Step::End => break,
            }
        }
        assert!(sent > 1 << 20, "{sent} bytes were sent");
    }
    primary.stop();
    Ok(())
}

/// Bytes that look like nothing in particular, the same every time.
fn some_bytes(count: usize) -> Vec<u8> {
    let next = |state: &mut u64| {
        *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        Some((*state >> 56) as u8)
    };
    std::iter::repeat_n((), count).scan(1, |state, ()| next(state)).collect()
}

/// A folder of this process, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder> {
        let folder = std::env::temp_dir().join(format!("litestream-counts-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A connection with the library loaded: the one that is linked into this program, since only its entry point gives the [`Primary`] here
/// a SQLite to work with. A library that is loaded from its file keeps what it is given to itself.
fn loaded(path: &Path) -> Result<Connection> {
    // SAFETY: the entry point is one that SQLite may call, and takes itself off again when it ran.
    unsafe { ffi::sqlite3_auto_extension(Some(enter)) };
    let connection = Connection::open(path);
    // SAFETY: the same.
    unsafe { ffi::sqlite3_cancel_auto_extension(Some(enter)) };
    Ok(connection?)
}

/// The entry point of the library. "Loaded for good" is no success to SQLite if nobody loaded it from a file.
unsafe extern "C" fn enter(
    db: *mut ffi::sqlite3,
    message: *mut *mut c_char,
    routines: *const ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: SQLite's own arguments; the two types are bindings to the same header.
    match unsafe { litestream::sqlite3_litestream_init(db.cast(), message, routines.cast_mut().cast()) } {
        ffi::SQLITE_OK_LOAD_PERMANENTLY => ffi::SQLITE_OK,
        failed => failed,
    }
}
