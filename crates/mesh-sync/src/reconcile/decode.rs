//! Peeling a difference out of cells.

use super::{
    key::{ItemHasher, ShortId},
    sketch::{Cell, Walk},
};

/// The cells cannot be those of any difference: an item came out twice, or more items than cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Undecodable;

/// Takes a peer's cells as they come and gives the items that only one side holds.
///
/// Work is linear in the cells. An item is taken out of every cell that it is in, so a cell gives at most one item;
/// cells made by a liar could give items over and over, which is where [`Undecodable`] ends it.
pub(super) struct Decoder {
    hasher: ItemHasher,
    ours: Vec<Cell>,
    left: Vec<Cell>,
    found: Vec<Found>,
    queue: Vec<u32>,
    filled: usize,
}

struct Found {
    short: ShortId,
    /// Where it goes on in the cells that have not come yet.
    walk: Walk,
}

impl Decoder {
    /// A decoder that compares with the cells `ours`, and takes as many as that.
    pub(super) fn new(hasher: ItemHasher, ours: Vec<Cell>) -> Self {
        Self { hasher, ours, left: Vec::new(), found: Vec::new(), queue: Vec::new(), filled: 0 }
    }

    /// How many cells it has taken.
    pub(super) fn taken(&self) -> usize {
        self.left.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        (self.ours.capacity() + self.left.capacity()) * size_of::<Cell>()
            + self.found.capacity() * size_of::<Found>()
            + self.queue.capacity() * 4
    }

    /// How many more it can take.
    pub(super) fn room(&self) -> usize {
        self.ours.len() - self.left.len()
    }

    /// Whether the cells that came hold nothing else than what was found.
    pub(super) fn is_complete(&self) -> bool {
        self.filled == 0 && !self.left.is_empty()
    }

    /// What was found so far.
    pub(super) fn found(&self) -> impl Iterator<Item = ShortId> + '_ {
        self.found.iter().map(|found| found.short)
    }

    /// Takes the next cells of the peer; those past [`Decoder::room`] are not looked at.
    pub(super) fn take(&mut self, theirs: &[Cell]) -> Result<(), Undecodable> {
        let from = self.left.len();
        let end = from + theirs.len().min(self.room());
        self.left.extend(
            self.ours[from..end]
                .iter()
                .zip(theirs)
                .map(|(ours, theirs)| Cell { ids: ours.ids ^ theirs.ids, check: ours.check ^ theirs.check }),
        );
        for found in &mut self.found {
            let check = self.hasher.check_of(found.short);
            while found.walk.at() < end as u64 {
                self.left[found.walk.at() as usize].toggle(found.short.0, check);
                found.walk.advance();
            }
        }
        self.filled += self.left[from..].iter().filter(|cell| !cell.is_empty()).count();
        for at in from..end {
            self.queue.push(at as u32);
            self.peel()?;
        }
        Ok(())
    }

    fn peel(&mut self) -> Result<(), Undecodable> {
        while let Some(at) = self.queue.pop() {
            let cell = self.left[at as usize];
            let short = ShortId(cell.ids);
            if cell.is_empty() || self.hasher.check_of(short) != cell.check {
                continue;
            }
            // Few cells that only look as if they held one item hold one that belongs there.
            let mut walk = Walk::new(self.hasher.seed_of(short));
            while walk.at() < u64::from(at) {
                walk.advance();
            }
            if walk.at() != u64::from(at) {
                continue;
            }
            if self.found.len() >= self.left.len() {
                self.queue.clear();
                return Err(Undecodable);
            }
            let mut walk = Walk::new(self.hasher.seed_of(short));
            while walk.at() < self.left.len() as u64 {
                let touched = &mut self.left[walk.at() as usize];
                self.filled -= usize::from(!touched.is_empty());
                touched.toggle(short.0, cell.check);
                self.filled += usize::from(!touched.is_empty());
                if !touched.is_empty() {
                    self.queue.push(walk.at() as u32);
                }
                walk.advance();
            }
            self.found.push(Found { short, walk });
        }
        Ok(())
    }

    /// The difference, if all of it was found.
    pub(super) fn finish(&self) -> Result<Vec<ShortId>, Undecodable> {
        if !self.is_complete() {
            return Err(Undecodable);
        }
        let mut found: Vec<ShortId> = self.found().collect();
        found.sort_unstable();
        if found.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Undecodable);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::{
        key::{EpochKey, mix},
        sketch::toggle,
    };

    fn cells_of(hasher: &ItemHasher, items: impl Iterator<Item = u64>, cells: usize) -> Vec<Cell> {
        let mut out = vec![Cell::default(); cells];
        items.for_each(|item| toggle(hasher, ShortId(mix(item)), &mut out));
        out
    }

    #[test]
    fn a_difference_decodes_from_about_one_and_a_half_cells_each() {
        let hasher = EpochKey::derive("decode", 1).hasher();
        for d in [1_u64, 10, 100, 1_000, 5_000] {
            let ours = cells_of(&hasher, 0..20_000, 16_384);
            let theirs = cells_of(&hasher, d..20_000, 16_384);
            let mut decoder = Decoder::new(hasher, ours);
            for cell in &theirs {
                decoder.take(&[*cell]).expect("honest cells");
                if decoder.is_complete() {
                    break;
                }
            }
            let mut truth: Vec<ShortId> = (0..d).map(|item| ShortId(mix(item))).collect();
            truth.sort_unstable();
            assert_eq!(decoder.finish().expect("decoded"), truth);
            assert!((decoder.taken() as f64) < d as f64 * 2.0 + 20.0, "{d} took {}", decoder.taken());
        }
    }

    #[test]
    fn cells_that_give_an_item_again_and_again_end_in_an_error() {
        let hasher = EpochKey::derive("liar", 1).hasher();
        let short = ShortId(7);
        let pure = Cell { ids: short.0, check: hasher.check_of(short) };
        let mut decoder = Decoder::new(hasher, vec![Cell::default(); 4_096]);
        let outcome = decoder.take(&vec![pure; 4_096]);
        assert!(outcome.is_err() || decoder.finish().is_err());
        assert!(decoder.found.len() <= 4_096);
    }
}
