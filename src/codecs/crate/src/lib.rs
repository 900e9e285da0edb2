//! The codecs of block86. JavaScript writes into the buffer that `lend` lends, calls one function with addresses, and
//! reads the answer from the same buffer: no call allocates except `lend` itself, when a larger buffer is asked for,
//! and what a compressor or a cipher keeps from call to call.
//!
//! Every function is called with addresses and lengths inside the lent buffer; that is the safety condition of all of
//! them, kept by the TypeScript face.

mod aes;
mod checksum;
mod cipher;
mod codes;
mod compare;
mod copy;
mod deflate;
mod hash;
mod kdf;
mod matcher;
mod memory;
mod writer;
mod zstd;

use cipher::Cipher;
use memory::{bytes, bytes_mut};
use wasm_bindgen::prelude::wasm_bindgen;

/// How a decoder or an encoder stopped. The numbers are known to `wasm/module.ts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stop {
    /// The stream is complete.
    End = 0,
    /// The output is full and the stream goes on.
    Full = 1,
    /// The input is used up and the stream goes on.
    Short = 2,
    /// The input is not what it should be.
    Corrupt = 3,
}

/// Lends a buffer of at least `length` bytes, aligned to 64; it is valid until the next call. 0 when there is no memory.
#[wasm_bindgen]
pub fn lend(length: usize) -> *mut u8 {
    memory::lend(length)
}

/// The bytes that the last decoder or encoder wrote.
#[wasm_bindgen]
pub fn produced() -> usize {
    memory::produced()
}

/// Inflates one stream; `framing` is 0 raw, 1 zlib, 2 gzip. Returns a [`Stop`].
#[wasm_bindgen]
pub fn inflate(input: *const u8, input_length: usize, output: *mut u8, output_length: usize, framing: u32) -> u32 {
    let (input, output) = unsafe { (bytes(input, input_length), bytes_mut(output, output_length)) };
    memory::report(deflate::inflate(input, output, framing)) as u32
}

/// Deflates to one stream; `framing` is as for `inflate`. Returns a [`Stop`].
#[wasm_bindgen]
pub fn deflate(
    input: *const u8,
    input_length: usize,
    output: *mut u8,
    output_length: usize,
    framing: u32,
    level: i32,
    window_bits: u32,
) -> u32 {
    let (input, output) = unsafe { (bytes(input, input_length), bytes_mut(output, output_length)) };
    memory::report(deflate::deflate(input, output, framing, level, window_bits)) as u32
}

/// Decompresses zstd frames until the input ends, or, when `fill`, until the output is full. Returns a [`Stop`].
#[wasm_bindgen]
pub fn zstd_decompress(
    input: *const u8,
    input_length: usize,
    output: *mut u8,
    output_length: usize,
    fill: bool,
) -> u32 {
    let (input, output) = unsafe { (bytes(input, input_length), bytes_mut(output, output_length)) };
    memory::report(zstd::decompress(input, output, fill)) as u32
}

/// Compresses to one zstd frame. Returns a [`Stop`].
#[wasm_bindgen]
pub fn zstd_compress(
    input: *const u8,
    input_length: usize,
    output: *mut u8,
    output_length: usize,
    level: i32,
) -> u32 {
    let (input, output) = unsafe { (bytes(input, input_length), bytes_mut(output, output_length)) };
    memory::report(zstd::compress(input, output, level)) as u32
}

/// CRC-32 (ISO 3309) that continues `seed`.
#[wasm_bindgen]
pub fn crc32(input: *const u8, length: usize, seed: u32) -> u32 {
    checksum::crc32(unsafe { bytes(input, length) }, seed)
}

/// CRC-32C (Castagnoli) that continues `seed`.
#[wasm_bindgen]
pub fn crc32c(input: *const u8, length: usize, seed: u32) -> u32 {
    checksum::crc32c(unsafe { bytes(input, length) }, seed)
}

/// Adler-32 (RFC 1950) that continues `seed`.
#[wasm_bindgen]
pub fn adler32(input: *const u8, length: usize, seed: u32) -> u32 {
    checksum::adler32(unsafe { bytes(input, length) }, seed)
}

/// Whether every byte is zero.
#[wasm_bindgen]
pub fn is_all_zero(input: *const u8, length: usize) -> bool {
    checksum::is_all_zero(unsafe { bytes(input, length) })
}

/// Starts a hash; `kind` is known to `wasm/hash.ts`.
#[wasm_bindgen]
pub fn hash_start(kind: u32) {
    hash::start(kind)
}

/// Hashes more bytes.
#[wasm_bindgen]
pub fn hash_update(input: *const u8, length: usize) {
    hash::update(unsafe { bytes(input, length) })
}

/// Writes the hash to `output`, which has room for 64 bytes, and returns its length.
#[wasm_bindgen]
pub fn hash_finish(output: *mut u8) -> usize {
    hash::finish(unsafe { bytes_mut(output, 64) })
}

