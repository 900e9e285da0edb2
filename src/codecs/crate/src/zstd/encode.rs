//! The encoder (RFC 8878): a frame of blocks, each raw, of one byte, or literals and sequences.

use super::block::MAX_BLOCK;
use super::fse::{Counts, MAX_SYMBOLS};
use super::fse_encode::{Encoder, cost, normalize, write_counts};
use super::huffman_encode::Code;
use super::sequences::{Kind, LITERALS, MATCHES, OFFSETS};
use crate::Stop;
use crate::matcher::{Effort, Matcher, Sequence, Strategy};
use crate::writer::BitWriter;

/// The largest window that every decoder must support is 8 MiB (RFC 8878, 3.1.1.1.2).
const MAX_WINDOW: usize = 8 << 20;
/// Fewer literals than this are not worth a code of their own.
const FEW_LITERALS: usize = 64;

/// How hard to look at each level.
const fn effort(level: i32) -> Effort {
    use Strategy::{Double, Fast, Lazy};
    let (strategy, long_log, short_log, depth, enough) = match level {
        ..=1 => (Fast, 14, 0, 1, 0),
        2 => (Fast, 16, 0, 1, 0),
        3 => (Double, 16, 15, 1, 0),
        4 => (Double, 17, 16, 1, 0),
        5 => (Lazy(1), 16, 17, 4, 32),
        6 => (Lazy(1), 17, 18, 8, 48),
        7 => (Lazy(2), 17, 18, 12, 64),
        8 => (Lazy(2), 17, 19, 20, 96),
        9 => (Lazy(2), 17, 20, 32, 128),
        10..=12 => (Lazy(2), 18, 21, 64, 256),
        13..=15 => (Lazy(2), 18, 22, 160, 512),
        _ => (Lazy(2), 18, 22, 512, 2048),
    };
    Effort { strategy, long_log, short_log, depth, enough }
}

/// One of the three kinds of codes, with its table, which the next block may use again.
struct Codes {
    kind: Kind,
    predefined: Encoder,
    table: Encoder,
    /// The distribution of `table`, when it may be used again.
    known: Option<Counts>,
    codes: Vec<u8>,
}

/// RFC 8878, 3.1.1.3.2.1: how a table is given.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Predefined = 0,
    One = 1,
    Described = 2,
    Again = 3,
}

impl Codes {
    fn new(kind: Kind) -> Self {
        let mut predefined = Encoder::new();
        predefined.fill(&kind.predefined);
        Codes { kind, predefined, table: Encoder::new(), known: None, codes: Vec::new() }
    }

    /// Bits, in 1/256, that the codes take with a distribution; none when it lacks one of them.
    fn cost(histogram: &[u32], counts: &Counts) -> Option<u32> {
        let mut sum = 0u32;
        for (symbol, &times) in histogram.iter().enumerate().filter(|(_, times)| **times > 0) {
            let states = u32::from(counts.counts[symbol].unsigned_abs());
            if states == 0 {
                return None;
            }
            sum = sum.saturating_add(times.saturating_mul(cost(states, counts.log)));
        }
        Some(sum)
    }

    /// Chooses the cheapest table for the codes of this block, and writes its description.
    fn choose(&mut self, bytes: &mut Vec<u8>) -> Mode {
        let mut histogram = [0u32; MAX_SYMBOLS];
        for &code in &self.codes {
            histogram[usize::from(code)] += 1;
        }
        let total = self.codes.len() as u32;
        let predefined = Self::cost(&histogram, &self.kind.predefined).unwrap_or(u32::MAX);
        let most = self.codes[0];
        if histogram[usize::from(most)] == total && (total > 2 || predefined == u32::MAX) {
            self.table.fill_one(usize::from(most));
            self.known = None;
            bytes.push(most);
            return Mode::One;
        }
        let again = self.known.and_then(|counts| Self::cost(&histogram, &counts)).unwrap_or(u32::MAX);
        let counts = normalize(&histogram, total, self.kind.max_log);
        let start = bytes.len();
        write_counts(&counts, bytes);
        let described = Self::cost(&histogram, &counts).unwrap_or(u32::MAX).saturating_add((bytes.len() - start) as u32 * 8 * 256);
        if described < predefined.min(again) {
            self.table.fill(&counts);
            self.known = Some(counts);
            return Mode::Described;
        }
        bytes.truncate(start);
        if again < predefined {
            return Mode::Again;
        }
        self.known = None;
        Mode::Predefined
    }

