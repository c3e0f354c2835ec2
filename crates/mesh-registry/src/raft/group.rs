//! One voter's part of its group: log, state, and openraft between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh_core::{NodeId, fs::DirectoryLock};
use mesh_transport::rpc::Lane;
use openraft::{Config, Instant as _, ServerState, SnapshotPolicy, async_runtime::watch::WatchReceiver};

use super::{
    Peers, RaftError, RaftOptions,
    autopilot::SILENCE_MAX,
    confirm::{Rounds, confirm, keeps_to, own_ballot},
    duties,
    identity::Seat,
    log::Log,
    machine::{Applied, Machine},
    network::{Network, Told},
    propose::Proposer,
    snapshot::Incoming,
    types::{Membership, Raft, Vote, Voter},
};
use crate::{
    Leadership, RegistryConfig,
    members::{GroupMember, GroupMembers, MemberRole},
    numbers::{RaftNumbers, StoreNumbers},
    quorum::{Ballot, Lead, Witness},
    wire::{self, raft_client::RaftClient},
};

/// Entries that stay in the log after a snapshot, for followers that are a little behind.
const KEPT_ENTRIES: u64 = 2000;
/// Longest wait for another voter to lead.
const HAND_OVER: Duration = Duration::from_secs(1);
/// Messages that wait for openraft's own task.
const CHANNEL: u64 = 4096;

/// See the module.
pub(super) struct Group {
    pub(super) seat: Seat,
    pub(super) raft: Raft,
    pub(super) log: Log,
    pub(super) applied: Arc<Applied>,
    pub(super) proposer: Proposer,
    /// The runtime that it lives on; callers may come from others.
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) rounds: Rounds,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) told: Arc<Told>,
    pub(super) incoming: Arc<tokio::sync::Mutex<Incoming>>,
    leader_changes: AtomicU64,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// openraft's settings.
fn config(seat: Seat, settings: &RegistryConfig) -> Result<Config, RaftError> {
    let config = Config {
        cluster_name: seat.group.to_string(),
        heartbeat_interval: millis(settings.heartbeat_interval),
        election_timeout_min: millis(settings.election_timeout),
        election_timeout_max: millis(settings.election_timeout) * 2,
        install_snapshot_timeout: 10_000,
        max_payload_entries: 512,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(settings.snapshot_entries),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES.min(settings.snapshot_entries),
        purge_batch_size: 256,
        replication_lag_threshold: settings.snapshot_entries * 2,
        api_channel_size: Some(CHANNEL),
        notification_channel_size: Some(CHANNEL),
        // A voter that was cut off must not disturb the others when it is back.
        enable_pre_vote: Some(true),
        // A leader that restarts has to be elected: what it applied is in memory alone.
        enable_leader_restore: Some(false),
        broadcast_submitted_on_append: Some(true),
        ..Config::default()
    };
    config.validate().map_err(|error| RaftError::Stopped(error.into()))
}

impl Group {
    /// Opens log and state of a directory and goes on with the group.
    pub(super) async fn start(options: &RaftOptions, seat: Seat, log: Log) -> Result<Arc<Self>, RaftError> {
        let folder = options.directory.clone();
        let machine =
            Machine::open(folder.clone(), log.clone(), options.config.drift_ppm, Arc::clone(&options.clock))?;
        let applied = machine.applied();
        let told = Arc::<Told>::default();
        let network = Network { peers: Arc::clone(&options.peers), seat, told: Arc::clone(&told) };
        let config = Arc::new(config(seat, &options.config)?);
        let raft = Raft::new(seat.id, config, network, log.clone(), machine)
            .await
            .map_err(|error| RaftError::Stopped(error.into()))?;
        let incoming = Arc::new(tokio::sync::Mutex::new(Incoming::new(folder)));
        let peers = Arc::clone(&options.peers);
        let group = Arc::new_cyclic(|group| {
            let proposer = Proposer::new(Weak::clone(group));
            Self {
                seat,
                raft,
                log,
                applied,
                proposer,
                runtime: tokio::runtime::Handle::current(),
                rounds: Rounds::default(),
                peers,
                told,
                incoming,
                leader_changes: AtomicU64::new(0),
            }
        });
        duties::start(&group, &options.clock, &options.config);
        Ok(group)
    }

    /// Makes this node the only voter of a group that has none yet.
    pub(super) async fn initialize(&self, voter: Voter) -> Result<(), RaftError> {
        let members = BTreeMap::from([(self.seat.id, voter)]);
        self.raft.initialize(members).await.map_err(|error| RaftError::Stopped(error.into()))
    }

