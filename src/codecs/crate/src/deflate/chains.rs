//! Finds the repetitions of a block for deflate: places whose four bytes have the same hash are chained, the latest first.

use crate::compare::{common, load4};

/// Literals, then a match.
#[derive(Clone, Copy)]
pub struct Run {
    pub literals: u32,
    pub length: u16,
    pub distance: u16,
}

/// How much work is done to find matches.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Candidates looked at for one place.
    pub depth: u32,
    /// A match this long is taken at once.
    pub enough: usize,
    /// The place after a shorter match than this is tried before the match is taken.
    pub lazy: usize,
    /// From this length on, that trial looks at a quarter of the candidates.
    pub good: usize,
}

/// The shortest match that is looked for: three bytes seldom pay.
const LEAST: usize = 4;
pub const LONGEST: usize = 258;
/// A match does not begin nearer to the end than this, so that whole words can be read.
const TAIL: usize = 8;
const HASH_LOG: u32 = 15;
/// Entries of `links`: one for each place of the largest window (RFC 1951, 3.2.5).
pub const LINKS: usize = 1 << 15;
/// What stands for no place: it is out of every window.
const NONE: i16 = i16::MIN;

/// The tables, which are kept from input to input. Places in them count from the block that is being looked at, and are negative
/// before it: half the size, and so more often in the cache.
pub struct Chains {
    /// The latest place with a hash.
    heads: Vec<i16>,
    /// The place before, with the same hash, of each place of the window.
    links: Vec<i16>,
    window: usize,
    /// The first place that is not in the chains yet: those inside a match follow with the next look.
    next: usize,
}

impl Chains {
    pub const fn new() -> Self {
        Chains { heads: Vec::new(), links: Vec::new(), window: 0, next: 0 }
    }

    /// Gets ready for an input with matches of up to `window` bytes back.
    pub fn reset(&mut self, window: usize) {
        self.links.resize(LINKS, NONE);
        self.heads.resize(1 << HASH_LOG, NONE);
        self.heads.fill(NONE);
        // The link of a place a whole table back was overwritten by the place itself.
        self.window = window.min(LINKS - 1);
        self.next = 0;
    }

    /// Goes to the next block, `LINKS` bytes on.
    pub fn slide(&mut self) {
        for table in [&mut self.heads, &mut self.links] {
            for place in table {
                *place = if *place < 0 { NONE } else { *place | NONE };
            }
        }
    }

    /// Finds the matches of `input[start..end]`.
    pub fn find(&mut self, input: &[u8], start: usize, end: usize, effort: Effort, runs: &mut Vec<Run>) {
        let mut anchor = start;
        let mut at = start;
        while at + TAIL < end {
            self.chain(input, start, at);
            let (mut length, mut distance) = self.longest(input, start, at, end, LEAST - 1, effort.depth, effort.enough);
            if length < LEAST {
                // What has no repetitions for long is hardly looked at.
                at += 1 + ((at - anchor) >> 8);
                continue;
            }
            while length < effort.lazy && at + 1 + TAIL < end {
                self.chain(input, start, at + 1);
                let depth = if length >= effort.good { effort.depth >> 2 } else { effort.depth };
                let (later, further) = self.longest(input, start, at + 1, end, length - 1, depth, effort.enough);
                // A byte of length is worth four bits, of which the literal before it takes some.
                if later < length || 4 * (later - length) as i32 + distance.ilog2() as i32 - (further.ilog2() as i32) < 3 {
                    break;
                }
                at += 1;
                (length, distance) = (later, further);
            }
            runs.push(Run { literals: (at - anchor) as u32, length: length as u16, distance: distance as u16 });
            at += length;
            anchor = at;
        }
    }

    /// Puts all places up to `at` into the chains; places count from `start`.
    #[inline(always)]
    fn chain(&mut self, input: &[u8], start: usize, at: usize) {
        debug_assert!(at + 4 <= input.len());
        while self.next <= at {
            let hash = load4(input, self.next).wrapping_mul(0x9e37_79b1) >> (32 - HASH_LOG);
            // SAFETY: a hash and a masked place are less than the length of their table.
            unsafe {
                let head = self.heads.get_unchecked_mut(hash as usize);
                *self.links.get_unchecked_mut(self.next & (LINKS - 1)) = *head;
                *head = self.next.wrapping_sub(start) as i16;
            }
            self.next += 1;
        }
    }

    /// The longest match at `at`, which is chained, that is longer than `best`, as length and distance.
    #[inline(always)]
    fn longest(&self, input: &[u8], start: usize, at: usize, end: usize, best: usize, mut depth: u32, enough: usize) -> (usize, usize) {
        let end = end.min(at + LONGEST);
        let (mut length, mut distance) = (best, 0);
        if at + length >= end {
            return (0, 0);
        }
        // SAFETY: as in `chain`.
        let link = |place: usize| i32::from(unsafe { *self.links.get_unchecked(place & (LINKS - 1)) });
        let least = at.saturating_sub(self.window).wrapping_sub(start) as i32;
        let first = load4(input, at);
        let mut last = load4(input, at + length - 3);
        let mut entry = link(at);
        while entry >= least {
            let place = start.wrapping_add(entry as usize);
            if load4(input, place + length - 3) == last && load4(input, place) == first {
                let found = 4 + common(input, place + 4, at + 4, end);
                if found > length {
                    (length, distance) = (found, at - place);
                    if length >= enough || at + length >= end {
                        break;
                    }
                    last = load4(input, at + length - 3);
                }
            }
            depth -= 1;
            if depth == 0 {
                break;
            }
            entry = link(place);
        }
        if distance == 0 { (0, 0) } else { (length, distance) }
    }
}
