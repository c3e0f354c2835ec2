//! The routes of leadership in the control API.
//!
//! | route | answer |
//! |---|---|
//! | `GET /control/v1/leaders` | a [`LeaderList`], by scope |
//! | `GET /control/v1/leaders/{scope}` | a [`LeaderReply`] |
//! | `GET /control/v1/events/leadership` | server-sent events: `snapshot` ([`LeadersSnapshot`], one or more), then events named by their transition ([`Change`]), perhaps `end` |
//! | `POST /control/v1/leaders/{scope}:step-down` | the leader hands over to whoever is best; takes a [`Steer`] |
//! | `POST /control/v1/leaders/{scope}:transfer` | the leader hands over to `to`; takes a [`Steer`] |
//!
//! The same under `/control/…`. Scopes may have slashes. Reading is for every caller that the edge lets in;
//! stepping down and transfer need a certificate with the operator's role, and leave an audit record in the
//! same transaction as the change.

mod events;
mod steer;
mod view;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use mesh_core::PeerIdentity;
use mesh_transport::edge::{
    ConnectionInfo, EdgeMetrics, EntityTag, EventHub, Field, Fields, Filter, HubLimits, PageLimits,
    PageQuery, Problem, SubscribeOptions, conditional, query_pairs,
};

use self::events::{Table, Told};
use crate::{LeaderView, Leadership, Scope};

pub use events::{Change, LeadersSnapshot};
pub use steer::Steer;
pub use view::{Leader, LeaderList, LeaderReply};

/// The value of `api_version` in every reply.
pub const API_VERSION: &str = "control/v1";

/// The list's name in cursors and in the codes of problems.
const LIST: &str = "leaders";

/// The fields that leaders can be filtered by.
pub const FILTERS: Fields = Fields {
    list: LIST,
    fields: &[
        Field::text("scope"),
        Field::one_of("scope_kind", &["global-control", "shard", "user"]),
        Field::text("leader"),
        Field::text("candidates"),
    ],
    labels: false,
    reserved: &["limit", "cursor"],
};

/// The fields that events of leadership can be filtered by.
pub const EVENT_FILTERS: Fields = Fields {
    list: "events.leadership",
    fields: &[
        Field::text("scope"),
        Field::one_of("scope_kind", &["global-control", "shard", "user"]),
        Field::text("leader"),
        Field::one_of(
            "transition",
            &["observed", "elected", "renewed", "lost", "expired", "stepped-down", "fenced"],
        ),
    ],
    labels: false,
    reserved: &[],
};

/// What the routes need.
pub struct LeadersOptions {
    /// The node's leadership.
    pub leadership: Leadership,
    /// How long pages may be.
    pub pages: PageLimits,
    /// The bounds of the event stream.
    pub hub: HubLimits,
    /// Where subscribers are counted.
    pub metrics: EdgeMetrics,
}

struct Api {
    leadership: Leadership,
    pages: PageLimits,
    hub: EventHub<Table, Told>,
    following: tokio::task::AbortHandle,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// The routes, and a task that follows leadership for as long as they exist.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn leaders_routes(options: LeadersOptions) -> Router {
    let LeadersOptions { leadership, pages, hub, metrics } = options;
    let (table, subscription) = events::begin(&leadership);
    let hub = EventHub::new(leadership.instance(), hub, metrics, table);
    let local = leadership.node_id().clone();
    let following = tokio::spawn(events::follow(hub.clone(), subscription, local)).abort_handle();
    let api = Arc::new(Api { leadership, pages, hub, following });
    let mut router = Router::new();
    for base in ["/control/v1", "/control"] {
        router = router
            .route(&format!("{base}/leaders"), get(list))
            .route(&format!("{base}/leaders/{{*target}}"), get(one).post(steer::post))
            .route(&format!("{base}/events/leadership"), get(watch));
    }
    router.with_state(api)
}

