//! Guessing how much two sets differ from a few bits of their sketches.
//!
//! With `d` differences, the cells at `i` differ with a probability of `1 - exp(-d / (1 + i/2))`. So a peer that sends
//! four bits of some cells at growing distances lets the other one guess `d` within some tenth, and answer with the
//! right number of cells at once, or with another method.

use super::sketch::{Cell, Sketch};

/// Cells looked at on each level.
const WIDTH: usize = 32;
/// Levels, each at twice the distance of the one before.
const LEVELS: usize = 10;

/// Cells that are weighed together.
const GROUP: usize = 8;

#[derive(Clone, Copy, Default)]
struct Group {
    same: f64,
    differ: f64,
    density: f64,
}

/// Four bits of some of the cells of a sketch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probes(pub(super) [u8; Probes::BYTES]);

impl Probes {
    /// How many bytes they take.
    pub const BYTES: usize = WIDTH * LEVELS / 2;

    /// Those of a sketch's first 16,384 cells.
    pub(super) fn of(cells: &[Cell]) -> Self {
        let mut out = [0; Self::BYTES];
        for (n, at) in positions(Sketch::CELLS).enumerate() {
            let bits = cells.get(at).map_or(0, |cell| (cell.check & 15) as u8);
            out[n / 2] |= bits << (n % 2 * 4);
        }
        Self(out)
    }

    /// The likeliest number of differences, or `None` if there are more than can be told from `cells` cells.
    pub(super) fn differences(&self, other: &Self, cells: usize) -> Option<u64> {
        // Neighbours are about equally full, so they are weighed together.
        let mut groups = [Group::default(); WIDTH * LEVELS / GROUP];
        for (n, at) in positions(Sketch::CELLS).enumerate().filter(|(_, at)| *at < cells) {
            let nibble = |probes: &Self| probes.0[n / 2] >> (n % 2 * 4) & 15;
            let group = &mut groups[n / GROUP];
            group.density += 1.0 / (1.0 + at as f64 / 2.0) / GROUP as f64;
            if nibble(self) == nibble(other) {
                group.same += 1.0;
            } else {
                group.differ += 1.0;
            }
        }
        // The most distant cells all differ, but for those that look the same by chance.
        let first = groups.iter().position(|group| group.same + group.differ > 0.0)?;
        let farthest = groups.iter().skip(first).take(WIDTH / GROUP);
        if farthest.map(|group| group.same).sum::<f64>() <= WIDTH as f64 / 8.0 {
            return None;
        }
        let likelihood = |log_d: f64| -> f64 {
            let d = log_d.exp();
            let one = |group: &Group| {
                // Cells that differ look the same in one of sixteen cases.
                let p = (15.0 / 16.0 * (1.0 - (-d * group.density).exp())).clamp(1e-12, 1.0 - 1e-12);
                group.same * (1.0 - p).ln() + group.differ * p.ln()
            };
            groups.iter().map(one).sum()
        };
        let (mut low, mut high) = (-1.0_f64, 14.0_f64);
        for _ in 0..16 {
            let (left, right) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
            if likelihood(left) < likelihood(right) {
                low = left;
            } else {
                high = right;
            }
        }
        Some(((low + high) / 2.0).exp().round() as u64)
    }
}

fn positions(cells: usize) -> impl Iterator<Item = usize> {
    (0..LEVELS).flat_map(move |level| {
        let end = (cells >> level).max(WIDTH);
        end - WIDTH..end
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::key::{EpochKey, ShortId, mix};

    #[test]
    fn the_guess_is_near_the_truth_over_four_decades() {
        for d in [1_u64, 5, 30, 100, 1_000, 10_000] {
            for round in 0..4_u64 {
                let mut ours = Sketch::new(EpochKey::derive("probe", round), Sketch::CELLS);
                let theirs = ours.clone();
                (0..d).for_each(|item| ours.toggle(ShortId(mix(item))));
                let guess = Probes::of(ours.cells()).differences(&Probes::of(theirs.cells()), Sketch::CELLS);
                let guess = guess.expect("within what can be told") as f64;
                assert!(
                    (d as f64 * 0.5 - 2.0..=d as f64 * 1.7 + 3.0).contains(&guess),
                    "{d} guessed as {guess}"
                );
            }
        }
    }

    #[test]
    fn a_million_differences_are_more_than_can_be_told() {
        let mut ours = Sketch::new(EpochKey::derive("probe", 1), Sketch::CELLS);
        let theirs = ours.clone();
        (0..300_000).for_each(|item| ours.toggle(ShortId(mix(item))));
        assert_eq!(Probes::of(ours.cells()).differences(&Probes::of(theirs.cells()), Sketch::CELLS), None);
    }
}
