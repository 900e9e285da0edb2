//! Inflate (RFC 1951) of a whole buffer into another. The bits wait in a 64-bit word; a symbol is one look into a table
//! whose entry holds the whole length or distance but for its extra bits. Far from both ends a loop without checks runs;
//! near them, a careful one.

use crate::Stop;
use crate::copy::{OVERSHOOT, copy_match};

/// Codes of up to this many bits are found at once; the rest in a second table. Together they are small enough for the
/// first-level cache (RFC 1951, 3.2.7: no code is longer than 15 bits).
const LITERAL_BITS: u32 = 11;
const DISTANCE_BITS: u32 = 8;
const LENGTH_BITS: u32 = 7;
const LONGEST: usize = 15;

/// The most entries that any code of 288 or 32 symbols needs: the first table, and what the long codes can add to it.
const LITERAL_ROOM: usize = 2048 + 512;
const DISTANCE_ROOM: usize = 256 + 256;

// An entry is `value << 16 | flags | extra << 8 | bits`: take `bits` away, then add the `extra` bits that follow to `value`.
const LITERAL: u32 = 1 << 15;
/// Neither a literal nor a length: one of the next three.
const SPECIAL: u32 = 1 << 14;
/// `value` is where the second table begins and `extra` is how many bits look into it.
const SECOND: u32 = 1 << 13;
/// The block ends.
const LAST: u32 = 1 << 12;
/// `SPECIAL` alone: no code has these bits.
const WRONG: u32 = SPECIAL;

/// RFC 1951, 3.2.5: length codes from 257 and distance codes, as base value and extra bits.
pub const LENGTHS: [(u16, u8); 29] = [
    (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0), (9, 0), (10, 0), (11, 1), (13, 1), (15, 1), (17, 1), (19, 2), (23, 2),
    (27, 2), (31, 2), (35, 3), (43, 3), (51, 3), (59, 3), (67, 4), (83, 4), (99, 4), (115, 4), (131, 5), (163, 5), (195, 5),
    (227, 5), (258, 0),
];
pub const DISTANCES: [(u16, u8); 30] = [
    (1, 0), (2, 0), (3, 0), (4, 0), (5, 1), (7, 1), (9, 2), (13, 2), (17, 3), (25, 3), (33, 4), (49, 4), (65, 5), (97, 5),
    (129, 6), (193, 6), (257, 7), (385, 7), (513, 8), (769, 8), (1025, 9), (1537, 9), (2049, 10), (3073, 10), (4097, 11),
    (6145, 11), (8193, 12), (12289, 12), (16385, 13), (24577, 13),
];
/// RFC 1951, 3.2.7: the order in which the lengths of the code length codes come.
pub const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The careful loop takes over when fewer bytes are left than one round of the fast loop may touch: three words of input,
/// and three literals, the longest match and its copy's overshoot of output.
const INPUT_MARGIN: usize = 24;
const OUTPUT_MARGIN: usize = 3 + 258 + OVERSHOOT;

/// What the decoder keeps between calls: its tables.
pub struct Tables {
    literals: [u32; LITERAL_ROOM],
    distances: [u32; DISTANCE_ROOM],
    /// The tables hold the fixed codes (RFC 1951, 3.2.6).
    fixed: bool,
}

impl Tables {
    pub const fn new() -> Self {
        Tables { literals: [0; LITERAL_ROOM], distances: [0; DISTANCE_ROOM], fixed: false }
    }
}

/// The input as a stream of bits. Past its end it gives zeroes, and counts them.
struct Bits<'a> {
    input: &'a [u8],
    at: usize,
    word: u64,
    /// Valid bits of `word`.
    count: u32,
    /// Bytes of zeroes that were put into `word`.
    beyond: usize,
}

