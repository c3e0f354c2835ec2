//! Changing how sync goes: for operators only.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, State},
    http::{Extensions, StatusCode},
    response::{IntoResponse, Response},
};
use mesh_core::NodeId;
use mesh_transport::edge::{JsonBody, Problem};
use serde::{Deserialize, Serialize};

use super::{API_VERSION, Api, chosen, known, operator, problem, view::state_of};
use crate::{
    bootstrap::AccessState,
    engine::{RoundOutcome, RoundReport},
    entry::{AuthorId, DatasetId},
    ticket::Ticket,
};

/// Longest reason that is logged, in characters.
const REASON_CHARS_MAX: usize = 500;
/// Longest wait of `:now`, whatever the request says.
const WAIT_MAX: Duration = Duration::from_secs(25);

/// The body of `sync:now`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Now {
    /// One dataset; without it, all of them.
    pub dataset: Option<String>,
    /// One peer; without it, all of them.
    pub peer: Option<NodeId>,
    /// Longest wait until both sides are equal, in milliseconds. Default: 5000; at most 25000: requests take no longer.
    pub wait_ms: Option<u64>,
}

/// The reply of `sync:now`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NowReply {
    /// The version of this form, [`API_VERSION`].
    pub api_version: String,
    /// The node that answers.
    pub observer: NodeId,
    /// What came of it, for each peer of each dataset.
    pub items: Vec<NowItem>,
}

/// What came of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NowItem {
    /// The dataset.
    pub dataset: String,
    /// The peer.
    pub node_id: NodeId,
    /// `equal`, `unfinished` or `not-connected`.
    pub outcome: String,
    /// Why there is no connection.
    pub detail: Option<String>,
}

impl NowItem {
    fn new(report: RoundReport) -> Self {
        let (outcome, detail) = match report.outcome {
            RoundOutcome::Equal => ("equal", None),
            RoundOutcome::Unfinished => ("unfinished", None),
            RoundOutcome::NotConnected { problem } => ("not-connected", Some(problem)),
        };
        Self {
            dataset: report.dataset.to_string(),
            node_id: report.peer,
            outcome: outcome.to_owned(),
            detail,
        }
    }
}

pub(super) async fn now(
    State(api): State<Arc<Api>>,
    extensions: Extensions,
    JsonBody(now): JsonBody<Now>,
) -> Result<Response, Problem> {
    operator(&extensions)?;
    let dataset = now.dataset.as_deref().map(|name| known(&api, name)).transpose()?;
    let wait = Duration::from_millis(now.wait_ms.unwrap_or(5000)).min(WAIT_MAX);
    let reports = api.sync().sync_now(dataset.as_ref(), now.peer.as_ref(), wait).await;
    let reports = reports.map_err(|error| problem(&error))?;
    let reply = NowReply {
        api_version: API_VERSION.to_owned(),
        observer: api.observer(),
        items: reports.into_iter().map(NowItem::new).collect(),
    };
    Ok(Json(reply).into_response())
}

/// The body of `sync:join`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The ticket.
    pub ticket: String,
    /// What the operator there is to read.
    #[serde(default)]
    pub note: String,
}

/// The reply of `sync:join`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JoinReply {
    /// The version of this form, [`API_VERSION`].
    pub api_version: String,
    /// The node that answers.
    pub observer: NodeId,
    /// The dataset, which this node keeps from now on.
    pub dataset: String,
    /// `granted`, `pending` or `rejected`.
    pub state: String,
    /// What was said when it was rejected.
    pub reason: Option<String>,
}

pub(super) async fn join(
    State(api): State<Arc<Api>>,
    extensions: Extensions,
    JsonBody(join): JsonBody<Join>,
) -> Result<Response, Problem> {
    let by = operator(&extensions)?;
    let ticket: Ticket =
        join.ticket.parse().map_err(|error| problem(&crate::engine::SyncError::Ticket(error)))?;
    tracing::info!(by, dataset = %ticket.dataset(), "an operator joins a dataset");
    let state = api.sync().join(&ticket, &join.note).await.map_err(|error| problem(&error))?;
    let (state, reason) = state_of(&state);
    let reply = JoinReply {
        api_version: API_VERSION.to_owned(),
        observer: api.observer(),
        dataset: ticket.dataset().to_string(),
        state: state.to_owned(),
        reason,
    };
    Ok(Json(reply).into_response())
}

/// The body of `:approve`, `:reject` and `:retire`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Decision {
    /// Why, for the log, and for whoever is rejected.
    pub reason: String,
    /// The key that is meant, if several requests name the node; 64 hexadecimal digits.
    pub author: Option<String>,
}

impl Decision {
    fn reason(&self) -> String {
        self.reason.trim().chars().take(REASON_CHARS_MAX).collect()
    }
}

/// `POST …/requests/{dataset}/{node}:approve` and `:reject`
pub(super) async fn request(
    State(api): State<Arc<Api>>,
    Path((dataset, target)): Path<(String, String)>,
    extensions: Extensions,
    JsonBody(decision): JsonBody<Decision>,
) -> Result<Response, Problem> {
    let by = operator(&extensions)?;
    let dataset = known(&api, &dataset)?;
    let (node, approves) = match target.rsplit_once(':') {
        Some((node, "approve")) => (node, true),
        Some((node, "reject")) => (node, false),
        _ => return Err(unknown_verb(&target, ":approve or :reject")),
    };
    let author = requested(&api, &dataset, node, &decision)?;
    let reason = decision.reason();
    tracing::info!(by, %dataset, node, %author, reason, approves, "an operator answers a request for access");
    let done = match approves {
        true => api.sync().approve(&dataset, &author).await,
        false => api.sync().reject(&dataset, &author, &reason).await,
    };
    done.map_err(|error| problem(&error))?;
    Ok(Json(serde_json::json!({ "api_version": API_VERSION, "observer": api.observer() })).into_response())
}

