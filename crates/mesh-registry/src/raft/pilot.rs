//! Carries out what [`autopilot`](super::autopilot) decides, while this voter leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh_core::{BoxError, Instant, MemberState, NodeId};
use mesh_transport::rpc::Lane;
use openraft::{ChangeMembers, Instant as _, Precondition, async_runtime::watch::WatchReceiver};

use super::{
    autopilot::{Candidate, Peer, Step, View, decide},
    core::Core,
    group::Group,
    identity::GroupId,
    log::chain,
    types::Voter,
};
use crate::{
    Leadership,
    planted::PlantedBug,
    wire::{self, raft_client::RaftClient},
};

/// Between two looks.
const TICK: Duration = Duration::from_millis(500);
/// A node that would like to be one of the group says so more often than this.
const CANDIDATE_FOR: Duration = Duration::from_secs(5);
/// Nodes that would like to be, at most.
const CANDIDATES_MAX: usize = 64;
/// Longest wait for one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Nodes that would like to be one of the group.
#[derive(Default)]
pub(super) struct Candidates {
    by_node: Mutex<BTreeMap<NodeId, (wire::RaftHello, Instant)>>,
}

impl Candidates {
    /// `node`, as its certificate says, has told us what is in its data directory.
    pub(super) fn heard(&self, node: NodeId, hello: wire::RaftHello, now: Instant) {
        let mut by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        by_node.retain(|_, (_, at)| now.since(*at) < CANDIDATE_FOR);
        if by_node.len() < CANDIDATES_MAX || by_node.contains_key(&node) {
            by_node.insert(node, (hello, now));
        }
    }

    /// Those that may be taken in: of no group, or of ours from before.
    fn of(&self, group: GroupId, now: Instant) -> Vec<Candidate> {
        let by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        let candidate = |(node, (hello, at)): (&NodeId, &(wire::RaftHello, Instant))| {
            if now.since(*at) >= CANDIDATE_FOR {
                return None;
            }
            let theirs = GroupId::from_bytes(&hello.group);
            if !hello.group.is_empty() && theirs != Some(group) {
                tracing::debug!(peer_id = %node, "a node belongs to another group of voters");
                return None;
            }
            let id = (theirs.is_some() && hello.id != 0).then_some(hello.id);
            Some(Candidate { node: node.clone(), directory: hello.directory, id })
        };
        by_node.iter().filter_map(candidate).collect()
    }
}

/// Looks after the group for as long as it lives and this node leads.
pub(super) fn start(core: &Arc<Core>, group: &Arc<Group>) {
    let (core, group) = (Arc::downgrade(core), Arc::downgrade(group));
    tokio::spawn(async move {
        let mut watch = Watch::default();
        loop {
            tokio::time::sleep(TICK).await;
            let (Some(core), Some(group)) = (core.upgrade(), group.upgrade()) else { return };
            if group.raft.metrics().borrow_watched().running_state.is_err() {
                return;
            }
            if group.leadership() != Leadership::Here {
                watch = Watch::default();
                continue;
            }
            let next = || watch.view(&core, &group).and_then(|view| decide(&view));
            let Some(step) = half_done(&group).map(Step::Voters).or_else(next) else { continue };
            tracing::info!(?step, "the group of voters changes");
            match tokio::time::timeout(STEP_TIMEOUT, carry_out(&core, &group, step)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::info!(error = %chain(&*error), "the change did not come about; it is tried again")
                }
                Err(_) => {
                    tracing::info!(after = ?STEP_TIMEOUT, "the change did not come about; it is tried again")
                }
            }
        }
    });
}

/// The voters of a change that stopped half way: it ran out of time, or its leader did. Until somebody ends it,
/// a majority of the old voters is needed as well.
fn half_done(group: &Group) -> Option<BTreeSet<u64>> {
    let metrics = group.raft.metrics().borrow_watched().clone();
    let [_, .., wanted] = &metrics.membership_config.membership().get_joint_config()[..] else { return None };
    let settled = metrics.membership_config.log_id() == metrics.committed_membership_config.log_id();
    settled.then(|| wanted.clone())
}

