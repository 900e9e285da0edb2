//! Compressed blocks (RFC 8878, 3.1.1.3): literals, then sequences that are carried out as they are decoded.

use super::bits::BackBits;
use super::fse::{Counts, Table};
use super::huffman::Huffman;
use super::sequences::{Kind, LITERALS, MATCHES, OFFSETS};
use crate::Stop;
use crate::copy::{OVERSHOOT, copy_match, copy_over};

/// RFC 8878, 3.1.1.2.3: no block is larger, packed or not.
pub const MAX_BLOCK: usize = 128 * 1024;

/// Where a block's literals are.
enum Literals {
    /// In the input, at this place.
    Input(usize),
    /// In the decoder's own buffer.
    Decoded,
}

/// A table for one of the three kinds of codes, which may be used again by the next block.
struct Codes {
    table: Table,
    known: bool,
    predefined: Table,
}

impl Codes {
    fn new(kind: &Kind) -> Self {
        let mut predefined = Table::new();
        predefined.fill(&kind.predefined, kind.values);
        Codes { table: Table::new(), known: false, predefined }
    }

    /// Reads the table in `mode` from `input` and returns how many bytes it takes (RFC 8878, 3.1.1.3.2.1).
    fn read(&mut self, kind: &Kind, mode: u8, input: &[u8]) -> Option<usize> {
        let length = match mode {
            0 => {
                self.table.log = self.predefined.log;
                self.table.states[..64].copy_from_slice(&self.predefined.states[..64]);
                0
            }
            1 => {
                let code = usize::from(*input.first()?);
                self.table.fill_one(*kind.values.get(code)?);
                1
            }
            2 => {
                let (counts, length) = Counts::read(input, kind.max_log, kind.values.len())?;
                self.table.fill(&counts, kind.values);
                length
            }
            _ if self.known => 0,
            _ => return None,
        };
        self.known = true;
        Some(length)
    }
}

/// What is kept from block to block, and room to work in.
pub struct BlockDecoder {
    huffman: Huffman,
    literal_lengths: Codes,
    offsets: Codes,
    match_lengths: Codes,
    repeats: [usize; 3],
    literals: [u8; MAX_BLOCK + OVERSHOOT],
}

impl BlockDecoder {
    pub fn new() -> Box<Self> {
        Box::new(BlockDecoder {
            huffman: Huffman::new(),
            literal_lengths: Codes::new(&LITERALS),
            offsets: Codes::new(&OFFSETS),
            match_lengths: Codes::new(&MATCHES),
            repeats: [1, 4, 8],
            literals: [0; MAX_BLOCK + OVERSHOOT],
        })
    }

    /// Forgets what earlier frames left.
    pub fn reset(&mut self) {
        self.huffman.forget();
        self.literal_lengths.known = false;
        self.offsets.known = false;
        self.match_lengths.known = false;
        self.repeats = [1, 4, 8];
    }

    /// Decodes the block in `input[at..]` and adds it to `output[..*produced]`, which is this frame's and no other's.
    pub fn decode(&mut self, input: &[u8], at: usize, output: &mut [u8], produced: &mut usize) -> Stop {
        let Some((literals, count, at)) = self.read_literals(input, at) else { return Stop::Corrupt };
        let Some((sequences, at)) = self.read_tables(input, at) else { return Stop::Corrupt };
        let (from, readable) = match literals {
            Literals::Input(place) => (input[place..].as_ptr(), input.len() - place),
            Literals::Decoded => (self.literals.as_ptr(), self.literals.len()),
        };
        let literals = Source { from, count, readable };
        if sequences == 0 {
            return if at == input.len() { rest(literals, output, produced) } else { Stop::Corrupt };
        }
        self.execute(input, at, sequences, literals, output, produced).unwrap_or(Stop::Corrupt)
    }

    /// RFC 8878, 3.1.1.3.1: where the literals are, how many, and where the section ends.
    fn read_literals(&mut self, input: &[u8], at: usize) -> Option<(Literals, usize, usize)> {
        let head = *input.get(at)?;
        let (kind, format) = (head & 3, head >> 2 & 3);
        if kind < 2 {
            let (bytes, shift) = match format {
                1 => (2, 4),
                3 => (3, 4),
                _ => (1, 3),
            };
            let count = super::le(input.get(at..at + bytes)?) as usize >> shift;
            let at = at + bytes;
            if count > MAX_BLOCK {
                return None;
            }
            if kind == 0 {
                input.get(at..at + count)?;
                return Some((Literals::Input(at), count, at + count));
            }
            self.literals[..count].fill(*input.get(at)?);
            return Some((Literals::Decoded, count, at + 1));
        }
        let (bytes, bits) = match format {
            0 | 1 => (3, 10),
            2 => (4, 14),
            _ => (5, 18),
        };
        let sizes = super::le(input.get(at..at + bytes)?) >> 4;
        let count = sizes as usize & ((1 << bits) - 1);
        let packed = (sizes >> bits) as usize & ((1 << bits) - 1);
        let mut at = at + bytes;
        let end = at + packed;
        if count > MAX_BLOCK || end > input.len() {
            return None;
        }
        if kind == 2 {
            at += self.huffman.read(input, at, end)?;
        } else if !self.huffman.is_known() {
            return None;
        }
        let output = &mut self.literals[..count];
        if format == 0 {
            self.huffman.decode1(input, at, end, output)?;
        } else {
            self.huffman.decode4(input, at, end, output)?;
        }
        Some((Literals::Decoded, count, end))
    }

