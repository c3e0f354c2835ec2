//! SipHash-2-4 with 128 bits of output (Aumasson and Bernstein 2012), over whole words.
//!
//! Entry ids are hashes already. What is wanted here is a cheap keyed function, so that nobody can prepare ids that
//! collide under a key that they don't know yet.

/// A key of [`SipKey::hash`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct SipKey {
    pub(super) k0: u64,
    pub(super) k1: u64,
}

struct State([u64; 4]);

impl State {
    #[inline(always)]
    fn rounds(&mut self, rounds: usize) {
        let [mut v0, mut v1, mut v2, mut v3] = self.0;
        for _ in 0..rounds {
            v0 = v0.wrapping_add(v1);
            v2 = v2.wrapping_add(v3);
            v1 = v1.rotate_left(13) ^ v0;
            v3 = v3.rotate_left(16) ^ v2;
            v0 = v0.rotate_left(32);
            v2 = v2.wrapping_add(v1);
            v0 = v0.wrapping_add(v3);
            v1 = v1.rotate_left(17) ^ v2;
            v3 = v3.rotate_left(21) ^ v0;
            v2 = v2.rotate_left(32);
        }
        self.0 = [v0, v1, v2, v3];
    }

    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.0[3] ^= word;
        self.rounds(2);
        self.0[0] ^= word;
    }

    #[inline(always)]
    fn fold(&self) -> u64 {
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }
}

impl SipKey {
    /// The hash of `words`, read as little-endian bytes.
    #[inline]
    pub(super) fn hash<const N: usize>(self, words: [u64; N]) -> u128 {
        let mut state = State([
            self.k0 ^ 0x736f_6d65_7073_6575,
            self.k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            self.k0 ^ 0x6c79_6765_6e65_7261,
            self.k1 ^ 0x7465_6462_7974_6573,
        ]);
        for word in words {
            state.absorb(word);
        }
        state.absorb((N as u64 * 8) << 56);
        state.0[2] ^= 0xee;
        state.rounds(4);
        let low = state.fold();
        state.0[1] ^= 0xdd;
        state.rounds(4);
        u128::from(low) | u128::from(state.fold()) << 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_the_published_vectors() {
        let key = SipKey { k0: 0x0706_0504_0302_0100, k1: 0x0f0e_0d0c_0b0a_0908 };
        let empty =
            [0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93];
        assert_eq!(key.hash([]), u128::from_le_bytes(empty));
        let eight =
            [0x3b, 0x62, 0xa9, 0xba, 0x62, 0x58, 0xf5, 0x61, 0x0f, 0x83, 0xe2, 0x64, 0xf3, 0x14, 0x97, 0xb4];
        assert_eq!(key.hash([0x0706_0504_0302_0100]), u128::from_le_bytes(eight));
    }
}
