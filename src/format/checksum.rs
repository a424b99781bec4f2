//! Checksums of pages and of whole databases, as the LTX format defines them.
//!
//! | of | value |
//! |---|---|
//! | a page | CRC-64/GO-ISO over its number (4 bytes, big-endian) and its content, highest bit set |
//! | a database | all page checksums combined by exclusive or, highest bit set; the lock-byte page is left out |
//!
//! Page 1 counts as if its file format versions (bytes 18 and 19) were 2 and 2, so that a replica with the read-only mark has
//! the checksum of its primary. Source: <https://github.com/superfly/ltx>; GO-ISO is polynomial 0x1b, reflected, with all ones
//! before and after (<https://reveng.sourceforge.io/crc-catalogue/17plus.htm>).

use std::num::NonZeroU64;

use crc_fast::{CrcAlgorithm, Digest};

use crate::base::Pgno;

/// The bit that makes a checksum differ from "none".
const SET: u64 = 1 << 63;
/// The file format versions in page 1, and what they count as.
const VERSIONS: std::ops::Range<usize> = 18..20;
const AS_WAL: [u8; 2] = [2, 2];

/// Checksum of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageChecksum(NonZeroU64);

impl PageChecksum {
    /// Of page `pgno` with this content.
    pub fn of(pgno: Pgno, image: &[u8]) -> PageChecksum {
        let mut digest = Digest::new(CrcAlgorithm::Crc64GoIso);
        digest.update(&pgno.get().to_be_bytes());
        match (image.get(..VERSIONS.start), image.get(VERSIONS.end..)) {
            (Some(before), Some(after)) if pgno == Pgno::ONE => {
                digest.update(before);
                digest.update(&AS_WAL);
                digest.update(after);
            }
            _ => digest.update(image),
        }
        PageChecksum(NonZeroU64::new(digest.finalize() | SET).unwrap_or(NonZeroU64::MAX))
    }

    /// A checksum as it was stored; none for what cannot be one.
    pub fn from_u64(stored: u64) -> Option<PageChecksum> {
        NonZeroU64::new(stored).filter(|n| n.get() & SET != 0).map(PageChecksum)
    }

    /// As it is stored.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// The checksum of a database whose page checksums come to `sum` by exclusive or.
pub fn of_database(sum: u64) -> u64 {
    sum | SET
}

/// CRC-32/ISO-HDLC, that of zlib, of `first` and then `second`.
pub fn crc32(first: &[u8], second: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
    digest.update(first);
    digest.update(second);
    // The library returns every width as 64 bits.
    digest.finalize() as u32
}

/// CRC-64/GO-ISO of bytes that come in parts, for a file that ends with it.
pub struct Crc(Digest);

impl Default for Crc {
    fn default() -> Crc {
        Crc(Digest::new(CrcAlgorithm::Crc64GoIso))
    }
}

impl Crc {
    /// Adds the next part.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The value so far.
    pub fn value(&self) -> u64 {
        self.0.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Result;

    #[test]
    fn the_check_values_of_go_iso_come_out() {
        for (text, expected) in [("", 0), ("a", 0x3420_0000_0000_0000), ("123456789", 0xb909_56c7_75a4_1001)] {
            let mut crc = Crc::default();
            crc.add(text.as_bytes());
            assert_eq!(crc.value(), expected, "{text}");
        }
    }

    #[test]
    fn the_check_value_of_iso_hdlc_comes_out() {
        assert_eq!(crc32(b"123456789", b""), 0xcbf4_3926);
        assert_eq!(crc32(b"1234", b"56789"), 0xcbf4_3926);
    }

    #[test]
    fn a_page_has_the_checksum_that_ltx_gives_it() {
        let page = PageChecksum::of(Pgno::ONE, &[0; 512]);
        // Of page 1 with zeros throughout; ours counts its versions as 2, 2, so the plain one is made from its parts.
        let mut crc = Crc::default();
        crc.add(&[0, 0, 0, 1]);
        crc.add(&[0; 512]);
        assert_eq!(of_database(crc.value()), 0xefb1_f44f_ecd9_9000);
        assert_ne!(page.get(), of_database(crc.value()));
    }

    #[test]
    fn the_read_only_mark_does_not_change_the_checksum_of_page_one() -> Result<()> {
        let mut page = vec![7; 1024];
        (page[18], page[19]) = (2, 2);
        let plain = PageChecksum::of(Pgno::ONE, &page);
        page[18] = 3;
        assert_eq!(PageChecksum::of(Pgno::ONE, &page), plain);
        page[20] = 8;
        assert_ne!(PageChecksum::of(Pgno::ONE, &page), plain);
        let two = PageChecksum::of(Pgno::new(2)?, &page);
        page[18] = 2;
        assert_ne!(PageChecksum::of(Pgno::new(2)?, &page), two);
        Ok(())
    }
}
