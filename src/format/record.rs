//! The records of a stream.
//!
//! Header, 40 bytes, every field big-endian:
//!
//! | offset | size | field | unit |
//! |---|---|---|---|
//! | 0 | 4 | type | see below |
//! | 4 | 4 | flags: bit 0, the payload of a pages record is compressed; no other is defined | |
//! | 8 | 8 | generation | |
//! | 16 | 8 | index | WAL resets |
//! | 24 | 8 | offset in that WAL | bytes |
//! | 32 | 8 | size of the payload | bytes |
//!
//! Then the payload, for a compressed one see [`super::compression`]:
//!
//! | type | name | version | position in the header | payload |
//! |---|---|---|---|---|
//! | 1 | snapshot | 1 | (index, 0) | the database file |
//! | 2 | segment | 1 | where the bytes start | an LZ4 frame around bytes of the WAL |
//! | 3 | begin | 2 | the primary's | page size u32, mode u32 (0 changes, 1 everything), pages to come at most u64, seal |
//! | 4 | pages | 2 | not used, 0 | count u32, then count page numbers u32, then count pages |
//! | 5 | commit | 2 | the state reached | database size u32 (pages), database checksum u64 (0: none), time i64 (ms since 1970), seal |
//! | 6 | heartbeat | 2 | the primary's | time i64 (ms since 1970), seal |
//! | 7 | error | 2 | the primary's | why the stream ends, UTF-8, at most 4096 bytes |
//!
//! A seal is the CRC-32 (ISO-HDLC, that of zlib) of the record up to there, header and all, as u32: no checksum of pages speaks
//! of positions and times.
//!
//! Types 1 and 2 are the protocol Litestream spoke in 2022; the others are this project's, spoken when both ends say so.

use byteorder::{BigEndian, ByteOrder};

use super::Cursor;
use super::checksum::crc32;
use super::compression::PREFIX_SIZE;
use crate::base::{Error, Generation, PageSize, Pgno, Position, Result, limits};

/// Size of a record header in bytes.
pub const HEADER_SIZE: usize = 40;

/// Request and response header that names the version spoken.
pub const VERSION_HEADER: &str = "litestream-stream-version";
/// Request header with the names of the compressions a client takes, with commas between; response header with the one
/// that pages records may come in. Without it they come as they are.
pub const COMPRESSION_HEADER: &str = "litestream-compression";
/// Response header with the page size in bytes, as in 2022.
pub const PAGE_SIZE_HEADER: &str = "litestream-page-size";

/// Response header with the server's clock when the request came, in milliseconds since the Unix
/// epoch, rounded up; a space, and the name of that clock, 16 hex digits. The times in the records
/// that follow are of the same clock.
pub const TIME_HEADER: &str = "litestream-time";

/// The time in a commit or a heartbeat of a sender that does not know it.
pub const NO_TIME: i64 = 0;

/// The flag of a compressed payload.
const COMPRESSED: u32 = 1;

const BEGIN_SIZE: u64 = 20;
const COMMIT_SIZE: u64 = 24;
const HEARTBEAT_SIZE: u64 = 12;
const ERROR_LIMIT: u64 = 4096;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// The whole database, as of 2022.
    Snapshot = 1,
    /// Bytes of the WAL, as of 2022.
    Segment = 2,
    /// What follows up to the first commit.
    Begin = 3,
    /// Page images of the commit being sent.
    Pages = 4,
    /// The end of a commit.
    Commit = 5,
    /// Nothing new.
    Heartbeat = 6,
    /// The stream ends, and why.
    Error = 7,
}

impl Type {
    fn decode(n: u32) -> Result<Type> {
        [Type::Snapshot, Type::Segment, Type::Begin, Type::Pages, Type::Commit, Type::Heartbeat, Type::Error]
            .into_iter()
            .find(|t| *t as u32 == n)
            .ok_or_else(|| Error::corrupt(format!("stream: record of unknown type {n}, expected 1 to 7")))
    }

