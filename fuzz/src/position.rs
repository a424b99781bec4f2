use litestream::base::{FrameNo, Generation, Lsn, PageSize, Position};

use crate::input::Input;

/// Reads a text as a position; makes positions of numbers, and writes and reads them.
pub fn position(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        match text.parse::<Position>() {
            Ok(position) => assert_eq!(position.to_string(), text),
            Err(error) => assert!(error.to_string().contains("5fdb81d7f2759003/0"), "{error}"),
        }
        if let Ok(generation) = text.parse::<Generation>() {
            assert_eq!(generation.to_string(), text);
        }
    }
    let mut input = Input(data);
    let mut next = || Position { generation: Generation(input.u64() & 3), index: input.u64(), offset: input.u64() };
    let (one, other) = (next(), next());
    assert_eq!(one.to_string().parse().ok(), Some(one).filter(Position::is_possible));
    let expected = (one.index, one.offset) >= (other.index, other.offset);
    assert_eq!(one.reaches(&other), (one.generation == other.generation).then_some(expected));
    // Past this, LSNs saturate.
    let is_counted = |position: &Position| position.index < 1 << 36;
    for size in (9..=16).filter_map(|bits| PageSize::new(1 << bits).ok()) {
        let Some(frame) = one.frame(size) else { continue };
        let back = Position::after_frame(one.generation, one.index, frame, size);
        assert!(back.offset == one.offset || frame == FrameNo::ZERO, "{one} at frame {frame:?} is {back}");
        let lsn = Lsn::new(one.index, frame);
        assert_eq!(one.lsn(size), Some(lsn));
        assert_eq!(Lsn::from_u64(lsn.to_u64()), lsn);
        if let (Some(later), Some(later_frame)) = (other.lsn(size), other.frame(size))
            && (one.index, frame) <= (other.index, later_frame)
            && is_counted(&one)
            && is_counted(&other)
            && later_frame.0 < 1 << 28
        {
            assert!(lsn <= later, "{lsn:?} {later:?}");
        }
    }
}
