//! One hash at a time, fed in pieces.

use sha1::digest::Digest;
use std::cell::RefCell;

/// A hash under way.
#[derive(Clone)]
pub enum Hasher {
    Sha1(sha1::Sha1),
    Sha224(sha2::Sha224),
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
    Ripemd160(ripemd::Ripemd160),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// The hash that `wasm/hash.ts` knows by this number.
    pub fn new(kind: u32) -> Self {
        match kind {
            0 => Hasher::Sha1(Digest::new()),
            1 => Hasher::Sha224(Digest::new()),
            2 => Hasher::Sha256(Digest::new()),
            3 => Hasher::Sha384(Digest::new()),
            4 => Hasher::Sha512(Digest::new()),
            5 => Hasher::Ripemd160(Digest::new()),
            _ => Hasher::Blake3(Box::default()),
        }
    }

    /// Hashes more bytes.
    pub fn update(&mut self, input: &[u8]) {
        match self {
            Hasher::Sha1(hasher) => hasher.update(input),
            Hasher::Sha224(hasher) => hasher.update(input),
            Hasher::Sha256(hasher) => hasher.update(input),
            Hasher::Sha384(hasher) => hasher.update(input),
            Hasher::Sha512(hasher) => hasher.update(input),
            Hasher::Ripemd160(hasher) => hasher.update(input),
            Hasher::Blake3(hasher) => {
                hasher.update(input);
            }
        }
    }

    /// Writes the hash to the start of `output` and returns its length.
    pub fn finish(self, output: &mut [u8]) -> usize {
        fn write(output: &mut [u8], hash: &[u8]) -> usize {
            output[..hash.len()].copy_from_slice(hash);
            hash.len()
        }
        match self {
            Hasher::Sha1(hasher) => write(output, &hasher.finalize()),
            Hasher::Sha224(hasher) => write(output, &hasher.finalize()),
            Hasher::Sha256(hasher) => write(output, &hasher.finalize()),
            Hasher::Sha384(hasher) => write(output, &hasher.finalize()),
            Hasher::Sha512(hasher) => write(output, &hasher.finalize()),
            Hasher::Ripemd160(hasher) => write(output, &hasher.finalize()),
            Hasher::Blake3(hasher) => write(output, hasher.finalize().as_bytes()),
        }
    }
}

thread_local! {
    static HASHER: RefCell<Option<Hasher>> = const { RefCell::new(None) };
}

/// Starts the hash `kind`, and forgets any other.
pub fn start(kind: u32) {
    HASHER.set(Some(Hasher::new(kind)));
}

/// Hashes more bytes.
pub fn update(input: &[u8]) {
    HASHER.with_borrow_mut(|hasher| {
        if let Some(hasher) = hasher {
            hasher.update(input);
        }
    })
}

/// Writes the hash to the start of `output` and returns its length; 0 when none was started.
pub fn finish(output: &mut [u8]) -> usize {
    HASHER.take().map_or(0, |hasher| hasher.finish(output))
}