    /// Payload sizes in bytes a record of this type may announce.
    fn bounds(self, compressed: bool) -> std::ops::RangeInclusive<u64> {
        match self {
            Type::Pages if compressed => PREFIX_SIZE as u64 + 1..=limits::MAX_RECORD_BYTES,
            Type::Snapshot => 512..=i64::MAX as u64 - 1,
            Type::Segment => 1..=limits::MAX_SEGMENT_BYTES,
            Type::Begin => BEGIN_SIZE..=BEGIN_SIZE,
            Type::Pages => 4 + 4 + 512..=limits::MAX_RECORD_BYTES,
            Type::Commit => COMMIT_SIZE..=COMMIT_SIZE,
            Type::Heartbeat => HEARTBEAT_SIZE..=HEARTBEAT_SIZE,
            Type::Error => 0..=ERROR_LIMIT,
        }
    }
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Type,
    /// Whether its payload is compressed; only that of pages can be.
    pub compressed: bool,
    /// The position, with the meaning the type gives it.
    pub position: Position,
    /// Payload size in bytes, within the bounds of its type.
    pub size: u64,
}

impl Header {
    /// The header of a record whose payload of `size` bytes is not compressed.
    pub fn new(kind: Type, position: Position, size: u64) -> Header {
        Header { kind, compressed: false, position, size }
    }

    /// Reads a header; an unknown type or flag, or a size the type does not allow, is an error.
    pub fn decode(bytes: &[u8]) -> Result<Header> {
        let mut at = Cursor::new("record header", bytes);
        let kind = Type::decode(at.u32_be()?)?;
        let compressed = match at.u32_be()? {
            0 => false,
            COMPRESSED if kind == Type::Pages => true,
            flags => return Err(Error::corrupt(format!("stream: {kind:?} record with flags 0x{flags:x}, expected 0"))),
        };
        let generation = Generation(at.u64_be()?);
        let position = Position { generation, index: at.u64_be()?, offset: at.u64_be()? };
        if !position.is_possible() {
            return Err(Error::corrupt(format!("stream: {kind:?} record at {position}, which no WAL comes to")));
        }
        let size = at.u64_be()?;
        at.finish()?;
        let bounds = kind.bounds(compressed);
        if !bounds.contains(&size) {
            return Err(Error::corrupt(format!(
                "stream: {kind:?} record of {size} bytes, expected {} to {}",
                bounds.start(),
                bounds.end()
            )));
        }
        Ok(Header { kind, compressed, position, size })
    }

    /// The 40 bytes of the header.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut out = [0; HEADER_SIZE];
        BigEndian::write_u32(&mut out[0..4], self.kind as u32);
        BigEndian::write_u32(&mut out[4..8], if self.compressed { COMPRESSED } else { 0 });
        BigEndian::write_u64(&mut out[8..16], self.position.generation.0);
        BigEndian::write_u64(&mut out[16..24], self.position.index);
        BigEndian::write_u64(&mut out[24..32], self.position.offset);
        BigEndian::write_u64(&mut out[32..40], self.size);
        out
    }
}

/// Appends a whole record that ends with a seal; `fields` appends what comes before that.
fn seal(kind: Type, position: Position, size: u64, out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&Header::new(kind, position, size).encode());
    fields(out);
    let crc = crc32(&out[start..], &[]);
    out.extend_from_slice(&crc.to_be_bytes());
}

/// The fields of a record that ends with a seal, if that is right.
fn unseal<'a>(what: &'static str, header: &Header, payload: &'a [u8]) -> Result<Cursor<'a>> {
    let Some((fields, seal)) = payload.split_last_chunk::<4>() else {
        return Err(Error::corrupt(format!("{what}: {} bytes, expected at least 4", payload.len())));
    };
    let (found, expected) = (u32::from_be_bytes(*seal), crc32(&header.encode(), fields));
    if found != expected {
        return Err(Error::corrupt(format!(
            "{what}: its checksum is {found:08x}, expected {expected:08x}; it was damaged on the way"
        )));
    }
    Ok(Cursor::new(what, fields))
}

/// Payload of a begin record: what comes before the first commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Page size of the primary.
    pub page_size: PageSize,
    /// Whether every page comes, so that what the replica has does not matter.
    pub everything: bool,
    /// How many pages come at most; pages that change meanwhile may come again on top.
    pub pages: u64,
}

impl Begin {
    /// Reads the payload of a record with that header.
    pub fn decode(header: &Header, payload: &[u8]) -> Result<Begin> {
        let mut at = unseal("begin record", header, payload)?;
        let page_size = PageSize::new(at.u32_be()?).map_err(|e| e.within("begin record"))?;
        let everything = match at.u32_be()? {
            0 => false,
            1 => true,
            mode => return Err(Error::corrupt(format!("begin record: mode {mode}, expected 0 or 1"))),
        };
        let pages = at.u64_be()?;
        at.finish()?;
        Ok(Begin { page_size, everything, pages })
    }

