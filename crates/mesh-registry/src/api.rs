//! The registry's routes of the control API.
//!
//! | route | answer |
//! |---|---|
//! | `GET /control/v1/registry` | a [`RegistryReply`]: how the store stands |
//! | `GET /control/v1/registry/members` | a [`MembersReply`]: who votes, who answers, who lacks how much |
//! | `GET /control/v1/registry/snapshot` | the whole store at one revision, for operators |
//! | `/control/v1/registry/restores…` | puts a snapshot in the place of the store, for operators; see [`restore_routes`] |
//! | `GET /control/v1/state-diff` | a [`StateDiffReply`]: what this node's caches have otherwise than the store |
//! | `GET /control/v1/audit` | an [`AuditReply`]: who changed what, by time; takes `limit`, `cursor`, `from_ms`, `until_ms` |
//!
//! The same without `v1/`.

mod access;
mod members;
mod restore;
mod snapshot;
mod status;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use mesh_core::{
    NodeId, WallTime,
    store::{Key, StoreError, VersionedStore},
};
use mesh_transport::edge::{Cursor, EntityTag, PageLimits, Problem, conditional, query_pairs, rfc3339};
use serde::{Deserialize, Serialize};

use crate::{
    audit_log::{self, AuditEntry, AuditQuery},
    reconcile::{Difference, Reconciler},
};

pub use access::{Elsewhere, Keeper};
pub use members::{MemberItem, MembersOptions, MembersReply, members_routes};
pub use restore::{
    IDLE_MAX, PIECE_BYTES_MAX, RestoreFailure, RestoreOptions, RestorePhase, RestoreReply, RestoreRequest,
    SnapshotContents, restore_routes,
};
pub use snapshot::{SnapshotOptions, snapshot_routes};
pub use status::{RegistryReply, RegistryState, StatusOptions, VotersKnown, status_routes};

/// The value of `api_version` in every reply.
pub const API_VERSION: &str = "control/v1";
/// The list of audit entries, in cursors and in the codes of problems.
const AUDIT: &str = "audit";

/// What the routes need.
#[derive(Clone)]
pub struct RegistryOptions {
    /// Compares the caches with the store.
    pub reconciler: Arc<Reconciler>,
    /// Where audit records are read.
    pub store: Arc<dyn VersionedStore>,
    /// How long pages may be.
    pub pages: PageLimits,
}

/// The reply of `GET /control/v1/state-diff`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateDiffReply {
    /// The version of this form, [`API_VERSION`].
    pub api_version: String,
    /// The node whose caches these are.
    pub observer: NodeId,
    /// When it last looked, RFC 3339; `null` before the first time.
    pub looked_at: Option<String>,
    /// The store's revision then.
    pub revision: u64,
    /// Whether every cache was compared and nothing differs.
    pub in_sync: bool,
    /// The caches.
    pub caches: Vec<CacheState>,
    /// What differs and has not been mended yet.
    pub items: Vec<StateDifference>,
    /// Differences that are not in the list.
    pub more: usize,
}

/// One cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CacheState {
    /// Its name.
    pub name: String,
    /// Differences in the list.
    pub differences: usize,
    /// Why it could not be compared; `null` if it was.
    pub failure: Option<String>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateDifference {
    /// The cache.
    pub cache: String,
    /// The record.
    pub key: String,
    /// What the cache has; `null` if nothing.
    pub cached: Option<Shown>,
    /// What it should have; `null` if nothing.
    pub stored: Option<Shown>,
    /// Since when, RFC 3339.
    pub since: String,
}

/// A value, as far as it fits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shown {
    /// The value if it is text, else its bytes in hexadecimal.
    pub value: String,
    /// Whether `value` is hexadecimal.
    pub hex: bool,
    /// Bytes of the whole value; what is shown may be less.
    pub bytes: usize,
}

/// Longest value that is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 1024;

impl Shown {
    fn of(value: &Bytes) -> Self {
        let bytes = value.len();
        if let Ok(text) = std::str::from_utf8(value) {
            let cut = (0..=bytes.min(SHOWN_BYTES_MAX)).rev().find(|cut| text.is_char_boundary(*cut));
            return Self { value: text[..cut.unwrap_or(0)].to_owned(), hex: false, bytes };
        }
        let shown = &value[..bytes.min(SHOWN_BYTES_MAX / 2)];
        Self { value: shown.iter().map(|byte| format!("{byte:02x}")).collect(), hex: true, bytes }
    }
}

impl From<&Difference> for StateDifference {
    fn from(difference: &Difference) -> Self {
        Self {
            cache: difference.cache.to_owned(),
            key: difference.key.to_string(),
            cached: difference.cached.as_ref().map(Shown::of),
            stored: difference.stored.as_ref().map(Shown::of),
            since: rfc3339(difference.since),
        }
    }
}

