//! What the codes of sequences stand for, and their predefined distributions (RFC 8878, 3.1.1.3.2).

use super::fse::Counts;

/// One of the three things that a sequence says.
pub struct Kind {
    /// Value and extra bits of each code.
    pub values: &'static [(u32, u8)],
    /// The greatest accuracy that a table may have.
    pub max_log: u32,
    pub predefined: Counts,
}

/// Table 16 (literals length codes): base value and extra bits.
const LITERALS_VALUES: [(u32, u8); 36] = {
    const EXTRA: [u8; 20] = [1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    values(16, 0, &EXTRA)
};

/// Table 17 (match length codes).
const MATCH_VALUES: [(u32, u8); 53] = {
    const EXTRA: [u8; 21] = [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    values(32, 3, &EXTRA)
};

/// 3.1.1.3.2.1.1: an offset's code is the number of its extra bits.
const OFFSET_VALUES: [(u32, u8); 32] = {
    let mut values = [(0, 0); 32];
    let mut code = 0;
    while code < 32 {
        values[code] = (1 << code, code as u8);
        code += 1;
    }
    values
};

/// Codes that first count one by one from `base`, then by the extra bits given.
const fn values<const N: usize>(single: usize, base: u32, extra: &[u8]) -> [(u32, u8); N] {
    let mut values = [(0, 0); N];
    let mut value = base;
    let mut code = 0;
    while code < N {
        let bits = if code < single { 0 } else { extra[code - single] };
        values[code] = (value, bits);
        value += 1 << bits;
        code += 1;
    }
    values
}

pub const LITERALS: Kind = Kind {
    values: &LITERALS_VALUES,
    max_log: 9,
    predefined: Counts::of(
        6,
        [
            4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1,
        ],
    ),
};

pub const OFFSETS: Kind = Kind {
    values: &OFFSET_VALUES,
    max_log: 8,
    predefined: Counts::of(
        5,
        [1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1],
    ),
};

pub const MATCHES: Kind = Kind {
    values: &MATCH_VALUES,
    max_log: 9,
    predefined: Counts::of(
        6,
        [
            1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
            1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
        ],
    ),
};
