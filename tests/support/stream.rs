//! Records of a stream as the protocol prescribes them, read and written by the tests themselves.
//!
//! A header of 40 bytes, all big-endian: type u32, flags u32, generation u64, index u64, offset u64, payload size u64.

use std::io::{ErrorKind, Read};

/// The database file, raw (version 1).
pub const SNAPSHOT: u32 = 1;
/// Bytes of the WAL in an LZ4 frame (version 1).
pub const SEGMENT: u32 = 2;
/// What follows up to the first commit (version 2).
pub const BEGIN: u32 = 3;
/// Page images (version 2).
pub const PAGES: u32 = 4;
/// The state that the pages lead to (version 2).
pub const COMMIT: u32 = 5;
/// Nothing new (version 2).
pub const HEARTBEAT: u32 = 6;
/// Why the stream ends (version 2).
pub const ERROR: u32 = 7;

/// One record.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    pub kind: u32,
    pub flags: u32,
    pub generation: u64,
    pub index: u64,
    pub offset: u64,
    pub payload: Vec<u8>,
}

/// A place in the history of a primary, as records carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At(pub u64, pub u64, pub u64);

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}/{:016x}:{:016x}", self.0, self.1, self.2)
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "record of type {} at {} with {} bytes", self.kind, self.at(), self.payload.len())
    }
}

impl Record {
    pub fn new(kind: u32, at: At, payload: Vec<u8>) -> Record {
        Record { kind, flags: 0, generation: at.0, index: at.1, offset: at.2, payload }
    }

    pub fn at(&self) -> At {
        At(self.generation, self.index, self.offset)
    }

    /// The bytes of the record.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.header(self.payload.len() as u64);
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// The record with a seal at its end: the CRC-32 of all of it up to there.
    pub fn sealed(mut self) -> Record {
        let mut bytes = self.header(self.payload.len() as u64 + 4);
        bytes.extend_from_slice(&self.payload);
        self.payload.extend_from_slice(&crc32(&bytes).to_be_bytes());
        self
    }

    /// The record with `change` made to its fields, and a seal that is right.
    pub fn with(mut self, change: impl FnOnce(&mut [u8])) -> Record {
        self.payload.truncate(self.payload.len() - 4);
        change(&mut self.payload);
        self.sealed()
    }

    /// The bytes of its header, as if its payload had `size` bytes.
    pub fn header(&self, size: u64) -> Vec<u8> {
        let mut bytes = self.kind.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.flags.to_be_bytes());
        for field in [self.generation, self.index, self.offset, size] {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
        bytes
    }

    /// The next record of a stream that is not compressed; none where it ends between two records.
    pub fn read(from: &mut impl Read) -> Option<Record> {
        let record = Record::read_flagged(from)?;
        assert_eq!(record.flags, 0, "flags");
        Some(record)
    }

    /// The same for any stream.
    pub fn read_flagged(from: &mut impl Read) -> Option<Record> {
        let mut head = [0; 40];
        match from.read_exact(&mut head[..1]) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return None,
            got => got.expect("the first byte of a record"),
        }
        from.read_exact(&mut head[1..]).expect("the header of a record");
        let field = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let (kind, flags) = (word(0), word(4));
        let mut payload = Vec::new();
        let got = from.take(field(32)).read_to_end(&mut payload).expect("the payload of a record");
        assert_eq!(got as u64, field(32), "bytes in the payload of a record of type {kind}");
        Some(Record { kind, flags, generation: field(8), index: field(16), offset: field(24), payload })
    }
}

/// CRC-32/ISO-HDLC, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

/// Flag of a pages record whose payload is compressed.
pub const COMPRESSED: u32 = 1;

/// The record compressed.
pub fn compress(record: &Record) -> Record {
    let mut payload = (record.payload.len() as u32).to_be_bytes().to_vec();
    payload.extend(lz4_flex::block::compress(&record.payload));
    Record { flags: COMPRESSED, payload, ..record.clone() }
}

/// The record as it was before it was compressed.
pub fn decompress(record: &Record) -> Record {
    let (size, block) = record.payload.split_first_chunk::<4>().expect("the size of what was compressed");
    let size = u32::from_be_bytes(*size) as usize;
    let payload = lz4_flex::block::decompress(block, size).expect("an LZ4 block");
    assert_eq!(payload.len(), size, "what the record says that it holds");
    Record { flags: 0, payload, ..record.clone() }
}

/// Every record of `bytes`.
pub fn records(mut bytes: &[u8]) -> Vec<Record> {
    std::iter::from_fn(|| Record::read(&mut bytes)).collect()
}

/// The bytes of `records`.
pub fn encode(records: &[Record]) -> Vec<u8> {
    records.iter().flat_map(Record::encode).collect()
}

/// `pages` pages of `page_size` bytes follow; all there are, or those that changed.
pub fn begin(at: At, page_size: u32, everything: bool, pages: u64) -> Record {
    let mut payload = page_size.to_be_bytes().to_vec();
    payload.extend_from_slice(&u32::from(everything).to_be_bytes());
    payload.extend_from_slice(&pages.to_be_bytes());
    Record::new(BEGIN, at, payload).sealed()
}

/// Page images with their numbers.
pub fn pages(images: &[(u32, &[u8])]) -> Record {
    let mut payload = (images.len() as u32).to_be_bytes().to_vec();
    payload.extend(images.iter().flat_map(|(number, _)| number.to_be_bytes()));
    payload.extend(images.iter().flat_map(|(_, image)| image.iter()));
    Record::new(PAGES, At(0, 0, 0), payload)
}

/// A database of `pages` pages is complete. The sender keeps no checksum and read it at the start of 2020.
pub fn commit(at: At, pages: u32) -> Record {
    let mut payload = pages.to_be_bytes().to_vec();
    payload.extend_from_slice(&[0; 8]);
    payload.extend_from_slice(&1_577_836_800_000i64.to_be_bytes());
    Record::new(COMMIT, at, payload).sealed()
}

/// Nothing new since 1970.
pub fn heartbeat(at: At) -> Record {
    Record::new(HEARTBEAT, at, vec![0; 8]).sealed()
}

/// The stream ends because of `text`.
pub fn error(at: At, text: &str) -> Record {
    Record::new(ERROR, at, text.as_bytes().to_vec())
}

/// A whole database file as a new replica gets it in version 2, two pages a record.
pub fn everything(at: At, database: &[u8], page_size: u32) -> Vec<Record> {
    let numbered: Vec<_> = (1u32..).zip(database.chunks(page_size as usize)).collect();
    let mut records = vec![begin(at, page_size, true, numbered.len() as u64)];
    records.extend(numbered.chunks(2).map(pages));
    records.push(commit(at, numbered.len() as u32));
    records
}
