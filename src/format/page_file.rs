//! The page map in a file: what was known of every page of a database at one position.
//!
//! All numbers are big-endian.
//!
//! | offset | size | field | unit |
//! |---|---|---|---|
//! | 0 | 8 | `LSPAGES` and the version of this format, 1 | |
//! | 8 | 4 | page size | bytes |
//! | 12 | 4 | *n*, the size of the database | pages |
//! | 16 | 8 | generation | |
//! | 24 | 8 | index of the position | |
//! | 32 | 8 | offset of the position | bytes |
//! | 40 | 8 | floor: changes after this LSN are known | |
//! | 48 | 4, 4 | salts of the WAL | |
//! | 56 | 4 | last frame of the WAL that is taken into account | frames |
//! | 60 | 4, 4 | checksum in the header of that frame | |
//! | 68 | 4 | 0 | |
//! | 72 | 16 *n* | for each page its newest LSN (8) and its checksum (8; 0 when it is not known) | |
//! | 72 + 16 *n* | 8 | CRC-64/GO-ISO of all before | |
//!
//! The format is this project's own.

use byteorder::{BigEndian, ByteOrder};

use super::Cursor;
use super::checksum::PageChecksum;
use super::wal::{Checksum, Salts};
use crate::base::{Error, FrameNo, Generation, Lsn, PageSize, Position, Result};

/// Size of the header in bytes.
pub const HEADER_SIZE: usize = 72;
/// Size of what is said of one page, in bytes.
pub const ENTRY_SIZE: usize = 16;
/// Size of the CRC at the end, in bytes.
pub const TRAILER_SIZE: usize = 8;
const MAGIC: &[u8; 8] = b"LSPAGES\x01";

/// Which frame of which WAL a state of the database ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Salts of the WAL.
    pub salts: Salts,
    /// The frame.
    pub last: FrameNo,
    /// The checksum in its header.
    pub checksum: Checksum,
}

/// What precedes the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Page size of the database.
    pub page_size: PageSize,
    /// Database size in pages.
    pub pages: u32,
    /// The position that the entries speak of.
    pub position: Position,
    /// Changes after this are known.
    pub floor: Lsn,
    /// The same place in the WAL of the file.
    pub mark: Mark,
}

impl Header {
    /// Reads the first [`HEADER_SIZE`] bytes of a file.
    pub fn decode(bytes: &[u8]) -> Result<Header> {
        let mut at = Cursor::new("page map", bytes);
        if at.take(MAGIC.len())? != MAGIC {
            return Err(Error::corrupt("page map: not one, or of another version"));
        }
        let page_size = PageSize::new(at.u32_be()?)?;
        let pages = at.u32_be()?;
        let generation = Generation(at.u64_be()?);
        let position = Position { generation, index: at.u64_be()?, offset: at.u64_be()? };
        let floor = Lsn::from_u64(at.u64_be()?);
        let salts = Salts(at.u32_be()?, at.u32_be()?);
        let last = FrameNo(at.u32_be()?);
        let mark = Mark { salts, last, checksum: Checksum(at.u32_be()?, at.u32_be()?) };
        let reserved = at.u32_be()?;
        at.finish()?;
        if reserved != 0 {
            return Err(Error::corrupt(format!("page map: reserved field {reserved}, expected 0")));
        }
        Ok(Header { page_size, pages, position, floor, mark })
    }

    /// The bytes of the header.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut out = [0; HEADER_SIZE];
        let Header { page_size, pages, position, floor, mark } = self;
        out[..8].copy_from_slice(MAGIC);
        BigEndian::write_u32_into(&[page_size.get(), *pages], &mut out[8..16]);
        let place = [position.generation.0, position.index, position.offset, floor.to_u64()];
        BigEndian::write_u64_into(&place, &mut out[16..48]);
        let wal = [mark.salts.0, mark.salts.1, mark.last.0, mark.checksum.0, mark.checksum.1];
        BigEndian::write_u32_into(&wal, &mut out[48..68]);
        out
    }

    /// Size of the whole file in bytes.
    pub fn file_size(&self) -> u64 {
        (HEADER_SIZE + TRAILER_SIZE) as u64 + u64::from(self.pages) * ENTRY_SIZE as u64
    }
}

/// Reads what is said of one page from [`ENTRY_SIZE`] bytes.
pub fn decode_entry(bytes: &[u8]) -> Result<(Lsn, Option<PageChecksum>)> {
    let mut at = Cursor::new("page map", bytes);
    let entry = (Lsn::from_u64(at.u64_be()?), PageChecksum::from_u64(at.u64_be()?));
    at.finish()?;
    Ok(entry)
}

/// The bytes of what is said of one page.
pub fn encode_entry(lsn: Lsn, checksum: Option<PageChecksum>) -> [u8; ENTRY_SIZE] {
    let mut out = [0; ENTRY_SIZE];
    BigEndian::write_u64_into(&[lsn.to_u64(), checksum.map_or(0, PageChecksum::get)], &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Result<Header> {
        Ok(Header {
            page_size: PageSize::new(65536)?,
            pages: 7,
            position: Position { generation: Generation(1 << 60), index: 3, offset: 65_592 },
            floor: Lsn::new(2, FrameNo(9)),
            mark: Mark { salts: Salts(11, 12), last: FrameNo(1), checksum: Checksum(13, 14) },
        })
    }

    #[test]
    fn a_header_is_read_back_as_it_was_written() -> Result<()> {
        let (header, bytes) = (header()?, header()?.encode());
        assert_eq!(Header::decode(&bytes)?, header);
        assert_eq!(header.file_size(), 72 + 7 * 16 + 8);
        for cut in 0..HEADER_SIZE {
            assert!(Header::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        Ok(())
    }

    #[test]
    fn another_version_and_an_absurd_page_size_are_refused() -> Result<()> {
        for at in [0, 7, 10, 71] {
            let mut bytes = header()?.encode();
            bytes[at] ^= 0x40;
            assert!(Header::decode(&bytes).is_err(), "byte {at}");
        }
        Ok(())
    }

    #[test]
    fn an_entry_is_read_back_as_it_was_written() -> Result<()> {
        for checksum in [None, PageChecksum::from_u64(1 << 63 | 5)] {
            let entry = (Lsn::new(4, FrameNo(5)), checksum);
            assert_eq!(decode_entry(&encode_entry(entry.0, entry.1))?, entry);
        }
        Ok(())
    }
}
