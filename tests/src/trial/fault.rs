//! What can happen to a cluster.

use std::fmt;

use clap::ValueEnum;

use crate::harness::Need;

/// A fault, by what it is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// `kill -9` of the voter that leads the store.
    KillLeader,
    /// `kill -9` of that voter and of the process that holds the lease, at the same moment.
    KillLeaderAndHolder,
    /// `kill -9` of the process that holds the lease.
    KillHolder,
    /// `kill -9` of all voters, which come back one by one.
    KillVoters,
    /// `SIGSTOP` of the leading voter for one to five seconds.
    PauseLeader,
    /// `SIGSTOP` of the holder for so long that somebody else holds the lease when it wakes up.
    PauseHolder,
    /// A voter that does not lead is cut off from the other two, not from clients.
    PartitionMinority,
    /// The leading voter is cut off from the other two, not from clients.
    PartitionMajority,
    /// The leading voter hears nothing of the other two, and is heard.
    PartitionOneWay,
    /// The disk of a voter has no byte left.
    FullDisk,
    /// The wall clock of a voter jumps an hour ahead, and then back.
    ClockJump,
}

impl Fault {
    /// All.
    pub const ALL: &[Self] = &[
        Self::KillLeader,
        Self::KillLeaderAndHolder,
        Self::KillHolder,
        Self::KillVoters,
        Self::PauseLeader,
        Self::PauseHolder,
        Self::PartitionMinority,
        Self::PartitionMajority,
        Self::PartitionOneWay,
        Self::FullDisk,
        Self::ClockJump,
    ];

    /// What a machine must offer for it.
    pub fn needs(self) -> &'static [Need] {
        match self {
            _ if self.is_partition() => &[Need::Namespaces, Need::Nftables],
            Self::FullDisk => &[Need::SmallDisk],
            _ => &[],
        }
    }

    pub(super) fn is_partition(self) -> bool {
        matches!(self, Self::PartitionMinority | Self::PartitionMajority | Self::PartitionOneWay)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("fault", |value| value.get_name()))
    }
}
