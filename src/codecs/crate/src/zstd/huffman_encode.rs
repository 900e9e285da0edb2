//! Huffman codes for literals, the encoder's side (RFC 8878, 4.2).

use super::fse::Counts;
use super::fse_encode::{Encoder, normalize, write_counts};
use super::huffman::MAX_BITS;
use crate::codes::code_lengths;
use crate::writer::BitWriter;

/// A code: for each byte its bits and, above them, how many.
pub struct Code {
    codes: [u32; 256],
    lengths: [u8; 256],
    log: u32,
    last: usize,
}

impl Code {
    pub const fn new() -> Self {
        Code { codes: [0; 256], lengths: [0; 256], log: 0, last: 0 }
    }

    /// Bytes that literals with this histogram take; none when one of them has no code.
    pub fn size(&self, histogram: &[u32; 256]) -> Option<usize> {
        let mut bits = 0u64;
        for (&times, &length) in histogram.iter().zip(&self.lengths) {
            if times > 0 && length == 0 {
                return None;
            }
            bits += u64::from(times) * u64::from(length);
        }
        Some(bits.div_ceil(8) as usize)
    }

    /// Makes the best code for a histogram of at least two different bytes.
    pub fn fill(&mut self, histogram: &[u32; 256]) {
        code_lengths(histogram, MAX_BITS, &mut self.lengths);
        self.log = u32::from(*self.lengths.iter().max().unwrap());
        self.last = self.lengths.iter().rposition(|&length| length > 0).unwrap_or(0);
        // RFC 8878, 4.2.1.3: codes count up from the longest, in symbol order.
        let mut next = 0u32;
        for length in (1..=self.log).rev() {
            for symbol in 0..256 {
                if u32::from(self.lengths[symbol]) == length {
                    self.codes[symbol] = length << 16 | next >> (self.log - length);
                    next += 1 << (self.log - length);
                }
            }
        }
    }

    /// Writes the description (RFC 8878, 4.2.1); false when there is none for this code.
    pub fn write(&self, bytes: &mut Vec<u8>) -> bool {
        let mut weights = [0u8; 256];
        for (weight, &length) in weights.iter_mut().zip(&self.lengths) {
            *weight = if length > 0 { (self.log + 1) as u8 - length } else { 0 };
        }
        // The last weight is implied.
        let weights = &weights[..self.last];
        let start = bytes.len();
        bytes.push(0);
        let packed = pack_weights(weights, bytes);
        let length = bytes.len() - start - 1;
        if packed && length < 128 && (self.last > 128 || length < self.last.div_ceil(2)) {
            bytes[start] = length as u8;
            return true;
        }
        bytes.truncate(start);
        if self.last > 128 {
            return false;
        }
        bytes.push(127 + self.last as u8);
        bytes.extend(weights.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)));
        true
    }

    /// Writes one stream: the last literal first.
    pub fn encode(&self, literals: &[u8], bytes: &mut Vec<u8>) {
        let mut bits = BitWriter::new(bytes);
        for part in literals.rchunks(5) {
            for &literal in part.iter().rev() {
                let code = self.codes[usize::from(literal)];
                bits.put(u64::from(code & 0xffff), code >> 16);
            }
            bits.flush();
        }
        bits.finish();
    }
}

/// RFC 8878, 4.2.1.2: weights from two states in turn; false when that cannot say them.
fn pack_weights(weights: &[u8], bytes: &mut Vec<u8>) -> bool {
    let mut histogram = [0u32; MAX_BITS as usize + 1];
    for &weight in weights {
        histogram[usize::from(weight)] += 1;
    }
    if weights.len() < 3 || histogram.iter().filter(|&&count| count > 0).count() < 2 {
        return false;
    }
    let counts: Counts = normalize(&histogram, weights.len() as u32, 6);
    let mut encoder = Encoder::new();
    encoder.fill(&counts);
    write_counts(&counts, bytes);
    let mut bits = BitWriter::new(bytes);
    let count = weights.len();
    let symbol = |index: usize| usize::from(weights[index]);
    // The last two weights are the states that the decoder is left with; weight i belongs to state i mod 2.
    let mut states = [0; 2];
    states[(count - 1) % 2] = encoder.start(symbol(count - 1));
    states[(count - 2) % 2] = encoder.start(symbol(count - 2));
    for index in (0..count - 2).rev() {
        states[index % 2] = encoder.encode(states[index % 2], symbol(index), &mut bits);
        bits.flush();
    }
    encoder.end(states[1], &mut bits);
    encoder.end(states[0], &mut bits);
    bits.finish();
    true
}
