//! Bugs on purpose: proof that the simulator finds such bugs.
//!
//! The core asks [`Gossip::has_bug`] where a rule could be broken. Without the feature
//! `planted-bugs` the answer is a constant no, and nothing of this is in the program.

use crate::Gossip;

/// A rule that a core breaks on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PlantedBug {
    /// A word with a lower incarnation wins.
    AcceptOldIncarnation,
    /// Suspicions and false deaths of oneself are not answered.
    NeverRefute,
    /// The words about an earlier run of oneself are not answered.
    NeverSupersede,
    /// Dead and left members are forgotten at once.
    DropTombstones,
    /// Differences between tables are never looked for.
    SkipRepair,
    /// Dead members and silent seeds are not dialled again.
    ForgetTheLost,
    /// The end of an earlier run is taken for the end of the present one.
    BlamePresentRun,
    /// No suspicion ever runs out.
    SuspectForEver,
    /// Every copy of a broadcast is delivered.
    RepeatBroadcasts,
    /// Nobody is probed before somebody suspects it.
    SkipProbes,
    /// Who hears nobody any more takes itself to be well.
    HideIsolation,
    /// Neither of two processes with one id gives way.
    NeverStepAside,
    /// What a newer version says of itself is not passed on.
    DropUnknownFields,
}

impl PlantedBug {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::AcceptOldIncarnation,
        Self::NeverRefute,
        Self::NeverSupersede,
        Self::DropTombstones,
        Self::SkipRepair,
        Self::ForgetTheLost,
        Self::BlamePresentRun,
        Self::SuspectForEver,
        Self::RepeatBroadcasts,
        Self::SkipProbes,
        Self::HideIsolation,
        Self::NeverStepAside,
        Self::DropUnknownFields,
    ];
}

impl Gossip {
    /// Makes this core break a rule from here on. For tests of a test harness.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, bug: PlantedBug) {
        self.planted = Some(bug);
    }

    #[cfg(feature = "planted-bugs")]
    pub(crate) fn has_bug(&self, bug: PlantedBug) -> bool {
        self.planted == Some(bug)
    }

    #[cfg(not(feature = "planted-bugs"))]
    #[inline(always)]
    pub(crate) fn has_bug(&self, _: PlantedBug) -> bool {
        false
    }
}
