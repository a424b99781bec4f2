//! A database that commits are applied to, through its WAL.

use std::ffi::CStr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::checks::{check_growth, check_total};
use super::pending::Pending;
use super::stage::{
    DATABASE_HEADER, check_page_one, is_in_wal_mode, is_marked, is_placeholder, mark, move_schema_cookie,
};
use crate::base::{Error, FrameNo, Kind, PageSize, Pgno, Result, limits};
use crate::format::page_file::Mark;
use crate::format::wal::frame_offset;
use crate::format::walindex::Header;
use crate::sqlite::{Connection, OpenMode, Writeback, random_bytes};
use crate::store::{
    self, Alone, Changes, Checksums, WalWriter, beside, read_checksums, read_page, restart, valid_state,
};

/// The pause after a checkpoint that was not complete: so many times what it took, and twice that of the last time, but no longer.
const CHECKPOINT_SHARE: u32 = 20;
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long the readers of a WAL that is in the database are given to leave it.
const READERS_PATIENCE: Duration = Duration::from_millis(20);
/// How often a lock is tried.
const LOCK_POLL: Duration = Duration::from_micros(500);

/// What the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing, or a new replica that was never finished.
    Nothing,
    /// A database.
    Database,
}

/// A database that commits are applied to.
pub(super) struct Database {
    pub connection: Connection,
    checkpoint_frames: u32,
    next_checkpoint: u32,
    /// When to try once more, after a checkpoint that readers kept from being complete.
    checkpoint_again: Option<Instant>,
    checkpoint_pause: Duration,
    /// The header that was published last, to notice if somebody else writes.
    published: Option<Header>,
    /// What the pages sum up to, if that is known.
    checksums: Option<Checksums>,
    /// Brings what is in the WAL to the disk before a checkpoint waits for it.
    writeback: Option<Writeback>,
    /// Whether a sync of the WAL failed, or may have before this was opened, so that the next one says nothing of what came before.
    unsynced: bool,
    /// Whether this connection keeps the write lock, for a commit of which a part is in the WAL.
    keeps_lock: bool,
}

/// A commit that readers see.
pub(super) struct Shown {
    /// Its last frame.
    pub frame: FrameNo,
    /// How many pages it has.
    pub pages: u64,
}

impl Database {
    /// Opens `path` through the VFS named `vfs`; a missing file is made, empty.
    pub fn open(path: &Path, vfs: &CStr, checkpoint_frames: u32) -> Result<Database> {
        let connection = Connection::open(path, vfs, OpenMode::Create)?;
        Ok(Database {
            connection,
            checkpoint_frames,
            next_checkpoint: checkpoint_frames,
            checkpoint_again: None,
            checkpoint_pause: Duration::ZERO,
            published: None,
            checksums: None,
            writeback: None,
            unsynced: true,
            keeps_lock: false,
        })
    }

    /// Fails if another SQLite of this process has it open, too: the locks that it is written under would not last. Nor do those of
    /// the other keep us from removing its WAL, which the last one does that closes a database.
    pub fn require_alone(&self) -> Result<()> {
        self.connection.pin()?;
        self.connection.unpin();
        Alone::begin(&self.connection).map(drop).inspect_err(|_| self.connection.leave_wal_on_close())
    }

    /// What the file holds.
    pub fn content(&self) -> Result<Content> {
        let header = self.header()?;
        let nothing = header == [0; DATABASE_HEADER] || is_placeholder(&header);
        Ok(if nothing { Content::Nothing } else { Content::Database })
    }

    /// How the file begins, whatever the WAL holds.
    pub fn header(&self) -> Result<[u8; DATABASE_HEADER]> {
        let mut header = [0; DATABASE_HEADER];
        self.connection.database()?.read(0, &mut header)?;
        Ok(header)
    }

    /// The journal mode, such as `wal`.
    ///
    /// SQLite reads the schema to answer that. A replica whose schema is damaged must come to be mended all the same, so WAL
    /// mode is known by the file's header, which never says so of another one.
    pub fn journal_mode(&self) -> Result<String> {
        self.connection.pin()?;
        self.connection.unpin();
        if is_in_wal_mode(&self.header()?) {
            return Ok("wal".into());
        }
        Ok(self.connection.query_text(c"PRAGMA main.journal_mode")?.unwrap_or_default())
    }

    /// Puts a database that may be overwritten into WAL mode.
    pub fn set_wal_mode(&self) -> Result<()> {
        let mode = self.connection.query_text(c"PRAGMA main.journal_mode=wal")?.unwrap_or_default();
        if mode == "wal" {
            return Ok(());
        }
        let name = self.connection.path().display();
        Err(Error::new(
            Kind::Busy,
            format!("litestream: {name} stays in journal_mode={mode}; close its other users first"),
        ))
    }

