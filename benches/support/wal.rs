//! A recorded WAL, taken apart just far enough to hand it over commit by commit and frame by frame.

use std::ops::Range;
use std::path::Path;

use super::Result;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// The bytes of a WAL that was written from its start, without a restart.
pub struct Recording {
    /// The whole file.
    pub bytes: Vec<u8>,
    page_size: usize,
}

impl Recording {
    /// Reads a WAL file.
    pub fn read(path: &Path) -> Result<Recording> {
        let bytes = std::fs::read(path)?;
        let page_size = bytes.get(8..12).map(big_endian).ok_or("a WAL without a header")? as usize;
        let recording = Recording { bytes, page_size };
        match recording.bytes.len().checked_sub(HEADER) {
            Some(frames) if frames.is_multiple_of(FRAME_HEADER + page_size) && page_size > 0 => Ok(recording),
            _ => Err("a WAL that ends within a frame".into()),
        }
    }

    /// Every frame: page number, commit field, page.
    pub fn frames(&self) -> impl Iterator<Item = (u32, u32, &[u8])> {
        self.frame_ranges().map(|range| {
            let (header, page) = self.bytes[range].split_at(FRAME_HEADER);
            (big_endian(&header[..4]), big_endian(&header[4..8]), page)
        })
    }

    /// Where each commit lies in the file; the first one has the WAL header before it.
    pub fn commits(&self) -> Vec<Range<usize>> {
        let mut commits = Vec::new();
        let mut begin = 0;
        for ((_, commit, _), range) in self.frames().zip(self.frame_ranges()) {
            if commit != 0 {
                commits.push(begin..range.end);
                begin = range.end;
            }
        }
        commits
    }

    fn frame_ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let size = FRAME_HEADER + self.page_size;
        (HEADER..self.bytes.len()).step_by(size).map(move |begin| begin..begin + size)
    }
}

fn big_endian(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte))
}
