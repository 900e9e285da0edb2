//! Finite state entropy tables (RFC 8878, 4.1): their description, and the states that it comes to.

/// No table has more symbols or a greater accuracy than these.
pub const MAX_SYMBOLS: usize = 64;
pub const MAX_LOG: u32 = 9;

/// How often each symbol occurs in a table of 2^`log` states; -1 stands for "less than one".
#[derive(Clone, Copy)]
pub struct Counts {
    pub log: u32,
    pub symbols: usize,
    pub counts: [i16; MAX_SYMBOLS],
}

impl Counts {
    /// The distribution given by `counts`.
    pub const fn of<const N: usize>(log: u32, counts: [i16; N]) -> Self {
        let mut all = [0; MAX_SYMBOLS];
        let mut at = 0;
        while at < N {
            all[at] = counts[at];
            at += 1;
        }
        Counts { log, symbols: N, counts: all }
    }

    /// Reads a description (RFC 8878, 4.1.1) and how many bytes it takes; none when it is wrong.
    pub fn read(input: &[u8], max_log: u32, max_symbols: usize) -> Option<(Self, usize)> {
        // Bits from the first byte upwards; past the end they are zeroes, which is found out at the end.
        let mut at = 0;
        let mut bits = |count: u32| {
            let byte = at / 8;
            let mut word = 0;
            for index in 0..4 {
                word |= u32::from(input.get(byte + index).copied().unwrap_or(0)) << (8 * index);
            }
            let value = word >> (at % 8) & ((1 << count) - 1);
            at += count as usize;
            (value, at)
        };
        let log = bits(4).0 + 5;
        if log > max_log {
            return None;
        }
        let mut made = Counts { log, symbols: 0, counts: [0; MAX_SYMBOLS] };
        let mut left = (1i32 << log) + 1;
        while left > 1 {
            if made.symbols >= max_symbols {
                return None;
            }
            // A value from 0 to `left` takes one bit less when it is small enough.
            let width = 32 - (left as u32).leading_zeros();
            let threshold = (1u32 << width) - 1 - left as u32;
            let low = bits(width - 1).0;
            let value = if low < threshold {
                low
            } else {
                let value = low | bits(1).0 << (width - 1);
                if value >= 1 << (width - 1) { value - threshold } else { value }
            };
            let count = value as i32 - 1;
            left -= count.abs();
            made.counts[made.symbols] = count as i16;
            made.symbols += 1;
            if count == 0 {
                // Runs of more zeroes, in twos of bits.
                loop {
                    let (repeat, _) = bits(2);
                    made.symbols += repeat as usize;
                    if made.symbols > max_symbols {
                        return None;
                    }
                    if repeat < 3 {
                        break;
                    }
                }
            }
        }
        let length = bits(0).1.div_ceil(8);
        (left == 1 && length <= input.len()).then_some((made, length))
    }

    /// The symbol of each state (RFC 8878, 4.1.1): rare symbols at the top, the others spread.
    pub fn spread(&self, states: &mut [u8]) {
        let size = 1usize << self.log;
        let mut top = size;
        for (symbol, &count) in self.counts[..self.symbols].iter().enumerate() {
            if count == -1 {
                top -= 1;
                states[top] = symbol as u8;
            }
        }
        let step = (size >> 1) + (size >> 3) + 3;
        let mut place = 0;
        for (symbol, &count) in self.counts[..self.symbols].iter().enumerate() {
            for _ in 0..count.max(0) {
                states[place] = symbol as u8;
                loop {
                    place = (place + step) & (size - 1);
                    if place < top {
                        break;
                    }
                }
            }
        }
    }
}

/// A state of a decoder.
#[derive(Clone, Copy, Default)]
pub struct State {
    /// What the symbol stands for, before its extra bits are added.
    pub base: u32,
    /// The next state, before `bits` more bits are added.
    pub next: u16,
    pub bits: u8,
    pub extra: u8,
}

/// A decoder's table: a state for each number of up to `log` bits.
pub struct Table {
    pub log: u32,
    pub states: [State; 1 << MAX_LOG],
}

impl Table {
    pub const fn new() -> Self {
        Table { log: 0, states: [State { base: 0, next: 0, bits: 0, extra: 0 }; 1 << MAX_LOG] }
    }

    /// Makes the table of a distribution, whose symbols stand for the given values and numbers of extra bits.
    pub fn fill(&mut self, counts: &Counts, values: &[(u32, u8)]) {
        self.log = counts.log;
        let mut symbols = [0; 1 << MAX_LOG];
        counts.spread(&mut symbols);
        let mut next = [0u32; MAX_SYMBOLS];
        for (next, &count) in next.iter_mut().zip(&counts.counts) {
            *next = u32::from(count.unsigned_abs());
        }
        for (state, &symbol) in self.states[..1 << counts.log].iter_mut().zip(&symbols) {
            let number = next[symbol as usize];
            next[symbol as usize] += 1;
            let bits = counts.log - number.ilog2();
            let (base, extra) = values[symbol as usize];
            *state = State { base, next: ((number << bits) - (1 << counts.log)) as u16, bits: bits as u8, extra };
        }
    }

    /// Makes the table in which there is one symbol only (RFC 8878, 3.1.1.3.2.1: RLE_Mode).
    pub fn fill_one(&mut self, (base, extra): (u32, u8)) {
        self.log = 0;
        self.states[0] = State { base, next: 0, bits: 0, extra };
    }
}
