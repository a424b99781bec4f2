//! A recorded WAL, taken apart so that it can be handed over commit by commit or frame by frame.
//!
//! This does not use the library's own codec: the library brings the SQLite that its build needs, and one program cannot
//! be linked with two (see `sqlite3ext-sys` and `libsqlite3-sys`).

use std::ops::Range;
use std::path::Path;

use super::Result;

/// Sizes in bytes, from <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.
const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// In a WAL header: page size, and checksum of what is before it.
const AT_PAGE_SIZE: usize = 8;
const AT_CHECKSUM: usize = 24;
/// In a frame header: commit field, salts, and the running checksum, which takes in what is before the salts.
const AT_COMMIT: usize = 4;
const AT_SALTS: usize = 8;
const AT_FRAME_CHECKSUM: usize = 16;

/// The bytes of a WAL that was written from its start, without a restart, on a little-endian machine.
pub struct Recording {
    /// The whole file.
    pub bytes: Vec<u8>,
    frame_size: usize,
}

impl Recording {
    /// Reads a WAL file.
    pub fn read(path: &Path) -> Result<Recording> {
        let bytes = std::fs::read(path)?;
        let frames = bytes.len().checked_sub(HEADER).ok_or("a WAL without a header")?;
        let frame_size = FRAME_HEADER + big_endian(&bytes[AT_PAGE_SIZE..AT_PAGE_SIZE + 4]) as usize;
        match frames.is_multiple_of(frame_size) {
            true => Ok(Recording { bytes, frame_size }),
            false => Err("a WAL that ends within a frame".into()),
        }
    }

    /// Every frame: page number, commit field, page.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = (u32, u32, &[u8])> {
        self.bytes[HEADER..].chunks_exact(self.frame_size).map(|frame| {
            let (head, page) = frame.split_at(FRAME_HEADER);
            (big_endian(&head[..AT_COMMIT]), big_endian(&head[AT_COMMIT..AT_SALTS]), page)
        })
    }

    /// Where each commit lies in the file; the first one has the WAL header before it.
    pub fn commits(&self) -> Vec<Range<usize>> {
        let mut begin = 0;
        let last_frames = self.frames().enumerate().filter(|(_, (_, commit, _))| *commit > 0);
        let ends = last_frames.map(|(frame, _)| HEADER + (frame + 1) * self.frame_size);
        ends.map(|end| std::mem::replace(&mut begin, end)..end).collect()
    }

    /// Every so many commits as a WAL of their own: the same header before them, and the checksums to go with that.
    pub fn in_parts(&self, commits: usize) -> Vec<Vec<u8>> {
        let mut parts = Vec::new();
        for some in self.commits().chunks(commits) {
            if let (Some(first), Some(last)) = (some.first(), some.last()) {
                parts.push(self.part(&self.bytes[first.start.max(HEADER)..last.end]));
            }
        }
        parts
    }

    fn part(&self, frames: &[u8]) -> Vec<u8> {
        let header = &self.bytes[..HEADER];
        let mut checksum = two_words(&header[AT_CHECKSUM..], big_endian);
        let mut wal = header.to_vec();
        for frame in frames.chunks_exact(self.frame_size) {
            let (head, page) = frame.split_at(FRAME_HEADER);
            checksum = go_on(go_on(checksum, &head[..AT_SALTS]), page);
            wal.extend_from_slice(&head[..AT_FRAME_CHECKSUM]);
            wal.extend(checksum.into_iter().flat_map(u32::to_be_bytes));
            wal.extend_from_slice(page);
        }
        wal
    }
}

/// The running checksum of a WAL, over words in the order of a little-endian machine.
fn go_on(from: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    bytes.chunks_exact(8).fold(from, |[s1, s2], pair| {
        let [first, second] = two_words(pair, |word| big_endian(word).swap_bytes());
        let s1 = s1.wrapping_add(first).wrapping_add(s2);
        [s1, s2.wrapping_add(second).wrapping_add(s1)]
    })
}

/// The two words in the first eight bytes.
fn two_words(bytes: &[u8], word: fn(&[u8]) -> u32) -> [u32; 2] {
    [word(&bytes[..4]), word(&bytes[4..8])]
}

fn big_endian(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte))
}
