//! `/healthz`, `/readyz` and `/metrics`.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

/// Whether a node takes work, and if not, why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether there is no reason against it.
    pub ready: bool,
    /// Everything that is missing.
    pub reasons: Vec<ReadinessReason>,
    /// What an operator should look at although the node takes work.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<ReadinessReason>,
}

/// One thing that keeps a node from being ready, or that an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessReason {
    /// Stable code: `gossip.isolated`.
    pub code: Cow<'static, str>,
    /// In words.
    pub detail: String,
    /// What to do.
    pub action: Cow<'static, str>,
}

impl Readiness {
    /// Ready if there are no reasons.
    pub fn from_reasons(reasons: Vec<ReadinessReason>) -> Self {
        Self { ready: reasons.is_empty(), reasons, warnings: Vec::new() }
    }

    /// With one more thing that an operator should look at.
    #[must_use]
    pub fn with_warning(mut self, warning: ReadinessReason) -> Self {
        self.warnings.push(warning);
        self
    }
}

/// What the health routes ask. The closures run on each request and must not block.
#[derive(Clone)]
pub struct HealthRoutes {
    /// Whether the process is fit to go on; `false` asks for a restart.
    pub live: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Whether the node takes work.
    pub ready: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// All metrics as OpenMetrics text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

#[derive(Serialize)]
struct Liveness {
    status: &'static str,
}

/// `GET /healthz`, `/readyz` (200 or 503, with reasons) and `/metrics`.
///
/// ```
/// use std::sync::Arc;
/// use mesh_transport::edge::{HealthRoutes, Readiness, health_routes};
/// let router: axum::Router = health_routes(HealthRoutes {
///     live: Arc::new(|| true),
///     ready: Arc::new(|| Readiness::from_reasons(vec![])),
///     metrics: Arc::new(|| "# EOF\n".to_owned()),
/// });
/// ```
pub fn health_routes(routes: HealthRoutes) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(routes)
}

async fn healthz(State(routes): State<HealthRoutes>) -> Response {
    let (status, word) =
        if (routes.live)() { (StatusCode::OK, "up") } else { (StatusCode::SERVICE_UNAVAILABLE, "down") };
    (status, Json(Liveness { status: word })).into_response()
}

async fn readyz(State(routes): State<HealthRoutes>) -> Response {
    let readiness = (routes.ready)();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn metrics(State(routes): State<HealthRoutes>) -> Response {
    let mut response = (routes.metrics)().into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    response
}
