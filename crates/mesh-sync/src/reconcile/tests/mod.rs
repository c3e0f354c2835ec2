//! Two sides over every shape of difference, and against peers that lie.

mod convergence;
mod hostile;

use std::collections::BTreeSet;

use mesh_core::Hlc;

use super::{key::mix, *};
use crate::{EntryId, Item};

/// The item called `n`; stamps come from `hlc`.
pub(super) fn item(n: u64, hlc: u64) -> Item {
    let mut id = [0; 32];
    for (word, out) in id.chunks_exact_mut(8).enumerate() {
        out.copy_from_slice(&mix(n.wrapping_mul(4) + word as u64).to_le_bytes());
    }
    Item { hlc: Hlc::from_bits(hlc), id: EntryId(id) }
}

pub(super) fn key() -> EpochKey {
    EpochKey::derive("tests", 1)
}

pub(super) fn index_of(items: &BTreeSet<Item>) -> Index {
    Index::from_sorted(key(), items.iter().copied(), None)
}

/// How a run ended, seen by both.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) a: Outcome,
    pub(super) b: Outcome,
    pub(super) cost: Cost,
}

/// Runs two sessions: everything that one side has to say arrives before the other answers.
pub(super) fn run(
    a: &Index,
    b: &Index,
    options: (SessionOptions, SessionOptions),
    salt: u8,
) -> Result<Run, SessionError> {
    let mut us = Session::initiate(a, options.0, Nonce([salt; 16]));
    let mut them = Session::respond(options.1, Nonce([salt ^ 0xff; 16]));
    let mut frames = 0;
    loop {
        let up: Vec<Vec<u8>> = std::iter::from_fn(|| us.poll_transmit()).collect();
        let idle = up.is_empty();
        frames += up.len();
        for frame in up {
            assert_eq!(Message::decode(&frame).expect("ours").encode(), frame);
            them.handle_frame(b, &frame)?;
        }
        let down: Vec<Vec<u8>> = std::iter::from_fn(|| them.poll_transmit()).collect();
        let idle = idle && down.is_empty();
        frames += down.len();
        for frame in down {
            assert_eq!(Message::decode(&frame).expect("ours").encode(), frame);
            us.handle_frame(a, &frame)?;
        }
        assert!(frames < 200_000, "does not end");
        if idle {
            break;
        }
    }
    let cost = us.cost();
    let a = us.into_outcome().expect("the initiator has an outcome when nothing more is said");
    let b = them.into_outcome().expect("the responder has an outcome when nothing more is said");
    Ok(Run { a, b, cost })
}
