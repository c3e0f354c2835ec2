//! Pairs of sets to compare. Half of what differs is on each side.

use mesh_core::Hlc;
use mesh_sync::{EntryId, Item};

#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// In the names of figures.
    pub(super) name: &'static str,
    /// Ids that both have.
    common: u64,
    /// Ids that one of them has.
    differences: u64,
    /// Those are newer than all others, or anywhere.
    newest: bool,
}

pub(super) const SHAPES: [Shape; 4] = [
    Shape { name: "1m_100", common: 1_000_000 - 100, differences: 100, newest: false },
    Shape { name: "1m_10k", common: 990_000, differences: 10_000, newest: false },
    Shape { name: "1m_10k_newest", common: 990_000, differences: 10_000, newest: true },
    Shape { name: "disjoint", common: 0, differences: 100_000, newest: false },
];

/// Both sets in order, and what only one of them has.
pub(super) struct Sets {
    pub(super) shape: Shape,
    pub(super) a: Vec<Item>,
    pub(super) b: Vec<Item>,
    pub(super) only_a: Vec<Item>,
    pub(super) only_b: Vec<Item>,
}

impl Sets {
    pub(super) fn new(shape: Shape) -> Self {
        let mut rng = fastrand::Rng::with_seed(shape.common ^ shape.differences << 32);
        let all = shape.common + shape.differences;
        let mut item = |at: u64| {
            let mut id = [0; 32];
            rng.fill(&mut id);
            (Item { hlc: Hlc::from_bits((1_700_000_000_000 + at) << 16), id: EntryId(id) }, rng.u64(0..all))
        };
        let mut at = 0;
        let mut common = Vec::new();
        for _ in 0..shape.common {
            let (one, next) = item(at);
            common.push(one);
            at = next;
        }
        let (mut only_a, mut only_b) = (Vec::new(), Vec::new());
        for n in 0..shape.differences {
            let (one, next) = item(if shape.newest { all + n } else { at });
            if n % 2 == 0 {
                only_b.push(one)
            } else {
                only_a.push(one)
            }
            at = next;
        }
        let sorted = |mut items: Vec<Item>| {
            items.sort_unstable();
            items
        };
        let with = |only: &[Item]| sorted(common.iter().chain(only).copied().collect());
        let (a, b) = (with(&only_a), with(&only_b));
        Self { shape, a, b, only_a: sorted(only_a), only_b: sorted(only_b) }
    }
}
