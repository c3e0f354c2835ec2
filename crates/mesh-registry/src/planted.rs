//! Bugs on purpose: proof that the checkers find such bugs.
//!
//! A rule that could be broken is asked for where it stands. Without the feature
//! `planted-bugs` the answer is a constant no, and nothing of this is in the program.

/// A rule that the store breaks on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PlantedBug {
    /// A transaction takes effect whatever token it states.
    SkipFence,
    /// A session expires even if it was renewed after its observer looked.
    ExpireWithoutCompare,
    /// A key that is held is granted again, as if it were free.
    GrantTwice,
    /// A grant that is handed over keeps its token.
    ReuseToken,
    /// A retry is applied again.
    ApplyRetries,
    /// A session leaves one of its records behind.
    LeaveRecordsOfSessions,
    /// The `raft` provider answers before what it answers for is on disk.
    AckBeforeSync,
    /// The `raft` provider gives a node that it takes in the number of one that was there before.
    ReuseRaftId,
}

impl PlantedBug {
    /// Those of the rules that all providers share.
    pub const ALL: [Self; 6] = [
        Self::SkipFence,
        Self::ExpireWithoutCompare,
        Self::GrantTwice,
        Self::ReuseToken,
        Self::ApplyRetries,
        Self::LeaveRecordsOfSessions,
    ];
    /// Those of the `raft` provider alone.
    pub const RAFT: [Self; 2] = [Self::AckBeforeSync, Self::ReuseRaftId];
}
