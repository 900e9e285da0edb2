//! Keys from passwords: PBKDF2 (RFC 8018) and Argon2 (RFC 9106).

use argon2::{Algorithm, Argon2, Block, Params, Version};
use sha1::digest::{Digest, Output, block_api::BlockSizeUser};

/// HMAC (RFC 2104) with its two key blocks already hashed, so that a round costs two compressions.
struct Hmac<D> {
    inner: D,
    outer: D,
}

impl<D: Digest + BlockSizeUser + Clone> Hmac<D> {
    fn new(key: &[u8]) -> Self {
        let mut block = vec![0; D::block_size()];
        if key.len() > block.len() {
            let hash = D::digest(key);
            block[..hash.len()].copy_from_slice(&hash);
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        let keyed = |pad: u8| D::new_with_prefix(block.iter().map(|byte| byte ^ pad).collect::<Vec<u8>>());
        Hmac { inner: keyed(0x36), outer: keyed(0x5c) }
    }

    fn sign(&self, parts: &[&[u8]]) -> Output<D> {
        let mut inner = self.inner.clone();
        for part in parts {
            inner.update(part);
        }
        self.outer.clone().chain_update(inner.finalize()).finalize()
    }
}

fn derive<D: Digest + BlockSizeUser + Clone>(password: &[u8], salt: &[u8], iterations: u32, output: &mut [u8]) {
    let hmac = Hmac::<D>::new(password);
    for (index, part) in output.chunks_mut(<D as Digest>::output_size()).enumerate() {
        let mut last = hmac.sign(&[salt, &(index as u32 + 1).to_be_bytes()]);
        let mut sum = last.clone();
        for _ in 1..iterations {
            last = hmac.sign(&[&last]);
            sum.iter_mut().zip(last.iter()).for_each(|(sum, last)| *sum ^= last);
        }
        part.copy_from_slice(&sum[..part.len()]);
    }
}

/// PBKDF2 with HMAC over the hash `kind`, numbered as in `hash::start`.
pub fn pbkdf2(kind: u32, password: &[u8], salt: &[u8], iterations: u32, output: &mut [u8]) {
    match kind {
        0 => derive::<sha1::Sha1>(password, salt, iterations, output),
        1 => derive::<sha2::Sha224>(password, salt, iterations, output),
        2 => derive::<sha2::Sha256>(password, salt, iterations, output),
        3 => derive::<sha2::Sha384>(password, salt, iterations, output),
        4 => derive::<sha2::Sha512>(password, salt, iterations, output),
        _ => derive::<ripemd::Ripemd160>(password, salt, iterations, output),
    }
}

/// Argon2 version 1.3; false when the parameters are out of range or the memory is not to be had.
pub fn argon2(
    kind: u32,
    password: &[u8],
    salt: &[u8],
    iterations: u32,
    memory: u32,
    lanes: u32,
    output: &mut [u8],
) -> bool {
    let algorithm = [Algorithm::Argon2d, Algorithm::Argon2i, Algorithm::Argon2id][kind as usize % 3];
    let Ok(params) = Params::new(memory, iterations, lanes, Some(output.len())) else { return false };
    let mut blocks = Vec::new();
    if blocks.try_reserve_exact(params.block_count()).is_err() {
        return false;
    }
    blocks.resize(params.block_count(), Block::new());
    let argon2 = Argon2::new(algorithm, Version::V0x13, params);
    argon2.hash_password_into_with_memory(password, salt, output, &mut blocks).is_ok()
}
