//! Reading the pages of a database, wherever their newest images are.

use bytes::Bytes;

use super::core::{Core, News};
use crate::base::{FrameNo, Pgno, Result, limits, unix_ms};
use crate::format::checksum::PageChecksum;
use crate::format::record;
use crate::format::wal::{FRAME_HEADER_SIZE, frame_offset, frame_size};
use crate::store::{newest_frame, page_of};

/// What [`Core::reading`] knows of where pages are: frames up to the floor are in the database, and may be gone from the WAL.
#[derive(Clone, Copy)]
pub(super) struct Places {
    floor: u32,
}

/// Where the newest image of a page is.
#[derive(Clone, Copy)]
enum Place {
    Log(FrameNo),
    Database(Pgno),
}

impl Core {
    /// Runs `read` with a read transaction that keeps every page where [`Core::read_pages`] finds it. What was committed up
    /// to then is given to `seen` first.
    pub fn reading<T>(
        &mut self,
        mut seen: impl FnMut(&mut Core, News) -> Result<()>,
        read: impl FnOnce(&mut Core, Places) -> Result<T>,
    ) -> Result<T> {
        self.reader.pin()?;
        let done = self.look().and_then(|state| {
            if let Some(news) = self.take_in(&state)? {
                seen(self, news)?;
            }
            // Looked at after the transaction began, and so true for as long as it lasts.
            read(self, Places { floor: state.backfilled })
        });
        self.reader.unpin();
        done
    }

    /// Records for what came new: its pages, each once and in its newest version, and a commit. None if that is more than
    /// `limit` bytes, not all of it is in the WAL, or it is not known what the database sums up to.
    pub fn records(&mut self, news: &News, limit: usize) -> Result<Option<(Bytes, u64)>> {
        let Some(pages) = self.newest_in(news, limit / self.page_size().bytes())? else { return Ok(None) };
        let mut out = Vec::with_capacity(pages.len() * (self.page_size().bytes() + 4) + 256);
        for chunk in pages.chunks(record::most_pages(self.page_size())) {
            // Nobody restarts the WAL before what is in it was seen, so all of it is there from the first frame on.
            self.pages_record(chunk, Places { floor: 0 }, &mut out)?;
        }
        let complete = self.commit_record(&mut out);
        Ok(complete.then(|| (Bytes::from(out), pages.len() as u64)))
    }

    /// Appends a pages record with the newest image of each page.
    pub fn pages_record(&mut self, pages: &[Pgno], places: Places, out: &mut Vec<u8>) -> Result<()> {
        record::start_pages(u32::try_from(pages.len()).unwrap_or(u32::MAX), self.page_size(), out);
        for pgno in pages {
            out.extend_from_slice(&pgno.get().to_be_bytes());
        }
        self.read_pages(pages, places, out)
    }

    /// Appends the commit record for what has been seen, if it is known what the database sums up to. Whether it is.
    pub fn commit_record(&self, out: &mut Vec<u8>) -> bool {
        let Some(checksum) = self.map.total() else { return false };
        let commit =
            record::Commit { pages: self.seen().pages, checksum, time: self.origin_time.unwrap_or_else(unix_ms) };
        commit.encode(self.position(), out);
        true
    }

    /// Reads pages that were not read since they changed, up to `most`, for their checksums.
    pub fn read_unread(&mut self, places: Places, most: usize) -> Result<()> {
        let mut pages = self.map.take_unread(most);
        pages.sort_unstable();
        for chunk in pages.chunks(record::most_pages(self.page_size())) {
            let read = self.read_pages(chunk, places, &mut Vec::new());
            if read.is_err() {
                self.map.put_back(&pages);
                return read;
            }
        }
        Ok(())
    }

    /// Bytes of the WAL from just after frame `from` to the end of frame `to`, as they are in the file; from the very start
    /// when `from` is frame 0.
    pub fn raw_frames(&self, from: FrameNo, to: FrameNo) -> Result<Vec<u8>> {
        let start = if from == FrameNo::ZERO { 0 } else { frame_offset(from.next(), self.page_size()) };
        let end = frame_offset(to.next(), self.page_size());
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
        for (i, chunk) in bytes.chunks_mut(limits::CHUNK_BYTES).enumerate() {
            self.watcher.wal()?.read(start + (i * limits::CHUNK_BYTES) as u64, chunk)?;
        }
        Ok(bytes)
    }

