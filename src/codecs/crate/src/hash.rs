//! One hash at a time, fed in pieces.

use sha1::digest::Digest;
use std::cell::RefCell;

/// A hash under way, under the number that `wasm/hash.ts` knows it by.
enum Hasher {
    Sha1(sha1::Sha1),
    Sha224(sha2::Sha224),
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
    Ripemd160(ripemd::Ripemd160),
    Blake3(Box<blake3::Hasher>),
}

thread_local! {
    static HASHER: RefCell<Option<Hasher>> = const { RefCell::new(None) };
}

/// Starts the hash `kind`, and forgets any other.
pub fn start(kind: u32) {
    HASHER.set(Some(match kind {
        0 => Hasher::Sha1(Digest::new()),
        1 => Hasher::Sha224(Digest::new()),
        2 => Hasher::Sha256(Digest::new()),
        3 => Hasher::Sha384(Digest::new()),
        4 => Hasher::Sha512(Digest::new()),
        5 => Hasher::Ripemd160(Digest::new()),
        _ => Hasher::Blake3(Box::default()),
    }));
}

/// Hashes more bytes.
pub fn update(input: &[u8]) {
    HASHER.with_borrow_mut(|hasher| match hasher {
        Some(Hasher::Sha1(hasher)) => hasher.update(input),
        Some(Hasher::Sha224(hasher)) => hasher.update(input),
        Some(Hasher::Sha256(hasher)) => hasher.update(input),
        Some(Hasher::Sha384(hasher)) => hasher.update(input),
        Some(Hasher::Sha512(hasher)) => hasher.update(input),
        Some(Hasher::Ripemd160(hasher)) => hasher.update(input),
        Some(Hasher::Blake3(hasher)) => {
            hasher.update(input);
        }
        None => {}
    })
}

/// Writes the hash to the start of `output` and returns its length; 0 when none was started.
pub fn finish(output: &mut [u8]) -> usize {
    fn write(output: &mut [u8], hash: &[u8]) -> usize {
        output[..hash.len()].copy_from_slice(hash);
        hash.len()
    }
    match HASHER.take() {
        Some(Hasher::Sha1(hasher)) => write(output, &hasher.finalize()),
        Some(Hasher::Sha224(hasher)) => write(output, &hasher.finalize()),
        Some(Hasher::Sha256(hasher)) => write(output, &hasher.finalize()),
        Some(Hasher::Sha384(hasher)) => write(output, &hasher.finalize()),
        Some(Hasher::Sha512(hasher)) => write(output, &hasher.finalize()),
        Some(Hasher::Ripemd160(hasher)) => write(output, &hasher.finalize()),
        Some(Hasher::Blake3(hasher)) => write(output, hasher.finalize().as_bytes()),
        None => 0,
    }
}
