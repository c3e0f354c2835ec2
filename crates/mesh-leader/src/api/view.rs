//! A leader as JSON.

use mesh_core::{FencingToken, NodeId, Revision};
use mesh_transport::edge::rfc3339;
use serde::{Deserialize, Serialize};

use crate::{LeaderView, Scope};

/// Who leads a scope, as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leader {
    /// The scope.
    pub scope: Scope,
    /// `global-control`, `shard` or `user`.
    pub scope_kind: String,
    /// Who leads; `null` while nobody does.
    pub leader: Option<NodeId>,
    /// The fencing token: `1.42`. While nobody leads, the last one that this node saw.
    pub token: Option<FencingToken>,
    /// The reign's number; while nobody leads, that of the last one.
    pub term: u64,
    /// Since when, RFC 3339, on the leader's clock.
    pub since: String,
    /// The revision of the lease's record.
    pub revision: Revision,
    /// As in the log lines of this reign, 16 hexadecimal digits.
    pub correlation_id: String,
    /// Who would lead.
    pub candidates: Vec<NodeId>,
    /// If the answering node leads: for how many seconds its lease certainly holds.
    pub valid_for: Option<f64>,
}

impl Leader {
    pub(super) fn new(view: &LeaderView, valid_for: Option<f64>) -> Self {
        Self {
            scope: view.scope.clone(),
            scope_kind: view.scope.kind().as_str().to_owned(),
            leader: view.leader.clone(),
            token: view.token,
            term: view.term,
            since: rfc3339(view.since),
            revision: view.revision,
            correlation_id: format!("{:016x}", view.correlation_id),
            candidates: view.candidates.clone(),
            valid_for,
        }
    }
}

/// The reply of `GET /control/v1/leaders`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeaderList {
    /// The version of this form, [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The node that answers.
    pub observer: NodeId,
    /// The scopes on this page, by name.
    pub items: Vec<Leader>,
    /// Give this as `cursor` for the next page; `null` on the last one.
    pub next_cursor: Option<String>,
}

/// The reply about one scope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeaderReply {
    /// The version of this form, [`API_VERSION`](super::API_VERSION).
    pub api_version: String,
    /// The node that answers.
    pub observer: NodeId,
    /// Who leads.
    pub leader: Leader,
}
