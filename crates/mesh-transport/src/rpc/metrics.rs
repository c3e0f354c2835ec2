//! What servers and channels count.

use std::sync::Arc;

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Encoding, Reason, Transport};
use crate::{TransportMetrics, metrics::Labels};

/// The counters of requests. Clones share them.
///
/// Requests by reason, downgrades and policy violations are counted in the crate's
/// [`TransportMetrics`]; what only servers and channels know is counted here.
#[derive(Clone, Debug, Default)]
pub struct RpcMetrics {
    transport: TransportMetrics,
    own: Arc<Own>,
}

#[derive(Debug, Default)]
struct Own {
    served: Family<Labels<2>, Counter>,
    retries: Family<Labels<1>, Counter>,
    switches: Family<Labels<1>, Counter>,
    shed: Counter,
    in_flight: Gauge,
}

impl RpcMetrics {
    /// Counts in `transport` what it has counters for.
    pub fn new(transport: TransportMetrics) -> Self {
        Self { transport, own: Arc::default() }
    }

    /// Puts the counters that are not in [`TransportMetrics`] into `registry`. Call once
    /// for each registry, besides [`TransportMetrics::register`].
    pub fn register(&self, registry: &mut Registry) {
        let own = &self.own;
        registry.register(
            "mesh_transport_served",
            "Requests that servers answered, by transport and encoding",
            own.served.clone(),
        );
        registry.register(
            "mesh_transport_retries",
            "Requests that a channel sent again, by the transport that failed",
            own.retries.clone(),
        );
        registry.register(
            "mesh_transport_switches",
            "Times that a channel took up a new connection, by its transport",
            own.switches.clone(),
        );
        registry.register(
            "mesh_transport_shed",
            "Requests refused because the server was at its limit",
            own.shed.clone(),
        );
        registry.register(
            "mesh_transport_requests_in_flight",
            "Requests that servers are working on",
            own.in_flight.clone(),
        );
    }

    /// A channel got the response to a request.
    pub(crate) fn request(&self, transport: Transport, encoding: Encoding, reason: Reason) {
        self.transport.request(transport.as_str(), encoding.as_str(), reason.as_str());
        // HTTP/2 by choice is no downgrade.
        if transport == Transport::Http2 && !matches!(reason, Reason::Negotiated | Reason::Policy) {
            self.transport.downgrade(reason.as_str());
        }
    }

    pub(crate) fn violation(&self, endpoint: &str) {
        self.transport.policy_violation(endpoint);
    }

    pub(crate) fn served(&self, transport: Transport, encoding: Encoding) {
        let labels = Labels([("transport", transport.as_str()), ("encoding", encoding.as_str())]);
        self.own.served.get_or_create(&labels).inc();
    }

    pub(crate) fn retry(&self, failed: Transport) {
        self.own.retries.get_or_create(&Labels([("transport", failed.as_str())])).inc();
    }

    pub(crate) fn switch(&self, to: Transport) {
        self.own.switches.get_or_create(&Labels([("transport", to.as_str())])).inc();
    }

    pub(crate) fn shed(&self) {
        self.own.shed.inc();
    }

    pub(crate) fn in_flight(&self) -> &Gauge {
        &self.own.in_flight
    }

    /// Requests that servers refused because they were at their limit.
    pub fn shed_total(&self) -> u64 {
        self.own.shed.get()
    }

    /// Requests that servers are working on.
    pub fn requests_in_flight(&self) -> i64 {
        self.own.in_flight.get()
    }
}
