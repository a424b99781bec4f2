use std::cell::OnceCell;
use std::fs;

use litestream::format::wal::{Checksum, HEADER_SIZE, Header, WordOrder};
use litestream::format::walindex;
use rusqlite::Connection;

use crate::database::{loaded, scratch};
use crate::input::Input;
use crate::slow;

thread_local! {
    static CONNECTION: OnceCell<Connection> = const { OnceCell::new() };
}

/// Reads a WAL through `litestream_wal`. Only what SQLite would take counts as valid, and all of it.
pub fn wal(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.byte();
    checksums(input.0);
    index(input.0);
    let mut bytes = input.0.to_vec();
    if flags & 1 == 1 {
        slow::repair_wal(&mut bytes, flags & 2 == 2, 512 << (flags >> 2 & 7));
        if let (Some(place), true) = (bytes.get_mut(usize::from(flags) * 20), flags & 32 == 32) {
            *place ^= 1;
        }
    }
    let expected = slow::wal(&bytes);
    let header = bytes.get(..HEADER_SIZE).map(Header::decode);
    assert_eq!(header.as_ref().is_some_and(Result::is_ok), expected.is_some());
    if let Some(Ok(header)) = header {
        assert_eq!(header.encode(), bytes[..HEADER_SIZE]);
    }
    let rows = CONNECTION.with(|connection| rows(connection.get_or_init(|| loaded(":memory:".as_ref())), &bytes));
    match (rows, expected) {
        (Ok(rows), Some(expected)) => {
            let frame_size = 24 + expected.page_size;
            let frames = bytes[HEADER_SIZE..].chunks_exact(frame_size);
            assert_eq!(rows.len(), frames.len());
            for ((row, frame), number) in rows.iter().zip(frames).zip(1..) {
                let words = (0..6).map(|word| i64::from(slow::word(frame, word * 4)));
                assert!(row.0.iter().copied().eq([number].into_iter().chain(words)), "frame {number}: {:?}", row.0);
                assert_eq!(row.1, number as usize <= expected.frames.len(), "whether frame {number} is valid");
                assert!(row.2 == frame[24..], "the page of frame {number}");
            }
        }
        (Ok(rows), None) => assert!(rows.is_empty() && bytes.len() < HEADER_SIZE),
        (Err(error), expected) => assert!(expected.is_none(), "{error}"),
    }
}

type Row = ([i64; 7], bool, Vec<u8>);

fn rows(connection: &Connection, bytes: &[u8]) -> rusqlite::Result<Vec<Row>> {
    let path = scratch().join("some.db-wal");
    fs::write(&path, bytes).expect("a file");
    let mut select = connection.prepare_cached(
        "SELECT frame, pgno, \"commit\", salt1, salt2, checksum1, checksum2, valid, page FROM litestream_wal(?1)",
    )?;
    let mut number = [0; 7];
    let rows = select.query_map([path.to_str()], |row| {
        for (i, place) in number.iter_mut().enumerate() {
            *place = row.get(i)?;
        }
        Ok((number, row.get(7)?, row.get(8)?))
    })?;
    rows.collect()
}

/// The checksum of a page, which is taken in a quick way.
fn checksums(data: &[u8]) {
    for (order, big) in [(WordOrder::Little, false), (WordOrder::Big, true)] {
        for bits in 3..=16 {
            let Some(bytes) = data.get(..1 << bits) else { break };
            let from = Checksum(slow::word(bytes, 0), slow::word(bytes, 4));
            let Checksum(one, two) = order.checksum(from, bytes);
            assert_eq!([one, two], slow::wal_checksum(big, [from.0, from.1], bytes), "of {} bytes", bytes.len());
        }
    }
}

/// A copy of the header of a wal-index.
fn index(data: &[u8]) {
    let mut words = [0; walindex::HEADER_WORDS];
    for (word, bytes) in words.iter_mut().zip(data.chunks_exact(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
    }
    words[0] = 3_007_000;
    let bytes: Vec<u8> = words[..10].iter().flat_map(|word| word.to_ne_bytes()).collect();
    let [one, two] = slow::wal_checksum(cfg!(target_endian = "big"), [0, 0], &bytes);
    (words[10], words[11]) = (one, two);
    let header = walindex::Header::decode(&words);
    assert_eq!(header.is_some(), words[3].to_ne_bytes()[0] != 0);
    if let Some(header) = header {
        assert_eq!(walindex::Header::decode(&header.encode()), Some(header));
    }
    words[11] ^= 1;
    assert_eq!(walindex::Header::decode(&words), None);
}
