//! Changing who leads: for operators only.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    http::{Extensions, StatusCode},
    response::{IntoResponse, Response},
};
use mesh_core::{FencingToken, NodeId, PeerIdentity, Role};
use mesh_transport::edge::{JsonBody, Problem};
use serde::{Deserialize, Serialize};

use super::{Api, scope_of, unknown};
use crate::{Order, Refusal, Scope};

/// Longest reason that is kept, in characters.
const REASON_CHARS_MAX: usize = 500;

/// The body of `:step-down` and `:transfer`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Steer {
    /// Who shall lead; needed for `:transfer`, refused for `:step-down`.
    pub to: Option<NodeId>,
    /// Why, for the audit. Needed.
    pub reason: String,
    /// The reign that is meant: if another one has begun since, nothing is changed.
    pub token: Option<FencingToken>,
}

enum Verb {
    StepDown,
    Transfer,
}

pub(super) async fn post(
    State(api): State<Arc<Api>>,
    Path(target): Path<String>,
    extensions: Extensions,
    JsonBody(steer): JsonBody<Steer>,
) -> Result<Response, Problem> {
    let operator = operator(&extensions)?;
    let (scope, verb) = parse(&target)?;
    let order = Order { by: operator, reason: reason(&steer)? };
    let view = api.leadership.leader(&scope).ok_or_else(|| unknown(&api, &scope))?;
    if let Some(meant) = steer.token
        && view.token != Some(meant)
    {
        let now = view.token.map_or_else(|| "none".to_owned(), |token| token.to_string());
        return Err(Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "leaders.token.stale",
            "another reign has begun since",
        )
        .object(scope.as_str())
        .cause(format!("the token is {now}, the request means {meant}"))
        .action("look who leads now, and decide again"));
    }
    let done = match (verb, steer.to) {
        (Verb::StepDown, None) => api.leadership.step_down(&scope, order).await,
        (Verb::Transfer, Some(to)) => api.leadership.transfer(&scope, &to, order).await,
        (Verb::StepDown, Some(to)) => {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "leaders.step-down.to",
                "stepping down does not say to whom",
            )
            .object(to.as_str())
            .action("leave out `to`, or use :transfer"));
        }
        (Verb::Transfer, None) => {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "leaders.transfer.to",
                "the request does not say who shall lead",
            )
            .object(scope.as_str())
            .action(
                "send {\"to\": \"<node id>\", \"reason\": \"…\"}; candidates are in GET /control/v1/leaders",
            ));
        }
    };
    done.map_err(|refusal| problem(&scope, &refusal))?;
    let after = api.leadership.leader(&scope).unwrap_or(view);
    Ok(Json(api.reply(&after)).into_response())
}

/// The identity of an operator; everybody else is refused.
fn operator(extensions: &Extensions) -> Result<String, Problem> {
    let Some(caller) = extensions.get::<Arc<PeerIdentity>>() else {
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "access.unidentified", "the caller is not known")
            .cause("the connection has no client certificate")
            .action("connect with an operator's certificate"));
    };
    if caller.role().as_str() == Role::OPERATOR {
        return Ok(caller.id.to_string());
    }
    tracing::warn!(peer_id = %caller.node_id(), role = %caller.role(), "refused a change of leadership");
    Err(Problem::new(StatusCode::FORBIDDEN, "access.role", "this role may not change anything")
        .object(caller.id.to_string())
        .cause(format!("its certificate has the role {}, {} is needed", caller.role(), Role::OPERATOR))
        .action("use an operator's certificate"))
}

fn parse(target: &str) -> Result<(Scope, Verb), Problem> {
    if let Some(scope) = target.strip_suffix(":step-down") {
        return Ok((scope_of(scope)?, Verb::StepDown));
    }
    if let Some(scope) = target.strip_suffix(":transfer") {
        return Ok((scope_of(scope)?, Verb::Transfer));
    }
    Err(Problem::new(StatusCode::NOT_FOUND, "leaders.verb.unknown", "the path names no action")
        .object(target)
        .action("use POST /control/v1/leaders/{scope}:step-down or :transfer"))
}

fn reason(steer: &Steer) -> Result<String, Problem> {
    let reason = steer.reason.trim();
    if reason.is_empty() {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "leaders.reason.missing",
            "the change has no reason",
        )
        .action("send {\"reason\": \"…\"}: it is kept in the audit"));
    }
    Ok(reason.chars().take(REASON_CHARS_MAX).collect())
}

fn problem(scope: &Scope, refusal: &Refusal) -> Problem {
    const NOW: &str = "see GET /control/v1/leaders for who leads and who would";
    let (status, code, title, action) = match refusal {
        Refusal::NoLeader { .. } => {
            (StatusCode::CONFLICT, "leaders.vacant", "nobody leads this scope", "wait for the next leader")
        }
        Refusal::AlreadyLeads { .. } => {
            (StatusCode::CONFLICT, "leaders.transfer.already", "that node leads already", NOW)
        }
        Refusal::NoCandidate { .. } => {
            (StatusCode::CONFLICT, "leaders.transfer.candidate", "that node can't lead", NOW)
        }
        Refusal::UnderWay { .. } => (
            StatusCode::CONFLICT,
            "leaders.handover.under-way",
            "a handover is under way",
            "wait for it to end",
        ),
        Refusal::HolderRefused { .. } => {
            (StatusCode::CONFLICT, "leaders.handover.refused", "the leader did not hand over", NOW)
        }
        Refusal::Superseded { .. } => {
            (StatusCode::CONFLICT, "leaders.handover.superseded", "leadership changed meanwhile", NOW)
        }
        Refusal::Timeout { .. } => (
            StatusCode::GATEWAY_TIMEOUT,
            "leaders.handover.timeout",
            "the leader did not answer in time",
            "look who leads: it may still hand over, and if it is dead its lease runs out",
        ),
        Refusal::NotAllowed { .. } => (
            StatusCode::FORBIDDEN,
            "leaders.handover.denied",
            "this node may not ask the leader",
            "send the request to a node with the role control, or to the leader itself",
        ),
        Refusal::Busy { .. } => (
            StatusCode::TOO_MANY_REQUESTS,
            "leaders.handover.busy",
            "too many handovers are under way",
            "try again when some have ended",
        ),
        _ => (
            StatusCode::SERVICE_UNAVAILABLE,
            "leaders.handover.failed",
            "the change could not be made",
            "check the registry: mesh registry status",
        ),
    };
    Problem::new(status, code, title).object(scope.as_str()).cause(refusal.to_string()).action(action)
}