    /// Page size of a database with content.
    pub fn page_size(&self) -> Result<PageSize> {
        store::page_size(&self.connection)
    }

    /// Adds a page to a commit. `stop` is asked while waiting for a lock.
    ///
    /// What does not fit into memory goes to the WAL, and the write lock is kept from then on, as
    /// SQLite keeps it for a transaction: without it a checkpoint that restarts the WAL would drop
    /// the frames. [`Database::commit`] gives it back, and so does [`Database::abandon`].
    pub fn put(&mut self, pending: &mut Pending, pgno: Pgno, image: &[u8], stop: &dyn Fn() -> bool) -> Result<()> {
        if pgno == Pgno::ONE {
            check_page_one(image, pending.stage.page_size())?;
            pending.page_one = Some(image.to_vec());
        }
        if pending.stage.is_full(limits::STAGE_BYTES) {
            self.append(pending, stop)?;
        }
        pending.stage.put(pgno, image);
        Ok(())
    }

    /// Moves the pages in memory to the WAL, where no reader sees them.
    fn append(&mut self, pending: &mut Pending, stop: &dyn Fn() -> bool) -> Result<()> {
        let writer = begin(&self.connection, pending.stage.page_size(), self.keeps_lock, stop)?;
        self.keeps_lock = false;
        check_undisturbed(&self.connection, &self.published, writer.header())?;
        let appended = match &mut pending.appended {
            Some(appended) => appended,
            none => none.insert(writer.start()?),
        };
        writer.append(appended, pending.stage.pages())?;
        writer.keep_lock();
        self.keeps_lock = true;
        pending.stage.clear();
        Ok(())
    }

    /// Drops a commit that was not ended: gives back the write lock that it kept.
    pub fn abandon(&mut self) {
        if std::mem::take(&mut self.keeps_lock) && self.connection.is_usable() {
            // The guard gives it back.
            let _ = WalWriter::give_back(&self.connection).inspect_err(|error| log::warn!("{error}"));
        }
    }

    /// Ends a commit that leads to `pages` pages: all readers that start from now on see it.
    ///
    /// When the frames written would not make the database sum up to `expected`, the commit is
    /// dropped.
    ///
    /// # Errors
    /// [`Kind::Diverged`] for that, and for a WAL that someone else wrote to; [`Kind::Busy`] if
    /// another has the write lock.
    pub fn commit(
        &mut self,
        mut pending: Pending,
        pages: u32,
        expected: Option<u64>,
        stop: &dyn Fn() -> bool,
    ) -> Result<Shown> {
        let size = pending.stage.page_size();
        let mut writer = begin(&self.connection, size, self.keeps_lock, stop)?;
        self.keeps_lock = false;
        check_undisturbed(&self.connection, &self.published, writer.header())?;
        let appended = pending.appended.take().map_or_else(|| writer.start(), Ok)?;
        pending.stage.cut(pages);
        if pending.stage.len() == 0 {
            // The commit needs a frame to be in, and page 1 is in every database.
            let page_one = pending.page_one.map_or_else(|| read_page(&self.connection, Pgno::ONE, size), Ok)?;
            pending.stage.put(Pgno::ONE, &page_one);
        }
        let checksums = &self.checksums;
        let check = |changes: &Changes, frames: u64| {
            if expected.is_none() || checksums.is_none() {
                check_growth(&self.connection, size, pages, frames)?;
            }
            check_total(&self.connection, checksums.as_ref(), changes, pages, expected)
        };
        let changes = writer.commit(appended, pending.stage.pages(), pages, check)?;
        let shown = Shown { frame: writer.header().last, pages: changes.len() as u64 };
        self.published = Some(*writer.header());
        let wal = || Writeback::of(&beside(self.connection.path(), "-wal"));
        self.writeback.get_or_insert_with(wal).written(frame_offset(shown.frame.next(), size));
        if let Some(checksums) = &mut self.checksums {
            checksums.resize(pages);
            changes.into_iter().for_each(|(pgno, checksum)| checksums.set(pgno, Some(checksum)));
        }
        Ok(shown)
    }

    /// Fails unless the database sums up to `expected` as it is.
    pub fn check(&self, pages: u32, expected: Option<u64>) -> Result<()> {
        check_total(&self.connection, self.checksums.as_ref(), &Changes::new(), pages, expected)
    }

    /// What the pages sum up to, if that is known.
    pub fn checksums(&self) -> Option<&Checksums> {
        self.checksums.as_ref()
    }