/// The key of a node that has asked. A node has one key for as long as its data lives; with new data it has another.
fn requested(api: &Api, dataset: &DatasetId, node: &str, decision: &Decision) -> Result<AuthorId, Problem> {
    let requests = api.sync().requests(Some(dataset)).map_err(|error| problem(&error))?;
    let named = requests.into_iter().map(|(_, kept)| kept).filter(|kept| {
        kept.request.node.as_str() == node
            && decision.author.as_ref().is_none_or(|author| *author == kept.request.author.to_string())
    });
    let mut named: Vec<_> = named.collect();
    if named.iter().any(|kept| kept.state == AccessState::Pending) {
        named.retain(|kept| kept.state == AccessState::Pending);
    }
    match named.as_slice() {
        [] => Err(Problem::new(StatusCode::NOT_FOUND, "sync.request.unknown", "that node has not asked")
            .object(node)
            .cause(format!(
                "{} knows no request of it for {dataset}; each node knows those that it was asked",
                api.observer()
            ))
            .action("list the requests, and ask the node that the ticket names: mesh sync requests")),
        [one] => Ok(one.request.author),
        several => {
            let authors: Vec<String> = several.iter().map(|kept| kept.request.author.to_string()).collect();
            Err(Problem::new(StatusCode::CONFLICT, "sync.request.several", "several requests name that node")
                .object(node)
                .cause(format!("they come with the keys {}", authors.join(", ")))
                .action("say which key is meant: --author KEY; the node shows its own with mesh sync status"))
        }
    }
}

/// `POST …/peers/{dataset}/{node}:retire`
pub(super) async fn peer(
    State(api): State<Arc<Api>>,
    Path((dataset, target)): Path<(String, String)>,
    extensions: Extensions,
    JsonBody(decision): JsonBody<Decision>,
) -> Result<Response, Problem> {
    let by = operator(&extensions)?;
    let dataset = known(&api, &dataset)?;
    let Some((node, "retire")) = target.rsplit_once(':') else {
        return Err(unknown_verb(&target, ":retire"));
    };
    let node: NodeId = node.parse().map_err(|error: mesh_core::IdError| {
        Problem::new(StatusCode::BAD_REQUEST, "sync.node.invalid", "the path does not name a node")
            .object(node)
            .cause(error.to_string())
            .action("list the peers: mesh sync peers")
    })?;
    tracing::info!(by, %dataset, peer_id = %node, reason = decision.reason(), "an operator retires a peer");
    api.sync().retire(&dataset, &node).await.map_err(|error| problem(&error))?;
    Ok(Json(serde_json::json!({ "api_version": API_VERSION, "observer": api.observer() })).into_response())
}

fn unknown_verb(target: &str, known: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "sync.verb.unknown", "the path names no action")
        .object(target)
        .action(format!("end it with {known}"))
}

/// The body of `dead-letters:retry` and `dead-letters:drop`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Which {
    /// One dataset; without it, all of them.
    pub dataset: Option<String>,
    /// One peer; without it, all of them.
    pub peer: Option<NodeId>,
}

pub(super) async fn retry(
    State(api): State<Arc<Api>>,
    extensions: Extensions,
    JsonBody(which): JsonBody<Which>,
) -> Result<Response, Problem> {
    each_letter(&api, &extensions, &which, true).await
}

pub(super) async fn give_up(
    State(api): State<Arc<Api>>,
    extensions: Extensions,
    JsonBody(which): JsonBody<Which>,
) -> Result<Response, Problem> {
    each_letter(&api, &extensions, &which, false).await
}

async fn each_letter(
    api: &Api,
    extensions: &Extensions,
    which: &Which,
    again: bool,
) -> Result<Response, Problem> {
    let by = operator(extensions)?;
    let dataset = which.dataset.as_deref().map(|name| known(api, name)).transpose()?;
    tracing::info!(by, dataset = which.dataset, peer_id = ?which.peer, again, "an operator clears dead letters");
    let mut done = 0_usize;
    for dataset in chosen(api, dataset) {
        let letters = api.sync().dead_letters(&dataset).await.map_err(|error| problem(&error))?;
        for letter in
            letters.iter().filter(|letter| which.peer.as_ref().is_none_or(|peer| *peer == letter.peer))
        {
            let cleared = match again {
                true => api.sync().retry_dead_letter(&dataset, &letter.peer, letter.entry).await,
                false => api.sync().drop_dead_letter(&dataset, &letter.peer, letter.entry).await,
            };
            match cleared {
                Ok(()) => done += 1,
                // It went meanwhile.
                Err(crate::engine::SyncError::NoDeadLetter { .. }) => {}
                Err(error) => return Err(problem(&error)),
            }
        }
    }
    let reply =
        serde_json::json!({ "api_version": API_VERSION, "observer": api.observer(), "entries": done });
    Ok(Json(reply).into_response())
}