    /// Who is in the group, as far as this node knows.
    pub(super) fn membership(&self) -> Membership {
        self.raft.server_metrics().borrow_watched().membership_config.membership().clone()
    }

    /// The node behind a raft id.
    pub(super) fn node_of(&self, id: u64) -> Option<NodeId> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&id).and_then(|voter| voter.node.clone())
    }

    /// Who leads.
    pub(super) fn leadership(&self) -> Leadership {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        match metrics.current_leader {
            Some(id) if id == self.seat.id && metrics.state == ServerState::Leader => Leadership::Here,
            Some(id) if id != self.seat.id => {
                let voter = metrics.membership_config.membership().get_node(&id);
                match voter.and_then(|voter| voter.node.clone()) {
                    Some(node) => Leadership::There(node),
                    None => Leadership::Unknown,
                }
            }
            _ => Leadership::Unknown,
        }
    }

    /// The raft id of the leader, if it is another.
    pub(super) fn other_leader(&self) -> Option<u64> {
        self.raft.server_metrics().borrow_watched().current_leader.filter(|id| *id != self.seat.id)
    }

    /// One after the index of the last entry that must be applied here before a read that begins now. `None`
    /// if there is no leader that could tell.
    pub(super) async fn read_index(self: &Arc<Self>) -> Option<u64> {
        match self.leadership() {
            Leadership::Here => self.own_read_index().await,
            Leadership::There(_) => self.ask_read_index().await,
            Leadership::Unknown => None,
        }
    }

    /// The same, on the leader: what it has applied itself, if it leads still and has applied what others
    /// committed before it led; and what others may have applied before it.
    pub(super) async fn own_read_index(self: &Arc<Self>) -> Option<u64> {
        let ours = own_ballot(self)?;
        let confirmed = confirm(self).await;
        if confirmed { self.led_index(&ours) } else { None }
    }

    /// How far the leader's copy must be to be read, if it is true that it leads still.
    fn led_index(&self, ours: &Vote) -> Option<u64> {
        let last = self.applied.last()?;
        (last.leader_id == ours.leader_id).then(|| (last.index + 1).max(self.told.next()))
    }

    /// By what this voter leads, for all it knows; with how far its copy must be to be read, if that is true.
    pub(super) fn lead(&self) -> Option<(Lead, u64)> {
        let ours = own_ballot(self)?;
        let membership = self.membership();
        let sets = membership.get_joint_config().iter().map(|set| set.iter().copied().collect());
        let ballot = Ballot { term: ours.leader_id.term, voter: self.seat.id };
        let lead = Lead { group: self.seat.group.to_bytes(), ballot, sets: sets.collect() };
        let next = self.led_index(&ours)?;
        keeps_to(self.log.promise().as_ref(), &ours).then_some((lead, next))
    }

    /// What this voter has promised.
    pub(super) fn witness(&self) -> Witness {
        let promised = self.log.promise().map_or(Ballot::default(), |promised| {
            let leader = promised.leader_id;
            Ballot { term: leader.term, voter: leader.node_id }
        });
        Witness { group: self.seat.group.to_bytes(), voter: self.seat.id, promised }
    }

    /// Asks the leader how far a copy must be to be read as if it were the leader's: one after the index of
    /// the last entry that it must have applied. `None` if there is no answer.
    async fn ask_read_index(&self) -> Option<u64> {
        let to = self.other_leader()?;
        let channel = self.peers.channel(&self.node_of(to)?, Lane::Control).ok()?;
        let head = wire::RaftHead { group: self.seat.group.to_bytes(), from: self.seat.id, to };
        let request = wire::RaftReadIndex { head: Some(head) };
        let reply = RaftClient::new(channel).read_index(request).await.ok()?;
        Some(reply.into_inner().next)
    }

    /// Another leader than before was seen.
    pub(super) fn count_leader(&self) {
        self.leader_changes.fetch_add(1, Ordering::Relaxed);
    }

    /// What metrics tell.
    pub(super) fn numbers(&self) -> StoreNumbers {
        let (term, acked, leads) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.current_term, metrics.last_quorum_acked, metrics.state == ServerState::Leader)
        };
        let leadership = self.leadership();
        let lease = Duration::from_millis(self.raft.config().election_timeout_max);
        let quorum = match leadership {
            // A leader alone has no others to hear from.
            Leadership::Here if self.membership().voter_ids().count() > 1 => {
                leads && acked.is_some_and(|at| at.into_inner().elapsed() <= lease)
            }
            Leadership::Here | Leadership::There(_) => true,
            Leadership::Unknown => false,
        };
        let (revision, records, records_bytes, sessions) = self.applied.read(|state| {
            let sizes = (state.records_len() as u64, state.records_bytes() as u64);
            (state.revision().0, sizes.0, sizes.1, state.sessions().len() as u64)
        });
        StoreNumbers {
            revision: Some(revision),
            records: Some(records),
            records_bytes: Some(records_bytes),
            sessions: Some(sessions),
            watchers: Some(self.applied.hub.len() as u64),
            quorum: Some(quorum),
            apply: Some(self.applied.apply_times.counted()),
            raft: Some(RaftNumbers {
                term,
                leader_changes: self.leader_changes.load(Ordering::Relaxed),
                log_bytes: self.log.disk_bytes(),
                snapshot: self.applied.snapshot_times.counted(),
            }),
        }
    }

    /// Who is in the group, as this node knows it.
    pub(super) fn members(&self, own: &NodeId) -> GroupMembers {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let leads = self.leadership() == Leadership::Here;
        let leader = metrics.current_leader;
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let last_index = metrics.last_log_index.unwrap_or(0);
        let member = |(id, voter): (&u64, &Voter)| {
            let is_own = *id == self.seat.id;
            let answered = || metrics.heartbeat.as_ref()?.get(id).copied().flatten();
            let matched = || metrics.replication.as_ref().and_then(|replication| *replication.get(id)?);
            let silent = match leads {
                true if is_own => Some(Duration::ZERO),
                true => answered().map(|at| at.into_inner().elapsed()),
                false => None,
            };
            let behind = match leads {
                true if is_own => Some(0),
                true => matched().map(|matched| last_index.saturating_sub(matched.index)),
                false => None,
            };
            let role = match voters.contains(id) {
                true if leader == Some(*id) => MemberRole::Leader,
                true => MemberRole::Voter,
                false => MemberRole::Learner,
            };
            let answers = leads.then(|| silent.is_some_and(|silent| silent <= SILENCE_MAX));
            Some(GroupMember { node_id: voter.node.clone()?, raft_id: *id, role, answers, silent, behind })
        };
        GroupMembers {
            told_by: own.clone(),
            leads,
            group: self.seat.group.to_string(),
            term: metrics.current_term,
            last_index,
            members: membership.nodes().filter_map(member).collect(),
        }
    }

    /// The voter that should lead next: of those that answer, the one that has most of the log.
    pub(super) fn successor(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let lease = Duration::from_millis(self.raft.config().election_timeout_max);
        let heartbeat = metrics.heartbeat.as_ref()?;
        let answers = |id: &u64| {
            heartbeat.get(id).copied().flatten().is_some_and(|at| at.into_inner().elapsed() < lease)
        };
        let matched = |id: &u64| metrics.replication.as_ref().and_then(|replication| *replication.get(id)?);
        let voters = metrics.membership_config.membership().voter_ids();
        voters.filter(|id| *id != self.seat.id && answers(id)).max_by_key(matched)
    }

    /// Lets another voter lead, if this one does and there is one that can. Waits until it does, for a
    /// moment at most.
    pub(super) async fn hand_over(&self) {
        if self.leadership() != Leadership::Here {
            return;
        }
        let mut metrics = self.raft.server_metrics();
        let given_up = async {
            // While voters change, the others may need this one to agree on anything.
            while self.membership().get_joint_config().len() > 1 {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
            let Some(successor) = self.successor() else { return };
            if self.raft.trigger().transfer_leader(successor).await.is_err() {
                return;
            }
            while self.other_leader().is_none() {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        // Otherwise they elect one once they miss this one.
        let _ = tokio::time::timeout(HAND_OVER, given_up).await;
    }

    pub(super) async fn stop(&self) {
        // It has stopped already, or stops now.
        let _ = self.raft.shutdown().await;
        self.log.close().await;
    }
}

/// Opens the log of a directory off the runtime's threads.
pub(super) async fn open_log(
    options: &RaftOptions,
    lock: Option<Arc<DirectoryLock>>,
) -> Result<Log, RaftError> {
    let (folder, clock) = (log_folder(&options.directory), Arc::clone(&options.clock));
    let opened = tokio::task::spawn_blocking(move || Log::open(folder, clock, lock)).await;
    opened.map_err(|error| RaftError::Stopped(error.into()))?
}

pub(super) fn log_folder(directory: &Path) -> std::path::PathBuf {
    directory.join("log")
}
