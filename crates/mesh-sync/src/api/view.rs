//! What the routes answer, as JSON.

use std::{fmt, time::Duration};

use mesh_core::NodeId;
use mesh_transport::edge::rfc3339;
use serde::{Deserialize, Serialize};

use super::API_VERSION;
use crate::{
    bootstrap::{AccessState, KeptRequest},
    documents::Version,
    engine::{AuthorStatus, DatasetStatus, PeerState, SyncHandle, SyncStatus},
    entry::{Collection, DatasetId, Kind},
    queue::{DeadLetter, DeadReason},
    state::Standing,
};

/// The reply of `GET /control/v1/sync`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyncReply {
    /// The version of this form, [`API_VERSION`].
    pub api_version: String,
    /// How sync stands.
    pub sync: SyncState,
}

/// How sync stands at the answering node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyncState {
    /// The node that answers.
    pub observer: NodeId,
    /// The public key that it signs entries with, 64 hexadecimal digits.
    pub author: String,
    /// `ok`, `degraded` or `unhealthy`.
    pub health: String,
    /// Why, in words, if it is not `ok`.
    pub problems: Vec<String>,
    /// Pairs of a peer and a dataset that are tracked.
    pub tracked_peers: usize,
    /// Those that are behind for longer than `sync.lag_degraded`.
    pub lagging_peers: usize,
    /// The longest time that one is behind, in milliseconds.
    pub max_lag_ms: u64,
    /// Those that have confirmed nothing since the start.
    pub peers_without_confirmation: usize,
    /// Whether the node serves peers.
    pub serving: bool,
    /// Each dataset, by name.
    pub datasets: Vec<DatasetItem>,
    /// Each peer of each dataset, by the names of both.
    pub peers: Vec<PeerItem>,
}

impl fmt::Display for SyncState {
    /// As JSON, to tell two states apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).unwrap_or_default())
    }
}

/// A dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetItem {
    /// Its name.
    pub dataset: String,
    /// Entries that are held.
    pub entries: u64,
    /// Their length together.
    pub bytes: u64,
    /// The hash of the set of entries, hexadecimal: nodes with the same one hold the same.
    pub root: String,
    /// How many entries have arrived.
    pub sequence: u64,
    /// Documents, deleted ones included; `null` while they are being read.
    pub documents: Option<usize>,
    /// Its peers.
    pub tracked_peers: usize,
    /// Those that are behind for longer than `sync.lag_degraded`.
    pub lagging_peers: usize,
    /// The longest time that one is behind, in milliseconds.
    pub max_lag_ms: u64,
    /// Those that have confirmed nothing since the start.
    pub peers_without_confirmation: usize,
    /// Entries that are queued for peers.
    pub queue_entries: usize,
    /// Their bytes.
    pub queue_bytes: u64,
    /// What was given up.
    pub dead_letters: usize,
    /// Nodes that ask to be let in.
    pub pending_requests: usize,
    /// Large values that are being fetched.
    pub blobs_missing: usize,
    /// Why nothing is written until there is room on the disk; `null` while there is.
    pub full: Option<String>,
    /// What the store said when it failed; `null` if it did not.
    pub failed: Option<String>,
    /// What is held of each author, at most 1000 of them.
    pub authors: Vec<AuthorItem>,
}

/// What is held of an author.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuthorItem {
    /// Its public key, 64 hexadecimal digits.
    pub author: String,
    /// All its entries up to this number are held or pruned.
    pub contiguous: u64,
    /// The highest number that was held.
    pub highest: u64,
    /// Entries up to this number are pruned.
    pub pruned: u64,
    /// Entries that are held.
    pub held: u64,
}

/// A peer of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerItem {
    /// The dataset.
    pub dataset: String,
    /// The peer.
    pub node_id: NodeId,
    /// `in-sync`, `behind`, `away`, or `retired` if nobody waits for it.
    pub state: String,
    /// The key that it has proved, 64 hexadecimal digits; `null` if it never did.
    pub author: Option<String>,
    /// For how long it is behind or away, in milliseconds.
    pub lag_ms: u64,
    /// Whether it has told what it holds since the start.
    pub confirmed: bool,
    /// How many of its arrivals this node has followed, durably.
    pub cursor: Option<u64>,
    /// How many of this node's arrivals it has followed, durably.
    pub followed: Option<u64>,
    /// About how many entries are yet to go, one way or the other, while it is connected.
    pub entries_left: u64,
    /// Entries that are queued for it.
    pub queue_entries: usize,
    /// What was given up.
    pub dead_letters: usize,
    /// When it last had the same entries, RFC 3339.
    pub last_success: Option<String>,
    /// Why it was not reached the last time, since the last success.
    pub last_error: Option<String>,
    /// Where it is looked for.
    pub addresses: Vec<String>,
    /// Bytes that were sent to it.
    pub bytes_sent: u64,
    /// Bytes that it sent.
    pub bytes_received: u64,
    /// Entries that were sent to it.
    pub entries_sent: u64,
    /// Entries that it sent.
    pub entries_received: u64,
    /// Rounds that ended well.
    pub successes: u64,
    /// Rounds that failed.
    pub failures: u64,
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl SyncState {
    pub(super) fn new(sync: &SyncHandle, status: &SyncStatus, lag_degraded: Duration) -> Self {
        let peers = |dataset: &DatasetStatus| {
            let name = dataset.dataset.clone();
            dataset.peers.iter().map(move |peer| PeerItem::new(&name, peer)).collect::<Vec<_>>()
        };
        Self {
            observer: sync.local().clone(),
            author: sync.author().to_string(),
            health: status.health.as_str().to_owned(),
            problems: status.problems.clone(),
            tracked_peers: status.tracked_peers,
            lagging_peers: status.lagging_peers,
            max_lag_ms: status.max_lag_ms,
            peers_without_confirmation: status.peers_without_confirmation,
            serving: status.serving,
            datasets: status.datasets.iter().map(|dataset| DatasetItem::new(dataset, lag_degraded)).collect(),
            peers: status.datasets.iter().flat_map(peers).collect(),
        }
    }
}

