//! Who is in the group of voters, and how each of them does.

use std::time::Duration;

use async_trait::async_trait;
use mesh_core::{NodeId, store::StoreError};

/// Which part a node has in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MemberRole {
    /// Votes, and takes the changes.
    Leader,
    /// Votes.
    Voter,
    /// Gets the log and has no vote: it catches up, or waits until a voter dies.
    Learner,
}

impl MemberRole {
    /// As the control API names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Voter => "voter",
            Self::Learner => "learner",
        }
    }
}

/// One of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The node.
    pub node_id: NodeId,
    /// Its number in the group; it belongs to one data directory for ever.
    pub raft_id: u64,
    /// Its part.
    pub role: MemberRole,
    /// Whether it answers the leader; `None` if who tells does not lead.
    pub answers: Option<bool>,
    /// Time since it last answered the leader.
    pub silent: Option<Duration>,
    /// Entries of the log that it lacks.
    pub behind: Option<u64>,
}

/// The group, as one of its nodes knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMembers {
    /// Who tells.
    pub told_by: NodeId,
    /// Whether that one leads: only the leader knows who answers, others may not know who was taken in since.
    pub leads: bool,
    /// The group's name.
    pub group: String,
    /// The term of its log.
    pub term: u64,
    /// The index of the last entry that who tells has.
    pub last_index: u64,
    /// Voters and learners by their numbers.
    pub members: Vec<GroupMember>,
}

/// Knows who is in the group of voters, or asks who does.
#[async_trait]
pub trait Members: Send + Sync + 'static {
    /// Who is in the group: as the leader knows it, if it can be asked.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] if nobody could be asked.
    async fn members(&self) -> Result<GroupMembers, StoreError>;
}