/// What the leader remembers from look to look.
#[derive(Default)]
struct Watch {
    leads_since: Option<Instant>,
    even_since: Option<Instant>,
}

impl Watch {
    /// What is to be seen; `None` while a change is under way.
    fn view(&mut self, core: &Core, group: &Group) -> Option<View> {
        let now = core.options.clock.now();
        let leads_for = now.since(*self.leads_since.get_or_insert(now));
        let metrics = group.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let [voters] = &membership.get_joint_config()[..] else { return None };
        if metrics.membership_config.log_id() != metrics.committed_membership_config.log_id() {
            return None;
        }
        if voters.len().is_multiple_of(2) {
            self.even_since.get_or_insert(now);
        } else {
            self.even_since = None;
        }
        let members = core.options.membership.snapshot();
        let left = |node: &NodeId| members.find(node).is_some_and(|member| member.state == MemberState::Left);
        let last = metrics.last_log_index.unwrap_or(0);
        let peer = |(id, voter): (&u64, &Voter)| {
            let own = *id == group.seat.id;
            let node = voter.node.clone()?;
            let answered =
                metrics.heartbeat.as_ref().and_then(|heartbeat| heartbeat.get(id).copied().flatten());
            let silent = match answered {
                _ if own => Duration::ZERO,
                // Never longer than we have been listening.
                Some(at) => at.into_inner().elapsed().min(leads_for),
                None => leads_for,
            };
            let matched = metrics.replication.as_ref().and_then(|replication| *replication.get(id)?);
            let behind =
                if own { Some(0) } else { matched.map(|matched| last.saturating_sub(matched.index)) };
            let left = !own && left(&node);
            let directory = voter.directory;
            Some(Peer { id: *id, node, directory, voter: voters.contains(id), silent, behind, left })
        };
        let peers: Vec<Peer> = membership.nodes().filter_map(peer).collect();
        if core.has_bug(PlantedBug::ReuseRaftId) {
            let mut former = core.former.lock().unwrap_or_else(PoisonError::into_inner);
            former.extend(peers.iter().map(|peer| (peer.node.clone(), peer.id)));
        }
        Some(View {
            own: group.seat.id,
            peers,
            candidates: core.candidates.of(group.seat.group, now),
            target: core.options.config.voters as usize,
            dead_after: core.options.config.voter_dead_after,
            even_for: self.even_since.map_or(Duration::ZERO, |since| now.since(since)),
        })
    }
}

async fn carry_out(core: &Core, group: &Group, step: Step) -> Result<(), BoxError> {
    match step {
        Step::Adopt { node, directory } => {
            let id = new_id(core, group, &node).await?;
            let adopt = wire::RaftAdopt { group: group.seat.group.to_bytes(), id, directory };
            let channel = core.options.peers.channel(&node, Lane::Control)?;
            RaftClient::new(channel).adopt(adopt).await?;
            group.raft.add_learner(id, Voter { node: Some(node), directory }, false).await?;
        }
        Step::Readmit { node, directory, id } => {
            group.raft.add_learner(id, Voter { node: Some(node), directory }, false).await?;
        }
        Step::Voters(voters) => {
            let change = ChangeMembers::ReplaceAllVoters(voters);
            group.raft.change_membership_if(change, true, unchanged(group)).await?;
        }
        Step::Forget(id) => {
            let change = ChangeMembers::RemoveNodes([id].into());
            group.raft.change_membership_if(change, true, unchanged(group)).await?;
        }
    }
    Ok(())
}

/// The decision was made for this membership alone.
fn unchanged(group: &Group) -> [Precondition<super::types::Types>; 1] {
    let metrics = group.raft.server_metrics();
    let last_membership_log_id = *metrics.borrow_watched().membership_config.log_id();
    [Precondition::LastMembershipLogId { last_membership_log_id }]
}

/// A raft id that nobody ever had: the index of an entry that is made for it.
async fn new_id(core: &Core, group: &Group, node: &NodeId) -> Result<u64, BoxError> {
    if core.has_bug(PlantedBug::ReuseRaftId) {
        let former = core.former.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = former.get(node) {
            return Ok(*id);
        }
    }
    Ok(group.raft.write_blank().await?.log_id.index)
}
