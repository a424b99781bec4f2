//! A recorded WAL, taken apart so that it can be handed over commit by commit or frame by frame.

use std::ops::Range;
use std::path::Path;

use litestream::format::wal::{Chain, FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, Header};

use super::Result;

/// The bytes of a WAL that was written from its start, without a restart.
pub struct Recording {
    /// The whole file.
    pub bytes: Vec<u8>,
    header: Header,
    /// Every frame: page number, commit field, and where the frame lies in the file.
    frames: Vec<(u32, u32, Range<usize>)>,
}

impl Recording {
    /// Reads a WAL file, all of whose frames must be valid.
    pub fn read(path: &Path) -> Result<Recording> {
        let bytes = std::fs::read(path)?;
        let header = Header::decode(bytes.get(..HEADER_SIZE).ok_or("a WAL without a header")?)?;
        let size = FRAME_HEADER_SIZE + header.page_size.bytes();
        let mut chain = Chain::start(&header);
        let mut frames = Vec::new();
        for begin in (HEADER_SIZE..bytes.len()).step_by(size) {
            let frame = bytes.get(begin..begin + size).ok_or("a WAL that ends within a frame")?;
            let (head, page) = frame.split_at(FRAME_HEADER_SIZE);
            if !chain.accept(head, page) {
                return Err(format!("the frame at {begin} is not valid").into());
            }
            let FrameHeader { pgno, commit, .. } = FrameHeader::decode(head)?;
            frames.push((pgno, commit, begin..begin + size));
        }
        Ok(Recording { bytes, header, frames })
    }

    /// Every frame: page number, commit field, page.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = (u32, u32, &[u8])> {
        self.frames.iter().map(|(pgno, commit, range)| (*pgno, *commit, self.page(range)))
    }

    /// Where each commit lies in the file; the first one has the WAL header before it.
    pub fn commits(&self) -> Vec<Range<usize>> {
        let mut begin = 0;
        let ends = self.frames.iter().filter(|(_, commit, _)| *commit > 0).map(|(_, _, range)| range.end);
        ends.map(|end| std::mem::replace(&mut begin, end)..end).collect()
    }

    /// Each commit as a WAL of its own.
    pub fn separate_commits(&self) -> Vec<Vec<u8>> {
        let mut wals = Vec::new();
        let mut one = self.header.encode().to_vec();
        let mut chain = Chain::start(&self.header);
        for (pgno, commit, page) in self.frames() {
            chain.append(&mut one, pgno, commit, page);
            if commit > 0 {
                wals.push(std::mem::replace(&mut one, self.header.encode().to_vec()));
                chain = Chain::start(&self.header);
            }
        }
        wals
    }

    fn page(&self, frame: &Range<usize>) -> &[u8] {
        &self.bytes[frame.start + FRAME_HEADER_SIZE..frame.end]
    }
}
