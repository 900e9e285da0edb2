//! Deflate (RFC 1951), the encoder: blocks that are stored, or coded with the fixed or with their own codes.

use super::inflate::{DISTANCES, LENGTHS, ORDER};
use crate::codes::code_lengths;
use super::chains::{Chains, Effort, LINKS, Run};
use crate::writer::BitWriter;

/// Input of one block: little enough for its codes to fit what is in it, and what the chains slide by.
const BLOCK: usize = LINKS;
const MOST_STORED: usize = 0xffff;
const END_OF_BLOCK: usize = 256;

/// How hard to look at each level, so that none is larger or slower than zlib's; level 0 does not look.
const fn effort(level: i32) -> Effort {
    let (depth, enough, lazy, good) = match level {
        ..=1 => (1, 32, 0, 0),
        2 => (2, 32, 0, 0),
        3 => (4, 32, 0, 0),
        4 => (8, 32, 6, 4),
        5 => (32, 64, 16, 4),
        6 => (64, 128, 16, 4),
        7 => (96, 128, 32, 8),
        8 => (128, 128, 32, 8),
        _ => (256, 258, 64, 32),
    };
    Effort { depth, enough, lazy, good }
}

/// A code: for each symbol its bits in the order of transmission, and above them how many.
struct Code<const N: usize> {
    lengths: [u8; N],
    codes: [u32; N],
}

impl<const N: usize> Code<N> {
    const fn new() -> Self {
        Code { lengths: [0; N], codes: [0; N] }
    }

    fn fill(&mut self, histogram: &[u32; N], limit: u32) {
        code_lengths(histogram, limit, &mut self.lengths);
        self.assign();
    }

    /// RFC 1951, 3.2.2: codes of the same length count up in symbol order.
    fn assign(&mut self) {
        let mut next = 0u32;
        for length in 1..=15u32 {
            next <<= 1;
            for (symbol, _) in self.lengths.iter().enumerate().filter(|(_, own)| u32::from(**own) == length) {
                self.codes[symbol] = length << 16 | next.reverse_bits() >> (32 - length);
                next += 1;
            }
        }
    }

    #[inline(always)]
    fn put(&self, symbol: usize, bits: &mut BitWriter) {
        let code = self.codes[symbol];
        bits.put(u64::from(code & 0xffff), code >> 16);
    }

    /// Literals, three to a flush.
    #[inline(always)]
    fn put_all(&self, bytes: &[u8], bits: &mut BitWriter) {
        for part in bytes.chunks(3) {
            for &byte in part {
                self.put(usize::from(byte), bits);
            }
            bits.flush();
        }
    }

    /// Bits that symbols with this histogram take, but for their extra bits.
    fn cost(&self, histogram: &[u32; N]) -> u32 {
        histogram.iter().zip(&self.lengths).map(|(times, &length)| times * u32::from(length)).sum()
    }

    /// How many lengths must be said: up to the last that is used, and at least `least`.
    fn used(&self, least: usize) -> usize {
        self.lengths.iter().rposition(|&length| length > 0).map_or(least, |last| (last + 1).max(least))
    }
}

/// RFC 1951, 3.2.5: the code of a match length, less 257, and of a distance.
fn length_code(length: usize) -> usize {
    let value = length - 3;
    match value {
        0..8 => value,
        255.. => 28,
        _ => {
            let log = value.ilog2() as usize;
            4 * (log - 1) + (value >> (log - 2) & 3)
        }
    }
}

fn distance_code(distance: usize) -> usize {
    let value = distance - 1;
    match value {
        0..4 => value,
        _ => {
            let log = value.ilog2() as usize;
            2 * log + (value >> (log - 1) & 1)
        }
    }
}

/// Tables that are kept from stream to stream.
pub struct DeflateEncoder {
    chains: Chains,
    runs: Vec<Run>,
    literals: Code<286>,
    distances: Code<30>,
    fixed_literals: Code<288>,
    fixed_distances: Code<30>,
    bytes: Vec<u8>,
}

impl DeflateEncoder {
    pub fn new() -> Self {
        let mut made = DeflateEncoder {
            chains: Chains::new(),
            runs: Vec::new(),
            literals: Code::new(),
            distances: Code::new(),
            fixed_literals: Code::new(),
            fixed_distances: Code::new(),
            bytes: Vec::new(),
        };
        // RFC 1951, 3.2.6.
        made.fixed_literals.lengths = std::array::from_fn(|symbol| match symbol {
            0..144 => 8,
            144..256 => 9,
            256..280 => 7,
            _ => 8,
        });
        made.fixed_literals.assign();
        made.fixed_distances.lengths = [5; 30];
        made.fixed_distances.assign();
        made
    }

