//! The hash that pages are compared by: the one the library uses, by the same implementation, so that neither side has a faster one.

use crc_fast::{CrcAlgorithm, Digest};

/// CRC-64 of a page.
pub fn page_hash(page: &[u8]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64GoIso);
    digest.update(page);
    digest.finalize()
}
