//! Takes an input apart.

/// What is left of an input. Where it has ended, everything is zero or empty.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    /// The next `n` bytes, or as many as are left.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The next 4 bytes as a number.
    pub fn u32(&mut self) -> u32 {
        self.u64_of(4) as u32
    }

    /// The next 8 bytes as a number.
    pub fn u64(&mut self) -> u64 {
        self.u64_of(8)
    }

    fn u64_of(&mut self, n: usize) -> u64 {
        self.bytes(n).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Text up to the next zero byte, or none if it is not UTF-8.
    pub fn text(&mut self) -> Option<&'a str> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = self.bytes(end.unwrap_or(self.0.len()));
        self.bytes(1);
        std::str::from_utf8(text).ok()
    }
}
