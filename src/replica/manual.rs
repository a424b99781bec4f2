//! Applies frames that came by any other road than a stream.

use std::collections::HashMap;
use std::ffi::CStr;
use std::path::Path;

use super::database::{Content, Database, Shown};
use super::pending::Pending;
use crate::base::{Error, FrameNo, Kind, PageSize, Pgno, Result, limits};
use crate::format::lz4;
use crate::format::wal::{self, Chain, FRAME_HEADER_SIZE, FrameHeader};

/// A database that one connection applies frames to, and the frames staged for it.
pub struct ManualApply {
    database: Database,
    size: PageSize,
    staged: Pending,
    frames: u32,
}

/// What of a WAL can be applied.
struct Committed {
    /// How many commits.
    commits: u64,
    /// How many frames up to the end of the last of them, and the database size in pages it leads to.
    last: Option<(usize, u32)>,
    /// Of each page in them, the frame that has it last, from 0.
    newest: HashMap<Pgno, usize>,
}

impl ManualApply {
    /// Opens the database at `path` through the VFS named `vfs`. It must exist and be in WAL mode.
    pub fn open(path: &Path, vfs: &CStr) -> Result<ManualApply> {
        let database = Database::open(path, vfs, limits::REPLICA_CHECKPOINT_FRAMES)?;
        let name = path.display();
        if database.content()? == Content::Nothing {
            return Err(Error::usage(format!(
                "litestream: {name} is empty; start from a copy of the database whose frames are to be applied"
            )));
        }
        let mode = database.journal_mode()?;
        if mode != "wal" {
            return Err(Error::usage(format!(
                "litestream: {name} is not in WAL mode (journal_mode={mode}); run PRAGMA journal_mode=WAL first"
            )));
        }
        database.require_alone()?;
        let size = database.page_size()?;
        Ok(ManualApply { database, size, staged: Pending::new(size, true), frames: 0 })
    }

    /// Stages one frame; with `commit` greater than 0 (the database size in pages it leads to) applies all staged ones.
    /// Returns the number the frame has in the WAL, or will have if nobody else writes.
    pub fn frame(&mut self, pgno: i64, commit: i64, page: &[u8]) -> Result<u32> {
        let frame = self.check(pgno, commit, page);
        let applied = frame.and_then(|(pgno, commit)| self.take(pgno, commit, page));
        if applied.is_err() {
            self.forget();
        }
        applied
    }

    /// Applies the commits of a WAL, raw or in an LZ4 frame, all in one step. Returns how many there were.
    pub fn log(&mut self, bytes: &[u8]) -> Result<u64> {
        let unpacked;
        let bytes = if lz4::is_frame(bytes) {
            unpacked =
                lz4::decompress(bytes, limits::MAX_SEGMENT_BYTES).map_err(|e| e.within("litestream_apply_wal"))?;
            &unpacked
        } else {
            bytes
        };
        let applied = self.apply_log(bytes);
        self.forget();
        applied
    }

    /// Forgets what is staged.
    fn forget(&mut self) {
        self.staged = Pending::new(self.size, true);
        self.database.abandon();
        self.frames = 0;
    }

    fn apply_log(&mut self, bytes: &[u8]) -> Result<u64> {
        let (header, frames) = bytes.split_at_checked(wal::HEADER_SIZE).ok_or_else(|| {
            Error::corrupt(format!(
                "litestream_apply_wal: {} bytes are no WAL; its header alone is 32 bytes",
                bytes.len()
            ))
        })?;
        let header = wal::Header::decode(header).map_err(|e| e.within("litestream_apply_wal"))?;
        self.check_size(header.page_size.bytes(), "litestream_apply_wal: the WAL has pages")?;
        self.forget();
        let frame_size = wal::frame_size(self.size) as usize;
        let committed = self.check_log(&header, frames.chunks_exact(frame_size))?;
        let Some((count, pages)) = committed.last else { return Ok(0) };
        for (i, frame) in frames.chunks_exact(frame_size).take(count).enumerate() {
            let Some((frame, page)) = frame.split_at_checked(FRAME_HEADER_SIZE) else { break };
            let pgno = Pgno::new(FrameHeader::decode(frame)?.pgno)?;
            if committed.newest.get(&pgno) == Some(&i) {
                self.database.put(&mut self.staged, pgno, page, &|| false)?;
            }
        }
        self.apply(pages)?;
        Ok(committed.commits)
    }

    /// Looks through the frames of a WAL before any of them is applied. As for SQLite, it ends where salts or checksums stop
    /// to fit.
    fn check_log<'a>(&self, header: &wal::Header, frames: impl Iterator<Item = &'a [u8]>) -> Result<Committed> {
        let mut chain = Chain::start(header);
        let mut committed = Committed { commits: 0, last: None, newest: HashMap::new() };
        let mut since = Vec::new();
        for (i, frame) in frames.enumerate() {
            let Some((frame, page)) = frame.split_at_checked(FRAME_HEADER_SIZE) else { break };
            if !chain.accept(frame, page) {
                break;
            }
            let frame = FrameHeader::decode(frame)?;
            let (pgno, commit) = self.check_numbers(frame.pgno, frame.commit)?;
            since.push((pgno, i));
            if commit > 0 {
                committed.commits += 1;
                committed.last = Some((i + 1, commit));
                committed.newest.extend(since.drain(..));
            }
        }
        Ok(committed)
    }

    fn take(&mut self, pgno: Pgno, commit: u32, page: &[u8]) -> Result<u32> {
        self.database.put(&mut self.staged, pgno, page, &|| false)?;
        if commit == 0 {
            self.frames += 1;
            return Ok(self.database.last_frame()?.0.saturating_add(self.frames));
        }
        self.apply(commit)
    }

    /// Commits what is staged. Returns its last frame.
    fn apply(&mut self, pages: u32) -> Result<u32> {
        let staged = std::mem::replace(&mut self.staged, Pending::new(self.size, true));
        self.frames = 0;
        self.database.forget_published();
        let Shown { frame: FrameNo(frame), .. } = self.database.commit(staged, pages, None, &|| false)?;
        self.database.keep_wal_short(&mut || Ok(()))?;
        Ok(frame)
    }

    fn check(&self, pgno: i64, commit: i64, page: &[u8]) -> Result<(Pgno, u32)> {
        self.check_size(page.len(), "litestream_apply_frame: the page is one")?;
        let number = |what: &str, n: i64| {
            u32::try_from(n).map_err(|_| {
                Error::new(Kind::Mismatch, format!("litestream_apply_frame: {what} {n}, expected 0 to 4294967295"))
            })
        };
        self.check_numbers(number("page number", pgno)?, number("commit size", commit)?)
    }

    fn check_size(&self, found: usize, what: &str) -> Result<()> {
        if found == self.size.bytes() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Mismatch,
            format!("{what} of {found} bytes, expected {}, the page size of this database", self.size.get()),
        ))
    }

    fn check_numbers(&self, pgno: u32, commit: u32) -> Result<(Pgno, u32)> {
        let within = "litestream: frame to be applied";
        let number = Pgno::new(pgno).map_err(|e| e.within(within))?;
        if number == self.size.lock_page() {
            return Err(Error::corrupt(format!("{within}: page {pgno} is the lock-byte page, which holds nothing")));
        }
        if commit > 0 && pgno > commit {
            return Err(Error::corrupt(format!("{within}: page {pgno} is beyond the commit size of {commit} pages")));
        }
        Ok((number, commit))
    }
}
