use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::channel;

use litestream::base::{Error, Generation, Position, Result};
use litestream::format::compression::Compression;
use litestream::replica::{self, Compared, Have, Opened, Options, PageSums, Times, Upstream, UpstreamClock};
use litestream::store::Sidecar;

use crate::apply_wal::{PAGE, ROWS};
use crate::database::{MOST_PAGES, State, base, integrity, loaded, plain, scratch};
use crate::input::Input;
use crate::slow::{self, long, word};

const URL: &str = "http://127.0.0.1:1/app.db";
/// Where a replica is that has something.
const AT: Position = Position { generation: Generation(7), index: 1, offset: 0 };

/// A stream that sends what was given.
struct Canned {
    version2: bool,
    stream: Vec<u8>,
    opened: AtomicU32,
}

impl Upstream for Canned {
    fn url(&self) -> &str {
        URL
    }

    fn open(&self, _: Have) -> Result<Opened> {
        assert!(self.opened.fetch_add(1, Relaxed) < 5, "one stream after another is asked for");
        let body = Box::new(Cursor::new(self.stream.clone()));
        let version2 = self.version2;
        let clock = UpstreamClock::new(Times::WallClock, Box::new(|| channel().1));
        Ok(Opened { version2, compression: Compression::Lz4, clock, page_size: Some(PAGE as u32), body })
    }

    fn compare(&self, _: PageSums, _: Option<Position>) -> Result<Compared> {
        Err(Error::usage("not asked for"))
    }

    fn another(&self) -> Arc<dyn Upstream> {
        Arc::new(Canned { version2: self.version2, stream: self.stream.clone(), opened: AtomicU32::new(0) })
    }

    fn interrupt(&self) {}

    fn shutdown(&self) {}
}

/// The state that a replica has at first, and the one that the last stream leads to.
struct States {
    first: State,
    last: State,
    to_last: Vec<u8>,
}

static STATES: LazyLock<States> = LazyLock::new(|| {
    // The library finds SQLite by having been loaded into it.
    std::mem::forget(loaded(":memory:".as_ref()));
    let (first, last) = (State(base(PAGE, ROWS)).unmarked(), State(base(PAGE, ROWS / 2)).unmarked());
    let to_last = everything(&last.0, PAGE);
    States { first, last, to_last }
});

/// Feeds a replica, new or not, from a stream. It shows what was before, or what one of the commits says; and the next stream
/// brings it to where that leads.
pub fn pull(data: &[u8]) {
    LazyLock::force(&STATES);
    let mut input = Input(data);
    let flags = input.byte();
    let is_new = flags & 1 == 0;
    let mut stream = input.0.to_vec();
    let path = scratch().join("replica.db");
    let sidecar = Sidecar::of(&path);
    remove(&path);
    let first = if is_new { State(Vec::new()) } else { STATES.first.clone() };
    if !is_new {
        let mut marked = first.0.clone();
        marked[18] = 3;
        fs::write(&path, marked).expect("a database");
        drop(sidecar.lock("try").expect("the folder of the sidecar"));
        sidecar.set_position(&AT).and_then(|()| sidecar.set_upstream(URL)).expect("a sidecar");
    }
    let version2 = flags & 4 == 0;
    let commits = walk(&mut stream, &first, flags & 2 == 2).filter(|_| version2);
    let pulled = feed(&path, stream, version2);
    let found = state(&path).unmarked();
    if let Some(commits) = commits {
        let known = commits.iter().filter(|commit| commit.state == found && commit.may_be_shown);
        match pulled {
            Ok(position) => {
                assert!(known.clone().any(|commit| commit.at == position), "not the state of {position}");
                assert_eq!(sidecar.position(), Some(position));
            }
            Err(error) if is_new && known.clone().next().is_none() => {
                let tables = plain(&path).query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0));
                assert_eq!(tables, Ok(0), "an unfinished replica shows something: {error}");
            }
            Err(error) => {
                assert!(found == first || known.clone().next().is_some(), "no state of the upstream: {error}")
            }
        }
    }
    if found == STATES.first {
        assert_eq!(integrity(&plain(&path)), "ok");
    }
    match feed(&path, STATES.to_last.clone(), true) {
        Ok(_) => {}
        // A stream without checksums may leave what nobody can open.
        Err(error) => {
            assert!(!is_readable(&path), "a good stream was refused: {error}");
            return;
        }
    }
    assert!(state(&path).unmarked() == STATES.last, "a good stream was not applied");
    assert_eq!(integrity(&plain(&path)), "ok");
}

/// Whether SQLite takes the file for a database, whatever its schema is.
fn is_readable(path: &Path) -> bool {
    plain(path).query_row("PRAGMA user_version", [], |_| Ok(())).is_ok()
}

