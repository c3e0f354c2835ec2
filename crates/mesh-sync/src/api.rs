//! The routes of sync in the control API.
//!
//! | route | answer |
//! |---|---|
//! | `GET /control/v1/sync` | a [`SyncReply`]: how far all datasets and peers are apart |
//! | `GET /control/v1/sync/peers` | a [`List`] of [`PeerItem`]; `dataset=` picks one |
//! | `GET /control/v1/sync/dead-letters` | a [`List`] of [`DeadLetterItem`], the same |
//! | `GET /control/v1/sync/requests` | a [`List`] of [`RequestItem`], the same |
//! | `GET /control/v1/sync/tickets/{dataset}` | a [`TicketReply`] |
//! | `POST /control/v1/sync:now` | compares with peers now; takes a [`Now`], gives a [`NowReply`] |
//! | `POST /control/v1/sync:join` | asks for a dataset; takes a [`Join`], gives a [`JoinReply`] |
//! | `POST /control/v1/sync:prune` | removes what is worth nothing any more; takes a [`Prune`], gives a [`PruneReply`] |
//! | `POST /control/v1/sync/requests/{dataset}/{node}:approve` | lets a node in; also `:reject`; takes a [`Decision`] |
//! | `POST /control/v1/sync/peers/{dataset}/{node}:retire` | stops waiting for a peer; takes a [`Decision`] |
//! | `POST /control/v1/sync/dead-letters:retry` | queues dead letters again; also `:drop`; takes a [`Which`] |
//! | `GET /control/v1/data/{dataset}` | a [`List`] of [`DocumentItem`]; `collection=` and `prefix=` pick some |
//! | `GET /control/v1/data/{dataset}/{collection}/{key}` | a [`DocumentReply`]; the bytes alone for `Accept: application/octet-stream` |
//! | `PUT` and `DELETE` there | writes the body, or deletes; a [`DocumentReply`] |
//! | `GET /control/v1/events/data/{dataset}` | server-sent events: `snapshot` (a [`Begin`]), then `put`, `delete` ([`DocumentItem`]), perhaps `lagged` and `end` |
//!
//! The same under `/control/…`. Every caller that the edge lets in may read how sync stands. Changing anything, and
//! every look at documents, needs a certificate with the operator's role: who may have a dataset is decided by its
//! peers, and this is no way around them.

mod actions;
mod data;
mod events;
mod prune;
mod view;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{Extensions, StatusCode},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use mesh_core::{InstanceId, NodeId, PeerIdentity, Role};
use mesh_transport::edge::{
    Cursor, EdgeMetrics, EntityTag, HubLimits, PageLimits, PageQuery, Problem, conditional, query_pairs,
};

use self::events::Hub;
use crate::{
    engine::{SyncError, SyncHandle},
    entry::{DatasetId, NameError},
};

pub use actions::{Decision, Join, JoinReply, Now, NowItem, NowReply, Which};
pub use events::Begin;
pub use prune::{Prune, PruneItem, PruneReply};
pub use view::{
    AuthorItem, DatasetItem, DeadLetterItem, DocumentItem, DocumentReply, List, PeerItem, RequestItem,
    SyncReply, SyncState, TicketReply,
};

/// The value of `api_version` in every reply.
pub const API_VERSION: &str = "control/v1";

/// What the routes need.
pub struct SyncOptions {
    /// The node's engine.
    pub sync: SyncHandle,
    /// A peer that is behind for longer counts as lagging; `sync.lag_degraded`.
    pub lag_degraded: Duration,
    /// Differs at each start of the process.
    pub instance: InstanceId,
    /// How long pages may be.
    pub pages: PageLimits,
    /// The bounds of each event stream.
    pub hub: HubLimits,
    /// Where subscribers are counted.
    pub metrics: EdgeMetrics,
}

struct Api {
    options: SyncOptions,
    /// One for each dataset that somebody has followed since the start: no more than this node keeps.
    hubs: Mutex<BTreeMap<DatasetId, Hub>>,
}

