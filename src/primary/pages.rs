//! Reading the pages of a database, wherever their newest images are.

use std::collections::HashSet;

use bytes::Bytes;

use super::core::{Core, News};
use crate::base::{Error, FrameNo, Kind, Pgno, Result, limits};
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
        self.check_not_ended()?;
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
        let Some(newest) = self.newest_in(news, limit / self.page_size().bytes())? else { return Ok(None) };
        let mut out = Vec::with_capacity(newest.len() * (self.page_size().bytes() + 4) + 256);
        for chunk in newest.chunks(record::most_pages(self.page_size())) {
            // Nobody restarts the WAL before what is in it was seen, so all of it is there.
            let (pages, found): (Vec<Pgno>, Vec<Place>) =
                chunk.iter().map(|(pgno, frame)| (*pgno, Place::Log(*frame))).unzip();
            self.found_record(&pages, &found, &mut out)?;
        }
        let complete = self.commit_record(&mut out);
        Ok(complete.then(|| (Bytes::from(out), newest.len() as u64)))
    }

    /// Appends a pages record with the newest image of each page.
    pub fn pages_record(&mut self, pages: &[Pgno], places: Places, out: &mut Vec<u8>) -> Result<()> {
        let found = self.find(pages, places)?;
        self.found_record(pages, &found, out)
    }

    fn found_record(&mut self, pages: &[Pgno], found: &[Place], out: &mut Vec<u8>) -> Result<()> {
        record::start_pages(u32::try_from(pages.len()).unwrap_or(u32::MAX), self.page_size(), out);
        for pgno in pages {
            out.extend_from_slice(&pgno.get().to_be_bytes());
        }
        self.read_pages(pages, found, out)
    }

    /// Appends the commit record for what has been seen, if it is known what the database sums up to. Whether it is.
    pub fn commit_record(&self, out: &mut Vec<u8>) -> bool {
        let Some(checksum) = self.map.total() else { return false };
        // What was read for it was read later, and may have taken long: it is as old as the look
        // that found it.
        let time = self.origin_time.unwrap_or(self.looked);
        let commit = record::Commit { pages: self.seen().pages, checksum, time };
        commit.encode(self.position(), out);
        true
    }

    /// Reads pages that were not read since they changed, up to `most`, for their checksums.
    pub fn read_unread(&mut self, places: Places, most: usize) -> Result<()> {
        let mut pages = self.map.take_unread(most);
        pages.sort_unstable();
        for chunk in pages.chunks(record::most_pages(self.page_size())) {
            let read = self.find(chunk, places).and_then(|found| self.read_pages(chunk, &found, &mut Vec::new()));
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

    /// Appends the images of `pages`, as of what has been seen.
    pub(super) fn read_images(&self, pages: &[Pgno], places: Places, out: &mut Vec<u8>) -> Result<()> {
        self.read_places(&self.find(pages, places)?, out)
    }

    /// Appends the images of `pages`, which are where they were `found`, and notes what they sum up to.
    fn read_pages(&mut self, pages: &[Pgno], found: &[Place], out: &mut Vec<u8>) -> Result<()> {
        let (size, start) = (self.page_size().bytes(), out.len());
        self.read_places(found, out)?;
        for (pgno, image) in pages.iter().zip(out.get(start..).unwrap_or_default().chunks_exact(size)) {
            self.note_read(*pgno, PageChecksum::of(*pgno, image))?;
        }
        Ok(())
    }

    fn read_places(&self, found: &[Place], out: &mut Vec<u8>) -> Result<()> {
        let (mut rest, size) = (found, self.page_size().bytes());
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

    /// A page that has changed without a commit is sent to no one: nothing says that the rest of
    /// the file is what it was.
    fn note_read(&mut self, pgno: Pgno, checksum: PageChecksum) -> Result<()> {
        if self.map.checksum(pgno).is_some_and(|known| known != checksum) {
            self.unexplained += 1;
            self.overwritten.get_or_insert(pgno);
            return self.check_overwritten();
        }
        self.map.read(pgno, checksum);
        Ok(())
    }

    /// Fails if a page was found to have changed without a commit.
    pub fn check_overwritten(&self) -> Result<()> {
        let Some(pgno) = self.overwritten else { return Ok(()) };
        let (name, pgno) = (self.reader.path().display(), pgno.get());
        Err(Error::new(
            Kind::Refused,
            format!(
                "litestream: {name}: page {pgno} has changed without a commit: the file was written to by a program other \
                 than SQLite, or its disk fails; call litestream_stop(), run PRAGMA integrity_check, and serve it again"
            ),
        ))
    }

    /// Where the newest image of each page is, as of what has been seen.
    fn find(&self, pages: &[Pgno], places: Places) -> Result<Vec<Place>> {
        let place = |pgno: &Pgno| Ok(self.log_frame(*pgno, places)?.map_or(Place::Database(*pgno), Place::Log));
        pages.iter().map(place).collect()
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

    /// The pages that came new and the newest frame of each, in the order of frames. None if they are more than `most`, or not all of
    /// them are in the WAL.
    ///
    /// The frames are gone through from the last one on: to ask the wal-index for the newest of a page means to go
    /// through all of its frames, and a page that is in each commit has a thousand.
    fn newest_in(&self, news: &News, most: usize) -> Result<Option<Vec<(Pgno, FrameNo)>>> {
        if news.has_unwritten || news.is_partial {
            return Ok(None);
        }
        let index = self.watcher.wal_index()?;
        let lock_page = self.page_size().lock_page();
        let (mut newest, mut had) = (Vec::new(), HashSet::new());
        for frame in (news.from.next().0..=news.to.0).rev().map(FrameNo) {
            let pgno = page_of(&index, frame)?;
            if pgno == lock_page || pgno.get() > self.seen().pages || !had.insert(pgno) {
                continue;
            }
            if newest.len() == most {
                return Ok(None);
            }
            newest.push((pgno, frame));
        }
        newest.reverse();
        Ok(Some(newest))
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
