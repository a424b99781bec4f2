//! Reads a WAL file frame by frame, as `litestream_wal` shows it.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use crate::base::{Error, Kind, Result, limits};
use crate::format::wal::{Chain, FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, Header};

/// One frame as it stands in the file.
pub struct LoggedFrame {
    /// From 1.
    pub number: u32,
    /// Its header, unchecked.
    pub header: FrameHeader,
    /// Whether it and every frame before it have the salts and checksums the WAL header leads to.
    pub valid: bool,
    /// The page.
    pub page: Vec<u8>,
}

/// A WAL file, open to be read.
pub struct LogFile {
    file: BufReader<File>,
    chain: Chain,
    page_bytes: usize,
    number: u32,
    valid: bool,
}

impl LogFile {
    /// Opens the WAL at `path`, whose name must end in `-wal`: opening and closing a database or -shm file would take away
    /// the POSIX locks this process has on it (<https://www.sqlite.org/howtocorrupt.html>, 2.2). None if the file is empty.
    pub fn open(path: &Path) -> Result<Option<LogFile>> {
        let name = path.display();
        if !path.as_os_str().as_encoded_bytes().ends_with(b"-wal") {
            return Err(Error::usage(format!(
                "litestream: {name} is not the path of a WAL; expected one that ends in -wal"
            )));
        }
        let file =
            File::open(path).map_err(|e| Error::new(Kind::CantOpen, format!("litestream: opening {name}: {e}")))?;
        let mut file = BufReader::with_capacity(limits::CHUNK_BYTES, file);
        let mut header = [0; HEADER_SIZE];
        if !fill(&mut file, &mut header).map_err(|e| Error::io(format!("litestream: reading {name}"), &e))? {
            return Ok(None);
        }
        let header = Header::decode(&header).map_err(|e| e.within(format!("litestream: {name}")))?;
        let page_bytes = header.page_size.bytes();
        Ok(Some(LogFile { file, chain: Chain::start(&header), page_bytes, number: 0, valid: true }))
    }

    /// The next whole frame; one that was cut short ends the file.
    fn read_next(&mut self) -> Result<Option<LoggedFrame>> {
        let mut frame = vec![0; FRAME_HEADER_SIZE + self.page_bytes];
        if !fill(&mut self.file, &mut frame).map_err(|e| Error::io("litestream: reading a WAL", &e))? {
            return Ok(None);
        }
        let page = frame.split_off(FRAME_HEADER_SIZE);
        self.number = self.number.saturating_add(1);
        self.valid = self.valid && self.chain.accept(&frame, &page);
        let header = FrameHeader::decode(&frame)?;
        Ok(Some(LoggedFrame { number: self.number, header, valid: self.valid, page }))
    }
}

impl Iterator for LogFile {
    type Item = Result<LoggedFrame>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().transpose()
    }
}

/// Fills `out`; false when the file ended first.
fn fill(file: &mut impl Read, out: &mut [u8]) -> std::io::Result<bool> {
    match file.read_exact(out) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}