    fn encoder(&self, mode: Mode) -> &Encoder {
        if mode == Mode::Predefined { &self.predefined } else { &self.table }
    }
}

/// The tables that are kept from input to input.
pub struct FrameEncoder {
    matcher: Matcher,
    sequences: Vec<Sequence>,
    /// Extra bits of each sequence: of the literals length, the match length, and the offset.
    extras: Vec<[u32; 3]>,
    literals: Vec<u8>,
    code: Code,
    new_code: Code,
    code_known: bool,
    literal_lengths: Codes,
    offsets: Codes,
    match_lengths: Codes,
    block: Vec<u8>,
}

impl FrameEncoder {
    pub fn new() -> Self {
        FrameEncoder {
            matcher: Matcher::new(),
            sequences: Vec::new(),
            extras: Vec::new(),
            literals: Vec::new(),
            code: Code::new(),
            new_code: Code::new(),
            code_known: false,
            literal_lengths: Codes::new(LITERALS),
            offsets: Codes::new(OFFSETS),
            match_lengths: Codes::new(MATCHES),
            block: Vec::new(),
        }
    }

    /// Compresses `input` to one frame; `Full` when it does not fit.
    pub fn compress(&mut self, input: &[u8], output: &mut [u8], level: i32) -> (Stop, usize) {
        let mut frame = Output { bytes: output, length: 0 };
        let whole = self.frame(input, &mut frame, level);
        self.matcher.finish(input.len());
        (if whole.is_some() { Stop::End } else { Stop::Full }, frame.length)
    }

    fn frame(&mut self, input: &[u8], frame: &mut Output, level: i32) -> Option<()> {
        let window = frame_header(input.len(), frame)?;
        self.matcher.reset(effort(level), input.len(), window);
        self.code_known = false;
        for codes in [&mut self.literal_lengths, &mut self.offsets, &mut self.match_lengths] {
            codes.known = None;
        }
        if input.is_empty() {
            return frame.block(true, 0, 0, &[]);
        }
        for start in (0..input.len()).step_by(MAX_BLOCK) {
            let end = input.len().min(start + MAX_BLOCK);
            let content = &input[start..end];
            let last = end == input.len();
            if content[0] == content[content.len() - 1] && content.iter().all(|&byte| byte == content[0]) {
                frame.block(last, 1, content.len(), &content[..1])?;
                continue;
            }
            let recent = self.matcher.recent;
            if self.block(input, start, end) {
                frame.block(last, 2, self.block.len(), &self.block)?;
            } else {
                // A raw block says nothing to the decoder, so nothing of this one may be built upon.
                self.matcher.recent = recent;
                self.code_known = false;
                for codes in [&mut self.literal_lengths, &mut self.offsets, &mut self.match_lengths] {
                    codes.known = None;
                }
                frame.block(last, 0, content.len(), content)?;
            }
        }
        Some(())
    }

    /// Makes a compressed block of `input[start..end]`; false when it would not be smaller.
    fn block(&mut self, input: &[u8], start: usize, end: usize) -> bool {
        self.sequences.clear();
        let anchor = self.matcher.find(input, start, end, &mut self.sequences);
        self.literals.clear();
        let mut at = start;
        for sequence in &self.sequences {
            self.literals.extend_from_slice(&input[at..at + sequence.literals as usize]);
            at += (sequence.literals + sequence.length) as usize;
        }
        self.literals.extend_from_slice(&input[anchor..end]);
        self.block.clear();
        self.write_literals();
        if self.block.len() >= end - start {
            return false;
        }
        self.name_codes();
        self.write_sequences();
        self.block.len() < end - start
    }

    /// RFC 8878, 3.1.1.3.1.
    fn write_literals(&mut self) {
        let count = self.literals.len();
        let start = self.block.len();
        let mut histogram = [0u32; 256];
        for &literal in &self.literals {
            histogram[usize::from(literal)] += 1;
        }
        let most = *histogram.iter().max().unwrap() as usize;
        if most == count && count > 4 {
            self.literals_header(1, count);
            self.block.push(self.literals[0]);
            return;
        }
        // Flat histograms gain nothing.
        if count >= FEW_LITERALS && most > (count >> 7) + 4 && self.pack_literals(&histogram) {
            return;
        }
        self.block.truncate(start);
        self.literals_header(0, count);
        self.block.extend_from_slice(&self.literals);
    }