/// The routes.
pub fn sync_routes(options: SyncOptions) -> Router {
    let api = Arc::new(Api { options, hubs: Mutex::default() });
    let mut router = Router::new();
    for base in ["/control/v1", "/control"] {
        router = router
            .route(&format!("{base}/sync"), get(status))
            .route(&format!("{base}/sync:now"), post(actions::now))
            .route(&format!("{base}/sync:join"), post(actions::join))
            .route(&format!("{base}/sync:prune"), post(prune::prune))
            .route(&format!("{base}/sync/peers"), get(peers))
            .route(&format!("{base}/sync/peers/{{dataset}}/{{target}}"), post(actions::peer))
            .route(&format!("{base}/sync/dead-letters"), get(dead_letters))
            .route(&format!("{base}/sync/dead-letters:retry"), post(actions::retry))
            .route(&format!("{base}/sync/dead-letters:drop"), post(actions::give_up))
            .route(&format!("{base}/sync/requests"), get(requests))
            .route(&format!("{base}/sync/requests/{{dataset}}/{{target}}"), post(actions::request))
            .route(&format!("{base}/sync/tickets/{{dataset}}"), get(ticket))
            .route(&format!("{base}/data/{{dataset}}"), get(data::list))
            .route(
                &format!("{base}/data/{{dataset}}/{{collection}}/{{*key}}"),
                get(data::read).put(data::write).delete(data::delete),
            )
            .route(&format!("{base}/events/data/{{dataset}}"), get(events::watch));
    }
    router.with_state(api)
}

/// The same paths at a node that keeps no dataset: each says so, and what to do.
pub fn off_routes() -> Router {
    let mut router = Router::new();
    for base in ["/control/v1", "/control"] {
        for path in [
            "sync",
            "sync:now",
            "sync:join",
            "sync:prune",
            "sync/{*rest}",
            "data/{*rest}",
            "events/data/{*rest}",
        ] {
            router = router.route(&format!("{base}/{path}"), any(off));
        }
    }
    router
}

async fn off() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "sync.off", "this node keeps no dataset")
        .cause("sync.datasets names none, or sync.enabled is false")
        .action("name one in sync.datasets and start the node again, or ask another node with --edge")
}

impl Api {
    fn sync(&self) -> &SyncHandle {
        &self.options.sync
    }

    fn observer(&self) -> NodeId {
        self.options.sync.local().clone()
    }

    async fn state(&self) -> SyncState {
        let status = self.sync().status().await;
        SyncState::new(self.sync(), &status, self.options.lag_degraded)
    }

    /// A page of items, in the order of what `key` gives.
    fn page<T>(
        &self,
        list: &'static str,
        mut pairs: Vec<(String, String)>,
        mut items: Vec<T>,
        key: impl Fn(&T) -> String,
    ) -> Result<Json<List<T>>, Problem> {
        let query = PageQuery::take(list, self.options.pages, &mut pairs)?;
        if let Some((name, value)) = pairs.first() {
            return Err(bad_query(list, name, value, "limit, cursor or dataset as its name"));
        }
        items.sort_by_cached_key(&key);
        let after = query.cursor.as_ref().map(Cursor::key);
        items.retain(|item| after.is_none_or(|after| key(item).as_str() > after));
        let more = items.len() > query.limit;
        items.truncate(query.limit);
        let last = items.last().filter(|_| more).map(|item| Cursor::after(key(item)).encode(list));
        Ok(Json(List::new(self.observer(), items, last)))
    }
}

async fn status(State(api): State<Arc<Api>>, request: Request) -> Response {
    let reply = SyncReply { api_version: API_VERSION.to_owned(), sync: api.state().await };
    let tag = EntityTag::of_parts(&(API_VERSION, reply.sync.to_string()));
    conditional(request.headers(), &tag, || Json(&reply).into_response())
}

/// Takes `dataset=` out of a query; an unknown one is an error.
fn dataset_in(api: &Api, pairs: &mut Vec<(String, String)>) -> Result<Option<DatasetId>, Problem> {
    let Some(at) = pairs.iter().position(|(name, _)| name == "dataset") else { return Ok(None) };
    let (_, name) = pairs.remove(at);
    known(api, &name).map(Some)
}