    /// The frame of the WAL that has the newest image of a page, unless the database file has it.
    pub fn log_frame(&self, pgno: Pgno, places: Places) -> Result<Option<FrameNo>> {
        let newest = newest_frame(&self.watcher.wal_index()?, pgno, self.seen().mark.last)?;
        Ok(newest.filter(|frame| frame.0 > places.floor))
    }

    /// Appends the images of `pages`, as of what has been seen, and notes what they sum up to.
    fn read_pages(&mut self, pages: &[Pgno], places: Places, out: &mut Vec<u8>) -> Result<()> {
        let (size, start) = (self.page_size().bytes(), out.len());
        self.read_images(pages, places, out)?;
        for (pgno, image) in pages.iter().zip(out.get(start..).unwrap_or_default().chunks_exact(size)) {
            self.note_read(*pgno, PageChecksum::of(*pgno, image));
        }
        Ok(())
    }

    /// Appends the images of `pages`, as of what has been seen.
    pub(super) fn read_images(&self, pages: &[Pgno], places: Places, out: &mut Vec<u8>) -> Result<()> {
        let found: Result<Vec<Place>> = pages.iter().map(|pgno| self.place(*pgno, places)).collect();
        let (found, size) = (found?, self.page_size().bytes());
        let mut rest = found.as_slice();
        while let Some(first) = rest.first().copied() {
            let run = (1..rest.len()).take_while(|i| first.is_followed(*i as u32, rest)).count() + 1;
            match first {
                Place::Log(frame) => self.read_frames(frame, run, out)?,
                Place::Database(pgno) => {
                    let start = out.len();
                    out.resize(start + run * size, 0);
                    self.reader.database()?.read(pgno.file_offset(self.page_size()), &mut out[start..])?;
                }
            }
            rest = rest.get(run..).unwrap_or_default();
        }
        Ok(())
    }

    fn note_read(&mut self, pgno: Pgno, checksum: PageChecksum) {
        let now = self.lsn();
        if self.map.checksum(pgno).is_some_and(|known| known != checksum) {
            let name = self.reader.path().display();
            log::warn!(
                "{name}: page {} has changed without a commit; is something else writing to the file?",
                pgno.get()
            );
            self.unexplained += 1;
            self.map.read_unwatched(pgno, checksum, now);
        }
        self.map.read(pgno, checksum);
    }

    /// Where the newest image of a page is.
    fn place(&self, pgno: Pgno, places: Places) -> Result<Place> {
        Ok(self.log_frame(pgno, places)?.map_or(Place::Database(pgno), Place::Log))
    }

    fn read_frames(&self, first: FrameNo, count: usize, out: &mut Vec<u8>) -> Result<()> {
        let size = frame_size(self.page_size()) as usize;
        let mut frames = vec![0; count * size];
        self.watcher.wal()?.read(frame_offset(first, self.page_size()), &mut frames)?;
        for frame in frames.chunks_exact(size) {
            out.extend_from_slice(frame.get(FRAME_HEADER_SIZE..).unwrap_or_default());
        }
        Ok(())
    }

    /// The pages that came new, each where its newest frame is, in the order of frames. None if they are more than `most`, or
    /// not all of them are in the WAL.
    fn newest_in(&self, news: &News, most: usize) -> Result<Option<Vec<Pgno>>> {
        if news.has_unwritten || news.is_partial {
            return Ok(None);
        }
        let index = self.watcher.wal_index()?;
        let lock_page = self.page_size().lock_page();
        let mut pages = Vec::new();
        for frame in (news.from.next().0..=news.to.0).map(FrameNo) {
            let pgno = page_of(&index, frame)?;
            if pgno == lock_page
                || pgno.get() > self.seen().pages
                || newest_frame(&index, pgno, news.to)? != Some(frame)
            {
                continue;
            }
            if pages.len() == most {
                return Ok(None);
            }
            pages.push(pgno);
        }
        Ok(Some(pages))
    }
}

impl Places {
    /// Where pages are while the WAL cannot be restarted and all up to frame `floor` is in the database.
    pub fn beyond(floor: u32) -> Places {
        Places { floor }
    }
}

impl Place {
    /// Whether what is `i` after the first of `places` lies `i` after this one.
    fn is_followed(&self, i: u32, places: &[Place]) -> bool {
        match (self, places.get(i as usize)) {
            (Place::Log(first), Some(Place::Log(frame))) => frame.0 == first.0 + i,
            (Place::Database(first), Some(Place::Database(pgno))) => pgno.get() == first.get() + i,
            _ => false,
        }
    }
}