    fn literals_header(&mut self, kind: u32, count: usize) {
        let count = count as u32;
        match count {
            0..32 => self.block.push((count << 3 | kind) as u8),
            32..4096 => self.block.extend_from_slice(&(count << 4 | 1 << 2 | kind).to_le_bytes()[..2]),
            _ => self.block.extend_from_slice(&(count << 4 | 3 << 2 | kind).to_le_bytes()[..3]),
        }
    }

    /// Writes the literals with the old code or a new one; false when they would not be smaller.
    fn pack_literals(&mut self, histogram: &[u32; 256]) -> bool {
        let count = self.literals.len();
        let start = self.block.len();
        let (format, head, bits) = match count {
            0..256 => (0u64, 3, 10),
            256..1024 => (1, 3, 10),
            1024..16384 => (2, 4, 14),
            _ => (3, 5, 18),
        };
        self.block.resize(start + head, 0);
        self.new_code.fill(histogram);
        let described = self.new_code.write(&mut self.block);
        let description = self.block.len() - start - head;
        let new_size = if described { self.new_code.size(histogram).map(|size| size + description) } else { None };
        let old_size = if self.code_known { self.code.size(histogram) } else { None };
        let kind = match (old_size, new_size) {
            (Some(old), Some(new)) if old > new => 2,
            (None, Some(_)) => 2,
            (Some(_), _) => 3,
            (None, None) => return false,
        };
        if kind == 2 {
            std::mem::swap(&mut self.code, &mut self.new_code);
            self.code_known = true;
        } else {
            self.block.truncate(start + head);
        }
        if format == 0 {
            self.code.encode(&self.literals, &mut self.block);
        } else {
            // RFC 8878, 4.2.2: four streams, of which all but the last are a quarter, and the sizes of the first three.
            let jumps = self.block.len();
            self.block.resize(jumps + 6, 0);
            for (index, part) in self.literals.chunks(count.div_ceil(4)).enumerate() {
                let stream = self.block.len();
                self.code.encode(part, &mut self.block);
                if index < 3 {
                    let size = (self.block.len() - stream) as u16;
                    self.block[jumps + 2 * index..][..2].copy_from_slice(&size.to_le_bytes());
                }
            }
        }
        let packed = self.block.len() - start - head;
        if packed >= count {
            self.code_known = false;
            return false;
        }
        let header = kind | format << 2 | (count as u64) << 4 | (packed as u64) << (4 + bits);
        self.block[start..start + head].copy_from_slice(&header.to_le_bytes()[..head]);
        true
    }

    /// Turns the sequences into codes and extra bits.
    fn name_codes(&mut self) {
        self.extras.clear();
        for codes in [&mut self.literal_lengths, &mut self.offsets, &mut self.match_lengths] {
            codes.codes.clear();
        }
        for sequence in &self.sequences {
            let literal_code = literals_code(sequence.literals);
            let match_code = match_code(sequence.length);
            let offset_code = sequence.offset.ilog2();
            self.literal_lengths.codes.push(literal_code as u8);
            self.match_lengths.codes.push(match_code as u8);
            self.offsets.codes.push(offset_code as u8);
            self.extras.push([
                sequence.literals - LITERALS.values[literal_code].0,
                sequence.length - MATCHES.values[match_code].0,
                sequence.offset - (1 << offset_code),
            ]);
        }
    }

