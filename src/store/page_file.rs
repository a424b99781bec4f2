//! Reads and writes the file `pages` of the sidecar.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use super::sidecar::replace;
use crate::base::{Error, Lsn, Result, limits};
use crate::format::checksum::{Crc, PageChecksum};
use crate::format::page_file::{ENTRY_SIZE, HEADER_SIZE, Header, TRAILER_SIZE, decode_entry, encode_entry};

/// Entries read or written at once: a CRC of many bytes takes less time for each.
const BLOCK: usize = limits::scaled(1 << 12, 3);

/// What is kept of one page: the LSN that changed it last, and its checksum if it is known.
pub type Entry = (Lsn, Option<PageChecksum>);

/// Reads the file at `path`. One that is damaged, cut short or of another version is an error.
pub fn read(path: &Path) -> Result<(Header, Vec<Entry>)> {
    let io = |e: std::io::Error| Error::io(format!("litestream: reading {}", path.display()), &e);
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut file = BufReader::new(file);
    let mut crc = Crc::default();
    let mut head = [0; HEADER_SIZE];
    file.read_exact(&mut head).map_err(io)?;
    crc.add(&head);
    let header = Header::decode(&head)?;
    // Nothing is allocated for pages that are not there.
    if header.file_size() != size {
        return Err(Error::corrupt(format!("page map: {size} bytes for {} pages", header.pages)));
    }
    let mut entries = Vec::with_capacity(header.pages as usize);
    let mut block = [0; BLOCK * ENTRY_SIZE];
    while entries.len() < header.pages as usize {
        let left = (header.pages as usize - entries.len()).min(BLOCK);
        let (block, _) = block.split_at_mut(left * ENTRY_SIZE);
        file.read_exact(block).map_err(io)?;
        crc.add(block);
        for entry in block.chunks_exact(ENTRY_SIZE) {
            entries.push(decode_entry(entry)?);
        }
    }
    let mut trailer = [0; TRAILER_SIZE];
    file.read_exact(&mut trailer).map_err(io)?;
    if u64::from_be_bytes(trailer) != crc.value() {
        return Err(Error::corrupt("page map: its CRC does not fit"));
    }
    Ok((header, entries))
}

/// Replaces the file at `path`, durably.
pub fn write(path: &Path, header: &Header, entries: impl Iterator<Item = Entry>) -> Result<()> {
    replace(path, |mut file| {
        let mut crc = Crc::default();
        let mut block = Vec::with_capacity(BLOCK * ENTRY_SIZE);
        block.extend_from_slice(&header.encode());
        for (lsn, checksum) in entries {
            if block.len() >= BLOCK * ENTRY_SIZE {
                crc.add(&block);
                file.write_all(&block)?;
                block.clear();
            }
            block.extend_from_slice(&encode_entry(lsn, checksum));
        }
        crc.add(&block);
        block.extend_from_slice(&crc.value().to_be_bytes());
        file.write_all(&block)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{FrameNo, Generation, PageSize, Pgno, Position};
    use crate::format::page_file::Mark;
    use crate::format::wal::{Checksum, Salts};

    #[test]
    fn a_damaged_file_is_never_read() -> Result<()> {
        let path = std::env::temp_dir().join(format!("litestream-pages-{}", std::process::id()));
        let header = Header {
            page_size: PageSize::new(512)?,
            pages: 3,
            position: Position { generation: Generation(9), index: 1, offset: 568 },
            floor: Lsn::ZERO,
            mark: Mark { salts: Salts(1, 2), last: FrameNo(1), checksum: Checksum(3, 4) },
        };
        let entries = [
            (Lsn::ZERO, None),
            (Lsn::new(1, FrameNo(1)), Some(PageChecksum::of(Pgno::ONE, &[1]))),
            (Lsn::new(0, FrameNo(7)), Some(PageChecksum::of(Pgno::ONE, &[2]))),
        ];
        write(&path, &header, entries.into_iter())?;
        assert_eq!(read(&path)?, (header, entries.to_vec()));
        let whole = std::fs::read(&path).map_err(|e| Error::io("reading", &e))?;
        let mut refused = 0;
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).map_err(|e| Error::io("writing", &e))?;
            refused += usize::from(read(&path).is_err());
            std::fs::write(&path, &whole[..at]).map_err(|e| Error::io("writing", &e))?;
            assert!(read(&path).is_err(), "cut at {at}");
        }
        std::fs::remove_file(&path).map_err(|e| Error::io("removing", &e))?;
        assert_eq!(refused, whole.len());
        Ok(())
    }
}