/// A dataset that this node keeps.
fn known(api: &Api, name: &str) -> Result<DatasetId, Problem> {
    let dataset = DatasetId::new(name).map_err(|error| bad_name(&error))?;
    match api.sync().datasets().contains(&dataset) {
        true => Ok(dataset),
        false => Err(problem(&SyncError::UnknownDataset { dataset })),
    }
}

async fn peers(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let mut pairs = query_pairs(request.uri())?;
    let dataset = dataset_in(&api, &mut pairs)?;
    let mut peers = api.state().await.peers;
    peers.retain(|peer| dataset.as_ref().is_none_or(|dataset| peer.dataset == dataset.as_str()));
    let page = api.page("sync.peers", pairs, peers, |peer| format!("{} {}", peer.dataset, peer.node_id))?;
    Ok(page.into_response())
}

async fn dead_letters(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let mut pairs = query_pairs(request.uri())?;
    let mut items = Vec::new();
    for dataset in chosen(&api, dataset_in(&api, &mut pairs)?) {
        let letters = api.sync().dead_letters(&dataset).await.map_err(|error| problem(&error))?;
        items.extend(letters.iter().map(|letter| DeadLetterItem::new(&dataset, letter)));
    }
    let key = |letter: &DeadLetterItem| {
        format!("{} {} {} {}", letter.dataset, letter.time, letter.node_id, letter.entry)
    };
    Ok(api.page("sync.dead-letters", pairs, items, key)?.into_response())
}

async fn requests(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let mut pairs = query_pairs(request.uri())?;
    let dataset = dataset_in(&api, &mut pairs)?;
    let requests = api.sync().requests(dataset.as_ref()).map_err(|error| problem(&error))?;
    let items = requests.iter().map(|(dataset, kept)| RequestItem::new(dataset, kept)).collect();
    let key = |item: &RequestItem| format!("{} {} {}", item.dataset, item.node_id, item.author);
    Ok(api.page("sync.requests", pairs, items, key)?.into_response())
}

async fn ticket(State(api): State<Arc<Api>>, Path(dataset): Path<String>) -> Result<Response, Problem> {
    let dataset = known(&api, &dataset)?;
    let ticket = api.sync().ticket(&dataset).map_err(|error| problem(&error))?;
    let reply = TicketReply {
        api_version: API_VERSION.to_owned(),
        observer: api.observer(),
        dataset: dataset.to_string(),
        ticket: ticket.to_string(),
    };
    Ok(Json(reply).into_response())
}

/// The dataset that was named, or all.
fn chosen(api: &Api, dataset: Option<DatasetId>) -> Vec<DatasetId> {
    dataset.map_or_else(|| api.sync().datasets(), |dataset| vec![dataset])
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
    tracing::warn!(peer_id = %caller.node_id(), role = %caller.role(), "refused documents, or a change of sync");
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "access.role",
        "this role may not see documents here or change how they sync",
    )
    .object(caller.id.to_string())
    .cause(format!("its certificate has the role {}, {} is needed", caller.role(), Role::OPERATOR))
    .action("use an operator's certificate: a context made by `mesh up`, or --certificate and --key"))
}

fn bad_name(error: &NameError) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "sync.name.invalid", "a name is not valid")
        .cause(error.to_string())
        .action("use a dataset from GET /control/v1/sync, and a collection of that form")
}

fn bad_query(list: &'static str, name: &str, value: &str, rule: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "sync.query.invalid", "a parameter is not valid")
        .object(name)
        .cause(format!("{list}: {name}={value:?} is not {rule}"))
        .action(format!("use {rule}"))
}

