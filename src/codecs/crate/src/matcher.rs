//! Finds the repetitions of a block: with one hash table, with two, or with chains.

use crate::compare::{common, load4, load8};

/// Literals, then a match.
#[derive(Clone, Copy)]
pub struct Sequence {
    pub literals: u32,
    pub length: u32,
    /// How far back the match is, as zstd names it: with short names for recent ones (RFC 8878, 3.1.1.5).
    pub offset: u32,
}

/// How much work is done to find matches.
#[derive(Clone, Copy)]
pub struct Effort {
    pub strategy: Strategy,
    /// Entries of the tables, as powers of two.
    pub long_log: u32,
    pub short_log: u32,
    /// Candidates looked at for one place.
    pub depth: u32,
    /// A match this long is taken at once.
    pub enough: usize,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Strategy {
    /// One table.
    Fast,
    /// A table of eight bytes and one of five.
    Double,
    /// Chains, and that many places later are tried before a match is taken.
    Lazy(u32),
}

/// Hashing reads eight bytes, so a match does not begin nearer to the end than this.
const TAIL: usize = 8;
/// Nothing shorter is worth a sequence.
const LEAST: usize = 4;
const PRIME: u64 = 0x9fb2_1c65_1e98_df25;

/// The tables, which are kept from input to input.
pub struct Matcher {
    effort: Effort,
    long: Vec<u32>,
    short: Vec<u32>,
    /// Added to places in the tables, so that those of earlier inputs are known and need no clearing.
    base: u32,
    /// Bytes back that a match may be.
    window: usize,
    /// The first place that is not in the chains yet.
    next: usize,
    pub recent: [usize; 3],
}

impl Matcher {
    pub const fn new() -> Self {
        Matcher { effort: Effort { strategy: Strategy::Fast, long_log: 0, short_log: 0, depth: 0, enough: 0 }, long: Vec::new(), short: Vec::new(), base: 1, window: 0, next: 0, recent: [1, 4, 8] }
    }

    /// Gets ready for an input of `length` bytes.
    pub fn reset(&mut self, mut effort: Effort, length: usize, window: usize) {
        let useful = (length.max(256) as u32).ilog2() + 1;
        effort.long_log = effort.long_log.min(useful);
        effort.short_log = effort.short_log.min(useful);
        let sizes = (1 << effort.long_log, if effort.strategy == Strategy::Fast { 0 } else { 1 << effort.short_log });
        if self.base as usize > (1 << 31) || sizes != (self.long.len(), self.short.len()) {
            self.base = 1;
            for (table, size) in [(&mut self.long, sizes.0), (&mut self.short, sizes.1)] {
                table.clear();
                table.resize(size, 0);
            }
        }
        self.effort = effort;
        self.window = window;
        self.next = 0;
        self.recent = [1, 4, 8];
    }

    /// Ends an input of `length` bytes.
    pub fn finish(&mut self, length: usize) {
        self.base += length as u32 + 1;
    }

    /// Finds the sequences of `input[start..end]`; returns the place after the last one.
    pub fn find(&mut self, input: &[u8], start: usize, end: usize, sequences: &mut Vec<Sequence>) -> usize {
        match self.effort.strategy {
            Strategy::Fast => self.fast(input, start, end, sequences),
            Strategy::Double => self.double(input, start, end, sequences),
            Strategy::Lazy(patience) => self.lazy(input, start, end, patience, sequences),
        }
    }

    fn hash(&self, word: u64, bytes: u32, log: u32) -> usize {
        ((word << (64 - 8 * bytes)).wrapping_mul(PRIME) >> (64 - log)) as usize
    }

    /// The place that a table's entry means, when it is of this input and within the window.
    #[inline(always)]
    fn place(&self, entry: u32, at: usize) -> Option<usize> {
        let place = entry.wrapping_sub(self.base) as usize;
        (entry >= self.base && place < at && at - place <= self.window).then_some(place)
    }

    fn emit(&mut self, sequences: &mut Vec<Sequence>, literals: usize, length: usize, offset: usize) {
        let offset = name_offset(offset, literals == 0, &mut self.recent) as u32;
        sequences.push(Sequence { literals: literals as u32, length: length as u32, offset });
    }

