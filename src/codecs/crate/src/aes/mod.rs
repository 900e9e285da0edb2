//! AES (FIPS 197) over runs of blocks, eight at a time and bitsliced (Käsper and Schwabe, "Faster and timing-attack resistant
//! AES-GCM"): no table is looked into, so nothing about the key shows in the cache.

mod plane;
mod sbox;

use plane::{Native, Plane};
use sbox::{inv_sub_bytes, sub_bytes};

const BLOCK: usize = 16;
/// Blocks that are worked on together.
pub const TOGETHER: usize = 8;
const BATCH: usize = BLOCK * TOGETHER;
const MOST_ROUNDS: usize = 14;
/// The constant of SubBytes (FIPS 197, 5.1.1), kept in the round keys.
const SUB_CONSTANT: u8 = 0x63;

/// The planes of eight blocks, from bit 0 to bit 7.
type State = [Native; 8];

/// A key schedule, for both directions.
pub struct Aes {
    keys: [State; MOST_ROUNDS + 1],
    rounds: usize,
}

impl Aes {
    /// The schedule of a key of 16, 24 or 32 bytes; none for another length (FIPS 197, 5.2).
    pub fn new(key: &[u8]) -> Option<Self> {
        let words = key.len() / 4;
        if !matches!(key.len(), 16 | 24 | 32) {
            return None;
        }
        let rounds = words + 6;
        let mut schedule = [[0u8; 4]; 4 * (MOST_ROUNDS + 1)];
        for (word, bytes) in schedule.iter_mut().zip(key.chunks_exact(4)) {
            word.copy_from_slice(bytes);
        }
        let mut constant = 1u8;
        for at in words..4 * (rounds + 1) {
            let mut word = schedule[at - 1];
            if at % words == 0 {
                word.rotate_left(1);
                word = sub_word(word);
                word[0] ^= constant;
                constant = constant << 1 ^ (constant >> 7) * 0x1b;
            } else if words > 6 && at % words == 4 {
                word = sub_word(word);
            }
            for (byte, before) in word.iter_mut().zip(schedule[at - words]) {
                *byte ^= before;
            }
            schedule[at] = word;
        }
        let mut keys = [[Native::splat(0); 8]; MOST_ROUNDS + 1];
        for (round, words) in schedule.chunks_exact(4).enumerate() {
            let constant = if round == 0 { 0 } else { SUB_CONSTANT };
            let mut batch = [0; BATCH];
            for (place, byte) in batch.iter_mut().enumerate() {
                *byte = words[place % BLOCK / 4][place % 4] ^ constant;
            }
            keys[round] = slice(&batch);
        }
        Some(Aes { keys, rounds })
    }

    /// Encrypts whole blocks in place.
    pub fn encrypt(&self, blocks: &mut [u8]) {
        in_batches(blocks, |batch| self.encrypt_batch(batch));
    }

    /// Decrypts whole blocks in place.
    pub fn decrypt(&self, blocks: &mut [u8]) {
        in_batches(blocks, |batch| self.decrypt_batch(batch));
    }

    #[inline(always)]
    fn encrypt_batch(&self, batch: &mut [u8; BATCH]) {
        let mut state = add(slice(batch), &self.keys[0]);
        for key in &self.keys[1..self.rounds] {
            state = add(mix_columns(sub_bytes(state).map(Plane::shift_rows)), key);
        }
        state = add(sub_bytes(state).map(Plane::shift_rows), &self.keys[self.rounds]);
        unslice(state, batch);
    }

    #[inline(always)]
    fn decrypt_batch(&self, batch: &mut [u8; BATCH]) {
        let mut state = add(slice(batch), &self.keys[self.rounds]);
        state = inv_sub_bytes(state.map(Plane::unshift_rows));
        for key in self.keys[1..self.rounds].iter().rev() {
            state = inv_sub_bytes(inv_mix_columns(add(state, key)).map(Plane::unshift_rows));
        }
        unslice(add(state, &self.keys[0]), batch);
    }
}

#[inline(always)]
fn in_batches(blocks: &mut [u8], work: impl Fn(&mut [u8; BATCH])) {
    let (batches, rest) = blocks.as_chunks_mut::<BATCH>();
    for batch in batches {
        work(batch);
    }
    if !rest.is_empty() {
        let mut batch = [0; BATCH];
        batch[..rest.len()].copy_from_slice(rest);
        work(&mut batch);
        rest.copy_from_slice(&batch[..rest.len()]);
    }
}

fn sub_word(word: [u8; 4]) -> [u8; 4] {
    let mut batch = [0; BATCH];
    batch[..4].copy_from_slice(&word);
    unslice(sub_bytes(slice(&batch)), &mut batch);
    [batch[0], batch[1], batch[2], batch[3]].map(|byte| byte ^ SUB_CONSTANT)
}

#[inline(always)]
fn add(state: State, key: &State) -> State {
    std::array::from_fn(|bit| state[bit].xor(key[bit]))
}

/// Exchanges the bits of `mask` << N of one register with those of `mask` of another.
#[inline(always)]
fn exchange<const N: u32>(state: &mut State, low: usize, high: usize, mask: u8) {
    let change = state[low].shr::<N>().xor(state[high]).and(Plane::splat(mask));
    state[high] = state[high].xor(change);
    state[low] = state[low].xor(change.shl::<N>());
}

/// Eight registers of eight bits in each byte, with registers and bits exchanged.
#[inline(always)]
fn exchange_all(mut state: State) -> State {
    for low in [0, 2, 4, 6] {
        exchange::<1>(&mut state, low, low + 1, 0x55);
    }
    for low in [0, 1, 4, 5] {
        exchange::<2>(&mut state, low, low + 2, 0x33);
    }
    for low in [0, 1, 2, 3] {
        exchange::<4>(&mut state, low, low + 4, 0x0f);
    }
    state
}

/// Eight blocks as planes.
#[inline(always)]
fn slice(batch: &[u8; BATCH]) -> State {
    let blocks = batch.as_chunks::<BLOCK>().0;
    exchange_all(std::array::from_fn(|block| Native::load(&blocks[block]).transpose()))
}

/// Planes as eight blocks.
#[inline(always)]
fn unslice(state: State, batch: &mut [u8; BATCH]) {
    let blocks = batch.as_chunks_mut::<BLOCK>().0;
    for (plane, block) in exchange_all(state).into_iter().zip(blocks) {
        plane.transpose().store(block);
    }
}

/// Every byte times x (FIPS 197, 4.2.1).
#[inline(always)]
fn double([x0, x1, x2, x3, x4, x5, x6, x7]: State) -> State {
    [x7, x0.xor(x7), x1, x2.xor(x7), x3.xor(x7), x4, x5, x6]
}

/// FIPS 197, 5.1.3: 2 a + 3 b + c + d, where b, c and d are the rows below a; that is 2 (a + b) + b + (c + d).
#[inline(always)]
fn mix_columns(state: State) -> State {
    let below = state.map(Plane::rows::<1>);
    let sums: State = std::array::from_fn(|bit| state[bit].xor(below[bit]));
    let doubled = double(sums);
    std::array::from_fn(|bit| doubled[bit].xor(below[bit]).xor(sums[bit].rows::<2>()))
}

/// FIPS 197, 5.3.3: its polynomial is that of MixColumns times 4 x^2 + 5.
#[inline(always)]
fn inv_mix_columns(state: State) -> State {
    let fours = double(double(std::array::from_fn(|bit| state[bit].xor(state[bit].rows::<2>()))));
    mix_columns(std::array::from_fn(|bit| state[bit].xor(fours[bit])))
}