    /// Deflates `input` to one raw stream; none as soon as it is longer than `room`.
    pub fn deflate(&mut self, input: &[u8], level: i32, window_bits: u32, room: usize) -> Option<&[u8]> {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let fits = self.stream(input, level, window_bits, room, &mut bytes);
        self.bytes = bytes;
        (fits && self.bytes.len() <= room).then_some(&self.bytes)
    }

    fn stream(&mut self, input: &[u8], level: i32, window_bits: u32, room: usize, bytes: &mut Vec<u8>) -> bool {
        let mut bits = BitWriter::new(bytes);
        if level == 0 {
            stored(input, true, &mut bits);
            bits.finish_open();
            return true;
        }
        self.chains.reset(1 << window_bits);
        let mut start = 0;
        let fits = loop {
            let end = input.len().min(start + BLOCK);
            self.block(input, start, end, effort(level), &mut bits);
            start = end;
            if start == input.len() {
                break true;
            }
            if bits.len() > room {
                break false;
            }
            self.chains.slide();
        };
        bits.finish_open();
        fits
    }

    /// One block of `input[start..end]`, in the cheapest way.
    fn block(&mut self, input: &[u8], start: usize, end: usize, effort: Effort, bits: &mut BitWriter) {
        let last = end == input.len();
        self.runs.clear();
        self.chains.find(input, start, end, effort, &mut self.runs);
        let mut literals = [0u32; 286];
        let mut distances = [0u32; 30];
        let mut extra = 0;
        let mut at = start;
        for run in &self.runs {
            let from = at + run.literals as usize;
            count(&input[at..from], &mut literals);
            let (length_code, distance_code) = (length_code(run.length.into()), distance_code(run.distance.into()));
            literals[257 + length_code] += 1;
            distances[distance_code] += 1;
            extra += u32::from(LENGTHS[length_code].1) + u32::from(DISTANCES[distance_code].1);
            at = from + usize::from(run.length);
        }
        count(&input[at..end], &mut literals);
        literals[END_OF_BLOCK] = 1;
        self.literals.fill(&literals, 15);
        self.distances.fill(&distances, 15);
        let description = Description::new(&self.literals, &self.distances);
        let dynamic = description.cost() + self.literals.cost(&literals) + self.distances.cost(&distances) + extra;
        let mut all = [0; 288];
        all[..286].copy_from_slice(&literals);
        let fixed = self.fixed_literals.cost(&all) + self.fixed_distances.cost(&distances) + extra;
        let plain = 8 * (end - start) as u32 + 40 * (end - start).div_ceil(MOST_STORED) as u32;
        if plain <= dynamic.min(fixed) {
            stored(&input[start..end], last, bits);
        } else if fixed <= dynamic {
            bits.put(u64::from(last) | 1 << 1, 3);
            self.codes(&input[start..end], &self.fixed_literals, &self.fixed_distances, bits);
        } else {
            bits.put(u64::from(last) | 2 << 1, 3);
            description.write(bits);
            self.codes(&input[start..end], &self.literals, &self.distances, bits);
        }
    }

    /// The literals and matches of a block, and its end.
    fn codes<const N: usize>(&self, input: &[u8], literals: &Code<N>, distances: &Code<30>, bits: &mut BitWriter) {
        let mut rest = input;
        for run in &self.runs {
            let (length, distance) = (usize::from(run.length), usize::from(run.distance));
            literals.put_all(&rest[..run.literals as usize], bits);
            rest = &rest[run.literals as usize + length..];
            let (length_code, distance_code) = (length_code(length), distance_code(distance));
            literals.put(257 + length_code, bits);
            let (base, extra) = LENGTHS[length_code];
            bits.put((length - usize::from(base)) as u64, u32::from(extra));
            distances.put(distance_code, bits);
            let (base, extra) = DISTANCES[distance_code];
            bits.put((distance - usize::from(base)) as u64, u32::from(extra));
            bits.flush();
        }
        literals.put_all(rest, bits);
        literals.put(END_OF_BLOCK, bits);
        bits.flush();
    }
}

