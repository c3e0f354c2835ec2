//! The trait through which a concern crate learns who is in the cluster.

use std::{pin::Pin, sync::Arc};

use futures_core::Stream;

use crate::{Member, MemberState, NodeId};

/// All members at one moment, ordered by node id. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct MemberSnapshot {
    members: Arc<[Arc<Member>]>,
}

impl MemberSnapshot {
    /// A snapshot of these members; they are put in order.
    pub fn new(mut members: Vec<Arc<Member>>) -> Self {
        members.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        Self { members: members.into() }
    }

    /// Every member, dead and left ones included.
    pub fn all(&self) -> impl ExactSizeIterator<Item = &Arc<Member>> {
        self.members.iter()
    }

    /// The members that answer.
    pub fn alive(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.with_state(MemberState::Alive)
    }

    /// The members in a state.
    pub fn with_state(&self, state: MemberState) -> impl Iterator<Item = &Arc<Member>> {
        self.members.iter().filter(move |m| m.state == state)
    }

    /// One member.
    pub fn find(&self, node_id: &NodeId) -> Option<&Arc<Member>> {
        let at = self.members.binary_search_by(|m| m.node_id.cmp(node_id)).ok()?;
        self.members.get(at)
    }
}

/// Why a member's state changed. A closed set, fit for a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// It joined, or somebody told us of it.
    Announced,
    /// Its process started anew.
    Restarted,
    /// A probe got no answer.
    ProbeTimeout,
    /// Its address refused connections.
    Refused,
    /// It raised its incarnation.
    Refuted,
    /// The suspicion ran out.
    SuspicionExpired,
    /// Another member said so.
    Reported,
    /// It said goodbye.
    Goodbye,
    /// Its metadata changed.
    Metadata,
    /// It became reachable over another path.
    Path,
}

impl Reason {
    /// The word that people and programs see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Restarted => "restarted",
            Self::ProbeTimeout => "probe-timeout",
            Self::Refused => "refused",
            Self::Refuted => "refuted",
            Self::SuspicionExpired => "suspicion-expired",
            Self::Reported => "reported",
            Self::Goodbye => "goodbye",
            Self::Metadata => "metadata",
            Self::Path => "path",
        }
    }
}

/// What happened to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum MemberChange {
    /// New to us, or back after being dead or gone with a new instance.
    Joined,
    /// Under suspicion.
    Suspected,
    /// It refuted a suspicion.
    Refuted,
    /// The same instance is back after it was dead.
    Recovered,
    /// Declared dead.
    Died,
    /// It left.
    Left,
    /// Its metadata or health changed.
    Updated,
    /// Forgotten: its tombstone's time ran out.
    Reclaimed,
}

impl MemberChange {
    /// The word that people and programs see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Suspected => "suspected",
            Self::Refuted => "refuted",
            Self::Recovered => "recovered",
            Self::Died => "died",
            Self::Left => "left",
            Self::Updated => "updated",
            Self::Reclaimed => "reclaimed",
        }
    }
}

/// One step of a subscription.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum MemberEvent {
    /// A member changed.
    Changed {
        /// What happened.
        change: MemberChange,
        /// Its state before; `None` if it was unknown.
        before: Option<MemberState>,
        /// The member after the change.
        member: Arc<Member>,
        /// Why.
        reason: Reason,
        /// Who saw it, as far as known.
        observers: Vec<NodeId>,
        /// The same number in the log line of this transition.
        correlation_id: u64,
    },
    /// The subscriber was too slow and missed changes: start again from this.
    Resynced(MemberSnapshot),
}

/// Changes in order, each once. Ends when the node stops.
pub type MemberEvents = Pin<Box<dyn Stream<Item = MemberEvent> + Send + 'static>>;

/// Who is in the cluster.
///
/// # Contract
///
/// [`subscribe`](Self::subscribe) yields every change that comes after the
/// snapshot it returns, in order and without a gap. A subscriber that falls
/// behind its bound gets [`MemberEvent::Resynced`] instead of a silent gap.
pub trait Membership: Send + Sync {
    /// The members now.
    fn snapshot(&self) -> MemberSnapshot;
    /// The members now, and every change from here on.
    fn subscribe(&self) -> (MemberSnapshot, MemberEvents);
}