    /// Sets what the pages sum up to.
    pub fn set_checksums(&mut self, checksums: Option<Checksums>) {
        self.checksums = checksums;
    }

    /// What the pages sum up to. Reads every page unless that is known; from then on another's
    /// write is noticed.
    pub fn read_checksums(&mut self, stop: &dyn Fn() -> bool) -> Result<&Checksums> {
        let size = self.page_size()?;
        match &mut self.checksums {
            Some(known) => Ok(known),
            unknown => {
                let (checksums, header) = read_checksums(&self.connection, size, stop)?;
                self.published = Some(header);
                Ok(unknown.insert(checksums))
            }
        }
    }

    /// The end of the WAL now.
    pub fn mark(&self) -> Result<Mark> {
        self.connection.pin()?;
        self.connection.unpin();
        let header = valid_state(&self.connection)?.header;
        Ok(Mark { salts: header.salts, last: header.last, checksum: header.frame_checksum })
    }

    /// Whether the database has another size than `pages` pages.
    pub fn changes_size(&self, pages: u32) -> Result<bool> {
        let now = store::pages(&self.connection, &valid_state(&self.connection)?, self.page_size()?)?;
        Ok(now != pages)
    }

    /// The last committed frame of the WAL.
    pub fn last_frame(&self) -> Result<FrameNo> {
        Ok(valid_state(&self.connection)?.header.last)
    }

    /// What is there now is what was applied last: from here on a write of somebody else's is noticed.
    pub fn take_as_published(&mut self) -> Result<()> {
        self.connection.pin()?;
        self.connection.unpin();
        self.published = Some(valid_state(&self.connection)?.header);
        Ok(())
    }

    /// Whether it carries the read-only mark.
    pub fn is_read_only(&self) -> Result<bool> {
        Ok(is_marked(&self.page_one()?))
    }

    /// Page 1 as the newest commit has it.
    pub fn page_one(&self) -> Result<Vec<u8>> {
        read_page(&self.connection, Pgno::ONE, self.page_size()?)
    }

    /// Whatever is there now is where the next commit goes on from.
    pub fn forget_published(&mut self) {
        self.published = None;
    }

    /// Checkpoints when the WAL has grown, and starts it anew if nobody reads from it. `let_go` has those of us let go of the WAL who
    /// hold it.
    pub fn keep_wal_short(&mut self, let_go: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let (frames, began) = (self.published.map_or(0, |header| header.last.0), Instant::now());
        let rested = self.checkpoint_again.is_none_or(|at| began >= at);
        // Past that size, what kept the last one from being complete may be over long before much more has come.
        let again = rested && frames >= self.checkpoint_frames && self.checkpoint_again.is_some();
        if frames < self.next_checkpoint && !again {
            return Ok(());
        }
        self.next_checkpoint = frames.saturating_add(self.checkpoint_frames / 4 + 1);
        self.write_again(&|| false)?;
        if self.checkpoint_and_restart(if rested { READERS_PATIENCE } else { Duration::ZERO }, let_go)? {
            (self.next_checkpoint, self.checkpoint_again) = (self.checkpoint_frames, None);
            self.checkpoint_pause = Duration::ZERO;
            if let Some(header) = &mut self.published {
                header.last = FrameNo::ZERO;
            }
        } else if rested {
            // A reader that stays for long costs less and less.
            self.checkpoint_pause =
                (self.checkpoint_pause * 2).max(began.elapsed() * CHECKPOINT_SHARE).min(LONGEST_PAUSE);
            self.checkpoint_again = Some(Instant::now() + self.checkpoint_pause);
        }
        Ok(())
    }

    /// Whether the WAL was started anew. Readers that come one after the other without a pause leave it alone a moment after a
    /// checkpoint was complete, since those that begin then need the database only; so that moment is waited for.
    fn checkpoint_and_restart(&mut self, patience: Duration, let_go: &mut dyn FnMut() -> Result<()>) -> Result<bool> {
        let mut deadline = None;
        loop {
            let done = self.connection.checkpoint().inspect_err(|_| self.unsynced = true)?;
            if done.is_some_and(|done| done.frames == done.backfilled) {
                let_go()?;
                if restart(&self.connection)? {
                    return Ok(true);
                }
            }
            if Instant::now() >= *deadline.get_or_insert_with(|| Instant::now() + patience) {
                return Ok(false);
            }
            std::thread::sleep(LOCK_POLL);
        }
    }

