//! Who may ask for the whole store, and which node can answer.

use std::sync::Arc;

use axum::{
    http::{Extensions, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use mesh_core::{
    NodeId, PeerIdentity, Role,
    store::{AuditNote, Txn, VersionedStore},
};
use mesh_transport::edge::Problem;

/// A node that can answer for another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeper {
    /// The node.
    pub node_id: NodeId,
    /// Its edge, `host:port`, if it says where that is.
    pub edge: Option<String>,
}

/// Tells who can answer instead of this node, the best first; `None` if this node can itself.
pub type Elsewhere = Arc<dyn Fn() -> Option<Vec<Keeper>> + Send + Sync>;

/// The operator who asks.
pub(super) fn operator(extensions: &Extensions) -> Result<NodeId, Problem> {
    let caller = extensions.get::<Arc<PeerIdentity>>();
    let Some(caller) = caller else {
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "access.unidentified", "the caller is not known")
            .cause("the connection has no client certificate")
            .action("connect with an operator's certificate"));
    };
    if caller.role().as_str() == Role::OPERATOR {
        return Ok(caller.node_id().clone());
    }
    tracing::warn!(peer_id = %caller.node_id(), role = %caller.role(), "refused the whole store");
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "access.role",
        "this role may not take or replace the whole store",
    )
    .object(caller.id.to_string())
    .cause(format!("its certificate has the role {}, {} is needed", caller.role(), Role::OPERATOR))
    .action("use an operator's certificate: a context made by `mesh up`, or --certificate and --key"))
}

/// Sends the caller to a node that has a copy of the store, if this one has none. The caller goes there with
/// its own certificate: no node acts in its name.
pub(super) fn redirect(elsewhere: &Elsewhere, path: &str) -> Option<Response> {
    let keepers = elsewhere()?;
    let edge = keepers.iter().find_map(|keeper| keeper.edge.as_deref());
    let location = edge.and_then(|edge| HeaderValue::try_from(format!("https://{edge}{path}")).ok());
    let names: Vec<&str> = keepers.iter().map(|keeper| keeper.node_id.as_str()).collect();
    let problem = |status| {
        Problem::new(status, "registry.elsewhere", "this node has no copy of the store")
            .cause(format!("those that have are: {}", names.join(", ")))
            .action("ask at the edge of one of them")
    };
    Some(match location {
        Some(location) => {
            let mut response = problem(StatusCode::TEMPORARY_REDIRECT).into_response();
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        None => problem(StatusCode::SERVICE_UNAVAILABLE).into_response(),
    })
}

/// Leaves an audit record. What was done stays done if that fails.
pub(super) async fn audit(store: &dyn VersionedStore, by: &NodeId, action: &str, what: &str) {
    let correlation_id = fastrand::u64(..);
    tracing::info!(peer_id = %by, action, what, correlation_id = %format_args!("{correlation_id:016x}"), "an operator steers the store");
    // A store that is kept elsewhere takes the node's name from its certificate, so that the operator's is here too.
    let note = AuditNote { action: action.to_owned(), reason: format!("{by}: {what}"), correlation_id };
    if let Err(error) = store.transact(Txn::new(by.clone()).audited(note)).await {
        tracing::warn!(action, %error, "the audit record could not be written");
    }
}