/// The reply of `GET /control/v1/audit`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditReply {
    /// The version of this form, [`API_VERSION`].
    pub api_version: String,
    /// The entries, the oldest first.
    pub items: Vec<AuditItem>,
    /// Give this as `cursor` for the next page; `null` on the last one.
    pub next_cursor: Option<String>,
}

/// One audited action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditItem {
    /// When, RFC 3339.
    pub at: String,
    /// Who.
    pub writer: NodeId,
    /// What.
    pub action: String,
    /// Why.
    pub reason: String,
    /// As in the log lines of this action, 16 hexadecimal digits.
    pub correlation_id: String,
    /// The revision of the change.
    pub revision: u64,
    /// The records that changed; the first ones, if they were many.
    pub keys: Vec<String>,
    /// How many records changed.
    pub keys_total: u64,
}

impl From<AuditEntry> for AuditItem {
    fn from(entry: AuditEntry) -> Self {
        Self {
            at: rfc3339(entry.at),
            writer: entry.writer,
            action: entry.action,
            reason: entry.reason,
            correlation_id: format!("{:016x}", entry.correlation_id),
            revision: entry.revision.0,
            keys: entry.keys,
            keys_total: entry.keys_total,
        }
    }
}

/// The routes.
pub fn registry_routes(options: RegistryOptions) -> Router {
    Router::new()
        .route("/control/v1/state-diff", get(state_diff))
        .route("/control/state-diff", get(state_diff))
        .route("/control/v1/audit", get(audit))
        .route("/control/audit", get(audit))
        .with_state(Arc::new(options))
}

async fn state_diff(State(api): State<Arc<RegistryOptions>>, request: Request) -> Response {
    let diff = api.reconciler.state_diff();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for difference in &diff.differences {
        *counts.entry(difference.cache).or_default() += 1;
    }
    let caches = diff.caches.iter().map(|name| CacheState {
        name: (*name).to_owned(),
        differences: counts.get(name).copied().unwrap_or(0),
        failure: diff.failures.get(name).cloned(),
    });
    let reply = StateDiffReply {
        api_version: API_VERSION.to_owned(),
        observer: api.reconciler.observer().clone(),
        looked_at: diff.looked_at.map(rfc3339),
        revision: diff.revision.0,
        in_sync: diff.looked_at.is_some() && diff.failures.is_empty() && diff.differences.is_empty(),
        caches: caches.collect(),
        items: diff.differences.iter().map(Into::into).collect(),
        more: diff.more,
    };
    let tag = EntityTag::of_parts(&(API_VERSION, &reply));
    conditional(request.headers(), &tag, || Json(reply).into_response())
}

async fn audit(State(api): State<Arc<RegistryOptions>>, request: Request) -> Result<Response, Problem> {
    let mut query = AuditQuery { limit: api.pages.default, ..AuditQuery::default() };
    for (name, value) in query_pairs(request.uri())? {
        let number = || value.parse::<u64>().map_err(|_| bad_parameter(&name, &value, "a whole number"));
        match name.as_str() {
            "limit" => {
                let limit = usize::try_from(number()?).unwrap_or(usize::MAX);
                if !(1..=api.pages.max).contains(&limit) {
                    return Err(bad_parameter(&name, &value, &format!("1 to {}", api.pages.max)));
                }
                query.limit = limit;
            }
            "cursor" => query.after = Key::new(Cursor::decode(AUDIT, &value)?.key()).ok(),
            "from_ms" => query.from = WallTime(number()?),
            "until_ms" => query.until = WallTime(number()?),
            _ => return Err(bad_parameter(&name, &value, "limit, cursor, from_ms or until_ms as its name")),
        }
    }
    let page = audit_log::page(&*api.store, &query).await.map_err(|error| unanswered(&error))?;
    let reply = AuditReply {
        api_version: API_VERSION.to_owned(),
        items: page.entries.into_iter().map(Into::into).collect(),
        next_cursor: page.next.map(|key| Cursor::after(key.as_str()).encode(AUDIT)),
    };
    Ok(Json(reply).into_response())
}

fn bad_parameter(name: &str, value: &str, rule: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "audit.query.invalid", "a parameter is not valid")
        .object(name)
        .cause(format!("{value:?} is not {rule}"))
        .action(format!("use {rule}"))
}

fn unanswered(error: &StoreError) -> Problem {
    let (status, code) = match error {
        StoreError::Denied { .. } => (StatusCode::FORBIDDEN, "registry.denied"),
        StoreError::Invalid { .. } => (StatusCode::BAD_REQUEST, "registry.invalid"),
        StoreError::Unsupported { .. } => (StatusCode::NOT_IMPLEMENTED, "registry.unsupported"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "registry.unavailable"),
    };
    Problem::new(status, code, "the registry did not answer")
        .cause(error.to_string())
        .action("try again a little later; see /readyz for the state of the registry")
}

#[cfg(test)]
mod tests;
