//! The channels of a node, one for each peer and lane.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicUsize},
};

use arc_swap::ArcSwapOption;
use mesh_core::{NodeId, Validated};
use tokio::sync::watch;

use super::{Channel, Connector, Inner, Target, choice::Memory};
use crate::rpc::{ChannelConfig, EndpointGuard, Lane, RpcMetrics};

/// Opens channels. Clones share them.
#[derive(Clone)]
pub struct Channels {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Arc<dyn Connector>,
    endpoint: EndpointGuard,
    config: Validated<ChannelConfig>,
    metrics: RpcMetrics,
    open: Mutex<BTreeMap<(NodeId, Lane), Weak<Inner>>>,
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channels").field("endpoint", &self.shared.endpoint.name()).finish_non_exhaustive()
    }
}

impl Channels {
    /// Channels whose connections come from `connector`, under the rules of `endpoint`.
    pub fn new(
        connector: Arc<dyn Connector>,
        endpoint: EndpointGuard,
        config: Validated<ChannelConfig>,
        metrics: RpcMetrics,
    ) -> Self {
        let open = Mutex::default();
        Self { shared: Arc::new(Shared { connector, endpoint, config, metrics, open }) }
    }

    /// The channel to `target` for one kind of traffic. Nothing is connected yet.
    ///
    /// While a channel to the same node and lane is held somewhere, and the target has not
    /// changed, that one is returned, with its connection.
    pub fn open(&self, target: Target, lane: Lane) -> Channel {
        let shared = &self.shared;
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (target.node_id.clone(), lane);
        if let Some(inner) = open.get(&key).and_then(Weak::upgrade)
            && inner.target == target
        {
            return Channel { inner };
        }
        let config = shared.config.clone();
        let inner = Arc::new(Inner {
            authority: authority(&target.node_id),
            target,
            lane,
            endpoint: shared.endpoint.clone(),
            connector: shared.connector.clone(),
            metrics: shared.metrics.clone(),
            live: ArcSwapOption::empty(),
            memory: Mutex::new(Memory::new(config.retry_min, config.retry_max)),
            in_flight: AtomicUsize::new(0),
            alive: watch::Sender::new(()),
            config,
        });
        // Whoever adds an entry clears out those that nobody holds any more.
        open.retain(|_, inner| inner.strong_count() > 0);
        open.insert(key, Arc::downgrade(&inner));
        Channel { inner }
    }
}

/// The name that requests to `node_id` carry. Node ids are valid host names.
fn authority(node_id: &NodeId) -> http::uri::Authority {
    match http::uri::Authority::try_from(node_id.as_str()) {
        Ok(authority) => authority,
        Err(_) => unreachable!("node ids consist of a-z, 0-9, '-' and '.'"),
    }
}
