//! Changes of documents as server-sent events.

use std::sync::{Arc, PoisonError};

use axum::{
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use mesh_core::{NodeId, PeerIdentity};
use mesh_transport::edge::{ConnectionInfo, EventHub, NewEvent, Problem, SubscribeOptions, query_pairs};
use serde::{Deserialize, Serialize};

use super::{API_VERSION, Api, bad_name, bad_query, known, operator, problem, view::DocumentItem};
use crate::{
    engine::{DocumentHead, Watch, WatchEvent},
    entry::{Collection, DatasetId},
};

/// The longest value that an event brings along, in bytes.
pub(super) const VALUE_BYTES_MAX: usize = 4096;

/// The data of the `snapshot` event with which a stream begins: changes from here on follow. What there is already is
/// in `GET /control/v1/data/{dataset}`; read it after this event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// The version of this form, [`API_VERSION`].
    pub api_version: String,
    /// The node that answers.
    pub observer: NodeId,
    /// The dataset.
    pub dataset: String,
}

/// The data of a `lagged` event: changes were lost, so what is there has to be read again.
#[derive(Debug, Serialize)]
struct Lagged {
    dataset: String,
    missed: u64,
}

/// What filters of subscribers look at.
pub(super) enum Told {
    Changed(Collection, Bytes),
    Lost,
}

impl Told {
    fn passes(&self, only: Option<&Collection>, prefix: &[u8]) -> bool {
        match self {
            Self::Changed(collection, key) => {
                only.is_none_or(|only| only == collection) && key.starts_with(prefix)
            }
            Self::Lost => true,
        }
    }
}

/// The events of a dataset, and the task that feeds them.
pub(super) struct Hub {
    events: EventHub<(), Told>,
    following: tokio::task::AbortHandle,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Api {
    /// The events of a dataset; the first who asks for them starts them.
    fn hub(&self, dataset: &DatasetId) -> Result<EventHub<(), Told>, Problem> {
        let mut hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hub) = hubs.get(dataset).filter(|hub| !hub.following.is_finished()) {
            return Ok(hub.events.clone());
        }
        let watch = self.sync().watch(dataset, None, Bytes::new()).map_err(|error| problem(&error))?;
        let options = &self.options;
        let events = EventHub::new(options.instance, options.hub, options.metrics.clone(), ());
        let following = tokio::spawn(follow(events.clone(), watch, dataset.clone())).abort_handle();
        hubs.insert(dataset.clone(), Hub { events: events.clone(), following });
        Ok(events)
    }
}

/// Publishes each change until the engine stops, and ends the streams then.
async fn follow(hub: EventHub<(), Told>, mut watch: Watch, dataset: DatasetId) {
    while let Some(event) = watch.next().await {
        let event = match event {
            WatchEvent::Changed(change) => {
                let DocumentHead { collection, key, version, .. } = change.document;
                let item = DocumentItem::new(&dataset, &collection, &key, &version);
                let told = Told::Changed(collection, key);
                let name = if version.is_tombstone() { "delete" } else { "put" };
                NewEvent::json(name, &item.with_value(&change.payload, VALUE_BYTES_MAX), told)
            }
            WatchEvent::Lagged { missed } => {
                NewEvent::json("lagged", &Lagged { dataset: dataset.to_string(), missed }, Told::Lost)
            }
        };
        match event {
            Ok(event) => hub.update(|()| vec![event]),
            Err(error) => tracing::error!(%error, "a change of a document can't be written as JSON"),
        }
    }
    hub.close();
}

pub(super) async fn watch(
    State(api): State<Arc<Api>>,
    Path(dataset): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    operator(request.extensions())?;
    let dataset = known(&api, &dataset)?;
    let (mut only, mut prefix) = (None, String::new());
    for (name, value) in query_pairs(request.uri())? {
        match name.as_str() {
            "collection" => only = Some(Collection::new(&value).map_err(|error| bad_name(&error))?),
            "prefix" => prefix = value,
            _ => return Err(bad_query("events.data", &name, &value, "collection or prefix as its name")),
        }
    }
    let last_event_id = request.headers().get("last-event-id").and_then(|value| value.to_str().ok());
    let identity = request.extensions().get::<Arc<PeerIdentity>>().map(|peer| peer.id.to_string());
    let options = SubscribeOptions {
        last_event_id: last_event_id.map(str::to_owned),
        identity: identity.unwrap_or_else(|| "unidentified".to_owned()),
        draining: request.extensions().get::<ConnectionInfo>().map(|info| info.draining.clone()),
    };
    let begin =
        Begin { api_version: API_VERSION.to_owned(), observer: api.observer(), dataset: dataset.to_string() };
    let subscription = api.hub(&dataset)?.subscribe(
        options,
        move |told| told.passes(only.as_ref(), prefix.as_bytes()),
        |()| begin,
        |begin| serde_json::to_string(&begin).into_iter().collect(),
    )?;
    Ok(subscription.into_response())
}
