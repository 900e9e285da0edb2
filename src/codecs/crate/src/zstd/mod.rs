//! Zstandard (RFC 8878), whole frames in whole buffers; dictionaries are not known.

mod bits;
mod block;
mod encode;
mod fse;
mod fse_encode;
mod huffman;
mod huffman_encode;
mod sequences;
mod xxh64;

use crate::Stop;
use block::{BlockDecoder, MAX_BLOCK};
use encode::FrameEncoder;
use std::cell::RefCell;

const MAGIC: u32 = 0xfd2f_b528;
/// RFC 8878, 3.1.2: sixteen magic numbers mark frames to skip.
const SKIPPABLE: u32 = 0x184d_2a50;

thread_local! {
    static DECODER: RefCell<Option<Box<BlockDecoder>>> = const { RefCell::new(None) };
    static ENCODER: RefCell<Option<FrameEncoder>> = const { RefCell::new(None) };
}

fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// What a frame's header says (RFC 8878, 3.1.1.1).
struct Header {
    length: usize,
    content_size: Option<u64>,
    checksum: bool,
}

/// Parses the header after the magic number.
fn header(input: &[u8]) -> Result<Header, Stop> {
    let descriptor = *input.first().ok_or(Stop::Short)?;
    let single_segment = descriptor & 0x20 != 0;
    if descriptor & 0x08 != 0 {
        return Err(Stop::Corrupt);
    }
    let window = usize::from(!single_segment);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let size = match descriptor >> 6 {
        0 => usize::from(single_segment),
        bits => 1 << bits,
    };
    let length = 1 + window + dictionary + size;
    let fields = input.get(1 + window..length).ok_or(Stop::Short)?;
    if le(&fields[..dictionary]) != 0 {
        return Err(Stop::Corrupt);
    }
    let value = le(&fields[dictionary..]);
    let content_size = (size > 0).then_some(if size == 2 { value + 256 } else { value });
    Ok(Header { length, content_size, checksum: descriptor & 4 != 0 })
}

/// Decompresses frame after frame. With `fill`, stops as soon as the output is full, whatever follows.
pub fn decompress(input: &[u8], output: &mut [u8], fill: bool) -> (Stop, usize) {
    DECODER.with_borrow_mut(|kept| {
        let decoder = kept.get_or_insert_with(BlockDecoder::new);
        let mut at = 0;
        let mut produced = 0;
        while at < input.len() {
            if fill && produced == output.len() {
                return (Stop::Full, produced);
            }
            let Some(magic) = input.get(at..at + 4) else { return (Stop::Short, produced) };
            let magic = le(magic) as u32;
            at += 4;
            if magic & !0xf == SKIPPABLE {
                let Some(length) = input.get(at..at + 4) else { return (Stop::Short, produced) };
                at += 4 + le(length) as usize;
                if at > input.len() {
                    return (Stop::Short, produced);
                }
                continue;
            }
            if magic != MAGIC {
                return (Stop::Corrupt, produced);
            }
            let (stop, used, written) = frame(decoder, input, at, &mut output[produced..]);
            produced += written;
            if stop != Stop::End {
                return (stop, produced);
            }
            at = used;
        }
        (Stop::End, produced)
    })
}

/// Decompresses the frame whose header is at `at`; returns where it ended and what it wrote.
fn frame(decoder: &mut BlockDecoder, input: &[u8], mut at: usize, output: &mut [u8]) -> (Stop, usize, usize) {
    let header = match header(&input[at..]) {
        Ok(header) => header,
        Err(stop) => return (stop, at, 0),
    };
    at += header.length;
    decoder.reset();
    let mut produced = 0;
    loop {
        let Some(word) = input.get(at..at + 3) else { return (Stop::Short, at, produced) };
        let word = le(word) as usize;
        at += 3;
        let (last, kind, size) = (word & 1 != 0, word >> 1 & 3, word >> 3);
        if size > MAX_BLOCK || kind == 3 {
            return (Stop::Corrupt, at, produced);
        }
        let stored = if kind == 1 { 1 } else { size };
        if stored > input.len() - at {
            return (Stop::Short, at, produced);
        }
        let room = output.len() - produced;
        let stop = match kind {
            0 => {
                let count = size.min(room);
                output[produced..produced + count].copy_from_slice(&input[at..at + count]);
                produced += count;
                if count < size { Stop::Full } else { Stop::End }
            }
            1 => {
                let count = size.min(room);
                output[produced..produced + count].fill(input[at]);
                produced += count;
                if count < size { Stop::Full } else { Stop::End }
            }
            _ => decoder.decode(&input[..at + size], at, output, &mut produced),
        };
        if stop != Stop::End {
            return (stop, at, produced);
        }
        at += stored;
        if last {
            break;
        }
    }
    if header.content_size.is_some_and(|size| size != produced as u64) {
        return (Stop::Corrupt, at, produced);
    }
    if header.checksum {
        let Some(sum) = input.get(at..at + 4) else { return (Stop::Short, at, produced) };
        if le(sum) as u32 != xxh64::xxh64(&output[..produced]) as u32 {
            return (Stop::Corrupt, at, produced);
        }
        at += 4;
    }
    (Stop::End, at, produced)
}

/// Compresses `input` to one frame; `Full` when it does not fit.
pub fn compress(input: &[u8], output: &mut [u8], level: i32) -> (Stop, usize) {
    ENCODER.with_borrow_mut(|kept| kept.get_or_insert_with(FrameEncoder::new).compress(input, output, level))
}
