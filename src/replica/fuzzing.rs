//! What `fuzz/` reaches of this layer and nobody else does. There only for a build with `--cfg fuzzing`.

use std::io::Read;

use super::records::Records;
use crate::base::Result;
use crate::format::compression::Compression;
use crate::format::record::{Header, Type};

/// Reads a stream to its end and shows each record, and whether a whole commit was seen ahead of it. Of a snapshot, nothing
/// but the header is shown.
pub fn read_stream(body: impl Read, compression: Compression, mut see: impl FnMut(&Header, &[u8], bool)) -> Result<()> {
    let mut records = Records::new(body).compressed_with(compression);
    let mut ahead = false;
    while let Some(header) = records.header()? {
        if header.kind == Type::Snapshot {
            skip(&mut records, header.size)?;
            see(&header, &[], ahead);
        } else {
            see(&header, records.payload(&header)?, ahead);
        }
        ahead = records.has_whole_commit();
    }
    Ok(())
}

fn skip<R: Read>(records: &mut Records<R>, mut left: u64) -> Result<()> {
    let mut room = [0; 512];
    while left > 0 {
        let some = usize::try_from(left).unwrap_or(usize::MAX).min(room.len());
        records.fill(room.get_mut(..some).unwrap_or_default())?;
        left -= some as u64;
    }
    Ok(())
}
