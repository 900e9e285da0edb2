//! Bits written upwards from the first byte; a reader that goes backwards finds the last ones first.

/// Bits that wait to become bytes of a buffer.
pub struct BitWriter<'a> {
    bytes: &'a mut Vec<u8>,
    word: u64,
    count: u32,
}

impl<'a> BitWriter<'a> {
    /// Writes after what `bytes` holds.
    pub fn new(bytes: &'a mut Vec<u8>) -> Self {
        BitWriter { bytes, word: 0, count: 0 }
    }

    /// Adds the low `count` bits of `value`, which has no others; at most 57 between two flushes.
    #[inline(always)]
    pub fn put(&mut self, value: u64, count: u32) {
        self.word |= value << self.count;
        self.count += count;
    }

    /// Makes room for 57 bits.
    #[inline(always)]
    pub fn flush(&mut self) {
        let length = self.bytes.len();
        if self.bytes.capacity() - length < 8 {
            self.grow();
        }
        let whole = (self.count >> 3) as usize;
        // SAFETY: there is room for eight bytes, of which no more are kept than were written.
        unsafe {
            self.bytes.as_mut_ptr().add(length).cast::<u64>().write_unaligned(self.word.to_le());
            self.bytes.set_len(length + whole);
        }
        self.word = self.word.wrapping_shr(self.count & !7);
        self.count &= 7;
    }

    #[cold]
    fn grow(&mut self) {
        self.bytes.reserve(4096);
    }

    /// Ends the stream with the bit that marks its end (RFC 8878, 4.1), and zeroes to a whole byte.
    pub fn finish(mut self) {
        self.put(1, 1);
        self.finish_open();
    }

    /// Fills the last byte with zeroes.
    pub fn align(&mut self) {
        self.count = self.count.next_multiple_of(8);
        self.flush();
    }

    /// Adds whole bytes, when there is no byte begun.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.flush();
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that were begun, with what the buffer held at the start.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.count.div_ceil(8) as usize
    }

    /// Ends the stream with zeroes to a whole byte.
    pub fn finish_open(mut self) {
        self.flush();
        if self.count > 0 {
            self.bytes.push(self.word as u8);
        }
    }
}