    /// Appends the whole record to `out`.
    pub fn encode(&self, position: Position, out: &mut Vec<u8>) {
        seal(Type::Begin, position, BEGIN_SIZE, out, |out| {
            out.extend_from_slice(&self.page_size.get().to_be_bytes());
            out.extend_from_slice(&u32::from(self.everything).to_be_bytes());
            out.extend_from_slice(&self.pages.to_be_bytes());
        });
    }
}

/// Payload of a commit record: the state the pages before it lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Database size in pages.
    pub pages: u32,
    /// Checksum of the whole database; 0 when the sender keeps none.
    pub checksum: u64,
    /// When the primary began the look at its WAL that found it, in milliseconds since the Unix
    /// epoch, or [`NO_TIME`].
    pub time: i64,
}

impl Commit {
    /// Reads the payload of a record with that header.
    pub fn decode(header: &Header, payload: &[u8]) -> Result<Commit> {
        let mut at = unseal("commit record", header, payload)?;
        let pages = at.u32_be()?;
        let (checksum, time) = (at.u64_be()?, at.u64_be()? as i64);
        at.finish()?;
        if pages == 0 {
            return Err(Error::corrupt("commit record: database of 0 pages, expected at least 1"));
        }
        Ok(Commit { pages, checksum, time })
    }

    /// Appends the whole record to `out`.
    pub fn encode(&self, position: Position, out: &mut Vec<u8>) {
        seal(Type::Commit, position, COMMIT_SIZE, out, |out| {
            out.extend_from_slice(&self.pages.to_be_bytes());
            out.extend_from_slice(&self.checksum.to_be_bytes());
            out.extend_from_slice(&self.time.to_be_bytes());
        });
    }
}

/// Page images on their way, borrowed from a payload.
pub struct Pages<'a> {
    numbers: &'a [u8],
    images: &'a [u8],
    size: PageSize,
}

impl<'a> Pages<'a> {
    /// Reads the payload of a pages record whose pages are of `size`.
    pub fn decode(payload: &'a [u8], size: PageSize) -> Result<Pages<'a>> {
        let mut at = Cursor::new("pages record", payload);
        let count = at.u32_be()? as usize;
        let expected = (count as u64).saturating_mul(4 + u64::from(size.get())).saturating_add(4);
        if expected != payload.len() as u64 || count == 0 {
            return Err(Error::corrupt(format!(
                "pages record: {} bytes for {count} pages of {} bytes, expected {expected} and at least one page",
                payload.len(),
                size.get()
            )));
        }
        let numbers = at.take(count.saturating_mul(4))?;
        let images = at.take(count.saturating_mul(size.bytes()))?;
        at.finish()?;
        Ok(Pages { numbers, images, size })
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "there is at least one")]
    pub fn len(&self) -> usize {
        self.numbers.len() / 4
    }

    /// Each page number and its image. Numbers that no database may send (0, the lock-byte page) are errors.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Pgno, &'a [u8])>> + use<'a> {
        let images = self.images.chunks_exact(self.size.bytes());
        self.numbers().zip(images).map(|(number, image)| number.map(|pgno| (pgno, image)))
    }

    /// The same as runs of consecutive pages: the number of the first, and the images one after another.
    pub fn runs(&self) -> impl Iterator<Item = Result<(Pgno, &'a [u8])>> + use<'a> {
        let (mut numbers, mut images) = (self.numbers().peekable(), self.images);
        let size = self.size.bytes();
        std::iter::from_fn(move || {
            let first = match numbers.next()? {
                Ok(first) => first,
                Err(error) => return Some(Err(error)),
            };
            let mut count = 1;
            while numbers.next_if(|next| next.as_ref().is_ok_and(|n| n.slot() == first.slot() + count)).is_some() {
                count += 1;
            }
            let (run, rest) = images.split_at_checked(count * size)?;
            images = rest;
            Some(Ok((first, run)))
        })
    }

    fn numbers(&self) -> impl Iterator<Item = Result<Pgno>> + use<'a> {
        let lock = self.size.lock_page();
        self.numbers.chunks_exact(4).map(BigEndian::read_u32).map(move |n| {
            let pgno = Pgno::new(n).map_err(|e| e.within("pages record"))?;
            if pgno == lock {
                return Err(Error::corrupt(format!(
                    "pages record: page {n} is the lock-byte page, which holds nothing"
                )));
            }
            Ok(pgno)
        })
    }
}