async fn list(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let mut pairs = query_pairs(request.uri())?;
    let page = PageQuery::take(LIST, api.pages, &mut pairs)?;
    let filter = Filter::parse(&FILTERS, &pairs)?;
    let leaders = api.leadership.leaders();
    let kept = leaders.iter().filter(|view| keeps(&filter, view));
    let page = page.cut(LIST, kept, |view| view.scope.as_str());

    let observer = api.leadership.node_id().clone();
    let tag = EntityTag::of_parts(&(API_VERSION, &observer, &page.items, &page.next_cursor));
    Ok(conditional(request.headers(), &tag, || {
        let items = page.items.iter().map(|view| api.shown(view)).collect();
        let api_version = API_VERSION.to_owned();
        Json(LeaderList { api_version, observer, items, next_cursor: page.next_cursor }).into_response()
    }))
}

async fn one(
    State(api): State<Arc<Api>>,
    Path(target): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let scope = scope_of(&target)?;
    let view = api.leadership.leader(&scope).ok_or_else(|| unknown(&api, &scope))?;
    let observer = api.leadership.node_id().clone();
    let tag = EntityTag::of_parts(&(API_VERSION, &observer, &view));
    Ok(conditional(request.headers(), &tag, || Json(api.reply(&view)).into_response()))
}

async fn watch(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let filter = Filter::parse(&EVENT_FILTERS, &query_pairs(request.uri())?)?;
    let last_event_id = request.headers().get("last-event-id").and_then(|value| value.to_str().ok());
    let identity = request.extensions().get::<Arc<PeerIdentity>>().map(|peer| peer.id.to_string());
    let options = SubscribeOptions {
        last_event_id: last_event_id.map(str::to_owned),
        identity: identity.unwrap_or_else(|| "unidentified".to_owned()),
        draining: request.extensions().get::<ConnectionInfo>().map(|info| info.draining.clone()),
    };
    let observer = api.leadership.node_id().clone();
    let passes = filter.clone();
    let subscription = api.hub.subscribe(
        options,
        move |told| told.passes(&passes),
        |table| events::captured(table, &filter),
        |leaders| events::snapshot_pages(&observer, &leaders),
    )?;
    Ok(subscription.into_response())
}

impl Api {
    fn shown(&self, view: &LeaderView) -> Leader {
        let valid_for = self.leadership.lease(&view.scope).map(|lease| lease.valid_for().as_secs_f64());
        Leader::new(view, valid_for)
    }

    fn reply(&self, view: &LeaderView) -> LeaderReply {
        LeaderReply {
            api_version: API_VERSION.to_owned(),
            observer: self.leadership.node_id().clone(),
            leader: self.shown(view),
        }
    }
}

fn scope_of(text: &str) -> Result<Scope, Problem> {
    Scope::new(text).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "leaders.scope.invalid", "the path does not name a scope")
            .object(text)
            .cause(error.to_string())
            .action("use a scope from GET /control/v1/leaders")
    })
}

fn unknown(api: &Api, scope: &Scope) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "leaders.unknown", "nobody leads or would lead this scope")
        .object(scope.as_str())
        .cause(format!("{} knows no leader and no candidate of it", api.leadership.node_id()))
        .action("list the scopes with GET /control/v1/leaders")
}

fn keeps(filter: &Filter, view: &LeaderView) -> bool {
    filter.is_empty()
        || filter.keeps(
            |field| match field {
                "scope" => vec![view.scope.as_str()],
                "scope_kind" => vec![view.scope.kind().as_str()],
                "leader" => view.leader.iter().map(|leader| leader.as_str()).collect(),
                "candidates" => view.candidates.iter().map(|node_id| node_id.as_str()).collect(),
                _ => Vec::new(),
            },
            || std::iter::once(view.scope.as_str()).chain(view.leader.iter().map(|leader| leader.as_str())),
        )
}

#[cfg(test)]
mod tests;