/// Counts literals.
fn count(bytes: &[u8], literals: &mut [u32; 286]) {
    for &byte in bytes {
        literals[usize::from(byte)] += 1;
    }
}

/// RFC 1951, 3.2.4: as many stored blocks as it takes.
fn stored(input: &[u8], last: bool, bits: &mut BitWriter) {
    let count = input.len().div_ceil(MOST_STORED).max(1);
    for index in 0..count {
        let part = &input[index * MOST_STORED..input.len().min((index + 1) * MOST_STORED)];
        bits.put(u64::from(last && index + 1 == count), 3);
        bits.align();
        let length = part.len() as u64;
        bits.put(length | (length ^ 0xffff) << 16, 32);
        bits.bytes(part);
    }
}

/// How the lengths of two codes are said (RFC 1951, 3.2.7).
struct Description {
    /// Symbols, each with the extra bits that go with it.
    symbols: [(u8, u8); 286 + 30],
    symbol_count: usize,
    code: Code<19>,
    literal_count: usize,
    distance_count: usize,
}

impl Description {
    fn new(literals: &Code<286>, distances: &Code<30>) -> Self {
        let (literal_count, distance_count) = (literals.used(257), distances.used(1));
        let mut all = [0; 286 + 30];
        all[..literal_count].copy_from_slice(&literals.lengths[..literal_count]);
        all[literal_count..literal_count + distance_count].copy_from_slice(&distances.lengths[..distance_count]);
        let (symbols, symbol_count) = ([(0, 0); 286 + 30], 0);
        let mut made = Description { symbols, symbol_count, code: Code::new(), literal_count, distance_count };
        let mut rest = &all[..literal_count + distance_count];
        while let Some(&length) = rest.first() {
            let run = rest.iter().take_while(|&&next| next == length).count();
            rest = &rest[run..];
            made.say(length, run);
        }
        let mut histogram = [0u32; 19];
        for &(symbol, _) in made.symbols() {
            histogram[usize::from(symbol)] += 1;
        }
        // A code of one symbol would be incomplete, which is not allowed here.
        if histogram.iter().filter(|&&times| times > 0).count() < 2 {
            histogram[usize::from(histogram[0] > 0)] += 1;
        }
        made.code.fill(&histogram, 7);
        made
    }

    fn symbols(&self) -> &[(u8, u8)] {
        &self.symbols[..self.symbol_count]
    }

    /// Says `run` times `length`: with 17 or 18 for zeroes, with 16 after the first of others.
    fn say(&mut self, length: u8, mut run: usize) {
        let mut add = |symbol: u8, extra: usize| {
            self.symbols[self.symbol_count] = (symbol, extra as u8);
            self.symbol_count += 1;
        };
        if length == 0 {
            while run >= 11 {
                let part = run.min(138);
                add(18, part - 11);
                run -= part;
            }
            if run >= 3 {
                add(17, run - 3);
                run = 0;
            }
        } else {
            add(length, 0);
            run -= 1;
            while run >= 3 {
                let part = run.min(6);
                add(16, part - 3);
                run -= part;
            }
        }
        for _ in 0..run {
            add(length, 0);
        }
    }

    fn order_count(&self) -> usize {
        ORDER.iter().rposition(|&symbol| self.code.lengths[symbol] > 0).map_or(4, |last| (last + 1).max(4))
    }

    fn extra(symbol: u8) -> u32 {
        match symbol {
            16 => 2,
            17 => 3,
            18 => 7,
            _ => 0,
        }
    }

    fn cost(&self) -> u32 {
        let length = |symbol: u8| u32::from(self.code.lengths[usize::from(symbol)]) + Self::extra(symbol);
        14 + 3 * self.order_count() as u32 + self.symbols().iter().map(|&(symbol, _)| length(symbol)).sum::<u32>()
    }

    fn write(&self, bits: &mut BitWriter) {
        let order_count = self.order_count();
        bits.put((self.literal_count - 257) as u64, 5);
        bits.put((self.distance_count - 1) as u64, 5);
        bits.put((order_count - 4) as u64, 4);
        bits.flush();
        for &symbol in &ORDER[..order_count] {
            bits.put(u64::from(self.code.lengths[symbol]), 3);
            bits.flush();
        }
        for &(symbol, extra) in self.symbols() {
            self.code.put(usize::from(symbol), bits);
            bits.put(u64::from(extra), Self::extra(symbol));
            bits.flush();
        }
    }
}