    /// RFC 8878, 3.1.1.3.2: the number of sequences, with their tables read, and where their bits begin.
    fn read_tables(&mut self, input: &[u8], mut at: usize) -> Option<(usize, usize)> {
        let byte = |at: usize| input.get(at).map(|&byte| usize::from(byte));
        let first = byte(at)?;
        let count = match first {
            0..128 => first,
            128..255 => ((first - 128) << 8) + byte(at + 1)?,
            _ => byte(at + 1)? + (byte(at + 2)? << 8) + 0x7f00,
        };
        at += match first {
            0..128 => 1,
            128..255 => 2,
            _ => 3,
        };
        if count == 0 {
            return Some((0, at));
        }
        let modes = byte(at)? as u8;
        at += 1;
        if modes & 3 != 0 {
            return None;
        }
        at += self.literal_lengths.read(&LITERALS, modes >> 6, &input[at..])?;
        at += self.offsets.read(&OFFSETS, modes >> 4 & 3, &input[at..])?;
        at += self.match_lengths.read(&MATCHES, modes >> 2 & 3, &input[at..])?;
        Some((count, at))
    }

    /// Decodes and carries out the sequences (RFC 8878, 3.1.1.4 and 3.1.1.5); none when they are corrupt.
    fn execute(
        &mut self,
        input: &[u8],
        at: usize,
        sequences: usize,
        mut literals: Source,
        output: &mut [u8],
        produced: &mut usize,
    ) -> Option<Stop> {
        let mut bits = BackBits::new(input, at, input.len())?;
        let (literal_lengths, offsets, match_lengths) =
            (&self.literal_lengths.table, &self.offsets.table, &self.match_lengths.table);
        let mut literal_state = bits.take(literal_lengths.log) as usize;
        let mut offset_state = bits.take(offsets.log) as usize;
        let mut match_state = bits.take(match_lengths.log) as usize;
        if bits.overrun() {
            return None;
        }
        let [mut first, mut second, mut third] = self.repeats;
        let start = output.as_mut_ptr();
        let room = output.len();
        let mut to = *produced;
        let most = to + MAX_BLOCK;
        for index in (0..sequences).rev() {
            // SAFETY: a state's number has no more bits than its table's `log` allows: `Table::fill` made it so.
            let (of_literals, of_offset, of_match) = unsafe {
                (
                    *literal_lengths.states.get_unchecked(literal_state),
                    *offsets.states.get_unchecked(offset_state),
                    *match_lengths.states.get_unchecked(match_state),
                )
            };
            bits.refill();
            let value = of_offset.base as usize + bits.take(u32::from(of_offset.extra)) as usize;
            // 57 bits are there: the states need 26 at most, so 31 are for all extra bits, or they are fetched in parts.
            let extra = of_offset.extra + of_match.extra + of_literals.extra;
            if extra > 30 {
                bits.refill();
            }
            let length = of_match.base as usize + bits.take(u32::from(of_match.extra)) as usize;
            let count = of_literals.base as usize + bits.take(u32::from(of_literals.extra)) as usize;
            if extra > 30 {
                bits.refill();
            }
            // 3.1.1.5: values up to 3 repeat an earlier offset, shifted by one when there are no literals.
            let offset = if of_offset.extra > 1 {
                third = second;
                second = first;
                first = value - 3;
                first
            } else {
                let which = value - 1 + usize::from(count == 0);
                match which {
                    0 => first,
                    1 => {
                        std::mem::swap(&mut first, &mut second);
                        first
                    }
                    _ => {
                        let offset = if which == 2 { third } else { first.wrapping_sub(1) };
                        third = second;
                        second = first;
                        first = offset;
                        offset
                    }
                }
            };
            if index > 0 {
                literal_state = of_literals.next as usize + bits.take(u32::from(of_literals.bits)) as usize;
                match_state = of_match.next as usize + bits.take(u32::from(of_match.bits)) as usize;
                offset_state = of_offset.next as usize + bits.take(u32::from(of_offset.bits)) as usize;
            }
            let from = to + count;
            let end = from + length;
            if count > literals.count || offset > from || offset == 0 || end > most {
                *produced = to;
                return None;
            }
            if end + OVERSHOOT <= room && count + OVERSHOOT <= literals.readable {
                // SAFETY: both ends have room for the overshoot, and the offset was checked.
                unsafe {
                    copy_over(literals.from, start.add(to), count);
                    copy_match(start.add(from), offset, length);
                }
            } else {
                let there = count.min(room - to);
                // SAFETY: `count` literals are there, and room for `there` of them.
                unsafe { start.add(to).copy_from_nonoverlapping(literals.from, there) };
                for place in from..end.min(room) {
                    output[place] = output[place - offset];
                }
                if end > room {
                    *produced = room;
                    return Some(Stop::Full);
                }
            }
            literals.skip(count);
            to = end;
        }
        *produced = to;
        self.repeats = [first, second, third];
        if !bits.finished() || to + literals.count > most {
            return None;
        }
        Some(rest(literals, output, produced))
    }
}

/// Literals that wait to be copied.
#[derive(Clone, Copy)]
struct Source {
    from: *const u8,
    count: usize,
    /// Bytes that may be read from `from`, whatever they are.
    readable: usize,
}

impl Source {
    #[inline(always)]
    fn skip(&mut self, count: usize) {
        // SAFETY: `count` is at most the count that is left.
        self.from = unsafe { self.from.add(count) };
        self.count -= count;
        self.readable -= count;
    }
}

/// Adds the literals after the last sequence.
fn rest(literals: Source, output: &mut [u8], produced: &mut usize) -> Stop {
    let count = literals.count.min(output.len() - *produced);
    // SAFETY: the literals are there, and `count` has room.
    unsafe { output.as_mut_ptr().add(*produced).copy_from_nonoverlapping(literals.from, count) };
    *produced += count;
    if count < literals.count { Stop::Full } else { Stop::End }
}
