//! What a replica tells those around it.

use std::time::Duration;

use mesh_core::NodeId;

use super::Message;
use crate::{
    EntryId,
    entry::{AuthorId, AuthorSequence, Equivocation, Outcome, Verified},
    reconcile::{Arrival as Cursor, Method, Root, SessionError},
    store::StoreError,
};

/// A message to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Transmit {
    /// To whom.
    pub to: NodeId,
    /// What.
    pub message: Message,
}

/// Names a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubmissionId(pub u64);

/// Something that happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum SyncEvent {
    /// What was submitted is settled: held entries are durable, and so is whatever they build on.
    Submitted {
        /// Which submission.
        submission: SubmissionId,
        /// One for each of its entries.
        outcomes: Vec<Outcome>,
    },
    /// New entries are durable, in the order of arrival. Run hooks and views now, and merge their timestamps into
    /// the node's clock.
    Committed(Vec<Verified>),
    /// An author has given one number to two entries; both are held.
    Equivocation(Equivocation),
    /// An entry waits until its time comes.
    Deferred {
        /// The entry.
        id: EntryId,
        /// Its author, whose clock is ahead.
        author: AuthorId,
    },
    /// A peer sent an entry that is refused for good.
    Rejected {
        /// The peer, if it was not submitted here.
        peer: Option<NodeId>,
        /// The entry.
        id: EntryId,
        /// Why.
        outcome: Outcome,
    },
    /// Entries are gone, and refused from now on.
    Pruned {
        /// How many went.
        removed: u64,
        /// The watermarks that were raised.
        watermarks: Vec<(AuthorId, AuthorSequence)>,
    },
    /// A peer has the same set. Told when it begins.
    InSync {
        /// The peer.
        peer: NodeId,
    },
    /// A peer is behind for longer than the limit. Pruning waits for it; `retire` ends that.
    PeerLagging {
        /// The peer.
        peer: NodeId,
        /// For how long.
        behind: Duration,
    },
    /// A peer that was lagging is not any more.
    PeerCaughtUp {
        /// The peer.
        peer: NodeId,
    },
    /// A peer does not acknowledge what it is sent. It gets no more until it is heard again.
    PeerStalled {
        /// The peer.
        peer: NodeId,
    },
    /// Two sets were compared.
    Reconciled {
        /// With whom.
        peer: NodeId,
        /// How it was found out.
        method: Method,
        /// Entries to give, without stretches that are streamed.
        give: usize,
        /// Entries to get, as far as known.
        need: u64,
    },
    /// A comparison ended early. Another one follows.
    ReconcileFailed {
        /// With whom.
        peer: NodeId,
        /// Why; `None` if the peer fell silent or a frame was lost.
        error: Option<SessionError>,
    },
    /// The store failed, and the replica takes no more. Open both again.
    Stopped(StoreError),
}

/// How a peer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub peer: NodeId,
    /// Whether there is a connection.
    pub connected: bool,
    /// Whether it had the same set at its last heartbeat.
    pub in_sync: bool,
    /// For how long it has been behind.
    pub behind: Duration,
    /// Our durable cursor in its arrivals.
    pub cursor: Option<Cursor>,
    /// Its durable cursor in ours.
    pub followed: Option<Cursor>,
    /// Whether pruning waits for it.
    pub active: bool,
    /// Whether it ever confirmed anything on this connection or an earlier one.
    pub confirmed: bool,
    /// When it last told how its set stands.
    pub root_at: Option<mesh_core::Instant>,
    /// How it stood then, on this connection.
    pub root: Option<Root>,
}

impl PeerStatus {
    /// About how many entries are yet to go one way or the other, where `ours` is how the own set stands: by cursors
    /// where they say it, otherwise by counts. What both have got from elsewhere is counted until that is found out.
    pub fn left(&self, ours: &Root) -> u64 {
        let Some(theirs) = self.root.filter(|_| !self.in_sync) else { return 0 };
        let behind = |cursor: Option<Cursor>, of: &Root, other: &Root| match cursor {
            Some(cursor) if cursor.incarnation == of.arrival.incarnation => {
                of.arrival.sequence.saturating_sub(cursor.sequence)
            }
            _ => of.count.saturating_sub(other.count),
        };
        behind(self.cursor, &theirs, ours) + behind(self.followed, ours, &theirs)
    }
}