    /// A match at `at` with a recent offset; 0 when there is none.
    #[inline(always)]
    fn repeated(&self, input: &[u8], at: usize, end: usize, which: usize) -> usize {
        let offset = self.recent[which];
        if offset > at || offset > self.window || load4(input, at) != load4(input, at - offset) {
            return 0;
        }
        4 + common(input, at - offset + 4, at + 4, end)
    }

    fn fast(&mut self, input: &[u8], start: usize, end: usize, sequences: &mut Vec<Sequence>) -> usize {
        let log = self.effort.long_log;
        let mut anchor = start;
        let mut at = start;
        while at + TAIL < end {
            let word = load8(input, at);
            let hash = self.hash(word, 5, log);
            let candidate = self.place(self.long[hash], at);
            self.long[hash] = self.base + at as u32;
            let length = self.repeated(input, at + 1, end, 0);
            let (from, offset, length) = if length >= LEAST {
                (at + 1, self.recent[0], length)
            } else {
                match candidate {
                    Some(place) if load4(input, place) == word as u32 => {
                        let (from, length) = extend(input, place, at, anchor, end);
                        (from, at - place, length)
                    }
                    _ => {
                        at += 1 + ((at - anchor) >> 7);
                        continue;
                    }
                }
            };
            self.emit(sequences, from - anchor, length, offset);
            let inner = at + 2;
            at = from + length;
            anchor = at;
            if at + TAIL < end {
                for place in [inner, at - 2] {
                    let hash = self.hash(load8(input, place), 5, log);
                    self.long[hash] = self.base + place as u32;
                }
                anchor = self.repeat_second(input, at, end, sequences);
                at = anchor;
            }
        }
        anchor
    }

    /// Matches with no literals between, at the offset before the last.
    fn repeat_second(&mut self, input: &[u8], mut at: usize, end: usize, sequences: &mut Vec<Sequence>) -> usize {
        while at + TAIL < end {
            let length = self.repeated(input, at, end, 1);
            if length < LEAST {
                break;
            }
            self.emit(sequences, 0, length, self.recent[1]);
            at += length;
        }
        at
    }

    fn double(&mut self, input: &[u8], start: usize, end: usize, sequences: &mut Vec<Sequence>) -> usize {
        let (long_log, short_log) = (self.effort.long_log, self.effort.short_log);
        let mut anchor = start;
        let mut at = start;
        while at + TAIL + 1 < end {
            let word = load8(input, at);
            let (long_hash, short_hash) = (self.hash(word, 8, long_log), self.hash(word, 5, short_log));
            let long = self.place(self.long[long_hash], at);
            let short = self.place(self.short[short_hash], at);
            let entry = self.base + at as u32;
            self.long[long_hash] = entry;
            self.short[short_hash] = entry;
            let length = self.repeated(input, at + 1, end, 0);
            let (from, offset, length) = if length >= LEAST {
                (at + 1, self.recent[0], length)
            } else if let Some(place) = long.filter(|&place| load8(input, place) == word) {
                let (from, length) = extend(input, place, at, anchor, end);
                (from, at - place, length)
            } else if let Some(place) = short.filter(|&place| load4(input, place) == word as u32) {
                // A long match one byte later is worth more.
                let next = load8(input, at + 1);
                let next_hash = self.hash(next, 8, long_log);
                let longer = self.place(self.long[next_hash], at + 1);
                self.long[next_hash] = entry + 1;
                let (place, found) = match longer.filter(|&place| load8(input, place) == next) {
                    Some(place) => (place, at + 1),
                    None => (place, at),
                };
                let (from, length) = extend(input, place, found, anchor, end);
                (from, found - place, length)
            } else {
                at += 1 + ((at - anchor) >> 8);
                continue;
            };
            self.emit(sequences, from - anchor, length, offset);
            let inner = at + 2;
            at = from + length;
            anchor = at;
            if at + TAIL < end {
                for place in [inner, at - 2] {
                    let word = load8(input, place);
                    let (long_hash, short_hash) = (self.hash(word, 8, long_log), self.hash(word, 5, short_log));
                    self.long[long_hash] = self.base + place as u32;
                    self.short[short_hash] = self.base + place as u32;
                }
                anchor = self.repeat_second(input, at, end, sequences);
                at = anchor;
            }
        }
        anchor
    }

