//! Bugs on purpose: proof that the simulator finds such bugs.
//!
//! Code asks [`Planted::has`] where a rule could be broken. Without the feature `planted-bugs` the answer is a
//! constant no, and nothing of this is in the program.

use crate::replica::Replica;

/// A rule that a replica breaks on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PlantedBug {
    /// Submissions count as durable when they are handed to the store (`replica/intake.rs`).
    AcknowledgeBeforeCommit,
    /// A cursor passes what was listed, before it is held (`replica/follow.rs`).
    CursorEarly,
    /// A prune goes as far as asked, whoever has confirmed it (`replica/retire.rs`).
    PruneUnconfirmed,
    /// A tombstone needs no age to be pruned (`replica/retire.rs`).
    TombstoneTooSoon,
    /// A missing parent counts as pruned (`replica/intake.rs`).
    AcceptOrphans,
    /// A want that got no answer is forgotten, and counts as settled (`replica/follow.rs`).
    ForgetWant,
    /// Roots that differ are not looked into (`replica/settle.rs`).
    NeverReconcile,
    /// A prune that is replicated is kept, but not obeyed (`replica/retire.rs`).
    IgnorePrune,
    /// A prune is forgotten if the node stops before it is carried out (`replica/open.rs`).
    ForgetPruneAtRestart,
    /// Entries that were not acknowledged are not sent again, and count as given (`replica/give.rs`).
    NeverResend,
    /// Each comparison brings the same nonce (`replica/settle.rs`).
    ReuseSeeds,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::AcknowledgeBeforeCommit,
        Self::CursorEarly,
        Self::PruneUnconfirmed,
        Self::TombstoneTooSoon,
        Self::AcceptOrphans,
        Self::ForgetWant,
        Self::NeverReconcile,
        Self::IgnorePrune,
        Self::ForgetPruneAtRestart,
        Self::NeverResend,
        Self::ReuseSeeds,
    ];
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static HASH_WITHOUT_PAYLOAD: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Leaves the payload out of the ids of entries on this thread, until told otherwise.
#[cfg(feature = "planted-bugs")]
pub fn hash_without_payload(planted: bool) {
    HASH_WITHOUT_PAYLOAD.set(planted);
}

/// How much of what is to be hashed is left out.
#[cfg(feature = "planted-bugs")]
pub(crate) fn left_out_of_hash(payload_bytes: usize) -> usize {
    if HASH_WITHOUT_PAYLOAD.get() { payload_bytes } else { 0 }
}

#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub(crate) fn left_out_of_hash(_: usize) -> usize {
    0
}

/// The bug that a replica has, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Planted {
    #[cfg(feature = "planted-bugs")]
    pub(crate) bug: Option<PlantedBug>,
}

impl Planted {
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn has(self, bug: PlantedBug) -> bool {
        self.bug == Some(bug)
    }

    #[cfg(not(feature = "planted-bugs"))]
    #[inline(always)]
    pub(crate) fn has(self, _: PlantedBug) -> bool {
        false
    }
}

impl Replica {
    /// Makes this replica break a rule from here on. For tests of tests.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, bug: PlantedBug) {
        self.planted.bug = Some(bug);
        if bug == PlantedBug::ForgetPruneAtRestart {
            self.forget_orders();
        }
    }
}
