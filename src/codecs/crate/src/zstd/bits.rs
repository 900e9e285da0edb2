//! Bits read backwards, as Huffman and FSE streams are (RFC 8878, 4.1): from the last byte, whose highest set bit only
//! marks the end.

/// A stream of bits read from its end to its start.
#[derive(Clone, Copy)]
pub struct BackBits<'a> {
    input: &'a [u8],
    /// The place of the eight bytes in `word`; never less than `start`.
    at: usize,
    start: usize,
    word: u64,
    /// Bits of `word` that were used, from the top.
    used: u32,
}

impl<'a> BackBits<'a> {
    /// The stream in `input[start..end]`; none when it is empty or its last byte is zero.
    pub fn new(input: &'a [u8], start: usize, end: usize) -> Option<Self> {
        let last = *input.get(start..end)?.last()?;
        if last == 0 {
            return None;
        }
        let marker = last.leading_zeros() + 1;
        if end - start >= 8 {
            let at = end - 8;
            return Some(BackBits { input, at, start, word: load(input, at), used: marker });
        }
        // The stream is shorter than a word: as if the rest of the word had been used.
        let mut word = 0;
        for (index, &byte) in input[start..end].iter().enumerate() {
            word |= u64::from(byte) << (8 * index);
        }
        Some(BackBits { input, at: start, start, word, used: 64 - 8 * (end - start) as u32 + marker })
    }

    /// Makes at least 57 bits valid, as far as there are that many.
    #[inline(always)]
    pub fn refill(&mut self) {
        let bytes = ((self.used >> 3) as usize).min(self.at - self.start);
        if bytes > 0 {
            self.at -= bytes;
            self.used -= 8 * bytes as u32;
            self.word = load(self.input, self.at);
        }
    }

    /// The next bits without taking them; `bits` is not 0.
    #[inline(always)]
    pub fn peek(&self, bits: u32) -> usize {
        (self.word.wrapping_shl(self.used) >> (64 - bits)) as usize
    }

    /// Takes bits that were looked at.
    #[inline(always)]
    pub fn skip(&mut self, bits: u32) {
        self.used += bits;
    }

    /// Takes up to 32 bits, maybe none.
    #[inline(always)]
    pub fn take(&mut self, bits: u32) -> u32 {
        let value = self.word.wrapping_shl(self.used) >> 1 >> (63 - bits);
        self.used += bits;
        value as u32
    }

    /// Bits that are left; negative when more were taken than there are.
    fn left(&self) -> isize {
        8 * (self.at - self.start) as isize + 64 - self.used as isize
    }

    /// Whether more bits were taken than there are.
    pub fn overrun(&self) -> bool {
        self.left() < 0
    }

    /// Whether all bits were taken, and no more.
    pub fn finished(&self) -> bool {
        self.left() == 0
    }
}

#[inline(always)]
fn load(input: &[u8], at: usize) -> u64 {
    debug_assert!(at + 8 <= input.len());
    // SAFETY: `at` only falls from eight bytes before the end of a stream in `input`; short streams never load.
    unsafe { input.as_ptr().add(at).cast::<u64>().read_unaligned().to_le() }
}
