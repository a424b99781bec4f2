//! Where in the history of a primary something stands.

use std::fmt;
use std::str::FromStr;

use super::{Error, FrameNo, PageSize, Result};

/// Size of a WAL header and of a frame header, in bytes (<https://www.sqlite.org/fileformat2.html#walformat>).
const WAL_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;

/// Random name of one unbroken history of a primary. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Generation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Generation> {
        Ok(Generation(hex16(text, text)?))
    }
}

/// How far a primary had come: which of its WALs (`index` counts the resets), and the byte just after the last
/// frame counted in it (`offset`; 0 while that WAL is empty).
///
/// As text `generation/index:offset`, 16 lowercase hex digits each, the form Litestream gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The history the two numbers belong to.
    pub generation: Generation,
    /// How many times the WAL had been reset in this generation.
    pub index: u64,
    /// Bytes into that WAL.
    pub offset: u64,
}

impl Position {
    /// Whether a primary may come there: its numbers stay below 2^63, which is more than any sends
    /// or takes.
    pub fn is_possible(&self) -> bool {
        i64::try_from(self.index.max(self.offset)).is_ok()
    }

    /// The position just after `frame` of WAL number `index`.
    pub fn after_frame(generation: Generation, index: u64, frame: FrameNo, size: PageSize) -> Position {
        Position { generation, index, offset: wal_bytes(frame, size) }
    }

    /// The last frame counted, if `offset` lies on a frame boundary of a WAL with pages of `size`.
    pub fn frame(&self, size: PageSize) -> Option<FrameNo> {
        if self.offset == 0 || self.offset == WAL_HEADER {
            return Some(FrameNo::ZERO);
        }
        let frames = self.offset.checked_sub(WAL_HEADER)?;
        let frame = FRAME_HEADER + u64::from(size.get());
        if frames % frame != 0 {
            return None;
        }
        u32::try_from(frames / frame).ok().map(FrameNo)
    }

    /// The same within its generation, if `offset` lies on a frame boundary of a WAL with pages of `size`.
    pub fn lsn(&self, size: PageSize) -> Option<Lsn> {
        self.frame(size).map(|frame| Lsn::new(self.index, frame))
    }

    /// Whether this position is `other` or later. Positions of two generations cannot be compared.
    pub fn reaches(&self, other: &Position) -> Option<bool> {
        if self.generation != other.generation {
            return None;
        }
        Some((self.index, self.offset) >= (other.index, other.offset))
    }
}

/// Bytes of a WAL that ends with `frame`; 0 for an empty one.
pub(super) fn wal_bytes(frame: FrameNo, size: PageSize) -> u64 {
    match frame {
        FrameNo::ZERO => 0,
        FrameNo(n) => WAL_HEADER + u64::from(n) * (FRAME_HEADER + u64::from(size.get())),
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}:{:016x}", self.generation, self.index, self.offset)
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Position> {
        let (generation, rest) = text.split_once('/').ok_or_else(|| not_a_position(text))?;
        let (index, offset) = rest.split_once(':').ok_or_else(|| not_a_position(text))?;
        let position = Position {
            generation: Generation(hex16(generation, text)?),
            index: hex16(index, text)?,
            offset: hex16(offset, text)?,
        };
        if position.is_possible() { Ok(position) } else { Err(not_a_position(text)) }
    }
}

fn hex16(digits: &str, whole: &str) -> Result<u64> {
    let plain = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match u64::from_str_radix(digits, 16) {
        Ok(n) if plain => Ok(n),
        _ => Err(not_a_position(whole)),
    }
}

fn not_a_position(text: &str) -> Error {
    let shown: String = text.chars().take(60).collect();
    Error::usage(format!(
        "'{shown}' is not a position; expected generation/index:offset in 16 lowercase hex digits each, \
         such as 5fdb81d7f2759003/0000000000000000:000000000008cd40"
    ))
}

/// Log sequence number within one generation: (WAL index, frame number), ordered as commits were.
///
/// Zero is before everything. The frame takes the low 28 bits and the index the others: enough for a WAL of 128 GiB at the
/// smallest page size, and for two years of a thousand resets a second. Past that [`Lsn::new`] saturates rather than wraps;
/// what is missed then is found by its checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

const FRAME_BITS: u32 = 28;
const FRAME_MASK: u32 = (1 << FRAME_BITS) - 1;

impl Lsn {
    /// Before every commit.
    pub const ZERO: Lsn = Lsn(0);

    /// Frame `frame` of WAL number `index`.
    pub fn new(index: u64, frame: FrameNo) -> Lsn {
        Lsn(index.min(u64::MAX >> FRAME_BITS) << FRAME_BITS | u64::from(frame.0.min(FRAME_MASK)))
    }

    /// As it is stored.
    pub fn to_u64(self) -> u64 {
        self.0
    }

    /// As it was stored.
    pub fn from_u64(stored: u64) -> Lsn {
        Lsn(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "5fdb81d7f2759003/0000000000000000:000000000008cd40";

    #[test]
    fn a_position_is_read_back_as_it_was_written() {
        let position: Result<Position> = TEXT.parse();
        assert_eq!(position.map(|p| p.to_string()), Ok(TEXT.to_string()));
    }

    #[test]
    fn what_is_not_a_position_is_refused() {
        for text in [
            "",
            "/",
            "/:",
            "5fdb81d7f2759003",
            &TEXT[1..],
            &TEXT.to_uppercase(),
            &format!("{TEXT}0"),
            "+fdb81d7f2759003/0000000000000000:000000000008cd40",
            "5fdb81d7f2759003/8000000000000000:000000000008cd40",
            "5fdb81d7f2759003/0000000000000000:8000000000000000",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }

    #[test]
    fn offsets_name_frames() -> Result<()> {
        let size = PageSize::new(4096)?;
        let at = |offset| Position { generation: Generation(1), index: 0, offset };
        assert_eq!(at(0).frame(size), Some(FrameNo(0)));
        assert_eq!(at(32).frame(size), Some(FrameNo(0)));
        assert_eq!(at(32 + 4120 * 3).frame(size), Some(FrameNo(3)));
        assert_eq!(at(33).frame(size), None);
        assert_eq!(Position::after_frame(Generation(1), 0, FrameNo(3), size).offset, 32 + 4120 * 3);
        Ok(())
    }

    #[test]
    fn positions_of_two_generations_do_not_compare() {
        let at = |g, index, offset| Position { generation: Generation(g), index, offset };
        assert_eq!(at(1, 2, 0).reaches(&at(1, 1, 99)), Some(true));
        assert_eq!(at(1, 1, 0).reaches(&at(1, 1, 99)), Some(false));
        assert_eq!(at(1, 1, 0).reaches(&at(2, 0, 0)), None);
    }

    #[test]
    fn lsns_order_as_commits_were() {
        assert!(Lsn::new(0, FrameNo(u32::MAX)) < Lsn::new(1, FrameNo(0)));
        assert!(Lsn::new(7, FrameNo(8)) < Lsn::new(7, FrameNo(9)));
        assert!(Lsn::new(u64::MAX, FrameNo(1)) >= Lsn::new(1 << 36, FrameNo(1)));
    }
}
