//! `GET /control/v1/registry/snapshot`: the whole store at one revision, for operators.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use mesh_core::store::VersionedStore;
use mesh_transport::edge::Problem;

use super::{
    access::{Elsewhere, audit, operator, redirect},
    unanswered,
};

/// What the route needs.
#[derive(Clone)]
pub struct SnapshotOptions {
    /// The store.
    pub store: Arc<dyn VersionedStore>,
    /// Who has a copy, if this node has none.
    pub elsewhere: Elsewhere,
}

/// The route. Its answer checks itself: it ends with counts and a hash of everything before.
pub fn snapshot_routes(options: SnapshotOptions) -> Router {
    Router::new()
        .route("/control/v1/registry/snapshot", get(snapshot))
        .route("/control/registry/snapshot", get(snapshot))
        .with_state(options)
}

async fn snapshot(State(api): State<SnapshotOptions>, request: Request) -> Result<Response, Problem> {
    let operator = operator(request.extensions())?;
    if let Some(redirect) = redirect(&api.elsewhere, request.uri().path()) {
        return Ok(redirect);
    }
    let pieces = api.store.snapshot().await.map_err(|error| unanswered(&error))?;
    audit(&*api.store, &operator, "registry.snapshot", "the whole store was read").await;
    let mut response = Body::from_stream(pieces).into_response();
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, octets);
    Ok(response)
}
