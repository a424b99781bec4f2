use std::io::{self, Read};

use litestream::format::compression::Compression;
use litestream::format::record::{Header, Type};
use litestream::replica::fuzzing::read_stream;

use crate::input::Input;
use crate::meter;
use crate::slow;

/// What may be held while a stream is read: the buffer that it is looked ahead into, a payload, which grows by doubling, the
/// same decompressed, and what there is for errors.
const MOST: usize = (1 << 20) + 3 * (4 << 20) + (64 << 10);

/// Reads a stream as a whole and in pieces whose sizes the input begins with: it comes to the same, and to what is there.
pub fn records(data: &[u8]) {
    let mut input = Input(data);
    let compression = Compression::ALL[usize::from(input.byte() & 1)];
    let sizes = input.bytes(8);
    let (whole, peak) = meter::peak(|| read(input.0, compression));
    let held: usize = whole.0.iter().map(|(_, payload, _)| payload.len() + 200).sum();
    assert!(peak <= MOST + 3 * held, "{peak} bytes held for a stream of {}", input.0.len());
    let pieces = read(Pieces { left: input.0, sizes: sizes.iter().cycle() }, compression);
    let content =
        |seen: &Seen| seen.0.iter().map(|(header, payload, _)| (*header, payload.clone())).collect::<Vec<_>>();
    assert!(
        content(&whole) == content(&pieces) && whole.1 == pieces.1,
        "whole: {:?}, in pieces: {:?}",
        whole.1,
        pieces.1
    );
    let expected = slow::records(input.0);
    for (i, (header, payload, ahead)) in whole.0.iter().enumerate() {
        let record = &expected[i];
        assert_eq!((header.kind as u32, u32::from(header.compressed)), (record.kind, record.flags));
        let shown = !header.compressed && header.kind != Type::Snapshot;
        assert!(!shown || payload == record.payload, "the payload of {header:?}");
        let mut kinds = expected[i..].iter().map(|record| record.kind).skip_while(|kind| *kind == Type::Pages as u32);
        assert!(!ahead || kinds.next() == Some(Type::Commit as u32), "a commit that was seen ahead of {header:?}");
    }
    assert!(whole.0.len() <= expected.len(), "{} records of {}", whole.0.len(), expected.len());
    if whole.1.is_none() {
        assert_eq!(whole.0.len(), expected.len(), "a stream that ended in order");
    }
}

type Seen = (Vec<(Header, Vec<u8>, bool)>, Option<String>);

/// The records, each with whether a commit was seen ahead of it, and the error that the stream ended with.
fn read(stream: impl Read, compression: Compression) -> Seen {
    let mut seen = Vec::new();
    let read = read_stream(stream, compression, |header, payload, ahead| {
        seen.push((*header, payload.to_vec(), ahead));
    });
    (seen, read.err().map(|error| error.to_string()))
}

/// A stream that comes in pieces.
struct Pieces<'a, S> {
    left: &'a [u8],
    sizes: S,
}

impl<'a, S: Iterator<Item = &'a u8>> Read for Pieces<'a, S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let size = self.sizes.next().map_or(1, |size| usize::from(*size) + 1).min(out.len());
        self.left.read(&mut out[..size])
    }
}
