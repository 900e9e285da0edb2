//! Sector ciphers as dm-crypt names them: AES in XTS (IEEE 1619), CBC or ECB, with the IVs plain, plain64 and ESSIV.
//! Sectors are worked on several at a time, because AES itself works on several blocks at a time: a chain of blocks
//! (CBC encryption) goes through a whole group of sectors in step.

use crate::aes::Aes;

const BLOCK: usize = 16;
/// Sectors that go in step.
const GROUP: usize = 8;
const LARGEST_SECTOR: usize = 4096;

/// Where an IV comes from.
enum Iv {
    Plain,
    Plain64,
    Essiv(Aes),
}

enum Mode {
    /// The second key encrypts the tweak.
    Xts(Aes),
    Cbc(Iv),
    Ecb,
}

/// A keyed cipher.
pub struct Cipher {
    aes: Aes,
    mode: Mode,
    sector: usize,
}

impl Cipher {
    /// `mode` is 0 XTS, 1 ECB, 2 to 4 CBC with plain, plain64 or ESSIV. `second` is the key of the XTS tweak or of ESSIV.
    pub fn new(mode: u32, key: &[u8], second: &[u8], sector: usize) -> Option<Self> {
        let mode = match mode {
            0 => Mode::Xts(Aes::new(second)?),
            1 => Mode::Ecb,
            2 => Mode::Cbc(Iv::Plain),
            3 => Mode::Cbc(Iv::Plain64),
            _ => Mode::Cbc(Iv::Essiv(Aes::new(second)?)),
        };
        Some(Cipher { aes: Aes::new(key)?, mode, sector })
    }

    /// Encrypts or decrypts whole sectors in place; `number` counts units of 512 bytes.
    pub fn run(&self, data: &mut [u8], number: u64, encrypt: bool) {
        if let Mode::Ecb = self.mode {
            return if encrypt { self.aes.encrypt(data) } else { self.aes.decrypt(data) };
        }
        let step = (self.sector / 512) as u64;
        for (index, group) in data.chunks_mut(self.sector * GROUP).enumerate() {
            let first = number + (index * GROUP) as u64 * step;
            match &self.mode {
                Mode::Xts(second) => self.xts(group, second, first, step, encrypt),
                Mode::Cbc(iv) if encrypt => self.cbc_encrypt(group, &Self::ivs(iv, first, step)),
                Mode::Cbc(iv) => self.cbc_decrypt(group, &Self::ivs(iv, first, step)),
                Mode::Ecb => {}
            }
        }
    }

    /// The encrypted tweaks or the IVs of the sectors from `number` on, to fill `output`.
    pub fn ivs_from(&self, number: u64, output: &mut [u8]) {
        let step = (self.sector / 512) as u64;
        for (index, group) in output.chunks_mut(GROUP * BLOCK).enumerate() {
            let first = number + (index * GROUP) as u64 * step;
            let ivs = match &self.mode {
                Mode::Xts(second) => Self::tweaks(second, first, step),
                Mode::Cbc(iv) => Self::ivs(iv, first, step),
                Mode::Ecb => [0; GROUP * BLOCK],
            };
            group.copy_from_slice(&ivs[..group.len()]);
        }
    }

    fn tweaks(second: &Aes, first: u64, step: u64) -> [u8; GROUP * BLOCK] {
        let mut tweaks = Self::ivs(&Iv::Plain64, first, step);
        second.encrypt(&mut tweaks);
        tweaks
    }

    fn ivs(iv: &Iv, first: u64, step: u64) -> [u8; GROUP * BLOCK] {
        let mut ivs = [0; GROUP * BLOCK];
        for (index, block) in ivs.chunks_exact_mut(BLOCK).enumerate() {
            let number = first + index as u64 * step;
            let number = if let Iv::Plain = iv { number & 0xffff_ffff } else { number };
            block[..8].copy_from_slice(&number.to_le_bytes());
        }
        if let Iv::Essiv(aes) = iv {
            aes.encrypt(&mut ivs);
        }
        ivs
    }

    fn xts(&self, group: &mut [u8], second: &Aes, first: u64, step: u64, encrypt: bool) {
        let tweaks = Self::tweaks(second, first, step);
        mask(group, &tweaks, self.sector);
        if encrypt {
            self.aes.encrypt(group)
        } else {
            self.aes.decrypt(group)
        }
        mask(group, &tweaks, self.sector);
    }

    fn cbc_encrypt(&self, group: &mut [u8], ivs: &[u8; GROUP * BLOCK]) {
        let mut chain = *ivs;
        let chain = &mut chain[..group.len() / self.sector * BLOCK];
        for at in (0..self.sector).step_by(BLOCK) {
            for (last, sector) in chain.chunks_exact_mut(BLOCK).zip(group.chunks_exact(self.sector)) {
                xor(last, &sector[at..at + BLOCK]);
            }
            self.aes.encrypt(chain);
            for (last, sector) in chain.chunks_exact(BLOCK).zip(group.chunks_exact_mut(self.sector)) {
                sector[at..at + BLOCK].copy_from_slice(last);
            }
        }
    }

    fn cbc_decrypt(&self, group: &mut [u8], ivs: &[u8; GROUP * BLOCK]) {
        let mut before = [0; GROUP * LARGEST_SECTOR];
        let before = &mut before[..group.len()];
        before.copy_from_slice(group);
        self.aes.decrypt(group);
        unchain(group, before, ivs, self.sector);
    }
}

/// IEEE 1619, 5.3: masks every block with its sector's tweak, which doubles in GF(2^128) from block to block.
pub fn mask(data: &mut [u8], tweaks: &[u8], sector: usize) {
    let (tweaks, _) = tweaks.as_chunks::<BLOCK>();
    for (sector, tweak) in data.chunks_exact_mut(sector).zip(tweaks) {
        let mut tweak = u128::from_le_bytes(*tweak);
        for block in sector.as_chunks_mut::<BLOCK>().0 {
            *block = (u128::from_le_bytes(*block) ^ tweak).to_le_bytes();
            tweak = tweak << 1 ^ u128::from((tweak >> 127) as u64 * 0x87);
        }
    }
}

/// Ends CBC decryption: every block is mixed with the one `before` it was decrypted that comes before, the first of a sector
/// with its IV.
pub fn unchain(data: &mut [u8], before: &[u8], ivs: &[u8], sector: usize) {
    let (ivs, _) = ivs.as_chunks::<BLOCK>();
    for ((data, before), iv) in data.chunks_exact_mut(sector).zip(before.chunks_exact(sector)).zip(ivs) {
        let mut last = u128::from_le_bytes(*iv);
        for (block, before) in data.as_chunks_mut::<BLOCK>().0.iter_mut().zip(before.as_chunks::<BLOCK>().0) {
            *block = (u128::from_le_bytes(*block) ^ last).to_le_bytes();
            last = u128::from_le_bytes(*before);
        }
    }
}

fn xor(data: &mut [u8], mask: &[u8]) {
    for (data, mask) in data.as_chunks_mut::<BLOCK>().0.iter_mut().zip(mask.as_chunks::<BLOCK>().0) {
        *data = (u128::from_le_bytes(*data) ^ u128::from_le_bytes(*mask)).to_le_bytes();
    }
}
