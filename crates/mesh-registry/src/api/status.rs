//! `GET /control/v1/registry`: how the store stands, as the answering node sees it.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use mesh_core::{
    NodeId,
    store::{StoreStatus, VersionedStore},
};
use mesh_transport::edge::Problem;
use serde::{Deserialize, Serialize};

use super::API_VERSION;

/// Names the voters, as far as this node knows; empty where it does not.
pub type VotersKnown = Arc<dyn Fn() -> Vec<NodeId> + Send + Sync>;

/// The reply of `GET /control/v1/registry`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryReply {
    /// The version of this form, [`API_VERSION`].
    pub api_version: String,
    /// How the store stands.
    pub registry: RegistryState,
}

/// How the store stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryState {
    /// The node that answers.
    pub observer: NodeId,
    /// Its provider: `memory`, `raft`, `remote`, `etcd`, `postgres`.
    pub provider: String,
    /// The id of the store's cluster; a restore gives it another one.
    #[serde(default)]
    pub cluster: String,
    /// Who takes writes.
    pub leader: Option<NodeId>,
    /// Who votes, as far as the answering node knows; a node that is no voter itself may not.
    pub voters: Vec<NodeId>,
    /// The newest revision.
    pub revision: u64,
    /// Watches can resume after this one.
    pub compacted: u64,
    /// The first half of fencing tokens; raised by each restore.
    pub generation: u64,
    /// Why writes are refused; `null` if they are not.
    pub read_only: Option<String>,
    /// Records.
    pub records: u64,
    /// Open sessions.
    pub sessions: u64,
}

/// What the route needs.
#[derive(Clone)]
pub struct StatusOptions {
    /// The node that answers.
    pub observer: NodeId,
    /// Its store.
    pub store: Arc<dyn VersionedStore>,
    /// Who votes.
    pub voters: VotersKnown,
}

/// The route.
pub fn status_routes(options: StatusOptions) -> Router {
    Router::new()
        .route("/control/v1/registry", get(status))
        .route("/control/registry", get(status))
        .with_state(options)
}

async fn status(State(api): State<StatusOptions>) -> Result<Response, Problem> {
    let status = api.store.status().await.map_err(|error| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "registry.unavailable", "the store does not answer")
            .cause(error.to_string())
            .action("try again; if it stays so, look whether a majority of the voters is alive: mesh peers list --role control")
    })?;
    let StoreStatus {
        provider,
        cluster,
        revision,
        compacted,
        generation,
        leader,
        read_only,
        records,
        sessions,
    } = status;
    let registry = RegistryState {
        observer: api.observer.clone(),
        provider: provider.to_owned(),
        cluster,
        leader,
        voters: (api.voters)(),
        revision: revision.0,
        compacted: compacted.0,
        generation,
        read_only,
        records,
        sessions,
    };
    Ok(Json(RegistryReply { api_version: API_VERSION.to_owned(), registry }).into_response())
}
