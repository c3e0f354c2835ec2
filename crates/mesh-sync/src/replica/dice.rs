//! Random numbers of a replica, from the seed that it was given. The same seed gives the same ones.

use crate::reconcile::Nonce;

pub(super) struct Dice {
    key: [u8; 32],
    drawn: u64,
}

impl Dice {
    pub(super) const fn new(seed: [u8; 32]) -> Self {
        Self { key: seed, drawn: 0 }
    }

    fn draw(&mut self) -> [u8; 32] {
        self.drawn += 1;
        *blake3::keyed_hash(&self.key, &self.drawn.to_le_bytes()).as_bytes()
    }

    pub(super) fn number(&mut self) -> u64 {
        self.draw().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// From 0 up to 1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&self.draw()[..16]);
        Nonce(nonce)
    }

    /// Always the same one, for a bug that is planted.
    pub(super) fn first_nonce(&self) -> Nonce {
        Self::new(self.key).nonce()
    }

    /// At most `count` of these, at random.
    pub(super) fn choose<T>(&mut self, mut among: Vec<T>, count: usize) -> Vec<T> {
        let count = count.min(among.len());
        for at in 0..count {
            let left = (among.len() - at) as u64;
            among.swap(at, at + (self.number() % left) as usize);
        }
        among.truncate(count);
        among
    }
}
