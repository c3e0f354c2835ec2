//! The set of operations that a search has put in order so far.

/// Bits of one word.
const WORD: usize = 64;

/// A set of small numbers, most of which form an unbroken run from 0.
#[derive(Clone, Debug)]
pub(super) struct Done {
    words: Vec<u64>,
    /// The first number that is not in it, or the size.
    low: usize,
    size: usize,
    count: usize,
}

impl Done {
    /// None of `size` numbers.
    pub(super) fn none_of(size: usize) -> Self {
        Self { words: vec![0; size.div_ceil(WORD)], low: 0, size, count: 0 }
    }

    pub(super) fn contains(&self, number: usize) -> bool {
        self.words[number / WORD] & (1 << (number % WORD)) != 0
    }

    pub(super) fn insert(&mut self, number: usize) {
        self.words[number / WORD] |= 1 << (number % WORD);
        self.count += 1;
        while self.low < self.size && self.contains(self.low) {
            self.low += 1;
        }
    }

    pub(super) fn remove(&mut self, number: usize) {
        self.words[number / WORD] &= !(1 << (number % WORD));
        self.count -= 1;
        self.low = self.low.min(number);
    }

    /// The first number that is not in it.
    pub(super) fn low(&self) -> usize {
        self.low
    }

    pub(super) fn is_full(&self) -> bool {
        self.count == self.size
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The set in as few words as tell it from others of the same size. What is in it beyond `low` is
    /// close to `low` as a rule.
    pub(super) fn compact(&self) -> Compact {
        let start = (self.low / WORD).min(self.words.len());
        let mut beyond = self.count - (start * WORD).min(self.count);
        let mut words = Vec::new();
        for word in &self.words[start..] {
            if beyond == 0 {
                break;
            }
            words.push(*word);
            beyond -= word.count_ones() as usize;
        }
        Compact { start, words: words.into() }
    }
}

/// A [`Done`] in few words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Compact {
    start: usize,
    words: Box<[u64]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_forms_are_equal_exactly_when_the_sets_are() {
        let size = 200;
        let mut seen: Vec<(Vec<usize>, Compact)> = Vec::new();
        let sets: [&[usize]; 7] = [&[], &[0], &[1], &[0, 1, 2, 190], &[0, 1, 2, 191], &[63, 64], &[64, 63]];
        for members in sets {
            let mut done = Done::none_of(size);
            for member in members {
                done.insert(*member);
            }
            let mut sorted = members.to_vec();
            sorted.sort_unstable();
            for (other, compact) in &seen {
                assert_eq!(*compact == done.compact(), *other == sorted, "{other:?} and {sorted:?}");
            }
            seen.push((sorted, done.compact()));
        }
    }

    #[test]
    fn the_run_from_zero_grows_and_shrinks() {
        let mut done = Done::none_of(130);
        for number in (0..130).rev() {
            assert_eq!(done.low(), 0);
            done.insert(number);
        }
        assert!(done.is_full() && done.low() == 130);
        assert_eq!(done.compact().words.len(), 1, "only the word at the end");
        done.remove(70);
        assert_eq!((done.low(), done.len()), (70, 129));
        done.insert(70);
        assert!(done.is_full());
    }
}