    /// Waits until all that was committed is durable.
    pub fn sync(&mut self, stop: &dyn Fn() -> bool) -> Result<()> {
        self.write_again(stop)?;
        self.connection.wal()?.sync().inspect_err(|_| self.unsynced = true)
    }

    /// Whoever wrote the WAL before had no sync of it fail.
    pub fn trust_syncs(&mut self) {
        self.unsynced = false;
    }

    /// Writes the WAL once more. Frames that are not what was written fit in again then, with whatever pages they hold.
    pub fn mend_wal(&mut self, stop: &dyn Fn() -> bool) -> Result<()> {
        let mut writer = begin(&self.connection, self.page_size()?, false, stop)?;
        match writer.write_again() {
            Err(error) if error.kind() == Kind::Diverged => log::warn!("{error}"),
            other => return other,
        }
        self.published = self.published.map(|_| *writer.header());
        Ok(())
    }

    /// Writes the WAL once more if a sync of it failed, or may have.
    fn write_again(&mut self, stop: &dyn Fn() -> bool) -> Result<()> {
        if self.unsynced {
            begin(&self.connection, self.page_size()?, false, stop)?.write_again()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Size of the database file in bytes.
    pub fn db_bytes(&self) -> u64 {
        self.connection.database().and_then(|file| file.size()).unwrap_or(0)
    }

    /// Size of the WAL file in bytes.
    pub fn wal_bytes(&self) -> u64 {
        self.connection.wal().and_then(|wal| wal.size()).unwrap_or(0)
    }

    /// Takes the read-only mark away, as a commit of its own, and begins a history of its own.
    ///
    /// SQLite knows by the schema cookie alone that the schema it has in memory is old. The old primary may change its schema as
    /// often as this database will; connections that have it open would take either schema for the other's once it follows. So
    /// the cookie goes where nobody's counting leads.
    pub fn make_writable(&mut self, stop: &dyn Fn() -> bool) -> Result<()> {
        let size = self.page_size()?;
        let mut writer = begin(&self.connection, size, false, stop)?;
        let mut page = read_page(&self.connection, Pgno::ONE, size)?;
        mark(&mut page, false);
        let [a, b, c, _] = random_bytes();
        move_schema_cookie(&mut page, u32::from_be_bytes([0, a, b, c]) | 1 << 24);
        let pages = store::pages(&self.connection, &valid_state(&self.connection)?, size)?;
        let appended = writer.start()?;
        writer.commit(appended, [(Pgno::ONE, page.as_slice())].into_iter(), pages, |_, _| Ok(())).map(drop)
    }

    /// Fails if somebody else has written since a commit was last applied.
    pub fn check_unwritten(&self) -> Result<()> {
        check_undisturbed(&self.connection, &self.published, &valid_state(&self.connection)?.header)
    }
}

impl Drop for Database {
    /// SQLite keeps the locks of a connection that closes if the process has others to the same
    /// database.
    fn drop(&mut self) {
        self.abandon();
    }
}

/// No other connection may write to a replica. Restarting its WAL or rebuilding its wal-index is no
/// writing.
fn check_undisturbed(connection: &Connection, published: &Option<Header>, now: &Header) -> Result<()> {
    let Some(before) = published else { return Ok(()) };
    let same = now.last == before.last && now.frame_checksum == before.frame_checksum;
    let restarted = now.last == FrameNo::ZERO && now.change == before.change;
    if same || restarted { Ok(()) } else { Err(disturbed(connection)) }
}

/// Takes the write lock, or takes it over if it was kept. Others hold it for moments only: a
/// checkpoint that restarts the WAL, or one of us.
fn begin<'c>(
    connection: &'c Connection,
    size: PageSize,
    is_kept: bool,
    stop: &dyn Fn() -> bool,
) -> Result<WalWriter<'c>> {
    // Frames for a WAL that is not there any more would be announced in a wal-index that may be.
    connection.check_in_place()?;
    if is_kept {
        return WalWriter::resume(connection, size);
    }
    let deadline = Instant::now() + limits::LOCK_PATIENCE;
    loop {
        if let Some(writer) = WalWriter::try_begin(connection, size)? {
            return Ok(writer);
        }
        if stop() || Instant::now() >= deadline {
            let name = connection.path().display();
            return Err(Error::new(
                Kind::Busy,
                format!(
                    "litestream: {name} is locked by another writer or checkpoint; end its transaction, or the readers \
                     that the checkpoint waits for"
                ),
            ));
        }
        std::thread::sleep(LOCK_POLL);
    }
}

fn disturbed(connection: &Connection) -> Error {
    let name = connection.path().display();
    Error::new(Kind::Diverged, format!("litestream: {name} was written to by somebody else while it is a replica"))
}
