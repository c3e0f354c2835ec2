//! Between openraft's types and our messages, which are what the disk and the wire hold.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::NodeId;
use openraft::EntryPayload;

use super::types::{
    Entry, LeaderId, LogId, Membership, Payload, Proposal, SnapshotMeta, StoredMembership, Vote, Voter,
    log_id,
};
use crate::wire::{self, WireError, bad};

/// Nodes in one membership, and voters in one set.
const NODES_MAX: usize = 1024;

fn missing(what: &'static str, field: &'static str) -> WireError {
    bad(what, field, "it is missing")
}

pub(super) fn log_id_to(id: LogId) -> wire::RaftLogId {
    wire::RaftLogId { term: id.leader_id.term, voter: id.leader_id.node_id, index: id.index }
}

pub(super) fn log_id_from(id: wire::RaftLogId) -> LogId {
    log_id(id.term, id.voter, id.index)
}

pub(super) fn ballot_to(vote: &Vote) -> wire::RaftBallot {
    wire::RaftBallot { term: vote.leader_id.term, voter: vote.leader_id.node_id, committed: vote.committed }
}

pub(super) fn ballot_from(ballot: wire::RaftBallot) -> Vote {
    let leader_id = LeaderId { term: ballot.term, node_id: ballot.voter };
    Vote { leader_id, committed: ballot.committed }
}

pub(super) fn required_ballot(
    what: &'static str,
    ballot: Option<wire::RaftBallot>,
) -> Result<Vote, WireError> {
    ballot.map(ballot_from).ok_or_else(|| missing(what, "ballot"))
}

pub(super) fn membership_to(membership: &Membership) -> wire::RaftMembership {
    let set = |ids: &BTreeSet<u64>| wire::RaftVoterSet { ids: ids.iter().copied().collect() };
    let node = |(id, voter): (&u64, &Voter)| wire::RaftVoter {
        id: *id,
        node: voter.node.as_ref().map(|node| node.as_str().to_owned()).unwrap_or_default(),
        directory: voter.directory,
    };
    wire::RaftMembership {
        sets: membership.get_joint_config().iter().map(set).collect(),
        nodes: membership.nodes().map(node).collect(),
    }
}

pub(super) fn membership_from(message: wire::RaftMembership) -> Result<Membership, WireError> {
    const WHAT: &str = "a membership";
    let too_many = |count: usize| bad(WHAT, "nodes", format!("{count} are more than {NODES_MAX}"));
    if message.nodes.len() > NODES_MAX {
        return Err(too_many(message.nodes.len()));
    }
    let mut nodes = BTreeMap::new();
    for voter in message.nodes {
        let node = match voter.node.as_str() {
            "" => None,
            text => Some(NodeId::new(text).map_err(|error| bad(WHAT, "node", error))?),
        };
        nodes.insert(voter.id, Voter { node, directory: voter.directory });
    }
    if message.sets.len() > 2 {
        return Err(bad(WHAT, "sets", format!("{} are more than 2", message.sets.len())));
    }
    let sets: Vec<BTreeSet<u64>> =
        message.sets.into_iter().map(|set| set.ids.into_iter().collect()).collect();
    if sets.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(sets, nodes).map_err(|error| bad(WHAT, "sets", error))
}

/// An entry's payload as the log keeps it: a kind and bytes.
pub(super) fn entry_to(entry: &Entry) -> wire::RaftEntry {
    use wire::raft_entry::Payload as Kind;
    let payload = match &entry.payload {
        EntryPayload::Blank => Kind::Blank(wire::Empty {}),
        EntryPayload::Normal(proposal) => Kind::Command(proposal.bytes.clone()),
        EntryPayload::Membership(membership) => Kind::Membership(membership_to(membership)),
    };
    wire::RaftEntry { id: Some(log_id_to(entry.log_id)), payload: Some(payload) }
}

pub(super) fn entry_from(message: wire::RaftEntry) -> Result<Entry, WireError> {
    use wire::raft_entry::Payload as Kind;
    const WHAT: &str = "a log entry";
    let log_id = log_id_from(message.id.ok_or_else(|| missing(WHAT, "id"))?);
    let payload: Payload = match message.payload.ok_or_else(|| missing(WHAT, "payload"))? {
        Kind::Blank(_) => EntryPayload::Blank,
        Kind::Command(bytes) => EntryPayload::Normal(Proposal::decode(bytes)?),
        Kind::Membership(membership) => EntryPayload::Membership(membership_from(membership)?),
    };
    Ok(Entry { log_id, payload })
}

pub(super) fn snapshot_meta_to(meta: &SnapshotMeta, bytes: u64, xxh3: u64) -> wire::RaftSnapshotMeta {
    let membership = &meta.last_membership;
    wire::RaftSnapshotMeta {
        last: meta.last_log_id.map(log_id_to),
        membership_at: membership.log_id().map(log_id_to),
        membership: Some(membership_to(membership.membership())),
        bytes,
        xxh3,
    }
}

pub(super) fn snapshot_meta_from(message: &wire::RaftSnapshotMeta) -> Result<SnapshotMeta, WireError> {
    let membership = message.membership.clone().ok_or_else(|| missing("a snapshot's head", "membership"))?;
    Ok(SnapshotMeta {
        last_log_id: message.last.map(log_id_from),
        last_membership: StoredMembership::new(
            message.membership_at.map(log_id_from),
            membership_from(membership)?,
        ),
    })
}
