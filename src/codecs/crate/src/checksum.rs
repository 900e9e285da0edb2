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
    const STEP: usize = 32;
    // The most steps before the sums could pass 32 bits.
    const STEPS: usize = 5536 / STEP;
    let (mut low, mut high) = (seed & 0xffff, seed >> 16);
    for run in input.chunks(STEP * STEPS) {
        let mut steps = run.chunks_exact(STEP);
        for step in &mut steps {
            let (mut sum, mut weighted) = (0, 0);
            for (index, &byte) in step.iter().enumerate() {
                sum += u32::from(byte);
                weighted += u32::from(byte) * (STEP - index) as u32;
            }
            high += low * STEP as u32 + weighted;
            low += sum;
        }
        for &byte in steps.remainder() {
            low += u32::from(byte);
            high += low;
        }
        low %= MODULUS;
        high %= MODULUS;
    }
    high << 16 | low
}

/// Whether every byte is zero; looks at 256 bytes before it decides to go on.
pub fn is_all_zero(input: &[u8]) -> bool {
    let mut steps = input.chunks_exact(256);
    steps.all(|step| step.chunks_exact(8).fold(0, |or, word| or | u64::from_le_bytes(word.try_into().unwrap())) == 0)
        && steps.remainder().iter().all(|&byte| byte == 0)
}
