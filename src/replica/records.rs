//! Reads records from a stream.

use std::io::{BufReader, ErrorKind, Read};
use std::time::{Duration, Instant};

use crate::base::{Error, Kind, Result, limits};
use crate::format::compression::{Compression, decompress};
use crate::format::record::{Begin, HEADER_SIZE, Header, Type};

/// How much is read at once, and looked ahead into.
const BUFFER: usize = limits::scaled(1 << 20, 6 << 10);

/// A stream, record by record.
pub(super) struct Records<R> {
    body: BufReader<Limited<R>>,
    /// How long a record may take that has begun, and the next one that brings the replica on.
    silence: Duration,
    headway: Headway,
    compression: Compression,
    payload: Vec<u8>,
    decompressed: Vec<u8>,
    /// Bytes read so far, as they came.
    pub bytes: u64,
}

impl<R: Read> Records<R> {
    /// A reader at the start of a stream.
    pub fn new(body: R) -> Records<R> {
        let body = BufReader::with_capacity(BUFFER, Limited { body, until: None, is_over: false });
        let (payload, decompressed) = (Vec::new(), Vec::new());
        let (silence, headway) = (limits::SILENCE, Headway::begin());
        Records { body, silence, headway, compression: Compression::None, payload, decompressed, bytes: 0 }
    }

    /// The same for an upstream that may be silent for so long.
    pub fn silent_for(self, silence: Duration) -> Records<R> {
        Records { silence, ..self }
    }

    /// The same for a stream that may be compressed so. In any other, compressed records are refused.
    pub fn compressed_with(self, compression: Compression) -> Records<R> {
        Records { compression, ..self }
    }

    /// The next record's header; none when the stream ends between two records.
    pub fn header(&mut self) -> Result<Option<Header>> {
        let mut bytes = [0; HEADER_SIZE];
        let first = self.body.by_ref().read(&mut bytes).map_err(failed)?;
        if first == 0 {
            return Ok(None);
        }
        let rest = bytes.get_mut(first..).unwrap_or_default();
        self.limited("the header of a record", rest.len() as u64, |body| body.read_exact(rest))?;
        self.bytes += HEADER_SIZE as u64;
        let header = Header::decode(&bytes)?;
        self.headway.saw(&header, self.silence)?;
        if header.compressed && self.compression == Compression::None {
            let kind = header.kind;
            return Err(Error::corrupt(format!("stream: {kind:?} record with flags 0x1, which was not asked for")));
        }
        Ok(Some(header))
    }

    /// The payload of a record, whose size its header has bounded, as it was before it was compressed.
    pub fn payload(&mut self, header: &Header) -> Result<&[u8]> {
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        // Read as it comes, so that memory is only taken for what is really sent.
        let what = format!("a {:?} record", header.kind);
        let read = self.limited(&what, header.size, |body| body.take(header.size).read_to_end(&mut payload));
        self.payload = payload;
        let read = read?;
        self.bytes += read as u64;
        if read as u64 != header.size {
            return Err(cut());
        }
        if header.compressed { decompress(&self.payload, &mut self.decompressed) } else { Ok(&self.payload) }
    }

    /// Fills `out` from the payload of a record that is too large to be held.
    pub fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        self.bytes += out.len() as u64;
        self.limited("a piece of a record", out.len() as u64, |body| body.read_exact(out))
    }

    /// A catch-up begins, or the upstream says that it is busy with one.
    pub fn begun(&mut self, begin: &Begin) -> Result<()> {
        self.headway.begun(begin, self.silence)
    }

    /// Reads what takes no longer than the silence allowed, and a second for so many of its
    /// `bytes`.
    fn limited<T>(
        &mut self,
        what: &str,
        bytes: u64,
        read: impl FnOnce(&mut BufReader<Limited<R>>) -> std::io::Result<T>,
    ) -> Result<T> {
        let time = self.silence.saturating_add(Duration::from_secs(bytes / limits::SLOWEST_BYTES));
        self.body.get_mut().until = Instant::now().checked_add(time);
        let read = read(&mut self.body);
        match self.body.get_mut().end() {
            true => Err(too_slow(what, bytes, time)),
            false => read.map_err(failed),
        }
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
        &mut self.body.get_mut().body
    }
}

