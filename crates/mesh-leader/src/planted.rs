//! Bugs on purpose: proof that the simulator finds such bugs.
//!
//! The core asks [`LeaderCore::has_bug`] where a rule could be broken. Without the feature
//! `planted-bugs` the answer is a constant no, and nothing of this is in the program.

use crate::LeaderCore;

/// A rule that a core breaks on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PlantedBug {
    /// A handover states whatever token the record has now, not the one that this node was granted
    /// (`leader/handover.rs`).
    HandOverWithForeignToken,
    /// Validity counts from the answer to a renewal, not from before it was sent (`leader/session.rs`).
    CountFromAnswer,
    /// A session whose deadline passed counts as open until the store says otherwise, and its leases
    /// stay valid (`leader/session.rs`).
    IgnoreDeadline,
    /// A session that the store calls gone is renewed on as if it were open (`leader/session.rs`).
    IgnoreSessionLoss,
    /// A holder that gossip calls dead is replaced before its lease has expired (`leader/election.rs`).
    HintDecides,
    /// A new reign takes the term of the last one (`leader/election.rs`).
    RepeatTerm,
    /// A lease is checked without a look at the clock (`leader/mod.rs`).
    CheckIgnoresPause,
    /// The lease stays valid here while its handover is under way (`leader/handover.rs`).
    LeadWhileHandingOver,
    /// A lease that names this node is taken for its own, whatever session holds it (`leader/election.rs`).
    AdoptForeignSession,
    /// One failed renewal ends the session (`leader/session.rs`).
    GiveUpAtFirstBlip,
    /// Spread groups are not looked at (`leader/rank.rs`).
    IgnoreSpread,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::HandOverWithForeignToken,
        Self::CountFromAnswer,
        Self::IgnoreDeadline,
        Self::IgnoreSessionLoss,
        Self::HintDecides,
        Self::RepeatTerm,
        Self::CheckIgnoresPause,
        Self::LeadWhileHandingOver,
        Self::AdoptForeignSession,
        Self::GiveUpAtFirstBlip,
        Self::IgnoreSpread,
    ];
}

/// The bug that a core has, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Planted {
    #[cfg(feature = "planted-bugs")]
    bug: Option<PlantedBug>,
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

impl LeaderCore {
    /// Makes this core break a rule from here on. For tests of a test harness.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, bug: PlantedBug) {
        self.planted.bug = Some(bug);
    }

    #[inline]
    pub(crate) fn has_bug(&self, bug: PlantedBug) -> bool {
        self.planted.has(bug)
    }
}