impl Bits<'_> {
    /// Makes at least 56 bits valid.
    ///
    /// # Safety
    /// The input has eight bytes more.
    #[inline(always)]
    unsafe fn refill_fast(&mut self) {
        let next = unsafe { self.input.as_ptr().add(self.at).cast::<u64>().read_unaligned() };
        self.word |= next.to_le() << self.count;
        self.at += ((63 - self.count) >> 3) as usize;
        self.count |= 56;
    }

    /// Makes at least 56 bits valid, zeroes among them when the input is used up.
    #[inline(always)]
    fn refill(&mut self) {
        if self.at + 8 <= self.input.len() {
            // SAFETY: just checked.
            return unsafe { self.refill_fast() };
        }
        while self.count <= 55 {
            match self.input.get(self.at) {
                Some(&byte) => {
                    self.word |= u64::from(byte) << self.count;
                    self.at += 1;
                }
                None => self.beyond += 1,
            }
            self.count += 8;
        }
    }

    #[inline(always)]
    fn take(&mut self, bits: u32) -> u32 {
        let value = (self.word & ((1 << bits) - 1)) as u32;
        self.drop(bits);
        value
    }

    #[inline(always)]
    fn drop(&mut self, bits: u32) {
        self.word >>= bits;
        self.count -= bits;
    }

    /// Whether bits were used that the input does not have.
    fn overrun(&self) -> bool {
        self.beyond > (self.count / 8) as usize
    }

    /// Goes back to the first byte of which no bit was used; the rest of the byte before it is dropped.
    fn align(&mut self) {
        self.at -= (self.count / 8) as usize - self.beyond.min((self.count / 8) as usize);
        self.word = 0;
        self.count = 0;
        self.beyond = 0;
    }
}

/// Fills `table` for the code with the given lengths; false when they make no code. A code of one symbol may be
/// incomplete when `lone`, as zlib allows for distances and literals.
fn build(table: &mut [u32], bits: u32, lengths: &[u8], lone: bool, entry: impl Fn(usize) -> u32) -> bool {
    let mut counts = [0u16; LONGEST + 1];
    for &length in lengths {
        counts[length as usize] += 1;
    }
    let mut space = 1i32;
    for &count in &counts[1..] {
        space = (space << 1) - i32::from(count);
        if space < 0 {
            return false;
        }
    }
    if space > 0 {
        let used: u16 = counts[1..].iter().sum();
        if !(lone && (used == 0 || (used == 1 && counts[1] == 1))) {
            return false;
        }
        table[..1 << bits].fill(WRONG);
    }
    let mut next = [0u16; LONGEST + 2];
    for length in 1..=LONGEST {
        next[length + 1] = next[length] + counts[length];
    }
    let mut sorted = [0u16; 288];
    for (symbol, &length) in lengths.iter().enumerate() {
        if length > 0 {
            let place = &mut next[length as usize];
            sorted[*place as usize] = symbol as u16;
            *place += 1;
        }
    }
    let used = next[LONGEST] as usize;
    // Codes are counted upwards with their bits in transmission order, so the tables are indexed by reversed codes.
    let mut code = 0u32;
    let mut end = 1usize << bits;
    let mut prefix = u32::MAX;
    let mut second = 0;
    let mut second_bits = 0;
    for (index, &symbol) in sorted[..used].iter().enumerate() {
        let length = u32::from(lengths[symbol as usize]);
        let reversed = code.reverse_bits() >> (32 - length);
        if length <= bits {
            let made = entry(symbol as usize) + length;
            for place in (reversed as usize..1 << bits).step_by(1 << length) {
                table[place] = made;
            }
        } else {
            let first = reversed & ((1 << bits) - 1);
            if first != prefix {
                prefix = first;
                second = end;
                // As wide as the codes with this prefix need: they are next to each other, shortest first.
                second_bits = length - bits;
                let mut space = 1i32 << second_bits;
                let mut at = index;
                loop {
                    while at < used && u32::from(lengths[sorted[at] as usize]) == second_bits + bits && space > 0 {
                        space -= 1;
                        at += 1;
                    }
                    if space <= 0 || at >= used {
                        break;
                    }
                    second_bits += 1;
                    space <<= 1;
                }
                end += 1 << second_bits;
                if end > table.len() {
                    return false;
                }
                table[first as usize] = (second as u32) << 16 | SPECIAL | SECOND | second_bits << 8 | bits;
            }
            let made = entry(symbol as usize) + length - bits;
            for place in ((reversed >> bits) as usize..1 << second_bits).step_by(1 << (length - bits)) {
                table[second + place] = made;
            }
        }
        // The next code of this or a greater length.
        let longer = sorted[..used].get(index + 1).map_or(length, |&next| u32::from(lengths[next as usize]));
        code = (code + 1) << (longer - length);
    }
    true
}

fn literal_entry(symbol: usize) -> u32 {
    match symbol {
        0..256 => (symbol as u32) << 16 | LITERAL,
        256 => SPECIAL | LAST,
        257..286 => u32::from(LENGTHS[symbol - 257].0) << 16 | u32::from(LENGTHS[symbol - 257].1) << 8,
        _ => WRONG,
    }
}

fn distance_entry(symbol: usize) -> u32 {
    DISTANCES.get(symbol).map_or(WRONG, |&(base, extra)| u32::from(base) << 16 | u32::from(extra) << 8)
}