/// An error with all its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What a caller is told.
fn problem(error: &SyncError) -> Problem {
    let (status, code, title, action) = match error {
        SyncError::UnknownDataset { .. } => (
            StatusCode::NOT_FOUND,
            "sync.dataset.unknown",
            "this node does not keep that dataset",
            "ask a node that has it, name it in sync.datasets, or join it: mesh sync join TICKET",
        ),
        SyncError::UnknownPeer { .. } => {
            (StatusCode::NOT_FOUND, "sync.peer.unknown", "no such peer", "list the peers: mesh sync peers")
        }
        SyncError::NoDeadLetter { .. } | SyncError::UnknownEntry { .. } => (
            StatusCode::NOT_FOUND,
            "sync.entry.unknown",
            "no such entry",
            "list them: mesh sync dead-letters",
        ),
        SyncError::Name(_) | SyncError::Draft(_) => (
            StatusCode::BAD_REQUEST,
            "sync.entry.invalid",
            "the document can't be written like this",
            "use a key of 1 to 512 bytes and a value of at most 1 MiB",
        ),
        SyncError::Busy { .. } | SyncError::Queue(_) => (
            StatusCode::TOO_MANY_REQUESTS,
            "sync.busy",
            "too much waits already",
            "try again a little later; nothing was changed",
        ),
        SyncError::Access(_) => (
            StatusCode::CONFLICT,
            "sync.request.refused",
            "the request could not be answered",
            "list the requests: mesh sync requests",
        ),
        SyncError::Peers(_) => {
            (StatusCode::CONFLICT, "sync.peers.full", "the peer was not taken", "retire peers that are gone")
        }
        SyncError::Ticket(_) => (
            StatusCode::BAD_REQUEST,
            "sync.ticket.invalid",
            "the ticket can't be used",
            "make one where the dataset is: mesh sync ticket DATASET",
        ),
        SyncError::NoAddress => (
            StatusCode::CONFLICT,
            "sync.address.unknown",
            "this node does not know where others reach it",
            "set transport.advertise",
        ),
        SyncError::NobodyAnswered { .. } | SyncError::Unreachable { .. } => (
            StatusCode::BAD_GATEWAY,
            "sync.peer.unreachable",
            "nobody answered",
            "check that those nodes run and that the network lets us through: mesh check",
        ),
        SyncError::Incomplete { .. } => (
            StatusCode::CONFLICT,
            "sync.value.incomplete",
            "a part of the value is not here yet",
            "try again a little later",
        ),
        SyncError::NoPruner { .. } => (
            StatusCode::CONFLICT,
            "sync.prune.refused",
            "this node may not prune",
            "prune at a node whose key is in sync.pruners, or add this one's on all nodes; --dry-run needs neither",
        ),
        SyncError::TooManyDatasets { .. } => (
            StatusCode::CONFLICT,
            "sync.datasets.full",
            "this node keeps no more datasets",
            "join it with another node",
        ),
        SyncError::KeepsAll { .. } => (
            StatusCode::CONFLICT,
            "sync.prune.off",
            "this dataset is not pruned",
            "name another dataset, or set `prune` of this one to true on all nodes",
        ),
        SyncError::ReservedCollection { .. } => (
            StatusCode::FORBIDDEN,
            "sync.collection.reserved",
            "this collection can't be written",
            "use a collection whose name does not begin with `mesh.`",
        ),
        SyncError::Full { .. } => (
            StatusCode::INSUFFICIENT_STORAGE,
            "sync.store.full",
            "the node's disk has no room",
            "make room on the node's disk; writes are taken again without a restart",
        ),
        SyncError::Failed { .. } | SyncError::Store { .. } | SyncError::Blob(_) => (
            StatusCode::INSUFFICIENT_STORAGE,
            "sync.store.failed",
            "the node's disk did not take it",
            "look at the node's log, make room on the disk, and restart the node",
        ),
        SyncError::NotStored { .. } => (
            StatusCode::CONFLICT,
            "sync.entry.refused",
            "the entry was not stored",
            "see the cause; compare the clocks of the nodes if it is about time: mesh check",
        ),
        SyncError::Late { .. } => {
            (StatusCode::GATEWAY_TIMEOUT, "sync.late", "it is not done yet", "look again: mesh sync status")
        }
        SyncError::Stopped | SyncError::Interrupted(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "sync.stopped",
            "sync does not run here now",
            "look at the node's log, and ask another node meanwhile",
        ),
    };
    Problem::new(status, code, title).cause(chain(error)).action(action)
}

#[cfg(test)]
mod tests;