fn feed(path: &Path, stream: Vec<u8>, version2: bool) -> Result<Position> {
    let upstream = Arc::new(Canned { version2, stream, opened: AtomicU32::new(0) });
    let options = Options { overwrite: true, ..Options::default() };
    replica::pull(path, c"unix", upstream, options, Arc::default(), &|| false)
}

fn state(path: &Path) -> State {
    let mut state = State(fs::read(path).unwrap_or_default());
    let log = fs::read(beside(path, "-wal")).unwrap_or_default();
    if let Some(log) = slow::wal(&log) {
        state.apply(log.committed(), log.page_size);
    }
    state
}

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(beside(path, suffix));
    }
    let _ = fs::remove_dir_all(beside(path, "-litestream"));
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A state that a stream leads to.
struct Commit {
    state: State,
    at: Position,
    /// Whether it sums up to what the record says, as far as it says something.
    may_be_shown: bool,
}

/// The states after each commit of a stream, whose checksums and seals are made right if that is wanted. None if they are too
/// large to be looked at, or of another page size than all else.
fn walk(stream: &mut [u8], first: &State, repair: bool) -> Option<Vec<Commit>> {
    let (mut commits, mut state, mut end) = (Vec::new(), first.clone(), 0);
    let mut patches = Vec::new();
    for record in slow::records(stream) {
        let start = end;
        end += 40 + record.payload.len();
        match record.kind {
            3 if record.payload.len() == 20 && word(record.payload, 0) as usize != PAGE => return None,
            3 => patches.push((start, end, None)),
            4 => put_pages(&plain_payload(&record)?, &mut state)?,
            5 if record.payload.len() == 24 => {
                let pages = word(record.payload, 0);
                if pages > MOST_PAGES {
                    return None;
                }
                state.0.resize(pages as usize * PAGE, 0);
                let shown = state.clone().unmarked();
                let checksum = slow::database_checksum(&shown.0, PAGE);
                patches.push((start, end, Some(checksum)));
                let says = if repair { checksum } else { long(record.payload, 4) };
                let [generation, index, offset] = record.at;
                let at = Position { generation: Generation(generation), index, offset };
                commits.push(Commit { state: shown, at, may_be_shown: says == 0 || says == checksum });
            }
            6 => patches.push((start, end, None)),
            _ => {}
        }
    }
    for (start, end, checksum) in patches.into_iter().filter(|_| repair) {
        if let Some(checksum) = checksum {
            stream[start + 44..start + 52].copy_from_slice(&checksum.to_be_bytes());
        }
        slow::seal(&mut stream[start..end]);
    }
    Some(commits)
}

/// Puts the pages of a record into a state, as far as it is right. None if that would be too large.
fn put_pages(payload: &[u8], state: &mut State) -> Option<()> {
    let count = word(payload.get(..4)?, 0) as usize;
    if payload.len() != 4 + count * (4 + PAGE) {
        return Some(());
    }
    let (numbers, images) = payload[4..].split_at(count * 4);
    for (number, image) in numbers.chunks(4).zip(images.chunks(PAGE)) {
        match word(number, 0) {
            0 => return Some(()),
            number if number > MOST_PAGES => return None,
            number => state.put(number, image),
        }
    }
    Some(())
}

fn plain_payload(record: &slow::Record) -> Option<Vec<u8>> {
    if record.flags == 0 {
        return Some(record.payload.to_vec());
    }
    let size = record.payload.get(..4).map(|size| word(size, 0) as usize).filter(|size| *size <= 4 << 20)?;
    lz4_flex::block::decompress(&record.payload[4..], size).ok()
}

/// A stream of everything in a database.
pub fn everything(database: &[u8], page_size: usize) -> Vec<u8> {
    let pages = (database.len() / page_size) as u32;
    let record = |kind: u32, parts: &[&[u8]]| {
        let (mut record, payload) = ([kind, 0].map(u32::to_be_bytes).concat(), parts.concat());
        for field in [9, 3, 32 + 24 + page_size as u64, payload.len() as u64] {
            record.extend_from_slice(&u64::to_be_bytes(field));
        }
        record.extend(payload);
        if kind != 4 {
            slow::seal(&mut record);
        }
        record
    };
    let checksum = slow::database_checksum(database, page_size);
    let begin = record(3, &[&[page_size as u32, 1, 0, pages, 0].map(u32::to_be_bytes).concat()]);
    let numbers = (1..=pages).flat_map(u32::to_be_bytes).collect::<Vec<_>>();
    let images = record(4, &[&pages.to_be_bytes(), &numbers, database]);
    let commit = record(5, &[&pages.to_be_bytes(), &checksum.to_be_bytes(), &[0; 12]]);
    [begin, images, commit].concat()
}