/// RFC 1951, 3.2.6.
fn fixed_tables(tables: &mut Tables) {
    if !tables.fixed {
        let mut lengths = [8u8; 288];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        build(&mut tables.literals, LITERAL_BITS, &lengths, false, literal_entry);
        build(&mut tables.distances, DISTANCE_BITS, &[5; 32], false, distance_entry);
        tables.fixed = true;
    }
}

/// RFC 1951, 3.2.7; false when the header makes no codes.
fn dynamic_tables(tables: &mut Tables, bits: &mut Bits) -> bool {
    tables.fixed = false;
    let literal_count = bits.take(5) as usize + 257;
    let distance_count = bits.take(5) as usize + 1;
    let length_count = bits.take(4) as usize + 4;
    if literal_count > 286 || distance_count > 30 {
        return false;
    }
    let mut lengths = [0u8; 19];
    for &symbol in &ORDER[..length_count] {
        bits.refill();
        lengths[symbol] = bits.take(3) as u8;
    }
    let mut codes = [0u32; 1 << LENGTH_BITS];
    if !build(&mut codes, LENGTH_BITS, &lengths, false, |symbol| (symbol as u32) << 16) {
        return false;
    }
    let mut all = [0u8; 286 + 30];
    let total = literal_count + distance_count;
    let mut at = 0;
    while at < total {
        bits.refill();
        let entry = codes[(bits.word & ((1 << LENGTH_BITS) - 1)) as usize];
        bits.drop(entry & 0xff);
        let (value, times) = match entry >> 16 {
            length @ 0..16 => (length as u8, 1),
            16 if at == 0 => return false,
            16 => (all[at - 1], 3 + bits.take(2) as usize),
            17 => (0, 3 + bits.take(3) as usize),
            _ => (0, 11 + bits.take(7) as usize),
        };
        if at + times > total {
            return false;
        }
        all[at..at + times].fill(value);
        at += times;
    }
    all[256] != 0
        && build(&mut tables.literals, LITERAL_BITS, &all[..literal_count], true, literal_entry)
        && build(&mut tables.distances, DISTANCE_BITS, &all[literal_count..total], true, distance_entry)
}

/// Inflates one raw stream of `input` into `output`; returns how it stopped, the bytes used and the bytes written.
pub fn inflate(tables: &mut Tables, input: &[u8], output: &mut [u8]) -> (Stop, usize, usize) {
    let mut bits = Bits { input, at: 0, word: 0, count: 0, beyond: 0 };
    let mut produced = 0;
    loop {
        bits.refill();
        let last = bits.take(1) == 1;
        let stop = match bits.take(2) {
            0 => stored(&mut bits, output, &mut produced),
            1 => {
                fixed_tables(tables);
                block(tables, &mut bits, output, &mut produced)
            }
            2 if dynamic_tables(tables, &mut bits) => block(tables, &mut bits, output, &mut produced),
            _ => Stop::Corrupt,
        };
        // What follows from bits that are not there says nothing about those that are.
        let stop = if bits.overrun() && stop != Stop::Full { Stop::Short } else { stop };
        if stop != Stop::End || last {
            bits.align();
            return (stop, bits.at, produced);
        }
    }
}

/// RFC 1951, 3.2.4.
fn stored(bits: &mut Bits, output: &mut [u8], produced: &mut usize) -> Stop {
    if bits.overrun() {
        return Stop::Short;
    }
    bits.align();
    let Some(header) = bits.input.get(bits.at..bits.at + 4) else { return Stop::Short };
    let length = u16::from_le_bytes([header[0], header[1]]);
    if length != !u16::from_le_bytes([header[2], header[3]]) {
        return Stop::Corrupt;
    }
    bits.at += 4;
    let wanted = length as usize;
    let there = bits.input.len() - bits.at;
    let room = output.len() - *produced;
    let count = wanted.min(there).min(room);
    output[*produced..*produced + count].copy_from_slice(&bits.input[bits.at..bits.at + count]);
    bits.at += count;
    *produced += count;
    if count == wanted {
        Stop::End
    } else if count == room {
        Stop::Full
    } else {
        Stop::Short
    }
}

