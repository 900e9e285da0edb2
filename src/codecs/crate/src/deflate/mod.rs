//! Deflate (RFC 1951), raw or framed as zlib (RFC 1950) or gzip (RFC 1952). Tables are kept from call to call.

mod chains;
mod encode;
mod inflate;

use crate::{Stop, checksum};
use encode::DeflateEncoder;
use inflate::Tables;
use std::cell::RefCell;

thread_local! {
    static TABLES: RefCell<Tables> = const { RefCell::new(Tables::new()) };
    static ENCODER: RefCell<Option<DeflateEncoder>> = const { RefCell::new(None) };
}

/// Inflates `input` into `output` until either ends. The framing's checksum is verified at the end of the stream.
pub fn inflate(input: &[u8], output: &mut [u8], framing: u32) -> (Stop, usize) {
    let start = match framing {
        0 => Ok(0),
        1 => zlib_header(input),
        _ => gzip_header(input),
    };
    let start = match start {
        Ok(start) => start,
        Err(stop) => return (stop, 0),
    };
    let (stop, used, produced) = TABLES.with_borrow_mut(|tables| inflate::inflate(tables, &input[start..], output));
    if stop != Stop::End || framing == 0 {
        return (stop, produced);
    }
    let trailer = &input[start + used..];
    let word = |at: usize| trailer.get(at..at + 4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()));
    let output = &output[..produced];
    let stop = match (framing, word(0), word(4)) {
        (1, Some(sum), _) if sum.swap_bytes() == checksum::adler32(output, 1) => Stop::End,
        (2, Some(sum), Some(length)) if sum == checksum::crc32(output, 0) && length == produced as u32 => Stop::End,
        (1, None, _) | (2, _, None) => Stop::Short,
        _ => Stop::Corrupt,
    };
    (stop, produced)
}

/// The length of a zlib header (RFC 1950, 2.2).
fn zlib_header(input: &[u8]) -> Result<usize, Stop> {
    let [cmf, flg, ..] = *input else { return Err(Stop::Short) };
    let (method, window, dictionary) = (cmf & 0xf, cmf >> 4, flg & 0x20 != 0);
    if method != 8 || window > 7 || dictionary || u16::from_be_bytes([cmf, flg]) % 31 != 0 {
        return Err(Stop::Corrupt);
    }
    Ok(2)
}

/// The length of a gzip header (RFC 1952, 2.3).
fn gzip_header(input: &[u8]) -> Result<usize, Stop> {
    const FHCRC: u8 = 1 << 1;
    const FEXTRA: u8 = 1 << 2;
    const FNAME: u8 = 1 << 3;
    const FCOMMENT: u8 = 1 << 4;
    let header = input.get(..10).ok_or(Stop::Short)?;
    let flags = header[3];
    if header[..3] != [0x1f, 0x8b, 8] || flags & 0xe0 != 0 {
        return Err(Stop::Corrupt);
    }
    let mut at = 10;
    if flags & FEXTRA != 0 {
        let length = input.get(at..at + 2).ok_or(Stop::Short)?;
        at += 2 + u16::from_le_bytes([length[0], length[1]]) as usize;
    }
    for flag in [FNAME, FCOMMENT] {
        if flags & flag != 0 {
            let text = input.get(at..).ok_or(Stop::Short)?;
            at += text.iter().position(|&byte| byte == 0).ok_or(Stop::Short)? + 1;
        }
    }
    if flags & FHCRC != 0 {
        let sum = input.get(at..at + 2).ok_or(Stop::Short)?;
        if u16::from_le_bytes([sum[0], sum[1]]) != checksum::crc32(&input[..at], 0) as u16 {
            return Err(Stop::Corrupt);
        }
        at += 2;
    }
    if at > input.len() { Err(Stop::Short) } else { Ok(at) }
}

/// Deflates `input` into `output`; `Full` when it does not fit.
pub fn deflate(input: &[u8], output: &mut [u8], framing: u32, level: i32, window_bits: u32) -> (Stop, usize) {
    let (mut header, mut trailer) = ([0; 10], [0; 8]);
    let (header, trailer) = match framing {
        0 => (&header[..0], &trailer[..0]),
        1 => {
            // RFC 1950, 2.2: the window, how hard was tried, and a check of the two bytes.
            let tried = [0, 0, 1, 1, 1, 1, 2, 3, 3, 3][level as usize];
            let head = ((window_bits - 8) << 12 | 8 << 8 | tried << 6) as u16;
            header[..2].copy_from_slice(&(head + 31 - head % 31).to_be_bytes());
            trailer[..4].copy_from_slice(&checksum::adler32(input, 1).to_be_bytes());
            (&header[..2], &trailer[..4])
        }
        _ => {
            // RFC 1952, 2.3: no name, no time, and an operating system that is not known.
            header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
            trailer[..4].copy_from_slice(&checksum::crc32(input, 0).to_le_bytes());
            trailer[4..].copy_from_slice(&(input.len() as u32).to_le_bytes());
            (&header[..], &trailer[..])
        }
    };
    let Some(room) = output.len().checked_sub(header.len() + trailer.len()) else { return (Stop::Full, 0) };
    ENCODER.with_borrow_mut(|kept| {
        let encoder = kept.get_or_insert_with(DeflateEncoder::new);
        let Some(packed) = encoder.deflate(input, level, window_bits, room) else { return (Stop::Full, 0) };
        let parts = [header, packed, trailer];
        let mut at = 0;
        for part in parts {
            output[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        (Stop::End, at)
    })
}