/// The BLAKE3 hash of each `size` bytes, 32 bytes each.
#[wasm_bindgen]
pub fn blake3_each(input: *const u8, length: usize, size: usize, output: *mut u8) {
    let (input, output) = unsafe { (bytes(input, length), bytes_mut(output, length.div_ceil(size) * 32)) };
    for (part, hash) in input.chunks(size).zip(output.chunks_exact_mut(32)) {
        hash.copy_from_slice(blake3::hash(part).as_bytes());
    }
}

/// PBKDF2 with HMAC over the hash `kind`.
#[wasm_bindgen]
#[allow(clippy::too_many_arguments, reason = "addresses and lengths come in pairs")]
pub fn pbkdf2(
    kind: u32,
    password: *const u8,
    password_length: usize,
    salt: *const u8,
    salt_length: usize,
    iterations: u32,
    output: *mut u8,
    output_length: usize,
) {
    let (password, salt) = unsafe { (bytes(password, password_length), bytes(salt, salt_length)) };
    kdf::pbkdf2(kind, password, salt, iterations, unsafe { bytes_mut(output, output_length) })
}

/// Argon2 version 1.3; `kind` is 0 for Argon2d, 1 for Argon2i, 2 for Argon2id. The password, the salt, the secret and the
/// associated data are end to end at `input`. False when the parameters are wrong or there is no memory.
#[wasm_bindgen]
#[allow(clippy::too_many_arguments, reason = "RFC 9106, 3.1 has as many")]
pub fn argon2(
    kind: u32,
    input: *const u8,
    password_length: usize,
    salt_length: usize,
    secret_length: usize,
    data_length: usize,
    iterations: u32,
    memory: u32,
    lanes: u32,
    output: *mut u8,
    output_length: usize,
) -> bool {
    let input = unsafe { bytes(input, password_length + salt_length + secret_length + data_length) };
    let (password, rest) = input.split_at(password_length);
    let (salt, rest) = rest.split_at(salt_length);
    let (secret, data) = rest.split_at(secret_length);
    let output = unsafe { bytes_mut(output, output_length) };
    kdf::argon2(&kdf::Argon2Input { kind, password, salt, secret, data, iterations, memory, lanes }, output).is_some()
}

/// Makes a cipher; see `Cipher::new` for `mode`. Its address, or 0 when a key has a wrong length.
#[wasm_bindgen]
pub fn cipher_new(
    mode: u32,
    key: *const u8,
    key_length: usize,
    second: *const u8,
    second_length: usize,
    sector: usize,
) -> *mut u8 {
    let (key, second) = unsafe { (bytes(key, key_length), bytes(second, second_length)) };
    let cipher = Cipher::new(mode, key, second, sector);
    cipher.map_or(std::ptr::null_mut(), |cipher| Box::into_raw(Box::new(cipher)).cast())
}

/// Encrypts or decrypts whole sectors in place.
#[wasm_bindgen]
pub fn cipher_run(cipher: *const u8, data: *mut u8, length: usize, number: f64, encrypt: bool) {
    let cipher = unsafe { &*cipher.cast::<Cipher>() };
    cipher.run(unsafe { bytes_mut(data, length) }, number as u64, encrypt)
}

/// Writes the encrypted tweaks (XTS) or the IVs (CBC) of sectors from `number` on, 16 bytes each.
#[wasm_bindgen]
pub fn cipher_ivs(cipher: *const u8, number: f64, output: *mut u8, length: usize) {
    let cipher = unsafe { &*cipher.cast::<Cipher>() };
    cipher.ivs_from(number as u64, unsafe { bytes_mut(output, length) })
}

/// Masks whole sectors as XTS does before and after their blocks go through AES, which another may do.
#[wasm_bindgen]
pub fn xts_mask(data: *mut u8, length: usize, tweaks: *const u8, sector: usize) {
    let tweaks = unsafe { bytes(tweaks, length / sector * 16) };
    cipher::mask(unsafe { bytes_mut(data, length) }, tweaks, sector)
}

/// Ends the CBC decryption of whole sectors whose blocks went through AES; `before` is what they were.
#[wasm_bindgen]
pub fn cbc_unchain(data: *mut u8, before: *const u8, length: usize, ivs: *const u8, sector: usize) {
    let (before, ivs) = unsafe { (bytes(before, length), bytes(ivs, length / sector * 16)) };
    cipher::unchain(unsafe { bytes_mut(data, length) }, before, ivs, sector)
}

/// Wipes a cipher's keys and frees it.
#[wasm_bindgen]
pub fn cipher_free(cipher: *mut u8) {
    let cipher = cipher.cast::<Cipher>();
    unsafe {
        cipher.cast::<u8>().write_bytes(0, size_of::<Cipher>());
        std::alloc::dealloc(cipher.cast(), std::alloc::Layout::new::<Cipher>());
    }
}
