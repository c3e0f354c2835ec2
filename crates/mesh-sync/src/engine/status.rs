//! How an engine stands: what people and probes are told.

use std::time::Duration;

use mesh_core::{NodeId, WallTime};

use crate::{
    entry::{AuthorId, AuthorSequence, DatasetId},
    queue::QueueStats,
    reconcile::{Arrival as Cursor, Root},
    state::{PeerStats, Standing},
};

/// Whether sync keeps up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyncHealth {
    /// Nobody is behind for long.
    #[default]
    Ok,
    /// Somebody is behind for longer than `sync.lag_degraded`.
    Degraded,
    /// Somebody is behind for longer than `sync.lag_unhealthy`, or a store has failed.
    Unhealthy,
}

impl SyncHealth {
    /// Its name in APIs and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct SyncStatus {
    /// Each dataset, in the order of their names.
    pub datasets: Vec<DatasetStatus>,
    /// Pairs of a peer and a dataset that are tracked.
    pub tracked_peers: usize,
    /// Those that are behind for longer than `sync.lag_degraded`.
    pub lagging_peers: usize,
    /// The longest time that one is behind.
    pub max_lag_ms: u64,
    /// Those that have not confirmed anything since the start: pruning waits for them.
    pub peers_without_confirmation: usize,
    /// The verdict.
    pub health: SyncHealth,
    /// Why, in words, if it is not [`SyncHealth::Ok`].
    pub problems: Vec<String>,
    /// Nodes with a stream now.
    pub connected: Vec<NodeId>,
    /// Whether this node serves peers.
    pub serving: bool,
}

/// One dataset.
#[derive(Clone, Debug)]
pub struct DatasetStatus {
    /// Its name.
    pub dataset: DatasetId,
    /// Entries that are held.
    pub entries: u64,
    /// Their encoded length together.
    pub bytes: u64,
    /// Count, hash and last arrival.
    pub root: Root,
    /// Documents, tombstones included; `None` while the view is being read.
    pub documents: Option<usize>,
    /// What is held of authors, in the order of their keys; at most 1000 of them.
    pub authors: Vec<AuthorStatus>,
    /// How many authors there are, as far as looked: at most 1001.
    pub authors_total: usize,
    /// Its peers, in the order of their names.
    pub peers: Vec<PeerState>,
    /// The queue, with the number of dead letters.
    pub queue: QueueStats,
    /// Requests for access that wait for an operator.
    pub pending_requests: usize,
    /// Large payloads that are being fetched.
    pub blobs_missing: usize,
    /// Why nothing is written until there is room on the disk.
    pub full: Option<String>,
    /// What the store said when it failed; nothing is taken since.
    pub failed: Option<String>,
}

/// What is held of one author.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorStatus {
    /// Who.
    pub author: AuthorId,
    /// All numbers up to this one are held or pruned.
    pub contiguous: AuthorSequence,
    /// The highest number that was held.
    pub highest: AuthorSequence,
    /// Numbers up to this one are pruned.
    pub pruned: AuthorSequence,
    /// Entries that are held.
    pub held: u64,
}

/// One peer of one dataset.
#[derive(Clone, Debug)]
pub struct PeerState {
    /// Who.
    pub peer: NodeId,
    /// The key that it has proved, if it ever did.
    pub author: Option<AuthorId>,
    /// Where it is looked for.
    pub addresses: Vec<String>,
    /// Whether pruning waits for it.
    pub standing: Standing,
    /// Whether there is a stream on which the dataset is open.
    pub connected: bool,
    /// Whether it had the same entries when it was heard last.
    pub in_sync: bool,
    /// For how long it has been behind, or away.
    pub lag: Duration,
    /// Whether it ever told what it holds since the start.
    pub confirmed: bool,
    /// How far we have followed its arrivals, durably.
    pub cursor: Option<Cursor>,
    /// How far it has followed ours, durably.
    pub followed: Option<Cursor>,
    /// About how many entries are yet to go, one way or the other, while it is connected.
    pub left: u64,
    /// Entries that are queued for it.
    pub queued: usize,
    /// Its dead letters.
    pub dead_letters: usize,
    /// When it last had the same entries.
    pub last_success: Option<WallTime>,
    /// Why the last attempt to reach it failed, since the last success.
    pub last_problem: Option<String>,
    /// Its numbers over time.
    pub stats: PeerStats,
}
