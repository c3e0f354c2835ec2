//! The control routes that belong to the node itself, and who may call what.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
};
use http::{Method, StatusCode};
use mesh_core::{NodeId, PeerIdentity, Role};
use mesh_transport::edge::Problem;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Longest reason that is logged, in characters.
const REASON_CHARS_MAX: usize = 500;

/// A request to stop, from whoever may ask for it.
#[derive(Clone, Debug)]
pub(super) struct LeaveSwitch {
    node_id: NodeId,
    asked: Arc<watch::Sender<bool>>,
}

/// What `node:leave` may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LeaveRequest {
    /// The node that is meant; another one refuses.
    node_id: Option<NodeId>,
    /// Why, for the log.
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct LeaveAnswer {
    node_id: NodeId,
    status: &'static str,
}

impl LeaveSwitch {
    pub(super) fn new(node_id: NodeId) -> Self {
        Self { node_id, asked: Arc::new(watch::Sender::new(false)) }
    }

    /// Ends once somebody asked the node to leave.
    pub(super) async fn asked(&self) {
        // The sender lives as long as this value, so that the wait ends by the request alone.
        let _ = self.asked.subscribe().wait_for(|asked| *asked).await;
    }
}

/// `POST /control/v1/node:leave`
pub(super) fn routes(leave_switch: LeaveSwitch) -> Router {
    Router::new()
        .route("/control/v1/node:leave", post(leave))
        .route("/control/node:leave", post(leave))
        .with_state(leave_switch)
}

async fn leave(
    State(switch): State<LeaveSwitch>,
    Extension(caller): Extension<Arc<PeerIdentity>>,
    body: Option<Json<LeaveRequest>>,
) -> Result<Response, Problem> {
    let request = body.map(|Json(request)| request).unwrap_or_default();
    if let Some(meant) = request.node_id.filter(|meant| *meant != switch.node_id) {
        return Err(Problem::new(StatusCode::CONFLICT, "node.leave.other", "this is another node")
            .object(meant)
            .cause(format!("{} answers here", switch.node_id))
            .action("ask at the edge address of the node that must leave"));
    }
    let reason: String = request.reason.unwrap_or_default().chars().take(REASON_CHARS_MAX).collect();
    tracing::info!(node_id = %switch.node_id, peer_id = %caller.node_id(), reason, "asked to leave");
    switch.asked.send_replace(true);
    let answer = LeaveAnswer { node_id: switch.node_id, status: "leaving" };
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// Lets every identity of the cluster read, and operators alone change.
pub(super) async fn authorize(request: Request, next: Next) -> Result<Response, Problem> {
    let caller = request.extensions().get::<Arc<PeerIdentity>>().cloned();
    let Some(caller) = caller else {
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "access.unidentified", "the caller is not known")
            .cause("the connection has no client certificate")
            .action("connect with an operator's certificate"));
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if reads || caller.role().as_str() == Role::OPERATOR {
        return Ok(next.run(request).await);
    }
    tracing::warn!(peer_id = %caller.node_id(), role = %caller.role(), path = request.uri().path(), "refused a change");
    Err(Problem::new(StatusCode::FORBIDDEN, "access.role", "this role may not change anything")
        .object(caller.id.to_string())
        .cause(format!("its certificate has the role {}, {} is needed", caller.role(), Role::OPERATOR))
        .action("use an operator's certificate: a context made by `mesh up`, or --certificate and --key"))
}

/// Puts [`authorize`] around a router.
pub(super) fn guarded(router: Router) -> Router {
    router.layer(middleware::from_fn(authorize))
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use mesh_core::CertificateInfo;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    fn identity(role: &str) -> Arc<PeerIdentity> {
        Arc::new(PeerIdentity {
            id: format!("spiffe://example.org/mesh/prod/{role}/someone").parse().expect("an id"),
            certificate: CertificateInfo { serial: "0a".into(), not_before_s: 1, not_after_s: 2 },
        })
    }

    async fn ask(switch: &LeaveSwitch, caller: Option<&str>, body: &str) -> (StatusCode, Value) {
        let mut request = Request::post("/control/v1/node:leave").header("content-type", "application/json");
        if let Some(role) = caller {
            request = request.extension(identity(role));
        }
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        let response = guarded(routes(switch.clone())).oneshot(request).await.expect("an answer");
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 16).await.expect("a body");
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn switch() -> LeaveSwitch {
        LeaveSwitch::new("n-1".parse().expect("a node id"))
    }

    #[tokio::test]
    async fn an_operator_makes_the_node_leave() {
        let switch = switch();
        let (status, answer) = ask(&switch, Some("operator"), r#"{"node_id":"n-1","reason":"test"}"#).await;
        assert_eq!((status, answer["status"].as_str()), (StatusCode::ACCEPTED, Some("leaving")));
        switch.asked().await;
    }

    #[tokio::test]
    async fn others_and_strangers_are_refused() {
        let switch = switch();
        let (status, problem) = ask(&switch, Some("worker"), "{}").await;
        assert_eq!((status, problem["code"].as_str()), (StatusCode::FORBIDDEN, Some("access.role")));
        let (status, problem) = ask(&switch, None, "{}").await;
        assert_eq!(
            (status, problem["code"].as_str()),
            (StatusCode::UNAUTHORIZED, Some("access.unidentified"))
        );
        assert!(!*switch.asked.borrow());
    }

    #[tokio::test]
    async fn a_request_for_another_node_is_refused() {
        let switch = switch();
        let (status, problem) = ask(&switch, Some("operator"), r#"{"node_id":"n-2"}"#).await;
        assert_eq!((status, problem["code"].as_str()), (StatusCode::CONFLICT, Some("node.leave.other")));
        assert!(!*switch.asked.borrow());
    }
}
