//! Reads records from a stream.

use std::io::{BufReader, ErrorKind, Read};

use crate::base::{Error, Kind, Result};
use crate::format::record::{HEADER_SIZE, Header, Type};

/// How much is read at once, and looked ahead into.
const BUFFER: usize = 1 << 20;

/// A stream, record by record.
pub(super) struct Records<R> {
    body: BufReader<R>,
    payload: Vec<u8>,
    /// Bytes read so far.
    pub bytes: u64,
}

impl<R: Read> Records<R> {
    /// A reader at the start of a stream.
    pub fn new(body: R) -> Records<R> {
        Records { body: BufReader::with_capacity(BUFFER, body), payload: Vec::new(), bytes: 0 }
    }

    /// The next record's header; none when the stream ends between two records.
    pub fn header(&mut self) -> Result<Option<Header>> {
        let mut bytes = [0; HEADER_SIZE];
        let first = self.body.by_ref().read(&mut bytes).map_err(failed)?;
        if first == 0 {
            return Ok(None);
        }
        let rest = bytes.get_mut(first..).unwrap_or_default();
        self.body.read_exact(rest).map_err(failed)?;
        self.bytes += HEADER_SIZE as u64;
        Header::decode(&bytes).map(Some)
    }

    /// The payload of a record, whose size its header has bounded.
    pub fn payload(&mut self, header: &Header) -> Result<&[u8]> {
        self.payload.clear();
        // Read as it comes, so that memory is only taken for what is really sent.
        let read = self.body.by_ref().take(header.size).read_to_end(&mut self.payload).map_err(failed)?;
        self.bytes += read as u64;
        if read as u64 != header.size {
            return Err(cut());
        }
        Ok(&self.payload)
    }

    /// Fills `out` from the payload of a record that is too large to be held.
    pub fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        self.bytes += out.len() as u64;
        self.body.read_exact(out).map_err(failed)
    }

    /// Whether a whole further commit has already arrived, pages and all.
    pub fn has_whole_commit(&self) -> bool {
        let mut rest = self.body.buffer();
        while let Some((header, after)) = rest.split_at_checked(HEADER_SIZE) {
            let Ok(header) = Header::decode(header) else { return false };
            let Some(after) = usize::try_from(header.size).ok().and_then(|n| after.get(n..)) else { return false };
            match header.kind {
                Type::Commit => return true,
                Type::Pages => rest = after,
                _ => return false,
            }
        }
        false
    }

    /// Whether anything has arrived that was not read yet.
    pub fn has_more(&self) -> bool {
        !self.body.buffer().is_empty()
    }

    /// The stream itself.
    pub fn body(&mut self) -> &mut R {
        self.body.get_mut()
    }
}

fn failed(error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => cut(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => {
            Error::new(Kind::Io, "stream: nothing came for longer than timeout_ms; the upstream is dead or cut off")
        }
        _ => Error::io("stream", &error),
    }
}

fn cut() -> Error {
    Error::new(Kind::Io, "stream: it was cut in the middle of a record")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Generation, PageSize, Position};
    use crate::format::record::{Begin, Commit};

    fn stream() -> Result<Vec<u8>> {
        let at = Position { generation: Generation(1), index: 0, offset: 0 };
        let mut out = Vec::new();
        Begin { page_size: PageSize::new(512)?, everything: false, pages: 0 }.encode(at, &mut out);
        Commit { pages: 1, checksum: 0, time: 0 }.encode(at, &mut out);
        Ok(out)
    }

    #[test]
    fn a_stream_cut_anywhere_but_between_records_is_an_error() -> Result<()> {
        let whole = stream()?;
        for cut in 0..whole.len() {
            let mut records = Records::new(&whole[..cut]);
            let mut read = || -> Result<u32> {
                let mut n = 0;
                while let Some(header) = records.header()? {
                    records.payload(&header)?;
                    n += 1;
                }
                Ok(n)
            };
            let expected = match cut {
                0 => Some(0),
                56 => Some(1),
                _ => None,
            };
            assert_eq!(read().ok(), expected, "cut at {cut}");
        }
        Ok(())
    }

    #[test]
    fn a_commit_is_seen_ahead_only_when_all_of_it_is_there() -> Result<()> {
        let whole = stream()?;
        let mut records = Records::new(whole.as_slice());
        let begin = records.header()?.ok_or_else(cut)?;
        records.payload(&begin)?;
        assert!(records.has_whole_commit() && records.has_more());
        let mut records = Records::new(&whole[..whole.len() - 1]);
        let begin = records.header()?.ok_or_else(cut)?;
        records.payload(&begin)?;
        assert!(!records.has_whole_commit());
        Ok(())
    }
}
