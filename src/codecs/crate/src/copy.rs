//! Copies in steps of 16 bytes that may write past their end: what a decoder's inner loop lives on.

/// The most that a copy here writes past the end that was asked for.
pub const OVERSHOOT: usize = 32;

/// Copies 16 bytes.
///
/// # Safety
/// 16 bytes at `from` are readable and 16 at `to` writable.
#[inline(always)]
pub unsafe fn copy16(from: *const u8, to: *mut u8) {
    unsafe { to.cast::<u128>().write_unaligned(from.cast::<u128>().read_unaligned()) }
}

/// Copies `length` bytes from elsewhere, and up to 16 more.
///
/// # Safety
/// `length` + 16 bytes at `from` are readable and as many at `to` writable; they do not overlap within 16 bytes.
#[inline(always)]
pub unsafe fn copy_over(from: *const u8, to: *mut u8, length: usize) {
    unsafe {
        copy16(from, to);
        let mut done = 16;
        while done < length {
            copy16(from.add(done), to.add(done));
            done += 16;
        }
    }
}

/// Copies a match: `length` bytes from `distance` back, where the copy may read what it has just written.
///
/// # Safety
/// `distance` bytes before `to` are written, and `length` + `OVERSHOOT` bytes from it may be.
#[inline(always)]
pub unsafe fn copy_match(to: *mut u8, distance: usize, length: usize) {
    unsafe {
        if distance >= 16 {
            copy_over(to.sub(distance), to, length);
        } else if distance == 1 {
            to.write_bytes(*to.sub(1), length);
        } else {
            copy_pattern(to, distance, length);
        }
    }
}

/// A match that repeats a pattern of 2 to 15 bytes: copied until 16 bytes are whole patterns, then in steps of 16.
///
/// # Safety
/// As `copy_match`.
#[inline]
unsafe fn copy_pattern(to: *mut u8, distance: usize, length: usize) {
    unsafe {
        let from = to.sub(distance).cast_const();
        let mut done = 0;
        let mut step = distance;
        while step < 16 && done < length {
            for index in 0..step {
                *to.add(done + index) = *from.add(index);
            }
            done += step;
            step *= 2;
        }
        while done < length {
            copy16(to.add(done).sub(step), to.add(done));
            done += 16;
        }
    }
}
