//! Reads a WAL file frame by frame, as `litestream_wal` shows it.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use crate::base::{Error, Kind, Result, limits};
use crate::format::wal::{Chain, FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, Header};
use crate::sqlite::{FileId, names_of_open};

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
    /// Opens the WAL at `path`. None if the file is empty.
    ///
    /// # Errors
    /// The name does not end in `-wal`, or leads to a file that is no WAL.
    pub fn open(path: &Path) -> Result<Option<LogFile>> {
        let name = path.display();
        let file = open_log(path)?;
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

/// Opens a file that is a WAL by its name. Opening and closing a database or a -shm file would take
/// away the POSIX locks that this process has on it (<https://www.sqlite.org/howtocorrupt.html>,
/// 2.2), and a link can make one look like a WAL.
fn open_log(path: &Path) -> Result<File> {
    let name = path.display();
    if !is_log_name(path) {
        return Err(Error::usage(format!(
            "litestream: {name} is not the path of a WAL; expected one that ends in -wal"
        )));
    }
    let failed = |e: std::io::Error| Error::new(Kind::CantOpen, format!("litestream: opening {name}: {e}"));
    let found = fs::symlink_metadata(path).map_err(failed)?;
    if !found.is_file() {
        return Err(Error::usage(format!(
            "litestream: {name} is no regular file; name the WAL itself, not a link to it"
        )));
    }
    let is_log = match names_of_open(FileId::of(&found)) {
        Some(names) => names.iter().all(|name| is_log_name(name)),
        None => has_one_name(&found),
    };
    if !is_log {
        return Err(Error::usage(format!(
            "litestream: {name} is another name of a file that this process has open and that is no WAL"
        )));
    }
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).map_err(failed)?;
    if file.metadata().is_ok_and(|opened| FileId::of(&opened) == FileId::of(&found)) {
        return Ok(file);
    }
    // It may be anything now, and closing it may drop locks.
    std::mem::forget(file);
    Err(Error::new(Kind::Busy, format!("litestream: {name} was replaced while it was being opened; try again")))
}

/// Whether a path is that of a WAL. One that was removed goes by a longer name.
fn is_log_name(path: &Path) -> bool {
    let name = path.as_os_str().as_encoded_bytes();
    name.strip_suffix(b" (deleted)").unwrap_or(name).ends_with(b"-wal")
}

#[cfg(unix)]
fn has_one_name(file: &fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(file) == 1
}

#[cfg(not(unix))]
fn has_one_name(_: &fs::Metadata) -> bool {
    true
}

/// Fills `out`; false when the file ended first.
fn fill(file: &mut impl Read, out: &mut [u8]) -> std::io::Result<bool> {
    match file.read_exact(out) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}
