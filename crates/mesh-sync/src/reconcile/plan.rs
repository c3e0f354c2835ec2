//! What a hello lets the responder see, and how it chooses.

use super::{
    index::Index,
    key::{Nonce, session_hasher},
    message::{Hello, Plan, TAILS_MAX, Tail, bound_between},
    probe::Probes,
    sketch::Cell,
};
use crate::Item;

/// Differences of a salted session, if nothing better is known.
pub(super) const SALTED_DIFFERENCES: u64 = 64;
/// Items in the shortest tail of a hello.
const TAIL_MIN: u64 = 256;
/// Stands in for the responder's half of the key in the hello, which can't know it.
const NO_NONCE: Nonce = Nonce([0; 16]);

/// How many items the initiator has in a tail.
pub(super) fn tail_items(tail: u8) -> u64 {
    TAIL_MIN << (2 * tail.min(TAILS_MAX))
}

/// The plan for a session with that hello, and a guess at the number of differences.
pub(super) fn weigh(index: &Index, hello: &Hello, salted: bool) -> (Plan, u64) {
    let root = index.root();
    let counts = root.count.abs_diff(hello.root.count);
    if salted || hello.salted || hello.key_tag != index.key().tag() {
        return (Plan::Ranges { salted: true, tail: None }, SALTED_DIFFERENCES.max(counts));
    }
    if root.same_set(&hello.root) {
        return (Plan::Equal, 0);
    }
    let estimate = estimate(index, hello).max(counts);
    let behind = |cursor| root.arrival.serves(&cursor) && cursor.sequence < root.arrival.sequence;
    if hello.cursor.is_some_and(behind) {
        return (Plan::Since, estimate);
    }
    (sketch_or_ranges(index, hello, estimate), estimate)
}

fn estimate(index: &Index, hello: &Hello) -> u64 {
    let cells = index.sketch().cells();
    match Probes::of(cells).differences(&hello.probes, cells.len()) {
        Some(differences) => differences.max(1),
        // More than the sketch can tell.
        None => (cells.len() as u64 * 4).min(index.len().saturating_add(hello.root.count)),
    }
}

/// Ranges are cheaper if all that differs is close together, or if nearly everything differs.
fn sketch_or_ranges(index: &Index, hello: &Hello, estimate: u64) -> Plan {
    let sealer = session_hasher(hello.nonce, NO_NONCE);
    let tail = hello.tails.iter().zip(0_u8..).find_map(|(tail, n)| {
        let below = index.sum(&Item::START, Some(&tail.from));
        let equal = sealer.seal(below.count, below.hash) as u32 == tail.seal;
        equal.then_some((n, index.len() - below.count))
    });
    let least = match tail {
        Some((tail, ours)) => ours.min(tail_items(tail)),
        None => index.len().min(hello.root.count),
    };
    let cap = index.sketch().cells().len().min(hello.limits.symbols_max as usize);
    let sketch_bytes = symbols_for(estimate).min(cap) * Cell::BYTES;
    // A guess above what decodes may be too high by half, and spread ranges cost several times what a sketch in vain does.
    if estimate > cap as u64 * 3 / 2 || least.saturating_mul(8) < sketch_bytes as u64 {
        Plan::Ranges { salted: false, tail: tail.map(|(tail, _)| tail) }
    } else {
        Plan::Sketch
    }
}

/// Cells that suffice for that many differences in nine of ten cases, and a tenth more, since the number is a guess.
pub(super) fn symbols_for(differences: u64) -> usize {
    let d = differences as f64;
    (d * 1.35 * 1.1 + 2.2 * d.sqrt() + 8.0) as usize
}

/// Fingerprints of all but our newest items.
pub(super) fn tails(index: &Index, nonce: Nonce) -> Vec<Tail> {
    let sealer = session_hasher(nonce, NO_NONCE);
    let count = index.len();
    (0..TAILS_MAX)
        .map(tail_items)
        .take_while(|tail| *tail <= count / 2)
        .filter_map(|tail| {
            let at = count - tail;
            let from = bound_between(index.select(at - 1), index.select(at)?);
            let below = index.sum(&Item::START, Some(&from));
            Some(Tail { from, seal: sealer.seal(below.count, below.hash) as u32 })
        })
        .collect()
}