impl DatasetItem {
    fn new(status: &DatasetStatus, lag_degraded: Duration) -> Self {
        // Nobody waits for those that an operator has retired.
        let active = || status.peers.iter().filter(|peer| peer.standing == Standing::Active);
        Self {
            dataset: status.dataset.to_string(),
            entries: status.entries,
            bytes: status.bytes,
            root: format!("{:032x}", status.root.hash.0),
            sequence: status.root.arrival.sequence,
            documents: status.documents,
            tracked_peers: active().count(),
            lagging_peers: active().filter(|peer| peer.lag >= lag_degraded).count(),
            max_lag_ms: active().map(|peer| ms(peer.lag)).max().unwrap_or(0),
            peers_without_confirmation: active().filter(|peer| !peer.confirmed).count(),
            queue_entries: status.queue.entries,
            queue_bytes: status.queue.bytes,
            dead_letters: status.queue.dead_letters,
            pending_requests: status.pending_requests,
            blobs_missing: status.blobs_missing,
            full: status.full.clone(),
            failed: status.failed.clone(),
            authors: status.authors.iter().map(AuthorItem::new).collect(),
        }
    }
}

impl AuthorItem {
    fn new(status: &AuthorStatus) -> Self {
        Self {
            author: status.author.to_string(),
            contiguous: status.contiguous.0,
            highest: status.highest.0,
            pruned: status.pruned.0,
            held: status.held,
        }
    }
}

impl PeerItem {
    fn new(dataset: &DatasetId, peer: &PeerState) -> Self {
        let state = match (peer.standing, peer.connected, peer.in_sync) {
            (Standing::Retired, false, _) => "retired",
            (_, false, _) => "away",
            (_, true, true) => "in-sync",
            (_, true, false) => "behind",
        };
        let stats = &peer.stats;
        Self {
            dataset: dataset.to_string(),
            node_id: peer.peer.clone(),
            state: state.to_owned(),
            author: peer.author.map(|author| author.to_string()),
            lag_ms: ms(peer.lag),
            confirmed: peer.confirmed,
            cursor: peer.cursor.map(|cursor| cursor.sequence),
            followed: peer.followed.map(|cursor| cursor.sequence),
            entries_left: peer.left,
            queue_entries: peer.queued,
            dead_letters: peer.dead_letters,
            last_success: peer.last_success.map(rfc3339),
            last_error: peer.last_problem.clone(),
            addresses: peer.addresses.clone(),
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            entries_sent: stats.entries_sent,
            entries_received: stats.entries_received,
            successes: stats.successes,
            failures: stats.failures,
        }
    }
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct List<T> {
    /// The version of this form, [`API_VERSION`].
    pub api_version: String,
    /// The node that answers.
    pub observer: NodeId,
    /// What is on this page.
    pub items: Vec<T>,
    /// Give this as `cursor` for the next page; `null` on the last one.
    pub next_cursor: Option<String>,
}

impl<T> List<T> {
    pub(super) fn new(observer: NodeId, items: Vec<T>, next_cursor: Option<String>) -> Self {
        Self { api_version: API_VERSION.to_owned(), observer, items, next_cursor }
    }
}

/// Something that was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetterItem {
    /// The dataset.
    pub dataset: String,
    /// To whom it should have gone.
    pub node_id: NodeId,
    /// The entry, 64 hexadecimal digits.
    pub entry: String,
    /// Its length.
    pub bytes: u64,
    /// Why: `attempts`, `age`, `authentication`, `version` or `refused`.
    pub reason: String,
    /// What was said the last time.
    pub detail: String,
    /// How often it failed.
    pub attempts: u32,
    /// When it was queued, RFC 3339.
    pub queued: String,
    /// When it was given up, RFC 3339.
    pub time: String,
}