/// Whether a stream brings the replica on. Heartbeats do where it has everything, and say nothing
/// where it waits for more.
struct Headway {
    /// When pages or a commit came last, or were said to come.
    at: Instant,
    /// When the upstream last said that it is busy with that.
    busy_at: Instant,
    /// How long it may be busy without sending any.
    busy_for: Duration,
    /// Whether something has begun that no commit has ended yet.
    is_due: bool,
}

impl Headway {
    fn begin() -> Headway {
        let now = Instant::now();
        Headway { at: now, busy_at: now, busy_for: Duration::ZERO, is_due: true }
    }

    fn saw(&mut self, header: &Header, silence: Duration) -> Result<()> {
        match header.kind {
            // Counted once it is known what it says.
            Type::Begin => return Ok(()),
            Type::Heartbeat if self.is_due && self.busy_at.elapsed() > silence => {
                return Err(no_headway(silence, "heartbeats"));
            }
            Type::Heartbeat => return Ok(()),
            kind => self.is_due = kind != Type::Commit,
        }
        (self.at, self.busy_at, self.busy_for) = (Instant::now(), Instant::now(), Duration::ZERO);
        Ok(())
    }

    /// A primary that reads its database before it knows what to send says so with one begin record
    /// after the other. It may take as long as reading takes that much.
    fn begun(&mut self, begin: &Begin, silence: Duration) -> Result<()> {
        if !self.is_due {
            (self.at, self.busy_for) = (Instant::now(), Duration::ZERO);
        }
        let bytes = begin.pages.min(u64::from(u32::MAX)) * u64::from(begin.page_size.get());
        self.busy_for = self.busy_for.max(silence.saturating_add(Duration::from_secs(bytes / limits::SLOWEST_READ)));
        if self.at.elapsed() > self.busy_for {
            return Err(no_headway(self.busy_for, "begin records"));
        }
        (self.busy_at, self.is_due) = (Instant::now(), true);
        Ok(())
    }
}

fn no_headway(time: Duration, what: &str) -> Error {
    let milliseconds = time.as_millis();
    Error::new(Kind::Io, format!("stream: no pages and no commit came for {milliseconds} ms, only {what}"))
}

/// A stream that fails after some moment.
struct Limited<R> {
    body: R,
    until: Option<Instant>,
    is_over: bool,
}

impl<R> Limited<R> {
    /// Takes the limit away. Whether a read was refused for it.
    fn end(&mut self) -> bool {
        self.until = None;
        std::mem::take(&mut self.is_over)
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            self.is_over = true;
            return Err(ErrorKind::TimedOut.into());
        }
        self.body.read(out)
    }
}

fn too_slow(what: &str, bytes: u64, time: Duration) -> Error {
    let (milliseconds, slowest) = (time.as_millis(), limits::SLOWEST_BYTES);
    Error::corrupt(format!(
        "stream: {what} of {bytes} bytes was not there after {milliseconds} ms; its size was damaged on the way, \
         or the connection is slower than {slowest} bytes a second"
    ))
}

