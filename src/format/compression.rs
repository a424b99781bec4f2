//! Pages records as one LZ4 block each.
//!
//! | offset | size | field | unit |
//! |---|---|---|---|
//! | 0 | 4 | size of the payload before it was compressed, at most [`limits::MAX_RECORD_BYTES`] | bytes |
//! | 4 | | that payload as an LZ4 block | |
//!
//! Source: <https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md>

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};

use super::record::{HEADER_SIZE, Header, Type};
use crate::base::{Error, Result, limits};

/// Size of what stands before the block, in bytes.
pub const PREFIX_SIZE: usize = 4;

/// How pages records are compressed on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// With LZ4, where that gains something.
    Lz4,
}

impl Compression {
    /// Every kind there is.
    pub const ALL: [Compression; 2] = [Compression::None, Compression::Lz4];

    /// What it is called in options and headers.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
        }
    }
}

/// Whole records, with each pages record compressed that gets smaller by a sixteenth at least. None if there is no such
/// record: they are then sent as they are.
pub fn compress(records: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut rest, mut gained) = (Vec::new(), records, false);
    while let Some((head, after)) = rest.split_at_checked(HEADER_SIZE) {
        let header = Header::decode(head).ok()?;
        let (payload, next) = after.split_at_checked(usize::try_from(header.size).ok()?)?;
        if header.kind == Type::Pages && !header.compressed && append_compressed(&header, payload, &mut out) {
            gained = true;
        } else {
            out.extend_from_slice(head);
            out.extend_from_slice(payload);
        }
        rest = next;
    }
    if !gained || !rest.is_empty() {
        return None;
    }
    // It is kept for a while, and the room it was made in is larger.
    out.shrink_to_fit();
    Some(out)
}

/// Appends the record compressed, or nothing if that gains too little. Whether it did.
fn append_compressed(header: &Header, payload: &[u8], out: &mut Vec<u8>) -> bool {
    let (start, block) = (out.len(), out.len() + HEADER_SIZE + PREFIX_SIZE);
    out.resize(block + get_maximum_output_size(payload.len()), 0);
    let size = compress_into(payload, out.get_mut(block..).unwrap_or_default()).map(|n| PREFIX_SIZE + n);
    let Some(size) = size.ok().filter(|size| *size <= payload.len() - payload.len() / 16) else {
        out.truncate(start);
        return false;
    };
    out.truncate(start + HEADER_SIZE + size);
    let header = Header { compressed: true, size: size as u64, ..*header };
    out[start..start + HEADER_SIZE].copy_from_slice(&header.encode());
    out[start + HEADER_SIZE..block].copy_from_slice(&(payload.len() as u32).to_be_bytes());
    true
}

