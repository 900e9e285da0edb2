//! Huffman-coded literals (RFC 8878, 4.2).

use super::bits::BackBits;
use super::fse::{Counts, Table};

/// No literal's code is longer.
pub const MAX_BITS: u32 = 11;
const SIZE: usize = 1 << MAX_BITS;
/// RFC 8878, 4.2.1.2: the accuracy that weights may be coded with.
const WEIGHT_LOG: u32 = 6;

/// A decoder's table: for each `log` bits, a symbol and the bits of its code in the high byte.
pub struct Huffman {
    log: u32,
    symbols: [u16; SIZE],
    weights: Table,
}

impl Huffman {
    pub const fn new() -> Self {
        Huffman { log: 0, symbols: [0; SIZE], weights: Table::new() }
    }

    /// Whether there is a table from an earlier block.
    pub fn is_known(&self) -> bool {
        self.log > 0
    }

    /// Forgets the table.
    pub fn forget(&mut self) {
        self.log = 0;
    }

    /// Reads a description (RFC 8878, 4.2.1) from `input[at..end]` and returns how many bytes it takes.
    pub fn read(&mut self, input: &[u8], at: usize, end: usize) -> Option<usize> {
        self.log = 0;
        let head = usize::from(*input[..end].get(at)?);
        let mut weights = [0u8; 256];
        let (count, length) = if head >= 128 {
            // Two weights of four bits in each byte.
            let count = head - 127;
            let bytes = input[..end].get(at + 1..at + 1 + count.div_ceil(2))?;
            for (index, weight) in weights[..count].iter_mut().enumerate() {
                *weight = bytes[index / 2] >> (if index % 2 == 0 { 4 } else { 0 }) & 0xf;
            }
            (count, 1 + bytes.len())
        } else {
            input[..end].get(at + 1..at + 1 + head)?;
            (self.read_weights(input, at + 1, at + 1 + head, &mut weights)?, 1 + head)
        };
        self.fill(&mut weights, count)?;
        Some(length)
    }

    /// RFC 8878, 4.2.1.2: weights from two states in turn, until the stream is used up.
    fn read_weights(&mut self, input: &[u8], at: usize, end: usize, weights: &mut [u8; 256]) -> Option<usize> {
        let (counts, length) = Counts::read(&input[at..end], WEIGHT_LOG, MAX_BITS as usize + 2)?;
        let mut values = [(0, 0); MAX_BITS as usize + 2];
        for (weight, value) in values.iter_mut().enumerate() {
            value.0 = weight as u32;
        }
        self.weights.fill(&counts, &values);
        let mut bits = BackBits::new(input, at + length, end)?;
        bits.refill();
        let mut states = [bits.take(counts.log) as usize, bits.take(counts.log) as usize];
        if bits.overrun() {
            return None;
        }
        let mut count = 0;
        loop {
            if count >= 254 {
                return None;
            }
            let state = self.weights.states[states[count % 2]];
            weights[count] = state.base as u8;
            count += 1;
            bits.refill();
            states[(count + 1) % 2] = state.next as usize + bits.take(u32::from(state.bits)) as usize;
            if bits.overrun() {
                weights[count] = self.weights.states[states[count % 2]].base as u8;
                return Some(count + 1);
            }
        }
    }