/// Starts a pages record of `count` pages in `out`; the numbers and then the images are the caller's to append.
pub fn start_pages(count: u32, size: PageSize, out: &mut Vec<u8>) {
    let bytes = 4 + u64::from(count) * (4 + u64::from(size.get()));
    let nowhere = Position { generation: Generation(0), index: 0, offset: 0 };
    out.extend_from_slice(&Header::new(Type::Pages, nowhere, bytes).encode());
    out.extend_from_slice(&count.to_be_bytes());
}

/// Most pages of `size` that one pages record takes.
pub fn most_pages(size: PageSize) -> usize {
    (limits::CHUNK_BYTES / size.bytes()).max(1)
}

/// Appends a heartbeat record to `out`. At `time`, in milliseconds since the Unix epoch or
/// [`NO_TIME`], this was the newest.
pub fn heartbeat(position: Position, time: i64, out: &mut Vec<u8>) {
    seal(Type::Heartbeat, position, HEARTBEAT_SIZE, out, |out| out.extend_from_slice(&time.to_be_bytes()));
}

/// Reads the payload of a heartbeat with that header: when this was the newest, by the primary's
/// clock.
pub fn decode_heartbeat(header: &Header, payload: &[u8]) -> Result<i64> {
    let mut at = unseal("heartbeat record", header, payload)?;
    let time = at.u64_be()? as i64;
    at.finish()?;
    Ok(time)
}

