//! The routes under `/control/v1/peers`: who is in the cluster, as this node sees it.
//!
//! | route | answer |
//! |---|---|
//! | `GET /control/v1/peers` | a [`PeerList`], by node id |
//! | `GET /control/v1/peers?watch` | server-sent events: `snapshot` ([`PeersSnapshot`], one or more), then `change` ([`PeerChange`]), perhaps `end` |
//! | `GET /control/v1/peers/{id}` | a [`PeerReply`] |
//!
//! The same under `/control/peers`. All take the filters of [`FILTERS`]; the list
//! takes `limit` and `cursor`. Round trips are left out of entity tags: an answer
//! that differs in those alone counts as unchanged. Neither they nor loads make events.
//!
//! A member is described by `docs/reference/member.schema.json`.
//!
//! The routes stand on the [`Membership`] trait, so that they serve any
//! implementation of it.

mod change;
mod filter;
mod view;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use mesh_core::{Clock, InstanceId, Membership, NodeId, PeerIdentity};
use mesh_transport::edge::{
    ConnectionInfo, EdgeMetrics, EntityTag, EventHub, Filter, HubLimits, PageLimits, PageQuery, Problem,
    ReadinessReason, SubscribeOptions, conditional, query_pairs,
};

use crate::GossipStatus;

use change::{Step, Table};
use view::Views;

pub use change::{PeerChange, PeersSnapshot};
pub use filter::FILTERS;
pub use view::{Endpoint, Peer, PeerList, PeerLoad, PeerReply, keys};

/// The value of `api_version` in every reply.
pub const API_VERSION: &str = "control/v1";

/// The list's name in cursors and in the codes of problems.
const LIST: &str = "peers";

/// Members in one `snapshot` event.
const SNAPSHOT_ITEMS_MAX: usize = 200;

/// What the routes need.
pub struct PeersOptions {
    /// Who is in the cluster.
    pub membership: Arc<dyn Membership>,
    /// The node that answers.
    pub local: NodeId,
    /// The run of its process: a stream can't be resumed from another one.
    pub instance: InstanceId,
    /// The clock that the members' instants are of.
    pub clock: Arc<dyn Clock>,
    /// How long pages may be.
    pub pages: PageLimits,
    /// The bounds of the event stream.
    pub hub: HubLimits,
    /// Where subscribers are counted.
    pub metrics: EdgeMetrics,
}

struct Api {
    membership: Arc<dyn Membership>,
    views: Arc<Views>,
    pages: PageLimits,
    hub: EventHub<Table, Step>,
    following: tokio::task::AbortHandle,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.following.abort();
    }
}

/// The routes, and a task that follows the membership for as long as they exist.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn peers_routes(options: PeersOptions) -> Router {
    let (snapshot, events) = options.membership.subscribe();
    let views = Arc::new(Views::new(options.local, options.clock));
    let table: Table = snapshot.all().map(|member| (member.node_id.clone(), member.clone())).collect();
    let hub = EventHub::new(options.instance, options.hub, options.metrics, table);
    let following = tokio::spawn(change::follow(hub.clone(), events, views.clone())).abort_handle();
    let api = Api { membership: options.membership, views, pages: options.pages, hub, following };
    Router::new()
        .route("/control/v1/peers", get(list))
        .route("/control/peers", get(list))
        .route("/control/v1/peers/{id}", get(one))
        .route("/control/peers/{id}", get(one))
        .with_state(Arc::new(api))
}

async fn list(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let mut pairs = query_pairs(request.uri())?;
    if wants_watch(&pairs)? {
        return watch(&api, &Filter::parse(&FILTERS, &pairs)?, &request);
    }
    let page = PageQuery::take(LIST, api.pages, &mut pairs)?;
    let filter = Filter::parse(&FILTERS, &pairs)?;
    let snapshot = api.membership.snapshot();
    let kept = snapshot.all().filter(|member| filter::keeps(&filter, member));
    let page = page.cut(LIST, kept, |member| member.node_id.as_str());

    let observer = api.views.observer();
    let shown: Vec<_> = page.items.iter().map(|member| api.views.fingerprint(member)).collect();
    let tag = EntityTag::of_parts(&(API_VERSION, &observer, shown, &page.next_cursor));
    Ok(conditional(request.headers(), &tag, || {
        let items = page.items.iter().map(|member| api.views.peer(member)).collect();
        let api_version = API_VERSION.to_owned();
        Json(PeerList { api_version, observer, items, next_cursor: page.next_cursor }).into_response()
    }))
}