    /// RFC 8878, 3.1.1.3.2.
    fn write_sequences(&mut self) {
        let count = self.sequences.len();
        match count {
            0..128 => self.block.push(count as u8),
            128..0x7f00 => self.block.extend_from_slice(&[(count >> 8) as u8 + 128, count as u8]),
            _ => self.block.extend_from_slice(&[255, (count - 0x7f00) as u8, ((count - 0x7f00) >> 8) as u8]),
        }
        if count == 0 {
            return;
        }
        let modes_at = self.block.len();
        self.block.push(0);
        let literal_mode = self.literal_lengths.choose(&mut self.block);
        let offset_mode = self.offsets.choose(&mut self.block);
        let match_mode = self.match_lengths.choose(&mut self.block);
        self.block[modes_at] = (literal_mode as u8) << 6 | (offset_mode as u8) << 4 | (match_mode as u8) << 2;
        let literal_lengths = self.literal_lengths.encoder(literal_mode);
        let offsets = self.offsets.encoder(offset_mode);
        let match_lengths = self.match_lengths.encoder(match_mode);
        let codes = |index: usize| {
            (
                usize::from(self.literal_lengths.codes[index]),
                usize::from(self.offsets.codes[index]),
                usize::from(self.match_lengths.codes[index]),
            )
        };
        let mut bits = BitWriter::new(&mut self.block);
        let extra = |bits: &mut BitWriter, index: usize, (literals, offset, matched): (usize, usize, usize)| {
            let [literals_extra, match_extra, offset_extra] = self.extras[index];
            bits.put(u64::from(literals_extra), u32::from(LITERALS.values[literals].1));
            bits.flush();
            bits.put(u64::from(match_extra), u32::from(MATCHES.values[matched].1));
            bits.put(u64::from(offset_extra), offset as u32);
            bits.flush();
        };
        // The decoder reads backwards: what it needs first is written last.
        let (literals, offset, matched) = codes(count - 1);
        let mut literal_state = literal_lengths.start(literals);
        let mut offset_state = offsets.start(offset);
        let mut match_state = match_lengths.start(matched);
        extra(&mut bits, count - 1, (literals, offset, matched));
        for index in (0..count - 1).rev() {
            let (literals, offset, matched) = codes(index);
            offset_state = offsets.encode(offset_state, offset, &mut bits);
            match_state = match_lengths.encode(match_state, matched, &mut bits);
            literal_state = literal_lengths.encode(literal_state, literals, &mut bits);
            extra(&mut bits, index, (literals, offset, matched));
        }
        match_lengths.end(match_state, &mut bits);
        offsets.end(offset_state, &mut bits);
        literal_lengths.end(literal_state, &mut bits);
        bits.finish();
    }
}

/// An output that may be too small.
struct Output<'a> {
    bytes: &'a mut [u8],
    length: usize,
}

impl Output<'_> {
    fn add(&mut self, bytes: &[u8]) -> Option<()> {
        self.bytes.get_mut(self.length..self.length + bytes.len())?.copy_from_slice(bytes);
        self.length += bytes.len();
        Some(())
    }

    /// RFC 8878, 3.1.1.2.
    fn block(&mut self, last: bool, kind: u32, size: usize, content: &[u8]) -> Option<()> {
        self.add(&(u32::from(last) | kind << 1 | (size as u32) << 3).to_le_bytes()[..3])?;
        self.add(content)
    }
}

/// RFC 8878, 3.1.1.1: a frame that names its content size; one segment unless that is larger than the largest window.
/// Returns the window.
fn frame_header(length: usize, frame: &mut Output) -> Option<usize> {
    frame.add(&super::MAGIC.to_le_bytes())?;
    let single = length <= MAX_WINDOW;
    let (flag, size) = match length {
        0..256 => (0, 1),
        256..0x10100 => (1, 2),
        _ => (2, 4),
    };
    frame.add(&[flag << 6 | u8::from(single) << 5])?;
    if !single {
        frame.add(&[(MAX_WINDOW.ilog2() as u8 - 10) << 3])?;
    }
    let value = if size == 2 { length - 256 } else { length };
    frame.add(&(value as u32).to_le_bytes()[..size])?;
    Some(if single { length } else { MAX_WINDOW })
}

fn literals_code(length: u32) -> usize {
    match length {
        0..16 => length as usize,
        16..64 => LITERALS.values.partition_point(|&(base, _)| base <= length) - 1,
        _ => length.ilog2() as usize + 19,
    }
}

fn match_code(length: u32) -> usize {
    let value = length - 3;
    match value {
        0..32 => value as usize,
        32..128 => MATCHES.values.partition_point(|&(base, _)| base <= length) - 1,
        _ => value.ilog2() as usize + 36,
    }
}
