//! Reads the file of a followed replica over and over, as any reader does, and compares it with
//! what the replica believes.
//!
//! ```text
//! file at the path -> audit thread: checksums of one chunk -> apply thread: are these the pages I
//! know?
//! ```
//!
//! A thread of its own reads one chunk after another, each in a read transaction that ends with the
//! chunk. The apply thread compares: it is the only one that changes the pages and what is known of
//! them. A page that differs may have changed since the chunk was read, so the apply thread reads
//! it once more, and only then reports it.

use std::ffi::{CStr, CString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::feeder::Feeder;
use super::stage::{DATABASE_HEADER, is_in_wal_mode};
use crate::base::{Error, Kind, Pgno, Result, limits};
use crate::format::checksum::PageChecksum;
use crate::sqlite::{Connection, OpenMode, guarded, spawn};
use crate::store::{page_size, pages, read_page, read_run, valid_state};

/// Bytes read in a second at most, however short a pass is to be.
const MOST_BYTES: usize = 4 << 20;
/// The thread works for one part of its time in so many.
const SHARE: u32 = 20;

/// A pass takes no longer, whatever the option says.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The audit of one replica. Ends when dropped.
pub(super) struct Audit {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
}

/// What the two threads hand over.
#[derive(Default)]
struct Desk {
    /// A chunk that no one has compared yet, or why it could not be read.
    read: Option<Result<Sums>>,
    stopped: bool,
}

/// The checksums of consecutive pages.
type Sums = Vec<(Pgno, PageChecksum)>;

/// Where the thread is.
struct Pass {
    path: PathBuf,
    vfs: CString,
    /// How long all pages take.
    time: Duration,
    next: u32,
}

/// What one turn of the thread came to.
struct Turn {
    sums: Sums,
    /// How long the next turn waits, whatever this one took.
    pause: Duration,
}

impl Audit {
    /// Begins to read the database at `path`, all of it in `time`.
    pub fn begin(path: &Path, vfs: &CStr, time: Duration) -> Result<Audit> {
        let shared = Arc::<Shared>::default();
        let mut pass = Pass { path: path.to_path_buf(), vfs: vfs.to_owned(), time: time.min(LONGEST), next: 1 };
        let seen = Arc::clone(&shared);
        let thread = spawn("litestream-audit", move || seen.run(&mut pass))?;
        Ok(Audit { shared, thread: Some(thread) })
    }

    /// The chunk read last, if it was not taken yet.
    fn take(&self) -> Option<Result<Sums>> {
        let read = self.shared.lock().read.take();
        if read.is_some() {
            self.shared.changed.notify_all();
        }
        read
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, pass: &mut Pass) {
        // The file was read or written as a whole just before, and readers may be many right after.
        let mut pause = pass.first_pause();
        while self.wait(pause) {
            let began = Instant::now();
            let (read, rest) = match guarded(|| pass.turn()) {
                Ok(turn) => (Ok(turn.sums), turn.pause),
                // What a bad disk does not give now, it may give in the next pass.
                Err(error) => (Err(error), pass.time),
            };
            pause = rest.max(began.elapsed() * (SHARE - 1));
            self.lock().read = Some(read);
        }
    }

    /// Waits for `pause`, and until the last chunk was taken. False if the audit is to end.
    fn wait(&self, pause: Duration) -> bool {
        let (deadline, mut desk) = (Instant::now() + pause, self.lock());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            desk = match (desk.stopped, desk.read.is_some(), left.is_zero()) {
                (true, ..) => return false,
                (_, false, true) => return true,
                (_, true, true) => self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner),
                _ => self.changed.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// The time that the first chunk may take of a pass.
    fn first_pause(&self) -> Duration {
        let bytes = fs::metadata(&self.path).map_or(0, |file| file.len()).max(1);
        self.time.mul_f64((limits::CHUNK_BYTES as f64 / bytes as f64).min(1.0))
    }

    /// Reads the next chunk of the file that the path names now.
    fn turn(&mut self) -> Result<Turn> {
        let connection = open(&self.path, &self.vfs)?;
        let size = page_size(&connection)?;
        require_wal_mode(&connection)?;
        let total = pages(&connection, &valid_state(&connection)?, size)?;
        if self.next > total {
            self.next = 1;
        }
        let many = u32::try_from(limits::CHUNK_BYTES / size.bytes()).unwrap_or(1).max(1);
        let first = Pgno::new(self.next)?;
        let mut sums = Vec::new();
        read_run(&connection, size, first, many, |pgno, image| {
            if pgno != size.lock_page() {
                sums.push((pgno, PageChecksum::of(pgno, image)));
            }
        })?;
        self.next = self.next.saturating_add(many);
        let slowest = self.time.mul_f64(f64::from(many.min(total)) / f64::from(total.max(1)));
        let fastest = Duration::from_secs_f64(sums.len() as f64 * size.bytes() as f64 / MOST_BYTES as f64);
        Ok(Turn { sums, pause: slowest.max(fastest) })
    }
}

/// A connection that leaves the files as they are when it closes.
fn open(path: &Path, vfs: &CStr) -> Result<Connection> {
    let connection = Connection::open(path, vfs, OpenMode::Existing)?;
    connection.leave_wal_on_close();
    Ok(connection)
}

/// Fails for a file that is no replica: asking for its wal-index would make one.
fn require_wal_mode(connection: &Connection) -> Result<()> {
    let mut header = [0; DATABASE_HEADER];
    connection.database()?.read(0, &mut header)?;
    match is_in_wal_mode(&header) {
        true => Ok(()),
        false => Err(Error::corrupt(format!(
            "litestream: {}: the file at this path is not in WAL mode, which a replica is; was it replaced?",
            connection.path().display()
        ))),
    }
}

impl Feeder<'_> {
    /// Compares what the audit has read, and has it go on. Not within a commit.
    ///
    /// # Errors
    /// [`Kind::Diverged`] if the file at the path does not hold the pages that were applied.
    pub fn audit(&mut self) -> Result<()> {
        let path = self.database.connection.path();
        let Some(audit) = &self.audit else {
            if !self.options.audit.is_zero() {
                match Audit::begin(path, &self.vfs, self.options.audit) {
                    Ok(audit) => self.audit = Some(audit),
                    Err(error) => self.audit_failed(&error),
                }
            }
            return Ok(());
        };
        let sums = match audit.take() {
            None => return Ok(()),
            Some(Err(error)) => {
                self.audit_failed(&error);
                return Ok(());
            }
            Some(Ok(sums)) => sums,
        };
        self.progress.audited(sums.len() as u64);
        let differing = match self.differing(&sums) {
            Ok(differing) => differing,
            Err(error) => {
                self.audit_failed(&error);
                return Ok(());
            }
        };
        match differing.as_slice() {
            [] => Ok(()),
            [first, ..] => Err(Error::new(
                Kind::Diverged,
                format!(
                    "litestream: {}: the audit found {} pages in the file that are not those applied, page {} first; a disk, \
                     another program or a fault of the library changed them",
                    path.display(),
                    differing.len(),
                    first.get()
                ),
            )),
        }
    }

    /// What the audit cannot do now, it may do later: the stream goes on.
    fn audit_failed(&self, error: &Error) {
        log::warn!("{}: the audit failed: {error}", self.database.connection.path().display());
        self.progress.noted(error);
    }

    /// Which of these pages are not as they should be, after another look at those that do not seem
    /// so.
    fn differing(&self, sums: &[(Pgno, PageChecksum)]) -> Result<Vec<Pgno>> {
        let Some(known) = self.database.checksums() else { return Ok(Vec::new()) };
        let seems_wrong = |(pgno, sum): &&(Pgno, PageChecksum)| known.get(*pgno).is_some_and(|known| known != *sum);
        let suspects: Vec<Pgno> = sums.iter().filter(seems_wrong).map(|(pgno, _)| *pgno).collect();
        if suspects.is_empty() {
            return Ok(suspects);
        }
        let connection = open(self.database.connection.path(), &self.vfs)?;
        let size = page_size(&connection)?;
        require_wal_mode(&connection)?;
        let mut differing = Vec::new();
        for pgno in suspects {
            let sum = PageChecksum::of(pgno, &read_page(&connection, pgno, size)?);
            if known.get(pgno) != Some(sum) {
                differing.push(pgno);
            }
        }
        Ok(differing)
    }
}
