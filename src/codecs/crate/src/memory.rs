//! The buffer lent to JavaScript, and the count that goes with an answer.

use crate::Stop;
use std::alloc::{Layout, alloc, dealloc};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const ALIGN: usize = 64;

static ADDRESS: AtomicUsize = AtomicUsize::new(0);
static LENGTH: AtomicUsize = AtomicUsize::new(0);
static PRODUCED: AtomicUsize = AtomicUsize::new(0);

/// The lent buffer, grown to `length`; what was in it is lost when it grows. Null when there is no memory.
pub fn lend(length: usize) -> *mut u8 {
    let held = LENGTH.load(Relaxed);
    if length <= held {
        return ADDRESS.load(Relaxed) as *mut u8;
    }
    let Ok(layout) = Layout::from_size_align(length, ALIGN) else { return std::ptr::null_mut() };
    if held > 0 {
        // SAFETY: this is the buffer that was allocated below, with this length and alignment.
        unsafe { dealloc(ADDRESS.load(Relaxed) as *mut u8, Layout::from_size_align_unchecked(held, ALIGN)) };
        LENGTH.store(0, Relaxed);
    }
    // SAFETY: the layout is not empty, since `length` is more than `held`.
    let address = unsafe { alloc(layout) };
    if !address.is_null() {
        ADDRESS.store(address as usize, Relaxed);
        LENGTH.store(length, Relaxed);
    }
    address
}

/// Keeps how much was produced for `produced`, and gives the rest of the answer back.
pub fn report((stop, produced): (Stop, usize)) -> Stop {
    PRODUCED.store(produced, Relaxed);
    stop
}

/// The bytes that the last reported answer produced.
pub fn produced() -> usize {
    PRODUCED.load(Relaxed)
}

/// The bytes that JavaScript named.
///
/// # Safety
/// They lie inside the lent buffer, and nothing writes them meanwhile.
pub unsafe fn bytes<'a>(address: *const u8, length: usize) -> &'a [u8] {
    unsafe { std::slice::from_raw_parts(address, length) }
}

/// The bytes that JavaScript named, to write.
///
/// # Safety
/// They lie inside the lent buffer, and overlap nothing else that the same call was given.
pub unsafe fn bytes_mut<'a>(address: *mut u8, length: usize) -> &'a mut [u8] {
    unsafe { std::slice::from_raw_parts_mut(address, length) }
}
