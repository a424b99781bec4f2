//! A database that commits are applied to, through its WAL.

use std::ffi::CStr;
use std::path::Path;
use std::time::Instant;

use super::stage::{Stage, check_page_one, is_marked, mark};
use crate::base::{Error, FrameNo, Kind, PageSize, Pgno, Result, limits};
use crate::format::walindex::Header;
use crate::sqlite::{Connection, OpenMode};
use crate::store::{Appended, WalWriter, read_page, restart, valid_state};

/// Bytes of the database header (<https://www.sqlite.org/fileformat2.html#the_database_header>).
const DATABASE_HEADER: usize = 100;

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
    /// The header that was published last, to notice if somebody else writes.
    published: Option<Header>,
}

/// The pages of one commit on their way into a [`Database`]: in memory, and what does not fit there in the WAL, unseen.
pub(super) struct Pending {
    stage: Stage,
    appended: Option<Appended>,
}

impl Pending {
    /// An empty commit. `read_only` says whether page 1 gets the mark.
    pub fn new(size: PageSize, read_only: bool) -> Pending {
        Pending { stage: Stage::new(size, read_only), appended: None }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.stage.len() == 0 && self.appended.is_none()
    }

    /// Whether it has come to need more memory than a commit should.
    pub fn is_large(&self) -> bool {
        self.appended.is_some() || self.stage.bytes() >= limits::STAGE_BYTES / 2
    }

    /// Pages in memory.
    pub fn len(&self) -> usize {
        self.stage.len()
    }
}

impl Database {
    /// Opens `path` through the VFS named `vfs`; a missing file is made, empty.
    pub fn open(path: &Path, vfs: &CStr, checkpoint_frames: u32) -> Result<Database> {
        let connection = Connection::open(path, vfs, OpenMode::Create)?;
        Ok(Database { connection, checkpoint_frames, next_checkpoint: checkpoint_frames, published: None })
    }

    /// What the file holds.
    pub fn content(&self) -> Result<Content> {
        let file = self.connection.database()?;
        let mut header = [0; DATABASE_HEADER];
        file.read(0, &mut header)?;
        Ok(if header == [0; DATABASE_HEADER] { Content::Nothing } else { Content::Database })
    }

