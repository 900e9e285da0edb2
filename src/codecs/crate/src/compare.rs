//! Words of an input, and how far two places of it are the same: what all that look for repetitions ask.

/// How many bytes from `first` and from `second`, which is later, are the same, up to `end`.
#[inline(always)]
pub fn common(input: &[u8], first: usize, second: usize, end: usize) -> usize {
    let mut length = 0;
    while second + length + 8 <= end {
        let difference = load8(input, first + length) ^ load8(input, second + length);
        if difference != 0 {
            return length + (difference.trailing_zeros() / 8) as usize;
        }
        length += 8;
    }
    while second + length < end && input[first + length] == input[second + length] {
        length += 1;
    }
    length
}

#[inline(always)]
pub fn load8(input: &[u8], at: usize) -> u64 {
    debug_assert!(at + 8 <= input.len());
    // SAFETY: every place that is looked at lies far enough before an end, or was checked against one.
    unsafe { input.as_ptr().add(at).cast::<u64>().read_unaligned().to_le() }
}

#[inline(always)]
pub fn load4(input: &[u8], at: usize) -> u32 {
    debug_assert!(at + 4 <= input.len());
    // SAFETY: as above.
    unsafe { input.as_ptr().add(at).cast::<u32>().read_unaligned().to_le() }
}