impl DeadLetterItem {
    pub(super) fn new(dataset: &DatasetId, letter: &DeadLetter) -> Self {
        let reason = match letter.reason {
            DeadReason::Attempts => "attempts",
            DeadReason::Age => "age",
            DeadReason::Authentication => "authentication",
            DeadReason::Version => "version",
            DeadReason::Refused => "refused",
        };
        Self {
            dataset: dataset.to_string(),
            node_id: letter.peer.clone(),
            entry: letter.entry.to_string(),
            bytes: letter.bytes,
            reason: reason.to_owned(),
            detail: letter.detail.clone(),
            attempts: letter.attempts,
            queued: rfc3339(letter.queued),
            time: rfc3339(letter.died),
        }
    }
}

/// A node that asks, or asked, to be let into a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestItem {
    /// The dataset.
    pub dataset: String,
    /// The node.
    pub node_id: NodeId,
    /// The key that it has proved, 64 hexadecimal digits.
    pub author: String,
    /// `pending`, `granted` or `rejected`.
    pub state: String,
    /// What was said when it was rejected.
    pub reason: Option<String>,
    /// What it says of itself.
    pub note: String,
    /// Where it can be reached.
    pub addresses: Vec<String>,
    /// When it first asked, RFC 3339.
    pub time: String,
    /// When it was answered, RFC 3339; when it asked, if it was not.
    pub changed: String,
}

impl RequestItem {
    pub(super) fn new(dataset: &DatasetId, kept: &KeptRequest) -> Self {
        let (state, reason) = state_of(&kept.state);
        Self {
            dataset: dataset.to_string(),
            node_id: kept.request.node.clone(),
            author: kept.request.author.to_string(),
            state: state.to_owned(),
            reason,
            note: kept.request.note.clone(),
            addresses: kept.request.addresses.clone(),
            time: rfc3339(kept.asked),
            changed: rfc3339(kept.changed),
        }
    }
}

/// A state's name, and what was said with it.
pub(super) fn state_of(state: &AccessState) -> (&'static str, Option<String>) {
    match state {
        AccessState::Pending => ("pending", None),
        AccessState::Granted => ("granted", None),
        AccessState::Rejected { reason } => ("rejected", Some(reason.clone())),
    }
}

/// The reply of `GET /control/v1/sync/tickets/{dataset}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TicketReply {
    /// The version of this form, [`API_VERSION`].
    pub api_version: String,
    /// The node that answers.
    pub observer: NodeId,
    /// The dataset.
    pub dataset: String,
    /// The ticket.
    pub ticket: String,
}

/// A document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DocumentItem {
    /// Its dataset.
    pub dataset: String,
    /// Its collection.
    pub collection: String,
    /// Its key; `null` if that is no text.
    pub key: Option<String>,
    /// The key's bytes, hexadecimal, if it is no text.
    pub key_hex: Option<String>,
    /// `put`, `blob` for a large value, or `delete`.
    pub kind: String,
    /// The entry that wrote it last, 64 hexadecimal digits.
    pub id: String,
    /// When that was, RFC 3339, on its author's clock.
    pub time: String,
    /// The same with its counter: of two writes the later one counts, and of two at the same time the one with the higher
    /// id.
    pub hlc: String,
    /// Who wrote it: a public key, 64 hexadecimal digits.
    pub author: String,
    /// Which of its author's entries it is.
    pub sequence: u64,
    /// Bytes of the value; `null` where it was not looked at.
    pub bytes: Option<u64>,
    /// The value; `null` if it is no text, large, or was not asked for.
    pub value: Option<String>,
    /// The value's bytes, hexadecimal, if it is no text.
    pub value_hex: Option<String>,
}

/// The reply about one document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DocumentReply {
    /// The version of this form, [`API_VERSION`].
    pub api_version: String,
    /// The node that answers.
    pub observer: NodeId,
    /// The document.
    pub document: DocumentItem,
}

impl DocumentItem {
    pub(super) fn new(dataset: &DatasetId, collection: &Collection, key: &[u8], version: &Version) -> Self {
        let Version { item, kind, author, sequence } = version;
        let text = std::str::from_utf8(key).ok();
        let kind = match kind {
            Kind::Put => "put",
            Kind::Delete => "delete",
            Kind::Blob => "blob",
        };
        Self {
            dataset: dataset.to_string(),
            collection: collection.to_string(),
            key: text.map(str::to_owned),
            key_hex: text.is_none().then(|| hex(key)),
            kind: kind.to_owned(),
            id: item.id.to_string(),
            time: rfc3339(item.hlc.wall()),
            hlc: item.hlc.to_string(),
            author: author.to_string(),
            sequence: sequence.0,
            bytes: None,
            value: None,
            value_hex: None,
        }
    }

    /// With the value, if it is not longer than `shown_max`.
    pub(super) fn with_value(mut self, value: &[u8], shown_max: usize) -> Self {
        self.bytes = Some(value.len() as u64);
        if value.len() <= shown_max && self.kind == "put" {
            match std::str::from_utf8(value) {
                Ok(text) => self.value = Some(text.to_owned()),
                Err(_) => self.value_hex = Some(hex(value)),
            }
        }
        self
    }
}
