//! Errors, one enum for each boundary.

use std::time::Duration;

use mesh_core::{FencingToken, NodeId};

use crate::{Reason, Scope, TtlRefusal};

/// Why a core or a driver did not do what its owner asked. Nothing changed by it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// This node campaigns for it already.
    #[error("this node campaigns for {scope} already; withdraw that campaign first")]
    Campaigning {
        /// The scope.
        scope: Scope,
    },
    /// This node does not campaign for it.
    #[error("this node does not campaign for {scope}")]
    NotCampaigning {
        /// The scope.
        scope: Scope,
    },
    /// Too many campaigns.
    #[error("this node campaigns for {limit} scopes, its limit; withdraw one or raise leader.campaigns_max")]
    CampaignsMax {
        /// `leader.campaigns_max`.
        limit: usize,
    },
    /// An option of a campaign is not valid.
    #[error("the campaign for {scope} is refused: {problem}")]
    Options {
        /// The scope.
        scope: Scope,
        /// The option, its value and the rule.
        problem: String,
    },
    /// Nobody leads, so there is nothing to hand over.
    #[error("nobody leads {scope}")]
    NoLeader {
        /// The scope.
        scope: Scope,
    },
    /// Who is to lead leads already.
    #[error("{to} leads {scope} already")]
    AlreadyLeads {
        /// The scope.
        scope: Scope,
        /// The node.
        to: NodeId,
    },
    /// Who is to lead does not campaign for the scope, or is not in good health.
    #[error("{to} can't lead {scope}: {problem}")]
    NoCandidate {
        /// The scope.
        scope: Scope,
        /// The node.
        to: NodeId,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A handover of this scope is under way.
    #[error("{scope} is being handed over; wait for it to end")]
    UnderWay {
        /// The scope.
        scope: Scope,
    },
    /// The holder was asked and did not.
    #[error("the holder of {scope} did not hand over: {problem}")]
    HolderRefused {
        /// The scope.
        scope: Scope,
        /// In its words.
        problem: String,
    },
    /// The holder was asked and did not answer. It may still hand over.
    #[error("the holder of {scope} did not answer within {after:?}; it may still hand over")]
    Timeout {
        /// The scope.
        scope: Scope,
        /// `leader.ask_timeout`.
        after: Duration,
    },
    /// Leadership changed before it could be handed over.
    #[error("{scope} was lost before it could be handed over; see who leads now")]
    Superseded {
        /// The scope.
        scope: Scope,
    },
    /// The store did not take it.
    #[error("the store refused the change of {scope}: {problem}")]
    Store {
        /// The scope.
        scope: Scope,
        /// Its words.
        problem: String,
    },
    /// This node may not ask the holder: it is no node that keeps the store.
    #[error("this node may not ask the holder of {scope} to hand over: {problem}")]
    NotAllowed {
        /// The scope.
        scope: Scope,
        /// The store's words.
        problem: String,
    },
    /// Too many commands are under way.
    #[error("{limit} handovers are under way already; wait for one to end")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// The node does not campaign at all, because its time to live can't be kept.
    #[error(transparent)]
    Ttl(#[from] TtlRefusal),
    /// Leadership has ended on this node.
    #[error("leadership is stopped on this node")]
    Stopped,
}

/// Why a lease can't be acted upon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// It is over. Stop at once; campaign again for a new one.
    #[error("the lease for {scope} with token {token} is over: {}", reason.as_str())]
    Over {
        /// The scope.
        scope: Scope,
        /// The token it had.
        token: FencingToken,
        /// Why.
        reason: Reason,
    },
    /// It is being handed over. Stop at once; if the handover fails the lease goes on.
    #[error("the lease for {scope} with token {token} is being handed over")]
    HandingOver {
        /// The scope.
        scope: Scope,
        /// Its token.
        token: FencingToken,
    },
    /// Its deadline is past, or this process was paused: nobody here knows whether it still holds.
    /// Ask the store with `Lease::confirm`, and do nothing until it has answered.
    #[error("the lease for {scope} with token {token} is not confirmed: ask with confirm() and wait")]
    Unconfirmed {
        /// The scope.
        scope: Scope,
        /// Its token.
        token: FencingToken,
    },
}