    /// The journal mode, such as `wal`.
    pub fn journal_mode(&self) -> Result<String> {
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
        self.connection.pin()?;
        self.connection.unpin();
        let mut header = [0; DATABASE_HEADER];
        self.connection.database()?.read(0, &mut header)?;
        let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, high, low, ..] = header;
        PageSize::from_u16(u16::from_be_bytes([high, low]))
    }

    /// Adds a page to a commit. `stop` is asked while waiting for a lock.
    pub fn put(&mut self, pending: &mut Pending, pgno: Pgno, image: &[u8], stop: &dyn Fn() -> bool) -> Result<()> {
        if pgno == Pgno::ONE {
            check_page_one(image, pending.stage.page_size())?;
        }
        pending.stage.put(pgno, image);
        if pending.stage.bytes() < limits::STAGE_BYTES {
            return Ok(());
        }
        let writer = begin(&self.connection, pending.stage.page_size(), stop)?;
        self.check_undisturbed(writer.header())?;
        let appended = match &mut pending.appended {
            Some(appended) if writer.follows(appended) => appended,
            Some(_) => return Err(disturbed(&self.connection)),
            none => none.insert(writer.start()?),
        };
        writer.append(appended, pending.stage.pages())?;
        pending.stage.clear();
        Ok(())
    }

    /// Ends a commit that leads to `pages` pages: all readers that start from now on see it. Returns its last frame.
    pub fn commit(&mut self, mut pending: Pending, pages: u32, stop: &dyn Fn() -> bool) -> Result<FrameNo> {
        let size = pending.stage.page_size();
        pending.stage.cut(pages);
        if pending.stage.len() == 0 {
            // The commit needs a frame to be in, and page 1 is in every database.
            pending.stage.put(Pgno::ONE, &read_page(&self.connection, Pgno::ONE, size)?);
        }
        let mut writer = begin(&self.connection, size, stop)?;
        self.check_undisturbed(writer.header())?;
        let appended = match pending.appended.take() {
            Some(appended) if writer.follows(&appended) => appended,
            Some(_) => return Err(disturbed(&self.connection)),
            None => writer.start()?,
        };
        let frame = writer.commit(appended, pending.stage.pages(), pages)?;
        self.published = Some(*writer.header());
        Ok(frame)
    }

    /// Whether the database has another size than `pages` pages.
    pub fn changes_size(&self, pages: u32) -> Result<bool> {
        let header = valid_state(&self.connection)?.header;
        let now = match header.last {
            FrameNo::ZERO => self.pages_in_file(self.page_size()?)?,
            _ => header.pages,
        };
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
        Ok(is_marked(&read_page(&self.connection, Pgno::ONE, self.page_size()?)?))
    }

    /// Whatever is there now is where the next commit goes on from.
    pub fn forget_published(&mut self) {
        self.published = None;
    }

    /// Checkpoints when the WAL has grown, and starts it anew if nobody reads from it. Waits for no reader.
    pub fn keep_wal_short(&mut self) -> Result<()> {
        let frames = self.published.map_or(0, |header| header.last.0);
        if frames < self.next_checkpoint {
            return Ok(());
        }
        self.next_checkpoint = frames.saturating_add(self.checkpoint_frames / 4 + 1);
        let done = self.connection.checkpoint()?;
        if done.is_some_and(|done| done.frames == done.backfilled) && restart(&self.connection)? {
            self.next_checkpoint = self.checkpoint_frames;
            if let Some(header) = &mut self.published {
                header.last = FrameNo::ZERO;
            }
        }
        Ok(())
    }

    /// Waits until all that was committed is durable.
    pub fn sync(&self) -> Result<()> {
        self.connection.wal()?.sync()
    }

    /// Size of the WAL file in bytes.
    pub fn wal_bytes(&self) -> u64 {
        self.connection.wal().and_then(|wal| wal.size()).unwrap_or(0)
    }

    /// Takes the read-only mark away, as a commit of its own.
    pub fn make_writable(&mut self, stop: &dyn Fn() -> bool) -> Result<FrameNo> {
        let size = self.page_size()?;
        let mut page = read_page(&self.connection, Pgno::ONE, size)?;
        mark(&mut page, false);
        let mut writer = begin(&self.connection, size, stop)?;
        let pages = match writer.header().last {
            FrameNo::ZERO => self.pages_in_file(size)?,
            _ => writer.header().pages,
        };
        let appended = writer.start()?;
        writer.commit(appended, [(Pgno::ONE, page.as_slice())].into_iter(), pages)
    }

    /// Database size in pages as the file has it.
    fn pages_in_file(&self, size: PageSize) -> Result<u32> {
        let bytes = self.connection.database()?.size()?;
        u32::try_from(bytes / u64::from(size.get()))
            .map_err(|_| Error::corrupt(format!("litestream: a database of {bytes} bytes has too many pages")))
    }

    /// Nobody else may write to a replica. Restarting its WAL or rebuilding its wal-index is no writing.
    fn check_undisturbed(&self, now: &Header) -> Result<()> {
        let Some(before) = &self.published else { return Ok(()) };
        let same = now.last == before.last && now.frame_checksum == before.frame_checksum;
        let restarted = now.last == FrameNo::ZERO && now.change == before.change;
        if same || restarted { Ok(()) } else { Err(disturbed(&self.connection)) }
    }
}

/// Takes the write lock. Others hold it for moments only: a checkpoint that restarts the WAL, or one of us.
fn begin<'c>(connection: &'c Connection, size: PageSize, stop: &dyn Fn() -> bool) -> Result<WalWriter<'c>> {
    let deadline = Instant::now() + limits::LOCK_PATIENCE;
    loop {
        if let Some(writer) = WalWriter::try_begin(connection, size)? {
            return Ok(writer);
        }
        if stop() || Instant::now() >= deadline {
            let name = connection.path().display();
            return Err(Error::new(
                Kind::Busy,
                format!("litestream: {name} is locked by another writer; end its transaction"),
            ));
        }
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
}

fn disturbed(connection: &Connection) -> Error {
    let name = connection.path().display();
    Error::new(Kind::Diverged, format!("litestream: {name} was written to by somebody else while it is a replica"))
}