async fn one(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let node_id = NodeId::new(&id).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, "peers.id.invalid", "the path does not name a peer")
            .object(&id)
            .cause(error.to_string())
            .action("use a node_id from GET /control/v1/peers")
    })?;
    let snapshot = api.membership.snapshot();
    let member = snapshot.find(&node_id).ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "peers.unknown", "no such peer")
            .object(&id)
            .cause(format!(
                "{} knows no member of that name; it may have left long ago",
                api.views.observer()
            ))
            .action("list the members with GET /control/v1/peers")
    })?;
    let observer = api.views.observer();
    let tag = EntityTag::of_parts(&(API_VERSION, &observer, api.views.fingerprint(member)));
    Ok(conditional(request.headers(), &tag, || {
        let peer = api.views.peer(member);
        Json(PeerReply { api_version: API_VERSION.to_owned(), observer, peer }).into_response()
    }))
}

fn watch(api: &Api, filter: &Filter, request: &Request) -> Result<Response, Problem> {
    let last_event_id = request.headers().get("last-event-id").and_then(|value| value.to_str().ok());
    let identity = request.extensions().get::<Arc<PeerIdentity>>().map(|peer| peer.id.to_string());
    let options = SubscribeOptions {
        last_event_id: last_event_id.map(str::to_owned),
        identity: identity.unwrap_or_else(|| "unidentified".to_owned()),
        draining: request.extensions().get::<ConnectionInfo>().map(|info| info.draining.clone()),
    };
    let passes = filter.clone();
    let subscription = api.hub.subscribe(
        options,
        move |step| step.concerns(&passes),
        |table| table.values().filter(|member| filter::keeps(filter, member)).cloned().collect::<Vec<_>>(),
        |members| change::snapshot_pages(&api.views, &members),
    )?;
    Ok(subscription.into_response())
}

/// What keeps a node with this status from being ready, for `/readyz`; empty if nothing does.
pub fn readiness(status: &GossipStatus) -> Vec<ReadinessReason> {
    let reason = |code: &'static str, detail: String, action: &'static str| ReadinessReason {
        code: code.into(),
        detail,
        action: action.into(),
    };
    let mut reasons = Vec::new();
    if status.stepped_aside {
        reasons.push(reason(
            "gossip.conflict",
            "another process with a newer certificate has this node's id".to_owned(),
            "stop one of the two, or give it a certificate with an id of its own",
        ));
    }
    if status.left {
        reasons.push(reason(
            "gossip.left",
            "the node left the cluster".to_owned(),
            "start it again to rejoin",
        ));
    }
    if status.isolated {
        reasons.push(reason(
            "gossip.isolated",
            "the node knows of other members and reaches none of them".to_owned(),
            "check its network and firewall: UDP and TCP of transport.bind must pass",
        ));
    }
    // Whatever the cause, a node that does not say ready gets a reason.
    if !status.ready && reasons.is_empty() {
        reasons.push(reason(
            "gossip.joining",
            format!("the node has no full list of members yet; {} links are up", status.links),
            "wait, or check gossip.seeds if it lasts for more than a few seconds",
        ));
    }
    reasons
}

fn wants_watch(pairs: &[(String, String)]) -> Result<bool, Problem> {
    match pairs.iter().find(|(name, _)| name == "watch").map(|(_, value)| value.as_str()) {
        None | Some("false" | "0") => Ok(false),
        Some("" | "true" | "1") => Ok(true),
        Some(other) => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "peers.watch.invalid",
            "the parameter watch is neither true nor false",
        )
        .object(other)
        .action("use ?watch for a stream of events, or leave it out for a list")),
    }
}

#[cfg(test)]
mod tests;
