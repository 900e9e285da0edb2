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

    /// IEEE 1619, 5.3: every block is masked before and after with a tweak, which doubles in GF(2^128) from block to block.
    fn xts(&self, group: &mut [u8], second: &Aes, first: u64, step: u64, encrypt: bool) {
        let mut tweaks = Self::ivs(&Iv::Plain64, first, step);
        second.encrypt(&mut tweaks);
        let mut masks = [0; LARGEST_SECTOR];
        for (sector, tweak) in group.chunks_exact_mut(self.sector).zip(tweaks.chunks_exact(BLOCK)) {
            let masks = &mut masks[..sector.len()];
            let mut mask = u128::from_le_bytes(tweak.try_into().unwrap());
            for block in masks.chunks_exact_mut(BLOCK) {
                block.copy_from_slice(&mask.to_le_bytes());
                mask = mask << 1 ^ (mask >> 127) * 0x87;
            }
            xor(sector, masks);
            if encrypt {
                self.aes.encrypt(sector)
            } else {
                self.aes.decrypt(sector)
            }
            xor(sector, masks);
        }
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
        let mut before = [0; LARGEST_SECTOR];
        for (sector, iv) in group.chunks_exact_mut(self.sector).zip(ivs.chunks_exact(BLOCK)) {
            before[..BLOCK].copy_from_slice(iv);
            before[BLOCK..sector.len()].copy_from_slice(&sector[..sector.len() - BLOCK]);
            self.aes.decrypt(sector);
            xor(sector, &before[..sector.len()]);
        }
    }
}

fn xor(data: &mut [u8], mask: &[u8]) {
    for (data, mask) in data.chunks_exact_mut(8).zip(mask.chunks_exact(8)) {
        let sum = u64::from_le_bytes((&*data).try_into().unwrap()) ^ u64::from_le_bytes(mask.try_into().unwrap());
        data.copy_from_slice(&sum.to_le_bytes());
    }
}