/// A block of codes, to its end.
fn block(tables: &Tables, bits: &mut Bits, output: &mut [u8], produced: &mut usize) -> Stop {
    const LITERAL_MASK: u64 = (1 << LITERAL_BITS) - 1;
    const DISTANCE_MASK: u64 = (1 << DISTANCE_BITS) - 1;
    let literals = &tables.literals;
    let distances = &tables.distances;

    /// The entry behind `entry`, which may point into the second table; the bits of the first are gone then.
    #[inline(always)]
    fn resolve(table: &[u32], entry: u32, bits: &mut Bits) -> u32 {
        if entry & (SPECIAL | SECOND) != SPECIAL | SECOND {
            return entry;
        }
        bits.drop(entry & 0xff);
        let place = (entry >> 16) as usize + (bits.word & ((1 << (entry >> 8 & 0xf)) - 1)) as usize;
        // SAFETY: `build` made the second table this large, and within `table`.
        unsafe { *table.get_unchecked(place) }
    }

    let start = output.as_mut_ptr();
    let mut at = *produced;
    if output.len() > OUTPUT_MARGIN && bits.input.len() > INPUT_MARGIN {
        let output_end = output.len() - OUTPUT_MARGIN;
        let input_end = bits.input.len() - INPUT_MARGIN;
        while at < output_end && bits.at < input_end {
            // SAFETY: the loop's condition leaves INPUT_MARGIN.
            unsafe { bits.refill_fast() };
            // SAFETY: the index is masked to the first table.
            let mut entry = unsafe { *literals.get_unchecked((bits.word & LITERAL_MASK) as usize) };
            // Three literals of at most 11 bits, then a length with its extra bits (20), are 53: no refill between.
            for _ in 0..3 {
                if entry & LITERAL == 0 {
                    break;
                }
                bits.drop(entry & 0xff);
                // SAFETY: `at` is OUTPUT_MARGIN before the end at the top of the loop.
                unsafe { *start.add(at) = (entry >> 16) as u8 };
                at += 1;
                // SAFETY: the index is masked to the first table.
                entry = unsafe { *literals.get_unchecked((bits.word & LITERAL_MASK) as usize) };
            }
            entry = resolve(literals, entry, bits);
            bits.drop(entry & 0xff);
            if entry & (LITERAL | SPECIAL) != 0 {
                if entry & LITERAL != 0 {
                    // SAFETY: as above.
                    unsafe { *start.add(at) = (entry >> 16) as u8 };
                    at += 1;
                    continue;
                }
                *produced = at;
                return if entry & LAST != 0 { Stop::End } else { Stop::Corrupt };
            }
            let length = (entry >> 16) + bits.take(entry >> 8 & 0xf);
            // SAFETY: the loop's condition leaves INPUT_MARGIN.
            unsafe { bits.refill_fast() };
            // SAFETY: the index is masked to the first table.
            let entry = unsafe { *distances.get_unchecked((bits.word & DISTANCE_MASK) as usize) };
            let entry = resolve(distances, entry, bits);
            bits.drop(entry & 0xff);
            let distance = ((entry >> 16) + bits.take(entry >> 8 & 0xf)) as usize;
            if entry & SPECIAL != 0 || distance > at {
                *produced = at;
                return Stop::Corrupt;
            }
            // SAFETY: the distance was checked, and there is OUTPUT_MARGIN after `at`.
            unsafe { copy_match(start.add(at), distance, length as usize) };
            at += length as usize;
        }
    }
    *produced = at;

    loop {
        bits.refill();
        if bits.overrun() {
            return Stop::Short;
        }
        let entry = resolve(literals, literals[(bits.word & LITERAL_MASK) as usize], bits);
        bits.drop(entry & 0xff);
        if entry & LITERAL != 0 {
            let Some(place) = output.get_mut(*produced) else { return Stop::Full };
            *place = (entry >> 16) as u8;
            *produced += 1;
            continue;
        }
        if entry & SPECIAL != 0 {
            return if entry & LAST != 0 { Stop::End } else { Stop::Corrupt };
        }
        let length = ((entry >> 16) + bits.take(entry >> 8 & 0xf)) as usize;
        bits.refill();
        let entry = resolve(distances, distances[(bits.word & DISTANCE_MASK) as usize], bits);
        bits.drop(entry & 0xff);
        let distance = ((entry >> 16) + bits.take(entry >> 8 & 0xf)) as usize;
        if bits.overrun() {
            return Stop::Short;
        }
        if entry & SPECIAL != 0 || distance > *produced {
            return Stop::Corrupt;
        }
        let count = length.min(output.len() - *produced);
        for place in *produced..*produced + count {
            output[place] = output[place - distance];
        }
        *produced += count;
        if count < length {
            return Stop::Full;
        }
    }
}
