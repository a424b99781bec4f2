use litestream::base::limits;
use litestream::format::compression;
use litestream::format::lz4 as frame;
use litestream::format::record::{HEADER_SIZE, Header};

use crate::input::Input;
use crate::{meter, slow};

/// Largest content that is let through: small enough for inputs that hold more.
const LIMIT: u64 = 100_000;
/// Blocks of a frame are of 4 MiB at most, those of a frame as it was before 2014 of 8 MiB. The decoder holds one as it comes,
/// and one as it was before it was compressed.
const MOST: usize = LIMIT as usize * 3 + 2 * (8 << 20) + (1 << 20);

/// Decompresses a frame, a record and a stream; compresses the input in all three ways and decompresses it again.
pub fn lz4(data: &[u8]) {
    let (content, peak) = meter::peak(|| frame::decompress(data, LIMIT));
    assert!(peak <= MOST, "{peak} bytes held for a frame of {}", data.len());
    if let Ok(content) = content {
        assert!(content.len() as u64 <= LIMIT);
        let packed = frame::compress(&content).expect("what was decompressed can be compressed");
        assert!(frame::is_frame(&packed) && frame::decompress(&packed, LIMIT).as_ref() == Ok(&content));
    }
    let packed = frame::compress(data).expect("anything can be compressed");
    assert!(frame::decompress(&packed, data.len() as u64).is_ok_and(|content| content == data));
    if !data.is_empty() {
        assert!(frame::decompress(&packed, data.len() as u64 - 1).is_err(), "one byte more than allowed");
    }
    block(data);
    stream(data);
}

fn block(data: &[u8]) {
    let says = data.first_chunk().map(|size| u32::from_be_bytes(*size) as u64);
    // Room that held something else, and room that is new.
    let mut room = vec![0xee; usize::from(Input(data).byte()) * 16];
    let used = compression::decompress(data, &mut room).map(<[u8]>::to_vec);
    let mut new = Vec::new();
    let (fresh, peak) = meter::peak(|| compression::decompress(data, &mut new).map(<[u8]>::len));
    assert_eq!(used.as_ref().map(Vec::len).ok(), fresh.ok());
    assert!(peak as u64 <= limits::MAX_RECORD_BYTES + 4096, "{peak} bytes held for a record of {}", data.len());
    match used {
        Ok(content) => {
            assert_eq!(Some(content.len() as u64), says);
            let known = lz4_flex::block::decompress(&data[4..], content.len()).expect("an LZ4 block");
            assert!(content == known && content == new[..content.len()], "what was in the room before shows");
        }
        Err(error) => assert!(error.to_string().len() < 400, "{error}"),
    }
}

/// Compressing a stream changes nothing but the size of its pages records.
fn stream(data: &[u8]) {
    let Some(packed) = compression::compress(data) else { return };
    let (before, after) = (slow::records(data), slow::records(&packed));
    assert!(packed.len() < data.len() && before.len() == after.len());
    assert_eq!(before.iter().map(|record| HEADER_SIZE + record.payload.len()).sum::<usize>(), data.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.kind, before.at), (after.kind, after.at));
        if before.flags == after.flags {
            assert!(before.payload == after.payload);
            continue;
        }
        let mut room = Vec::new();
        let content = compression::decompress(after.payload, &mut room).expect("what was compressed");
        assert!(content == before.payload && after.payload.len() < before.payload.len());
        let header = Header::decode(&packed[..HEADER_SIZE]);
        assert!(header.is_ok(), "{header:?}");
    }
}