    /// RFC 8878, 4.2.1.3: the last weight is what is missing to a power of two; codes go from the longest, in symbol order.
    fn fill(&mut self, weights: &mut [u8; 256], count: usize) -> Option<()> {
        let mut sum = 0u32;
        let mut ranks = [0u32; MAX_BITS as usize + 2];
        for &weight in &weights[..count] {
            if u32::from(weight) > MAX_BITS {
                return None;
            }
            sum += (1 << weight) >> 1;
            ranks[usize::from(weight)] += 1;
        }
        if sum == 0 {
            return None;
        }
        let log = sum.ilog2() + 1;
        let rest = (1 << log) - sum;
        if log > MAX_BITS || !rest.is_power_of_two() || count > 255 {
            return None;
        }
        let last = rest.ilog2() + 1;
        weights[count] = last as u8;
        ranks[last as usize] += 1;
        // RFC 8878, 4.2.1: at least two codes have the greatest length.
        if ranks[1] < 2 || ranks[1] % 2 != 0 {
            return None;
        }
        let mut place = [0usize; MAX_BITS as usize + 2];
        let mut at = 0;
        for weight in 1..=log as usize {
            place[weight] = at;
            at += (ranks[weight] as usize) << (weight - 1);
        }
        for (symbol, &weight) in weights[..=count].iter().enumerate() {
            if weight > 0 {
                let size = 1 << (weight - 1);
                let bits = log + 1 - u32::from(weight);
                let at = &mut place[usize::from(weight)];
                self.symbols[*at..*at + size].fill((bits << 8) as u16 | symbol as u16);
                *at += size;
            }
        }
        self.log = log;
        Some(())
    }

    /// The next symbol of a stream that has enough bits in its word.
    #[inline(always)]
    fn next(&self, bits: &mut BackBits) -> u8 {
        // SAFETY: `log` is at most MAX_BITS.
        let entry = unsafe { *self.symbols.get_unchecked(bits.peek(self.log) & (SIZE - 1)) };
        bits.skip(u32::from(entry >> 8));
        entry as u8
    }

    fn finish(&self, mut bits: BackBits, output: &mut [u8]) -> Option<()> {
        for part in output.chunks_mut(5) {
            bits.refill();
            for place in part {
                *place = self.next(&mut bits);
            }
            if bits.overrun() {
                return None;
            }
        }
        bits.finished().then_some(())
    }

    /// Decodes one stream, `input[at..end]`, to exactly fill `output`.
    pub fn decode1(&self, input: &[u8], at: usize, end: usize, output: &mut [u8]) -> Option<()> {
        self.finish(BackBits::new(input, at, end)?, output)
    }

    /// Decodes four streams (RFC 8878, 4.2.2) in step to exactly fill `output`.
    pub fn decode4(&self, input: &[u8], at: usize, end: usize, output: &mut [u8]) -> Option<()> {
        let jumps = input[..end].get(at..at + 6)?;
        let size = |index: usize| usize::from(u16::from_le_bytes([jumps[index], jumps[index + 1]]));
        let first = at + 6;
        let second = first + size(0);
        let third = second + size(2);
        let fourth = third + size(4);
        if fourth >= end {
            return None;
        }
        let mut a = BackBits::new(input, first, second)?;
        let mut b = BackBits::new(input, second, third)?;
        let mut c = BackBits::new(input, third, fourth)?;
        let mut d = BackBits::new(input, fourth, end)?;
        let quarter = output.len().div_ceil(4);
        if quarter * 3 > output.len() {
            return None;
        }
        // Five codes of at most 11 bits fit into the 57 that a refill promises; the last quarter is the shortest.
        let steps = (output.len() - quarter * 3) / 5;
        let start = output.as_mut_ptr();
        for step in 0..steps {
            a.refill();
            b.refill();
            c.refill();
            d.refill();
            for index in step * 5..step * 5 + 5 {
                // SAFETY: `index` is less than the last quarter's length.
                unsafe {
                    *start.add(index) = self.next(&mut a);
                    *start.add(quarter + index) = self.next(&mut b);
                    *start.add(quarter * 2 + index) = self.next(&mut c);
                    *start.add(quarter * 3 + index) = self.next(&mut d);
                }
            }
        }
        let done = steps * 5;
        self.finish(a, &mut output[done..quarter])?;
        self.finish(b, &mut output[quarter + done..quarter * 2])?;
        self.finish(c, &mut output[quarter * 2 + done..quarter * 3])?;
        self.finish(d, &mut output[quarter * 3 + done..])
    }
}
