//! The types that the log is run with.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use mesh_core::NodeId;
use openraft::{EntryPayload, impls::leader_id_adv};

use crate::{
    state::{Command, Reply},
    wire::{WireError, decode_command, encode_command},
};

openraft::declare_raft_types!(
    /// What openraft is told about us.
    pub(super) Types:
        D = Proposal,
        R = Answer,
        NodeId = u64,
        Node = Voter,
);

pub(super) type Raft = openraft::Raft<Types, super::machine::Machine>;
pub(super) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(super) type LogId = openraft::LogId<LeaderId>;
pub(super) type Vote = openraft::Vote<LeaderId>;
pub(super) type Entry = openraft::alias::EntryOf<Types>;
pub(super) type Payload = EntryPayload<Proposal, u64, Voter>;
pub(super) type Membership = openraft::Membership<u64, Voter>;
pub(super) type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub(super) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
pub(super) type Snapshot = openraft::alias::SnapshotOf<Types, Arc<super::snapshot::SnapshotFile>>;

/// A command with its bytes: encoded once, by who proposes it, and decoded once where it arrives.
#[derive(Clone)]
pub(super) struct Proposal {
    pub(super) bytes: Bytes,
    pub(super) command: Arc<Command>,
}

impl Proposal {
    pub(super) fn new(command: Command) -> Self {
        Self { bytes: encode_command(&command), command: Arc::new(command) }
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, WireError> {
        let command = Arc::new(decode_command(bytes.clone())?);
        Ok(Self { bytes, command })
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.bytes.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl PartialEq for Proposal {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

/// What applying an entry brought: nothing for those that are not commands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer(pub(super) Option<Reply>);

/// A node of the group. Its addresses are membership's to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Voter {
    /// `None` only in tests of storage, which need nodes without a name.
    pub(super) node: Option<NodeId>,
    /// The number of its data directory.
    pub(super) directory: u64,
}

pub(super) fn log_id(term: u64, voter: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: voter }, index }
}
