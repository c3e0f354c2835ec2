//! Removing what is worth nothing any more: for operators only.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::Extensions,
    response::{IntoResponse, Response},
};
use mesh_core::NodeId;
use mesh_transport::edge::{JsonBody, Problem};
use serde::{Deserialize, Serialize};

use super::{API_VERSION, Api, chosen, known, operator, problem};
use crate::engine::{PruneReport, SyncError};

/// The body of `sync:prune`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prune {
    /// One dataset; without it, all of them.
    pub dataset: Option<String>,
    /// Change nothing, and say what would be done.
    pub dry_run: bool,
}

/// The reply of `sync:prune`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PruneReply {
    /// The version of this form, [`API_VERSION`].
    pub api_version: String,
    /// The node that answers.
    pub observer: NodeId,
    /// What came of it, for each dataset.
    pub items: Vec<PruneItem>,
}

/// What came of a prune.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PruneItem {
    /// The dataset.
    pub dataset: String,
    /// About how many entries go, or would.
    pub entries: u64,
    /// Of how many authors they are.
    pub authors: usize,
    /// Peers that have not confirmed all that could go.
    pub held_up_by: Vec<NodeId>,
    /// The entry that orders it; `null` if there was nothing to order, or with a dry run.
    pub ordered_by: Option<String>,
}

impl From<PruneReport> for PruneItem {
    fn from(report: PruneReport) -> Self {
        Self {
            dataset: report.dataset.to_string(),
            entries: report.entries,
            authors: report.watermarks.len(),
            held_up_by: report.held_up_by,
            ordered_by: report.ordered_by.map(|id| id.to_string()),
        }
    }
}

pub(super) async fn prune(
    State(api): State<Arc<Api>>,
    extensions: Extensions,
    JsonBody(body): JsonBody<Prune>,
) -> Result<Response, Problem> {
    let by = operator(&extensions)?;
    let dataset = body.dataset.as_deref().map(|name| known(&api, name)).transpose()?;
    if !body.dry_run {
        tracing::info!(by, dataset = body.dataset, "an operator prunes");
    }
    let mut items = Vec::new();
    let named = dataset.is_some();
    for dataset in chosen(&api, dataset) {
        match api.sync().prune(&dataset, body.dry_run).await {
            Ok(report) => items.push(report.into()),
            // Of all datasets, those that keep everything are left out.
            Err(SyncError::KeepsAll { .. }) if !named => {}
            Err(error) => return Err(problem(&error)),
        }
    }
    let reply = PruneReply { api_version: API_VERSION.to_owned(), observer: api.observer(), items };
    Ok(Json(reply).into_response())
}