/// The payload that was compressed into `payload`. `out` is the room for it, and may hold anything.
pub fn decompress<'o>(payload: &[u8], out: &'o mut Vec<u8>) -> Result<&'o [u8]> {
    let Some((size, block)) = payload.split_first_chunk::<PREFIX_SIZE>() else {
        return Err(Error::corrupt(format!("compressed record: {} bytes, expected more", payload.len())));
    };
    let size = u32::from_be_bytes(*size);
    if u64::from(size) > limits::MAX_RECORD_BYTES {
        return Err(Error::corrupt(format!(
            "compressed record: says that it holds {size} bytes, expected at most {}",
            limits::MAX_RECORD_BYTES
        )));
    }
    let size = size as usize;
    if out.len() < size {
        out.resize(size, 0);
    }
    let room = out.get_mut(..size).unwrap_or_default();
    match decompress_into(block, room) {
        Ok(n) if n == size => Ok(room),
        Ok(n) => Err(Error::corrupt(format!("compressed record: holds {n} bytes, expected {size} as it says"))),
        Err(e) => Err(Error::corrupt(format!("compressed record: an LZ4 block of {} bytes: {e}", block.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Generation, PageSize, Position};
    use crate::format::record::{Commit, Pages, heartbeat, start_pages};

    const AT: Position = Position { generation: Generation(1), index: 2, offset: 4152 };

    /// Records of a commit of `count` pages of 512 bytes, each of which holds what `byte` gives.
    fn commit(count: u32, mut byte: impl FnMut() -> u8) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        start_pages(count, PageSize::new(512)?, &mut out);
        (1..=count).for_each(|n| out.extend_from_slice(&n.to_be_bytes()));
        out.extend((0..count * 512).map(|_| byte()));
        Commit { pages: count, checksum: 0, time: 0 }.encode(AT, &mut out);
        Ok(out)
    }

    /// Bytes that follow no pattern LZ4 knows of.
    fn noise() -> impl FnMut() -> u8 {
        let mut state = 1u64;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        }
    }

    /// Header and payload of each record.
    fn records(mut bytes: &[u8]) -> Result<Vec<(Header, &[u8])>> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let header = Header::decode(&bytes[..HEADER_SIZE])?;
            let (payload, rest) = bytes[HEADER_SIZE..].split_at(header.size as usize);
            found.push((header, payload));
            bytes = rest;
        }
        Ok(found)
    }

    #[test]
    fn pages_come_out_as_they_were_compressed_and_the_rest_stays_as_it_is() -> Result<()> {
        let mut plain = commit(40, || 7)?;
        heartbeat(AT, 5, &mut plain);
        let packed = compress(&plain).ok_or(Error::corrupt("not compressed"))?;
        assert!(packed.len() < plain.len() / 10 && packed.capacity() == packed.len());
        let (before, after) = (records(&plain)?, records(&packed)?);
        assert_eq!(after.iter().map(|(h, _)| h.kind).collect::<Vec<_>>(), [Type::Pages, Type::Commit, Type::Heartbeat]);
        assert_eq!(after[1..], before[1..]);
        assert!(after[0].0.compressed && !before[0].0.compressed);
        // Room that another record was in before, larger or smaller, changes nothing.
        for mut room in [Vec::new(), vec![0xee; 100], vec![0xee; 100_000]] {
            let payload = decompress(after[0].1, &mut room)?;
            assert_eq!(payload, before[0].1);
            assert_eq!(Pages::decode(payload, PageSize::new(512)?)?.iter().count(), 40);
        }
        Ok(())
    }

    #[test]
    fn what_gains_less_than_a_sixteenth_is_left_alone() -> Result<()> {
        assert_eq!(compress(&commit(40, noise())?), None);
        // Of a page in 20, next to nothing is left: not enough. Of one in 10 it is.
        for (every, expected) in [(20, false), (10, true)] {
            let (mut random, mut n) = (noise(), 0);
            let mixed = commit(40, || {
                n += 1;
                if n / 512 % every == 0 { 0 } else { random() }
            })?;
            assert_eq!(compress(&mixed).is_some(), expected, "a page in {every}");
        }
        Ok(())
    }

    #[test]
    fn of_several_records_those_are_compressed_that_get_smaller() -> Result<()> {
        let plain = [commit(4, noise())?, commit(4, || 0)?].concat();
        let packed = compress(&plain).ok_or(Error::corrupt("not compressed"))?;
        let flags: Vec<_> = records(&packed)?.iter().map(|(header, _)| header.compressed).collect();
        assert_eq!(flags, [false, false, true, false]);
        assert_eq!(compress(&packed), None, "once is enough");
        Ok(())
    }

    #[test]
    fn what_is_no_whole_record_is_left_alone() -> Result<()> {
        let plain = commit(4, || 7)?;
        for cut in 0..plain.len() {
            // Between two records it is whole.
            if cut != plain.len() - HEADER_SIZE - 24 {
                assert_eq!(compress(&plain[..cut]), None, "cut at {cut}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_record_cut_anywhere_or_followed_by_more_is_refused() -> Result<()> {
        let mut n = 0u32;
        let plain = commit(3, || {
            n += 1;
            (n / 9 % 50) as u8
        })?;
        let packed = compress(&plain).ok_or(Error::corrupt("not compressed"))?;
        let payload = records(&packed)?[0].1;
        let mut room = Vec::new();
        assert!(decompress(payload, &mut room).is_ok());
        for cut in 0..payload.len() {
            assert!(decompress(&payload[..cut], &mut room).is_err(), "cut at {cut}");
        }
        for more in [&[0][..], &[0x10, 7], &[0xff; 20]] {
            assert!(decompress(&[payload, more].concat(), &mut room).is_err(), "followed by {more:?}");
        }
        Ok(())
    }

    #[test]
    fn a_record_with_any_byte_changed_is_refused_or_holds_what_it_says() -> Result<()> {
        let packed = compress(&commit(3, || 7)?).ok_or(Error::corrupt("not compressed"))?;
        let payload = records(&packed)?[0].1;
        // Miri takes a hundred times as long, and longer for room of some megabytes.
        let (first, step) = if cfg!(miri) { (PREFIX_SIZE, 51) } else { (0, 1) };
        for at in first..payload.len() {
            for value in (0..=255).step_by(step) {
                let mut bad = payload.to_vec();
                bad[at] = value;
                let says = u32::from_be_bytes([bad[0], bad[1], bad[2], bad[3]]) as usize;
                let mut room = Vec::new();
                if let Ok(content) = decompress(&bad, &mut room) {
                    assert_eq!(content.len(), says, "byte {at} = {value}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn an_absurd_size_is_refused_before_room_is_made_for_it() {
        for size in [limits::MAX_RECORD_BYTES as u32 + 1, 1 << 30, u32::MAX] {
            let mut room = Vec::new();
            let error = decompress(&[&size.to_be_bytes()[..], &[0; 50]].concat(), &mut room).map(<[u8]>::len);
            assert!(matches!(&error, Err(e) if e.to_string().contains(&size.to_string())), "{error:?}");
            assert_eq!(room.capacity(), 0, "{size}");
        }
    }
}
