//! This node's part in one scope.

use std::{collections::BTreeSet, time::Duration};

use mesh_core::{
    FencingToken, Instant, NodeId, Revision,
    store::{AuditNote, SessionId, Txn},
};

use crate::{
    Reason,
    event::{CampaignOptions, OpId, RequestId},
    records::CandidateValue,
};

/// A lease of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tenure {
    pub(super) token: FencingToken,
    pub(super) term: u64,
    pub(super) session: SessionId,
    pub(super) revision: Revision,
    pub(super) correlation_id: u64,
}

/// A transaction whose outcome must become known: it is repeated as it is until it does.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) txn: Txn,
    pub(super) request: Option<RequestId>,
    pub(super) retry_at: Instant,
    pub(super) retries: u32,
}

impl Attempt {
    pub(super) fn new(txn: Txn, now: Instant) -> Self {
        Self { txn, request: None, retry_at: now, retries: 0 }
    }
}

/// Giving a lease away. The lease is not acted upon meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Handover {
    pub(super) tenure: Tenure,
    pub(super) attempt: Option<Attempt>,
    /// To whom the attempt hands over; `None` gives the lease back.
    pub(super) target: Option<NodeId>,
    pub(super) plan: Plan,
    /// Candidates that turned out to be gone.
    pub(super) tried: BTreeSet<NodeId>,
    /// The term and the correlation id that the attempt writes.
    pub(super) next_term: u64,
    pub(super) correlation_id: u64,
}

/// What a handover is for.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// This candidate or none; without it the best one, or nobody.
    pub(super) to: Option<NodeId>,
    pub(super) why: Reason,
    pub(super) note: Option<AuditNote>,
    /// Who waits for the outcome here.
    pub(super) ops: Vec<OpId>,
    /// Somebody asked through the store and reads the answer there.
    pub(super) asked: bool,
}

/// Where this node stands in a scope.
#[derive(Clone, Debug, Default)]
pub(super) enum Phase {
    /// Somebody else leads, or nobody does yet.
    #[default]
    Idle,
    /// A grant is asked for.
    Acquiring { attempt: Attempt, term: u64, correlation_id: u64, spread: Option<String> },
    /// This node leads.
    Leading(Tenure),
    /// This node gives the lease away.
    HandingOver(Box<Handover>),
}

#[derive(Debug, Default)]
pub(super) struct Seat {
    pub(super) campaign: Option<CampaignOptions>,
    pub(super) phase: Phase,
    /// The highest token that was ours: what is not above it is old news.
    pub(super) last_token: Option<FencingToken>,
    /// Since when nobody leads, as far as this node campaigns, and its jitter for that vacancy.
    pub(super) open_since: Option<(Instant, Duration)>,
    /// No try before: the last ones failed.
    pub(super) not_before: Instant,
    pub(super) failures: u32,
    /// No try before: this node stepped down.
    pub(super) pause_until: Instant,
    /// What the candidate record says, and since which revision.
    pub(super) registered: Option<(SessionId, CandidateValue, Revision)>,
    /// Since when another candidate is better.
    pub(super) better_since: Option<Instant>,
    /// The last ask that was looked at.
    pub(super) ask_seen: Revision,
    pub(super) timer: Option<Instant>,
}

impl Seat {
    /// The lease, given away or not.
    pub(super) fn tenure(&self) -> Option<&Tenure> {
        match &self.phase {
            Phase::Leading(tenure) => Some(tenure),
            Phase::HandingOver(handover) => Some(&handover.tenure),
            Phase::Idle | Phase::Acquiring { .. } => None,
        }
    }

    pub(super) fn is_leading(&self) -> bool {
        matches!(self.phase, Phase::Leading(_))
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether it can be forgotten.
    pub(super) fn is_unused(&self) -> bool {
        self.campaign.is_none() && self.is_idle() && self.registered.is_none()
    }
}
