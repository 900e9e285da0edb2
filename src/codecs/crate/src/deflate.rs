//! Deflate (RFC 1951), raw or framed as zlib (RFC 1950) or gzip (RFC 1952), by zlib-rs. The states are kept: one
//! inflater, and the last deflater as long as it is asked for with the same settings.

use crate::Stop;
use std::cell::RefCell;
use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateFlush, Status};

struct Deflater {
    settings: (u32, i32, u32),
    state: Deflate,
}

thread_local! {
    static DEFLATER: RefCell<Option<Deflater>> = const { RefCell::new(None) };
}

/// Inflates `input` into `output` until either ends.
pub fn inflate(input: &[u8], output: &mut [u8], framing: u32) -> (Stop, usize) {
    let mut state = match framing {
        0 => Inflate::new(false, 15),
        1 => Inflate::new(true, 15),
        _ => Inflate::new(true, 16 + 15),
    };
    let result = state.decompress(input, output, InflateFlush::Finish);
    let produced = state.total_out() as usize;
    let stop = match result {
        Ok(Status::StreamEnd) => Stop::End,
        Ok(_) if produced == output.len() => Stop::Full,
        Ok(_) => Stop::Short,
        Err(_) => Stop::Corrupt,
    };
    (stop, produced)
}

/// Deflates `input` into `output`; anything but `End` means that it did not fit.
pub fn deflate(input: &[u8], output: &mut [u8], framing: u32, level: i32, window_bits: u32) -> (Stop, usize) {
    DEFLATER.with_borrow_mut(|kept| {
        let settings = (framing, level, window_bits);
        let deflater = match kept {
            Some(deflater) if deflater.settings == settings => {
                deflater.state.reset();
                deflater
            }
            _ => {
                let bits = if framing == 2 { window_bits + 16 } else { window_bits };
                kept.insert(Deflater { settings, state: Deflate::new(level, framing != 0, bits as u8) })
            }
        };
        let stop = match deflater.state.compress(input, output, DeflateFlush::Finish) {
            Ok(Status::StreamEnd) => Stop::End,
            _ => Stop::Full,
        };
        (stop, deflater.state.total_out() as usize)
    })
}
