//! Keys from passwords: PBKDF2 (RFC 8018) and Argon2 (RFC 9106).

use crate::hash::Hasher;
use argon2::{Algorithm, Argon2, AssociatedData, Block, ParamsBuilder, Version};

/// No hash is longer, and no block that it works on.
const MOST: usize = 64;
const MOST_BLOCK: usize = 128;

/// HMAC (RFC 2104) with its two key blocks already hashed, so that a round costs two compressions.
struct Hmac {
    inner: Hasher,
    outer: Hasher,
}

impl Hmac {
    fn new(kind: u32, key: &[u8]) -> Self {
        // SHA-384 and SHA-512 work on 128 bytes, the others on 64.
        let size = if matches!(kind, 3 | 4) { MOST_BLOCK } else { 64 };
        let mut block = [0; MOST_BLOCK];
        if key.len() > size {
            let mut hasher = Hasher::new(kind);
            hasher.update(key);
            hasher.finish(&mut block);
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        let keyed = |pad: u8| {
            let mut hasher = Hasher::new(kind);
            hasher.update(&block.map(|byte| byte ^ pad)[..size]);
            hasher
        };
        Hmac { inner: keyed(0x36), outer: keyed(0x5c) }
    }

    /// Signs the parts, end to end, into `output`, and returns the length.
    fn sign(&self, parts: [&[u8]; 2], output: &mut [u8; MOST]) -> usize {
        let mut inner = self.inner.clone();
        for part in parts {
            inner.update(part);
        }
        let length = inner.finish(output);
        let mut outer = self.outer.clone();
        outer.update(&output[..length]);
        outer.finish(output)
    }
}

/// PBKDF2 with HMAC over the hash `kind`, numbered as in `Hasher::new`.
pub fn pbkdf2(kind: u32, password: &[u8], salt: &[u8], iterations: u32, output: &mut [u8]) {
    let hmac = Hmac::new(kind, password);
    let mut at = 0;
    let mut index = 0u32;
    while at < output.len() {
        index += 1;
        let mut last = [0; MOST];
        let length = hmac.sign([salt, &index.to_be_bytes()], &mut last);
        let mut sum = last;
        for _ in 1..iterations {
            let before = last;
            hmac.sign([&before[..length], &[]], &mut last);
            sum.iter_mut().zip(&last).for_each(|(sum, last)| *sum ^= last);
        }
        let part = length.min(output.len() - at);
        output[at..at + part].copy_from_slice(&sum[..part]);
        at += part;
    }
}

/// What Argon2 is made from (RFC 9106, 3.1).
pub struct Argon2Input<'a> {
    pub kind: u32,
    pub password: &'a [u8],
    pub salt: &'a [u8],
    pub secret: &'a [u8],
    pub data: &'a [u8],
    pub iterations: u32,
    /// In KiB.
    pub memory: u32,
    pub lanes: u32,
}

/// Argon2 version 1.3; none when the parameters are out of range or the memory is not to be had.
pub fn argon2(input: &Argon2Input, output: &mut [u8]) -> Option<()> {
    let algorithm = [Algorithm::Argon2d, Algorithm::Argon2i, Algorithm::Argon2id][input.kind as usize % 3];
    let mut builder = ParamsBuilder::new();
    builder.m_cost(input.memory).t_cost(input.iterations).p_cost(input.lanes).output_len(output.len());
    builder.data(AssociatedData::new(input.data).ok()?);
    let params = builder.build().ok()?;
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(params.block_count()).ok()?;
    blocks.resize(params.block_count(), Block::new());
    let argon2 = Argon2::new_with_secret(input.secret, algorithm, Version::V0x13, params).ok()?;
    argon2.hash_password_into_with_memory(input.password, input.salt, output, &mut blocks).ok()
}
