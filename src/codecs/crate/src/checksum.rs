//! CRC-32, CRC-32C, Adler-32 and the test for zeroes.

use std::sync::OnceLock;

/// Sixteen tables, so that a step takes sixteen bytes with independent look-ups: the first is the byte-wise table of the
/// reflected polynomial, and each next one shifts by one byte more.
type Tables = [[u32; 256]; 16];

const CRC32: u32 = 0xedb8_8320;
const CRC32C: u32 = 0x82f6_3b78;

fn tables(polynomial: u32) -> Box<Tables> {
    let mut tables = Box::new([[0; 256]; 16]);
    for byte in 0..256 {
        let mut crc = byte as u32;
        for _ in 0..8 {
            crc = (crc >> 1) ^ (polynomial & (crc & 1).wrapping_neg());
        }
        tables[0][byte] = crc;
    }
    for byte in 0..256 {
        for shift in 1..16 {
            let crc = tables[shift - 1][byte];
            tables[shift][byte] = (crc >> 8) ^ tables[0][crc as usize & 0xff];
        }
    }
    tables
}

fn crc(tables: &Tables, input: &[u8], seed: u32) -> u32 {
    let mut crc = !seed;
    let mut steps = input.chunks_exact(16);
    for step in &mut steps {
        let word = |at: usize| u32::from_le_bytes([step[at], step[at + 1], step[at + 2], step[at + 3]]);
        let words = [word(0) ^ crc, word(4), word(8), word(12)];
        crc = 0;
        for (index, word) in words.into_iter().enumerate() {
            let last = 15 - 4 * index;
            crc ^= tables[last][(word & 0xff) as usize]
                ^ tables[last - 1][(word >> 8 & 0xff) as usize]
                ^ tables[last - 2][(word >> 16 & 0xff) as usize]
                ^ tables[last - 3][(word >> 24) as usize];
        }
    }
    for &byte in steps.remainder() {
        crc = (crc >> 8) ^ tables[0][(crc as u8 ^ byte) as usize];
    }
    !crc
}

/// CRC-32 (ISO 3309) that continues `seed`.
pub fn crc32(input: &[u8], seed: u32) -> u32 {
    static TABLES: OnceLock<Box<Tables>> = OnceLock::new();
    crc(TABLES.get_or_init(|| tables(CRC32)), input, seed)
}

/// CRC-32C (Castagnoli) that continues `seed`.
pub fn crc32c(input: &[u8], seed: u32) -> u32 {
    static TABLES: OnceLock<Box<Tables>> = OnceLock::new();
    crc(TABLES.get_or_init(|| tables(CRC32C)), input, seed)
}

/// Adler-32 (RFC 1950) that continues `seed`.
pub fn adler32(input: &[u8], seed: u32) -> u32 {
    const MODULUS: u32 = 65521;
    // The most steps before the sums could pass 32 bits (RFC 1950, 9).
    const STEPS: usize = 5536 / STEP;
    let (mut low, mut high) = (seed & 0xffff, seed >> 16);
    for run in input.chunks(STEP * STEPS) {
        let (steps, rest) = run.as_chunks::<STEP>();
        high += low * (steps.len() * STEP) as u32;
        let (sum, weighted) = adler_steps(steps);
        low += sum;
        high += weighted;
        for &byte in rest {
            low += u32::from(byte);
            high += low;
        }
        low %= MODULUS;
        high %= MODULUS;
    }
    high << 16 | low
}

const STEP: usize = 16;

/// The sum of all bytes, and their sum weighted by how many bytes from each to the end.
#[cfg(not(target_feature = "simd128"))]
fn adler_steps(steps: &[[u8; STEP]]) -> (u32, u32) {
    let (mut sum, mut weighted) = (0, 0);
    for step in steps {
        weighted += sum * STEP as u32;
        for (index, &byte) in step.iter().enumerate() {
            sum += u32::from(byte);
            weighted += u32::from(byte) * (STEP - index) as u32;
        }
    }
    (sum, weighted)
}

#[cfg(target_feature = "simd128")]
fn adler_steps(steps: &[[u8; STEP]]) -> (u32, u32) {
    use core::arch::wasm32::*;
    let first = i16x8(16, 15, 14, 13, 12, 11, 10, 9);
    let second = i16x8(8, 7, 6, 5, 4, 3, 2, 1);
    let zero = u32x4_splat(0);
    // Sums by lanes; `before` gathers the sums before each step, of which each counts 16 times.
    let (mut sum, mut before, mut weighted) = (zero, zero, zero);
    for step in steps {
        // SAFETY: sixteen bytes are there.
        let bytes = unsafe { v128_load(step.as_ptr().cast()) };
        before = u32x4_add(before, sum);
        sum = u32x4_add(sum, u32x4_extadd_pairwise_u16x8(u16x8_extadd_pairwise_u8x16(bytes)));
        weighted = u32x4_add(weighted, i32x4_dot_i16x8(u16x8_extend_low_u8x16(bytes), first));
        weighted = u32x4_add(weighted, i32x4_dot_i16x8(u16x8_extend_high_u8x16(bytes), second));
    }
    let total = |lanes: v128| {
        u32x4_extract_lane::<0>(lanes)
            + u32x4_extract_lane::<1>(lanes)
            + u32x4_extract_lane::<2>(lanes)
            + u32x4_extract_lane::<3>(lanes)
    };
    (total(sum), total(weighted) + total(before) * STEP as u32)
}

/// Whether every byte is zero; looks at 256 bytes before it decides to go on.
pub fn is_all_zero(input: &[u8]) -> bool {
    let mut steps = input.chunks_exact(256);
    steps.all(|step| step.chunks_exact(8).fold(0, |or, word| or | u64::from_le_bytes(word.try_into().unwrap())) == 0)
        && steps.remainder().iter().all(|&byte| byte == 0)
}
