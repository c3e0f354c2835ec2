//! What goes into the queue and comes out of it.

use std::time::Duration;

use mesh_core::{Instant, NodeId, WallTime};

use crate::{EntryId, state::JournalTicket};

/// A moment on both clocks: deadlines go by the one, what people read by the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Moment {
    /// Monotonic.
    pub now: Instant,
    /// Wall clock.
    pub wall: WallTime,
}

/// Bounds and patience of a [`Queue`](super::Queue).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Most entries that wait, for all peers together; further ones are refused. Default: 100,000.
    pub entries_max: usize,
    /// Most bytes that wait, for all peers together; further ones are refused. Default: 1 GiB.
    pub bytes_max: u64,
    /// What waits for longer becomes a dead letter. Default: 7 days.
    pub age_max: Duration,
    /// Failures after which an entry becomes a dead letter. Default: 10.
    pub attempts_max: u32,
    /// Most dead letters; the oldest makes way and is counted. Default: 10,000.
    pub dead_letters_max: usize,
    /// Most peers; the entries of others are refused. Default: 4096.
    pub peers_max: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            entries_max: 100_000,
            bytes_max: 1 << 30,
            age_max: Duration::from_secs(7 * 24 * 3600),
            attempts_max: 10,
            dead_letters_max: 10_000,
            peers_max: 4096,
        }
    }
}

/// What became of an entry that was to be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It waits, and survives a crash once the journal has reached this ticket.
    New(JournalTicket),
    /// It was there already.
    Duplicate,
    /// It is a dead letter. Requeue that one, or drop it first.
    Dead,
}

/// Why an entry was not queued. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// As many entries wait as may. Anti-entropy brings the entry there later.
    #[error("the queue has {entries} entries, no more than {max} are allowed")]
    Entries {
        /// How many wait.
        entries: usize,
        /// The limit.
        max: usize,
    },
    /// As many bytes wait as may. Anti-entropy brings the entry there later.
    #[error("the queue has {bytes} bytes, with {more} more it would have more than {max}")]
    Bytes {
        /// How many wait.
        bytes: u64,
        /// Those of the entry.
        more: u64,
        /// The limit.
        max: u64,
    },
    /// There are as many peers as there may be.
    #[error("the queue has {max} peers, no more are allowed")]
    Peers {
        /// The limit.
        max: usize,
    },
}

/// What to send to a peer now. Tell how it went with [`Queue::on_sent`](super::Queue::on_sent) or
/// [`Queue::on_failed`](super::Queue::on_failed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// To whom.
    pub peer: NodeId,
    /// Where to; `None` if no address is known and the transport finds the peer by its name.
    pub address: Option<String>,
    /// What, in the order in which it was queued.
    pub entries: Vec<EntryId>,
}

/// What a peer did with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivered {
    /// It has it now, or had it already.
    Held,
    /// It does not take it yet: a parent is missing, it has no room. Tried again.
    NotYet(String),
    /// It never will. Becomes a dead letter.
    Refused(String),
}

/// Why nothing could be sent at all.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendFailure {
    /// Nobody answered at this address, or the connection broke. The next address is tried at once; when all have
    /// failed, that counts as one failure and the peer is left alone for a while.
    Unreachable(String),
    /// The peer answered that it can't now. Counts as a failure without trying its other addresses.
    Busy(String),
    /// It could not prove who it is, or we could not. Permanent.
    Authentication(String),
    /// There is no common version. Permanent.
    Version(String),
    /// It does not let us in. Permanent.
    Refused(String),
}

/// Why something is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DeadReason {
    /// It failed as often as may be.
    Attempts,
    /// It waited for too long.
    Age,
    /// One of both sides could not prove who it is.
    Authentication,
    /// There is no common version.
    Version,
    /// The peer refused it.
    Refused,
}

impl DeadReason {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Attempts => 0,
            Self::Age => 1,
            Self::Authentication => 2,
            Self::Version => 3,
            Self::Refused => 4,
        }
    }

    pub(super) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Attempts),
            1 => Some(Self::Age),
            2 => Some(Self::Authentication),
            3 => Some(Self::Version),
            4 => Some(Self::Refused),
            _ => None,
        }
    }
}

/// What was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// To whom it should have gone.
    pub peer: NodeId,
    /// What.
    pub entry: EntryId,
    /// Its length.
    pub bytes: u64,
    /// Why it was given up.
    pub reason: DeadReason,
    /// What was said the last time; at most 200 bytes are kept.
    pub detail: String,
    /// How often it failed.
    pub attempts: u32,
    /// When it was queued.
    pub queued: WallTime,
    /// When it was given up.
    pub died: WallTime,
}

/// A queue in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// Entries that wait or are under way.
    pub entries: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Those under way.
    pub under_way: usize,
    /// When the oldest was queued.
    pub oldest: Option<WallTime>,
    /// Dead letters.
    pub dead_letters: usize,
    /// Dead letters that made way for others, since the start.
    pub dead_letters_dropped: u64,
}