fn failed(error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => cut(),
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
    use crate::format::compression::compress;
    use crate::format::record::{Begin, Commit, start_pages};

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
                60 => Some(1),
                _ => None,
            };
            assert_eq!(read().ok(), expected, "cut at {cut}");
        }
        Ok(())
    }

    /// A stream that begins with `begin`, and on which nothing but heartbeats comes then, for ever.
    struct Idle {
        begin: Vec<u8>,
        heartbeat: Vec<u8>,
    }

    impl Read for Idle {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let from = if self.begin.is_empty() { &self.heartbeat } else { &self.begin };
            let n = from.len().min(out.len());
            out[..n].copy_from_slice(&from[..n]);
            self.begin.drain(..n.min(self.begin.len()));
            Ok(n)
        }
    }

    #[test]
    fn a_record_whose_size_was_damaged_is_not_waited_for_while_heartbeats_come() -> Result<()> {
        let mut begin = Vec::new();
        start_pages(1, PageSize::new(512)?, &mut begin);
        // In the size, which ends the header: by 1,024 bytes.
        begin[HEADER_SIZE - 2] ^= 4;
        let mut records = Records::new(Idle { begin, heartbeat: stream()?.split_off(60) });
        records.silence = Duration::ZERO;
        let header = records.header()?.ok_or_else(cut)?;
        let refused = records.payload(&header).map(<[u8]>::len);
        assert!(refused.is_err_and(|e| e.to_string().contains("damaged on the way")), "{} bytes", header.size);
        Ok(())
    }

    #[test]
    fn a_catch_up_has_time_from_its_begin_and_not_from_the_last_commit() -> Result<()> {
        let silence = Duration::from_secs(10);
        let long_ago = || Instant::now().checked_sub(silence * 2).ok_or_else(cut);
        let begin = |pages| PageSize::new(512).map(|page_size| Begin { page_size, everything: false, pages });
        let heartbeat = Header::new(Type::Heartbeat, Position { generation: Generation(1), index: 0, offset: 0 }, 12);
        let at_rest = || long_ago().map(|at| Headway { at, busy_at: at, busy_for: Duration::ZERO, is_due: false });

        let mut headway = at_rest()?;
        headway.saw(&heartbeat, silence)?;
        headway.begun(&begin(0)?, silence)?;
        headway.saw(&heartbeat, silence)?;
        headway.begun(&begin(0)?, silence)?;

        let mut stuck = Headway { is_due: true, ..at_rest()? };
        assert!(stuck.saw(&heartbeat, silence).is_err(), "heartbeats only");
        assert!(stuck.begun(&begin(0)?, silence).is_err(), "begin records only");
        let mut busy = Headway { is_due: true, ..at_rest()? };
        busy.begun(&begin(1 << 20)?, silence)?;
        busy.saw(&heartbeat, silence)
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
    #[test]
    fn compressed_pages_are_read_as_they_were_and_counted_as_they_came() -> Result<()> {
        let mut plain = Vec::new();
        start_pages(1, PageSize::new(512)?, &mut plain);
        plain.extend_from_slice(&1u32.to_be_bytes());
        plain.resize(plain.len() + 512, 7);
        let pages = plain.get(HEADER_SIZE..).unwrap_or_default().to_vec();
        plain.extend_from_slice(stream()?.get(60..).unwrap_or_default());
        let packed = compress(&plain).ok_or_else(cut)?;
        let mut records = Records::new(packed.as_slice()).compressed_with(Compression::Lz4);
        let mut header = records.header()?.ok_or_else(cut)?;
        assert_eq!(records.payload(&header)?, pages);
        assert!(records.has_whole_commit());
        header = records.header()?.ok_or_else(cut)?;
        assert_eq!((header.kind, records.payload(&header)?.len()), (Type::Commit, 24));
        assert_eq!(records.bytes, packed.len() as u64);

        // The same ahead of what is read, with another commit before it.
        let ahead = [&plain, &packed].map(Vec::as_slice).concat();
        for cut_off in [0, 1] {
            let mut records = Records::new(ahead.get(..ahead.len() - cut_off).unwrap_or_default());
            for _ in 0..2 {
                let header = records.header()?.ok_or_else(cut)?;
                records.payload(&header)?;
            }
            assert_eq!(records.has_whole_commit(), cut_off == 0);
            assert!(records.header().is_err(), "compressed, and nobody asked for it");
        }
        Ok(())
    }
}