    /// The longest match at `at` that is longer than `best`, as offset and length.
    fn search(&mut self, input: &[u8], at: usize, end: usize, best: usize) -> (usize, usize) {
        let log = self.effort.long_log;
        let mask = self.short.len() - 1;
        while self.next <= at {
            let hash = self.hash(load8(input, self.next), 4, log);
            self.short[self.next & mask] = self.long[hash];
            self.long[hash] = self.base + self.next as u32;
            self.next += 1;
        }
        let mut found = (0, best);
        let mut entry = self.short[at & mask];
        for _ in 0..self.effort.depth {
            let Some(place) = self.place(entry, at) else { break };
            if at - place > mask {
                break;
            }
            // Only a match that is longer can have the byte after the best one in common.
            let after = at + found.1;
            if after < end && input[place + found.1] == input[after] && load4(input, place) == load4(input, at) {
                let length = 4 + common(input, place + 4, at + 4, end);
                if length > found.1 {
                    found = (at - place, length);
                    if length >= self.effort.enough || at + length == end {
                        break;
                    }
                }
            }
            entry = self.short[place & mask];
        }
        found
    }

    /// The best way to go on from `at`: recent offsets are worth more than their length says, far ones less.
    fn best(&mut self, input: &[u8], at: usize, end: usize, literals: bool) -> (usize, usize, i32) {
        let mut best = (0, 0, 0);
        for which in usize::from(!literals)..2 {
            let length = self.repeated(input, at, end, which);
            let gain = length as i32 * 4;
            if length >= LEAST && gain > best.2 {
                best = (self.recent[which], length, gain);
            }
        }
        if best.1 >= self.effort.enough {
            return best;
        }
        let (offset, length) = self.search(input, at, end, best.1.max(LEAST - 1));
        if offset > 0 {
            let gain = length as i32 * 4 - offset.ilog2() as i32;
            if gain > best.2 {
                best = (offset, length, gain);
            }
        }
        best
    }

    fn lazy(&mut self, input: &[u8], start: usize, end: usize, patience: u32, sequences: &mut Vec<Sequence>) -> usize {
        let mut anchor = start;
        let mut at = start;
        while at + TAIL < end {
            let (mut offset, mut length, mut gain) = self.best(input, at, end, at > anchor);
            if length < LEAST {
                at += 1 + ((at - anchor) >> 8);
                // Places that were passed over are not worth chaining.
                if at - anchor > 2048 {
                    self.next = self.next.max(at);
                }
                continue;
            }
            let mut waited = 0;
            let mut from = at;
            while waited < patience && length < self.effort.enough && at + 1 + TAIL < end {
                at += 1;
                waited += 1;
                let (next_offset, next_length, next_gain) = self.best(input, at, end, true);
                // A later match costs the literals before it.
                if next_length >= LEAST && next_gain > gain + 3 + waited as i32 {
                    (offset, length, gain, from) = (next_offset, next_length, next_gain, at);
                    waited = 0;
                }
            }
            while from > anchor && from > offset && input[from - 1] == input[from - offset - 1] {
                from -= 1;
                length += 1;
            }
            self.emit(sequences, from - anchor, length, offset);
            at = from + length;
            anchor = self.repeat_second(input, at, end, sequences);
            at = anchor;
        }
        anchor
    }
}

/// The value that names an offset (RFC 8878, 3.1.1.5), and what is recent after it.
fn name_offset(offset: usize, no_literals: bool, recent: &mut [usize; 3]) -> usize {
    let [first, second, third] = *recent;
    let which = if no_literals {
        [second, third, first - 1].iter().position(|&known| known == offset).map(|index| index + 1)
    } else {
        [first, second, third].iter().position(|&known| known == offset)
    };
    match which {
        Some(0) => {}
        Some(1) => *recent = [second, first, third],
        _ => *recent = [offset, first, second],
    }
    match which {
        Some(index) => index + 1 - usize::from(no_literals),
        None => offset + 3,
    }
}

/// The match of `at` with `place`, made longer both ways; where it begins and its length.
#[inline(always)]
fn extend(input: &[u8], place: usize, at: usize, anchor: usize, end: usize) -> (usize, usize) {
    let length = 4 + common(input, place + 4, at + 4, end);
    let mut back = 0;
    while at - back > anchor && place > back && input[at - back - 1] == input[place - back - 1] {
        back += 1;
    }
    (at - back, length + back)
}
