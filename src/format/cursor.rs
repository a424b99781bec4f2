//! A bounded reader over bytes from outside: it takes, or it fails; it never reads past the end.

use byteorder::{BigEndian, ByteOrder};

use crate::base::{Error, Result};

/// Reads fields one after another from `bytes`. `what` names the thing in errors.
pub struct Cursor<'a> {
    what: &'static str,
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `bytes`.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { what, bytes }
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.bytes.split_at_checked(n) {
            Some((taken, rest)) => {
                self.bytes = rest;
                Ok(taken)
            }
            None => Err(Error::corrupt(format!("{}: {} bytes left, expected {n} more", self.what, self.bytes.len()))),
        }
    }

    /// The next 4 bytes as a big-endian number.
    pub fn u32_be(&mut self) -> Result<u32> {
        self.take(4).map(BigEndian::read_u32)
    }

    /// The next 8 bytes as a big-endian number.
    pub fn u64_be(&mut self) -> Result<u64> {
        self.take(8).map(BigEndian::read_u64)
    }

    /// Ends the reading; bytes left over are an error.
    pub fn finish(self) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(Error::corrupt(format!("{}: {} bytes too many", self.what, self.bytes.len())))
    }
}
