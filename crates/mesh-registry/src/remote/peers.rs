//! The voters as this client knows them: who they are, how to reach them, who leads, who is near.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_core::NodeId;
use mesh_transport::rpc::{Channel, Channels, Lane, Target};
use tokio::sync::watch;

/// Who votes, and where they are reached. Asked before each request.
///
/// A list that never changes is one, and so is the receiving end of a watch channel.
pub trait Voters: Send + Sync + 'static {
    /// The voters, in the order in which they are to be tried while nothing else is known.
    fn voters(&self) -> Arc<[Target]>;
}

impl Voters for Arc<[Target]> {
    fn voters(&self) -> Arc<[Target]> {
        Arc::clone(self)
    }
}

impl Voters for watch::Receiver<Arc<[Target]>> {
    fn voters(&self) -> Arc<[Target]> {
        Arc::clone(&self.borrow())
    }
}

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    /// The leader alone can answer; others say who it is.
    Leader,
    /// Anybody can answer, the leader best.
    LeaderFirst,
    /// Anybody can answer, the nearest best.
    Nearest,
}

pub(super) struct Peers {
    channels: Channels,
    voters: Arc<dyn Voters>,
    known: Mutex<Known>,
    /// Changes with every doubt.
    doubted: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    leader: Option<NodeId>,
    by_node: BTreeMap<NodeId, Peer>,
    /// Stale reads so far.
    reads: u64,
    /// How often each was doubted: it no longer leads, or is said to be gone.
    doubts: BTreeMap<NodeId, u64>,
}

/// What was known of a voter when something began that it is to outlast.
pub(super) struct Trust {
    voter: NodeId,
    doubts: u64,
    doubted: watch::Receiver<u64>,
}

/// A voter that was called before.
struct Peer {
    target: Target,
    /// Held, so that the connections last.
    lanes: BTreeMap<Lane, Channel>,
    /// Of its answers of late.
    latency: Option<Duration>,
}

/// One in so many stale reads goes to another than the nearest voter, to learn whether it still is.
const LOOK_AROUND_EVERY: u64 = 64;
/// Nodes whose doubts are counted; there are few voters.
const DOUBTED_MAX: usize = 1024;

impl Peers {
    pub(super) fn new(channels: Channels, voters: Arc<dyn Voters>) -> Self {
        Self { channels, voters, known: Mutex::default(), doubted: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // What is guarded is changed in one step each time, so a panic elsewhere leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom to ask next: the best one that `passed` lets through.
    pub(super) fn choose(
        &self,
        whom: Whom,
        avoid: Option<&NodeId>,
        passed: impl Fn(&NodeId) -> bool,
    ) -> Option<Target> {
        let voters = self.voters.voters();
        let mut known = self.lock();
        known.reads += u64::from(whom == Whom::Nearest);
        let look_around = whom == Whom::Nearest && known.reads.is_multiple_of(LOOK_AROUND_EVERY);
        let candidates = voters.iter().filter(|target| passed(&target.node_id));
        // The smallest comes first; voters of the same rank, in the order of the list.
        let rank = |target: &&Target| {
            let id = &target.node_id;
            let avoided = avoid == Some(id);
            let leads = whom != Whom::Nearest && known.leader.as_ref() == Some(id);
            let latency = known.by_node.get(id).and_then(|peer| peer.latency).unwrap_or_default();
            let latency = if look_around { Duration::MAX - latency } else { latency };
            (avoided, !leads, if whom == Whom::Nearest { latency } else { Duration::ZERO })
        };
        let best = candidates.min_by_key(rank).cloned();
        let gone = |id: &NodeId| !voters.iter().any(|target| target.node_id == *id);
        if known.by_node.len() > voters.len() {
            known.by_node.retain(|id, _| !gone(id));
        }
        best
    }

    /// Voters to ask beside the leader, the nearest first: as many as make most of all with it. `None` if no leader is
    /// known, or if nobody else votes.
    pub(super) fn witnesses(&self) -> Option<Vec<Target>> {
        let voters = self.voters.voters();
        let known = self.lock();
        let leader = known.leader.as_ref()?;
        let mut others: Vec<&Target> = voters.iter().filter(|target| target.node_id != *leader).collect();
        let latency = |target: &&Target| known.by_node.get(&target.node_id).and_then(|peer| peer.latency);
        others.sort_by_key(|target| latency(target).unwrap_or_default());
        others.truncate(voters.len() / 2);
        (!others.is_empty()).then(|| others.into_iter().cloned().collect())
    }

    /// A channel to a voter.
    pub(super) fn channel(&self, target: &Target, lane: Lane) -> Channel {
        let mut known = self.lock();
        let peer = known.by_node.entry(target.node_id.clone()).or_insert_with(|| Peer {
            target: target.clone(),
            lanes: BTreeMap::new(),
            latency: None,
        });
        if peer.target != *target {
            peer.target = target.clone();
            peer.lanes.clear();
        }
        let open = || self.channels.open(target.clone(), lane);
        peer.lanes.entry(lane).or_insert_with(open).clone()
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        self.lock().leader.clone()
    }

    pub(super) fn set_leader(&self, leader: &NodeId) {
        let mut known = self.lock();
        if known.leader.as_ref() != Some(leader) {
            tracing::debug!(node_id = %leader, "the store's leader");
            known.leader = Some(leader.clone());
            // Whichever of the others led before, and may be dead.
            let others: Vec<NodeId> = known.by_node.keys().filter(|node| *node != leader).cloned().collect();
            self.count_doubts(known, &others);
        }
    }

    /// `node` does not lead, or can't be reached.
    pub(super) fn not_leader(&self, node: &NodeId) {
        let mut known = self.lock();
        if known.leader.as_ref() == Some(node) {
            known.leader = None;
            self.count_doubts(known, std::slice::from_ref(node));
        }
    }

    /// `node` is said to be gone.
    pub(super) fn doubt(&self, node: &NodeId) {
        let mut known = self.lock();
        if known.leader.as_ref() == Some(node) {
            known.leader = None;
        }
        if known.by_node.contains_key(node) {
            self.count_doubts(known, std::slice::from_ref(node));
        }
    }

    fn count_doubts(&self, mut known: MutexGuard<'_, Known>, nodes: &[NodeId]) {
        for node in nodes {
            *known.doubts.entry(node.clone()).or_default() += 1;
        }
        while known.doubts.len() > DOUBTED_MAX {
            known.doubts.pop_first();
        }
        drop(known);
        self.doubted.send_modify(|doubts| *doubts += 1);
    }

    /// From now on.
    pub(super) fn trust(&self, voter: &NodeId) -> Trust {
        let known = self.lock();
        let doubts = known.doubts.get(voter).copied().unwrap_or_default();
        Trust { voter: voter.clone(), doubts, doubted: self.doubted.subscribe() }
    }

    /// Waits until there is reason to doubt the voter.
    pub(super) async fn doubted(&self, trust: &mut Trust) {
        loop {
            if self.lock().doubts.get(&trust.voter).copied().unwrap_or_default() != trust.doubts {
                return;
            }
            if trust.doubted.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) fn answered(&self, node: &NodeId, after: Duration) {
        if let Some(peer) = self.lock().by_node.get_mut(node) {
            peer.latency = Some(peer.latency.map_or(after, |before| (before * 7 + after) / 8));
        }
    }
}