/// Appends an error record to `out`.
pub fn error(position: Position, text: &str, out: &mut Vec<u8>) {
    let mut end = text.len().min(ERROR_LIMIT as usize);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&Header::new(Type::Error, position, end as u64).encode());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { generation: Generation(0x54a5_500f_2132_65e3), index: 2, offset: 4152 };

    #[test]
    fn the_header_of_a_2022_snapshot_is_read() -> Result<()> {
        let mut bytes = [0; HEADER_SIZE];
        bytes[3] = 1;
        bytes[8..16].copy_from_slice(&0x54a5_500f_2132_65e3u64.to_be_bytes());
        bytes[38] = 0x10;
        let header = Header::decode(&bytes)?;
        assert_eq!(
            (header.kind, header.position.generation.0, header.size),
            (Type::Snapshot, 0x54a5_500f_2132_65e3, 4096)
        );
        assert_eq!(header.encode(), bytes);
        Ok(())
    }

    #[test]
    fn an_unknown_type_or_flag_or_an_absurd_size_is_refused() {
        let good = Header::new(Type::Pages, AT, 5000).encode();
        assert!(Header::decode(&good).is_ok());
        let beyond = [(16, 0x80), (24, 0x80), (32, 0x80), (34, 1), (38, 0)];
        for (at, value) in [(3, 0), (3, 8), (0, 1), (4, 0x80), (7, 2), (7, 3)].into_iter().chain(beyond) {
            let mut bad = good;
            bad[at] = value;
            assert!(Header::decode(&bad).is_err(), "byte {at} = {value}");
        }
    }

    #[test]
    fn only_pages_may_be_compressed_and_then_be_small() {
        for kind in 1..=7 {
            let mut header = [0; HEADER_SIZE];
            (header[3], header[7]) = (kind, 1);
            let accepted: Vec<u64> =
                [0, 4, 5, 12, 20, 24, 519, 520, limits::MAX_RECORD_BYTES, limits::MAX_RECORD_BYTES + 1]
                    .into_iter()
                    .filter(|size| {
                        header[32..].copy_from_slice(&size.to_be_bytes());
                        Header::decode(&header).is_ok_and(|h| h.compressed && h.encode() == header)
                    })
                    .collect();
            let expected = [5, 12, 20, 24, 519, 520, limits::MAX_RECORD_BYTES];
            assert_eq!(accepted, if kind == 4 { &expected[..] } else { &[] }, "type {kind}");
        }
    }

    #[test]
    fn every_record_is_read_back_as_it_was_written() -> Result<()> {
        let size = PageSize::new(512)?;
        let begin = Begin { page_size: size, everything: true, pages: 3 };
        let commit = Commit { pages: 3, checksum: 1 << 63, time: -5 };
        let mut out = Vec::new();
        begin.encode(AT, &mut out);
        let header = Header::decode(&out[..HEADER_SIZE])?;
        assert_eq!(header, Header::new(Type::Begin, AT, out.len() as u64 - HEADER_SIZE as u64));
        assert_eq!(Begin::decode(&header, &out[HEADER_SIZE..])?, begin);
        out.clear();
        commit.encode(AT, &mut out);
        let header = Header::decode(&out[..HEADER_SIZE])?;
        assert_eq!(header, Header::new(Type::Commit, AT, out.len() as u64 - HEADER_SIZE as u64));
        assert_eq!(Commit::decode(&header, &out[HEADER_SIZE..])?, commit);
        out.clear();
        heartbeat(AT, 77, &mut out);
        let header = Header::decode(&out[..HEADER_SIZE])?;
        assert_eq!(header, Header::new(Type::Heartbeat, AT, out.len() as u64 - HEADER_SIZE as u64));
        assert_eq!(decode_heartbeat(&header, &out[HEADER_SIZE..])?, 77);
        Ok(())
    }

    #[test]
    fn a_bit_turned_anywhere_in_a_sealed_record_is_found() -> Result<()> {
        let mut records = [const { Vec::new() }; 3];
        Begin { page_size: PageSize::new(512)?, everything: true, pages: 3 }.encode(AT, &mut records[0]);
        Commit { pages: 3, checksum: 1 << 63, time: 5 }.encode(AT, &mut records[1]);
        heartbeat(AT, 77, &mut records[2]);
        for record in records {
            for bit in 0..record.len() * 8 {
                let mut bad = record.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let (header, payload) = bad.split_at(HEADER_SIZE);
                let read = Header::decode(header).and_then(|header| match header.kind {
                    // A reader of this size would have taken what follows for its payload, or waited for it.
                    _ if header.size != payload.len() as u64 => Err(Error::corrupt("size")),
                    Type::Begin => Begin::decode(&header, payload).map(drop),
                    Type::Commit => Commit::decode(&header, payload).map(drop),
                    Type::Heartbeat => decode_heartbeat(&header, payload).map(drop),
                    _ => Err(Error::corrupt("of another type")),
                });
                assert!(read.is_err(), "bit {bit}");
            }
        }
        Ok(())
    }

    #[test]
    fn pages_come_out_as_they_went_in() -> Result<()> {
        let size = PageSize::new(512)?;
        let mut out = Vec::new();
        start_pages(2, size, &mut out);
        for n in [9u32, 4] {
            out.extend_from_slice(&n.to_be_bytes());
        }
        out.extend_from_slice(&[1; 512]);
        out.extend_from_slice(&[2; 512]);
        let header = Header::decode(&out[..HEADER_SIZE])?;
        assert_eq!(header.size as usize, out.len() - HEADER_SIZE);
        let pages = Pages::decode(&out[HEADER_SIZE..], size)?;
        let seen: Result<Vec<_>> = pages.iter().map(|p| p.map(|(n, image)| (n.get(), image[0]))).collect();
        assert_eq!(seen?, [(9, 1), (4, 2)]);
        assert_eq!(
            pages.runs().filter_map(Result::ok).map(|(n, run)| (n.get(), run.len())).collect::<Vec<_>>(),
            [(9, 512), (4, 512)]
        );
        for cut in 0..out.len() - HEADER_SIZE {
            assert!(Pages::decode(&out[HEADER_SIZE..HEADER_SIZE + cut], size).is_err(), "cut at {cut}");
        }
        Ok(())
    }

    #[test]
    fn a_count_that_overflows_is_refused() -> Result<()> {
        let mut payload = vec![0xff; 4];
        payload.extend_from_slice(&[0; 516]);
        assert!(Pages::decode(&payload, PageSize::new(65536)?).is_err());
        Ok(())
    }

    #[test]
    fn page_zero_and_the_lock_byte_page_are_refused() -> Result<()> {
        let size = PageSize::new(65536)?;
        for n in [0u32, 16_385] {
            let mut payload = 1u32.to_be_bytes().to_vec();
            payload.extend_from_slice(&n.to_be_bytes());
            payload.extend_from_slice(&vec![0; 65536]);
            assert!(Pages::decode(&payload, size)?.iter().any(|p| p.is_err()), "{n}");
        }
        Ok(())
    }

    #[test]
    fn an_error_text_is_cut_at_a_character() -> Result<()> {
        let mut out = Vec::new();
        error(AT, &"é".repeat(3000), &mut out);
        assert!(std::str::from_utf8(&out[HEADER_SIZE..]).is_ok());
        assert!(Header::decode(&out[..HEADER_SIZE]).is_ok());
        Ok(())
    }
}
