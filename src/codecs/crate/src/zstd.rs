//! Zstandard (RFC 8878).

use crate::Stop;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use ruzstd::io::Read;

pub fn decompress(mut input: &[u8], output: &mut [u8]) -> (Stop, usize) {
    let mut decoder = FrameDecoder::new();
    let mut produced = 0;
    while !input.is_empty() && produced < output.len() {
        if input.len() >= 8 && (input[0] & 0xf0) == 0x50 && input[1..4] == [0x2a, 0x4d, 0x18] {
            let length = u32::from_le_bytes(input[4..8].try_into().unwrap()) as usize;
            if length > input.len() - 8 {
                return (Stop::Short, produced);
            }
            input = &input[8 + length..];
            continue;
        }
        if decoder.init(&mut input).is_err() {
            return (Stop::Corrupt, produced);
        }
        loop {
            if decoder.decode_blocks(&mut input, BlockDecodingStrategy::UptoBlocks(1)).is_err() {
                return (Stop::Corrupt, produced);
            }
            produced += decoder.read(&mut output[produced..]).unwrap_or(0);
            if decoder.can_collect() != 0 {
                return (Stop::Full, produced);
            }
            if decoder.is_finished() {
                break;
            }
        }
    }
    (if input.is_empty() { Stop::End } else { Stop::Full }, produced)
}

pub fn compress(input: &[u8], output: &mut [u8], _level: i32) -> (Stop, usize) {
    let packed = compress_to_vec(input, CompressionLevel::Fastest);
    if packed.len() > output.len() {
        return (Stop::Full, 0);
    }
    output[..packed.len()].copy_from_slice(&packed);
    (Stop::End, packed.len())
}
