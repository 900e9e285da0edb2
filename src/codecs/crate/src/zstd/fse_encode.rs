//! Finite state entropy, the encoder's side (RFC 8878, 4.1): distributions made from counts, written, and followed.

use super::fse::{Counts, MAX_LOG, MAX_SYMBOLS};
use crate::writer::BitWriter;

/// Bits, in 1/256, that a symbol takes which has `part` of `whole` states.
pub fn cost(part: u32, whole_log: u32) -> u32 {
    // log2 with a straight line between powers of two.
    let log = part.ilog2();
    let fraction = ((part << 8) >> log) - 256;
    (whole_log << 8) - (log << 8) - fraction
}

/// The distribution that comes nearest to `histogram`, whose sum is `total`, with no more accuracy than it is worth.
pub fn normalize(histogram: &[u32], total: u32, max_log: u32) -> Counts {
    let symbols = histogram.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1);
    let present = histogram.iter().filter(|&&count| count > 0).count() as u32;
    let wanted = (total - 1).max(1).ilog2().saturating_sub(2);
    let least = present.max(2).ilog2() + 1;
    let log = wanted.max(least).clamp(5, max_log);
    let size = 1i32 << log;
    let mut made = Counts { log, symbols, counts: [0; MAX_SYMBOLS] };
    let mut left = size;
    for (count, &times) in made.counts.iter_mut().zip(histogram) {
        if times > 0 {
            let scaled = (u64::from(times) << log) + u64::from(total) / 2;
            *count = ((scaled / u64::from(total)) as i16).max(1);
            left -= i32::from(*count);
        }
    }
    // What rounding left over goes to, or comes from, the most frequent.
    while left != 0 {
        let largest = made.counts.iter_mut().max().unwrap();
        let change = left.max(1 - i32::from(*largest) / 2).min(size);
        let change = if change == 0 { -1 } else { change };
        *largest += change as i16;
        left -= change;
    }
    made
}

/// Writes the description of a distribution (RFC 8878, 4.1.1).
pub fn write_counts(counts: &Counts, bytes: &mut Vec<u8>) {
    let mut bits = BitWriter::new(bytes);
    bits.put(u64::from(counts.log - 5), 4);
    let mut left = (1i32 << counts.log) + 1;
    let mut symbol = 0;
    while left > 1 {
        let count = i32::from(counts.counts[symbol]);
        let value = (count + 1) as u32;
        let width = 32 - (left as u32).leading_zeros();
        let threshold = (1u32 << width) - 1 - left as u32;
        if value < threshold {
            bits.put(u64::from(value), width - 1);
        } else {
            let value = if value >= 1 << (width - 1) { value + threshold } else { value };
            bits.put(u64::from(value), width);
        }
        left -= count.abs();
        symbol += 1;
        if count == 0 {
            let mut zeroes = counts.counts[symbol..].iter().take_while(|&&count| count == 0).count();
            symbol += zeroes;
            while zeroes >= 3 {
                bits.put(3, 2);
                bits.flush();
                zeroes -= 3;
            }
            bits.put(zeroes as u64, 2);
        }
        bits.flush();
    }
    bits.finish_open();
}

/// How one symbol changes the state.
#[derive(Clone, Copy, Default)]
struct Step {
    /// Added to a state, gives in the upper half the bits to write.
    bits: u32,
    /// Added to what remains of a state, gives the place of the next.
    place: i32,
}

/// An encoder's table.
pub struct Encoder {
    log: u32,
    steps: [Step; MAX_SYMBOLS],
    next: [u16; 1 << MAX_LOG],
}

impl Encoder {
    pub const fn new() -> Self {
        Encoder { log: 0, steps: [Step { bits: 0, place: 0 }; MAX_SYMBOLS], next: [0; 1 << MAX_LOG] }
    }

    /// Makes the table of a distribution.
    pub fn fill(&mut self, counts: &Counts) {
        self.log = counts.log;
        let size = 1u32 << counts.log;
        let mut symbols = [0; 1 << MAX_LOG];
        counts.spread(&mut symbols);
        let mut places = [0u32; MAX_SYMBOLS];
        let mut total = 0u32;
        for symbol in 0..counts.symbols {
            let count = u32::from(counts.counts[symbol].unsigned_abs());
            places[symbol] = total;
            if count > 0 {
                // A symbol with one state writes all bits; with more, one bit more or less by where the state is.
                let most = if count == 1 { counts.log } else { counts.log - (count - 1).ilog2() };
                self.steps[symbol] = Step { bits: (most << 16).wrapping_sub(count << most), place: total as i32 - count as i32 };
            }
            total += count;
        }
        for (state, &symbol) in symbols[..size as usize].iter().enumerate() {
            let place = &mut places[usize::from(symbol)];
            self.next[*place as usize] = (size + state as u32) as u16;
            *place += 1;
        }
    }

    /// Makes the table in which there is one symbol only.
    pub fn fill_one(&mut self, symbol: usize) {
        self.log = 0;
        self.steps[symbol] = Step { bits: 0, place: 0 };
        self.next[0] = 0;
    }

    /// The state that the last symbol, which is encoded first, ends in.
    #[inline(always)]
    pub fn start(&self, symbol: usize) -> u32 {
        let step = self.steps[symbol];
        let bits = (step.bits.wrapping_add(1 << 15)) >> 16;
        let state = (bits << 16).wrapping_sub(step.bits);
        self.advance(state, bits, step)
    }

    #[inline(always)]
    fn advance(&self, state: u32, bits: u32, step: Step) -> u32 {
        u32::from(self.next[((state >> bits) as i32 + step.place) as usize & ((1 << MAX_LOG) - 1)])
    }

    /// Encodes one symbol more, and returns the state before it.
    #[inline(always)]
    pub fn encode(&self, state: u32, symbol: usize, bits: &mut BitWriter) -> u32 {
        let step = self.steps[symbol & (MAX_SYMBOLS - 1)];
        let count = state.wrapping_add(step.bits) >> 16;
        bits.put(u64::from(state & ((1 << count) - 1)), count);
        self.advance(state, count, step)
    }

    /// Writes the state that the first symbol began in.
    #[inline(always)]
    pub fn end(&self, state: u32, bits: &mut BitWriter) {
        bits.put(u64::from(state & ((1 << self.log) - 1)), self.log);
    }
}
