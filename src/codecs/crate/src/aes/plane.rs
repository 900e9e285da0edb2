//! A plane of a bitsliced state: one bit of every byte of eight blocks. Bytes are in row order (byte 4r + c is row r, column
//! c of FIPS 197, 3.4), and bit j of each is of block j.

/// The operations on one plane that AES is made of.
pub trait Plane: Copy {
    fn load(bytes: &[u8; 16]) -> Self;
    fn store(self, bytes: &mut [u8; 16]);
    fn splat(byte: u8) -> Self;
    fn xor(self, other: Self) -> Self;
    fn and(self, other: Self) -> Self;
    /// Each byte's bits shifted up or down, mixed with its neighbours': for masked use.
    fn shl<const N: u32>(self) -> Self;
    fn shr<const N: u32>(self) -> Self;
    /// Bytes 4c + r to 4r + c, and back.
    fn transpose(self) -> Self;
    /// Row r becomes row r + N.
    fn rows<const N: usize>(self) -> Self;
    /// ShiftRows (FIPS 197, 5.1.2) and its inverse.
    fn shift_rows(self) -> Self;
    fn unshift_rows(self) -> Self;
}

#[cfg(target_feature = "simd128")]
pub use simd::Simd as Native;

#[cfg(not(target_feature = "simd128"))]
pub use plain::Plain as Native;

#[cfg(target_feature = "simd128")]
mod simd {
    use super::Plane;
    use core::arch::wasm32::*;

    #[derive(Clone, Copy)]
    pub struct Simd(v128);

    impl Plane for Simd {
        #[inline(always)]
        fn load(bytes: &[u8; 16]) -> Self {
            // SAFETY: sixteen bytes are there; any alignment will do.
            Simd(unsafe { v128_load(bytes.as_ptr().cast()) })
        }
        #[inline(always)]
        fn store(self, bytes: &mut [u8; 16]) {
            // SAFETY: as above.
            unsafe { v128_store(bytes.as_mut_ptr().cast(), self.0) }
        }
        #[inline(always)]
        fn splat(byte: u8) -> Self {
            Simd(u8x16_splat(byte))
        }
        #[inline(always)]
        fn xor(self, other: Self) -> Self {
            Simd(v128_xor(self.0, other.0))
        }
        #[inline(always)]
        fn and(self, other: Self) -> Self {
            Simd(v128_and(self.0, other.0))
        }
        #[inline(always)]
        fn shl<const N: u32>(self) -> Self {
            Simd(u64x2_shl(self.0, N))
        }
        #[inline(always)]
        fn shr<const N: u32>(self) -> Self {
            Simd(u64x2_shr(self.0, N))
        }
        #[inline(always)]
        fn transpose(self) -> Self {
            let it = self.0;
            Simd(u8x16_shuffle::<0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15>(it, it))
        }
        #[inline(always)]
        fn rows<const N: usize>(self) -> Self {
            let it = self.0;
            Simd(match N {
                1 => u32x4_shuffle::<1, 2, 3, 0>(it, it),
                _ => u32x4_shuffle::<2, 3, 0, 1>(it, it),
            })
        }
        #[inline(always)]
        fn shift_rows(self) -> Self {
            let it = self.0;
            Simd(u8x16_shuffle::<0, 1, 2, 3, 5, 6, 7, 4, 10, 11, 8, 9, 15, 12, 13, 14>(it, it))
        }
        #[inline(always)]
        fn unshift_rows(self) -> Self {
            let it = self.0;
            Simd(u8x16_shuffle::<0, 1, 2, 3, 7, 4, 5, 6, 10, 11, 8, 9, 13, 14, 15, 12>(it, it))
        }
    }
}

#[cfg(any(not(target_feature = "simd128"), test))]
mod plain {
    use super::Plane;

    /// Rows 0 and 1, then rows 2 and 3.
    #[derive(Clone, Copy)]
    pub struct Plain(u64, u64);

    impl Plain {
        #[inline(always)]
        fn each(self, with: impl Fn(u64) -> u64) -> Self {
            Plain(with(self.0), with(self.1))
        }
    }

    /// A row's bytes turned towards its first by `columns`.
    #[inline(always)]
    fn turn(rows: u64, first: u32, second: u32) -> u64 {
        u64::from((rows as u32).rotate_right(8 * first)) | u64::from(((rows >> 32) as u32).rotate_right(8 * second)) << 32
    }

    impl Plane for Plain {
        #[inline(always)]
        fn load(bytes: &[u8; 16]) -> Self {
            let word = u128::from_le_bytes(*bytes);
            Plain(word as u64, (word >> 64) as u64)
        }
        #[inline(always)]
        fn store(self, bytes: &mut [u8; 16]) {
            bytes[..8].copy_from_slice(&self.0.to_le_bytes());
            bytes[8..].copy_from_slice(&self.1.to_le_bytes());
        }
        #[inline(always)]
        fn splat(byte: u8) -> Self {
            Plain(u64::from_ne_bytes([byte; 8]), u64::from_ne_bytes([byte; 8]))
        }
        #[inline(always)]
        fn xor(self, other: Self) -> Self {
            Plain(self.0 ^ other.0, self.1 ^ other.1)
        }
        #[inline(always)]
        fn and(self, other: Self) -> Self {
            Plain(self.0 & other.0, self.1 & other.1)
        }
        #[inline(always)]
        fn shl<const N: u32>(self) -> Self {
            self.each(|rows| rows << N)
        }
        #[inline(always)]
        fn shr<const N: u32>(self) -> Self {
            self.each(|rows| rows >> N)
        }
        #[inline(always)]
        fn transpose(self) -> Self {
            let mut from = [0; 16];
            self.store(&mut from);
            let mut to = [0; 16];
            for (place, byte) in from.into_iter().enumerate() {
                to[place % 4 * 4 + place / 4] = byte;
            }
            Self::load(&to)
        }
        #[inline(always)]
        fn rows<const N: usize>(self) -> Self {
            match N {
                1 => Plain(self.0 >> 32 | self.1 << 32, self.1 >> 32 | self.0 << 32),
                _ => Plain(self.1, self.0),
            }
        }
        #[inline(always)]
        fn shift_rows(self) -> Self {
            Plain(turn(self.0, 0, 1), turn(self.1, 2, 3))
        }
        #[inline(always)]
        fn unshift_rows(self) -> Self {
            Plain(turn(self.0, 0, 3), turn(self.1, 2, 1))
        }
    }
}
