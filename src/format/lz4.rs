//! LZ4 frames, as the 2022 stream carries its WAL segments and as `litestream_apply_wal` accepts them.
//!
//! Source: <https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>

use std::io::{Read, Write};

use lz4_flex::frame::{FrameDecoder, FrameEncoder, FrameInfo};

use crate::base::{Error, Result};

/// First four bytes of every LZ4 frame.
pub const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];

/// Whether `bytes` start like an LZ4 frame.
pub fn is_frame(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// One frame around `bytes`, with a checksum of the content.
pub fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = FrameEncoder::with_frame_info(FrameInfo::new().content_checksum(true), Vec::new());
    let written = encoder.write_all(bytes);
    written.map_err(|e| Error::io("LZ4: compressing", &e))?;
    encoder.finish().map_err(|e| Error::corrupt(format!("LZ4: compressing: {e}")))
}

/// The content of one frame, which must not be larger than `limit` bytes.
pub fn decompress(frame: &[u8], limit: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut decoder = FrameDecoder::new(frame);
    let read = decoder.by_ref().take(limit.saturating_add(1)).read_to_end(&mut content);
    read.map_err(|e| Error::corrupt(format!("LZ4 frame of {} bytes: {e}", frame.len())))?;
    if content.len() as u64 > limit {
        return Err(Error::corrupt(format!("LZ4 frame holds more than the {limit} bytes allowed")));
    }
    if !decoder.get_ref().is_empty() || !has_end_mark(frame) {
        return Err(Error::corrupt(format!("LZ4 frame of {} bytes is cut short or followed by others", frame.len())));
    }
    Ok(content)
}

/// The decoder takes the end of its input between two blocks for the end of the frame; a frame that was cut there
/// lacks the end mark (four zero bytes, before the checksum of the content if flag bit 2 says there is one).
fn has_end_mark(frame: &[u8]) -> bool {
    let checksum = if frame.get(4).is_some_and(|flags| flags & 4 != 0) { 4 } else { 0 };
    frame.len().checked_sub(checksum).and_then(|end| frame.get(..end)).is_some_and(|body| body.ends_with(&[0; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes; Miri takes a hundred times as long.
    const LARGE: u32 = if cfg!(miri) { 2_000 } else { 100_000 };

    #[test]
    fn a_frame_gives_back_what_went_in() -> Result<()> {
        let bytes: Vec<u8> = (0..LARGE).map(|i| (i / 7 % 251) as u8).collect();
        let frame = compress(&bytes)?;
        assert!(is_frame(&frame) && frame.len() < bytes.len());
        assert_eq!(decompress(&frame, LARGE.into())?, bytes);
        Ok(())
    }

    #[test]
    fn a_frame_larger_than_allowed_or_cut_short_is_refused() -> Result<()> {
        let frame = compress(&[7; LARGE as usize])?;
        assert!(decompress(&frame, u64::from(LARGE) - 1).is_err());
        for cut in (0..frame.len()).step_by(if cfg!(miri) { 9 } else { 1 }) {
            assert!(decompress(&frame[..cut], LARGE.into()).is_err(), "cut at {cut}");
        }
        Ok(())
    }
}
