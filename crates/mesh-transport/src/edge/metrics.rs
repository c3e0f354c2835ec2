//! Every metric that the edge toolkit emits.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Counters of the edge port. Clones share their numbers.
#[derive(Clone, Debug)]
pub struct EdgeMetrics {
    pub(super) requests: Family<RequestLabels, Counter>,
    pub(super) request_seconds: Histogram,
    pub(super) connections: Gauge,
    pub(super) refused: Family<RefusedLabels, Counter>,
    pub(super) subscribers: Gauge,
    pub(super) slow_subscribers: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) method: &'static str,
    pub(super) status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RefusedLabels {
    pub(super) reason: Refused,
}

/// Why a connection was not served, or not any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Refused {
    /// Too many connections.
    Connections,
    /// Too many handshakes, from this address or together.
    Handshakes,
    /// The handshake took too long.
    Timeout,
    /// No TLS, no certificate, or one that TLS does not accept.
    Tls,
    /// The certificate is not one of our cluster's, or no longer.
    Identity,
    /// The identity was revoked while connected.
    Revoked,
}

impl Refused {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Handshakes => "handshakes",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Identity => "identity",
            Self::Revoked => "revoked",
        }
    }
}

impl EncodeLabelValue for Refused {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

impl Default for EdgeMetrics {
    fn default() -> Self {
        let bounds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
        Self {
            requests: Family::default(),
            request_seconds: Histogram::new(bounds),
            connections: Gauge::default(),
            refused: Family::default(),
            subscribers: Gauge::default(),
            slow_subscribers: Counter::default(),
        }
    }
}

impl EdgeMetrics {
    /// Names them in a registry. Counters get their suffix `_total` when they are written out.
    pub fn register(&self, registry: &mut Registry) {
        let requests = self.requests.clone();
        registry.register("mesh_edge_requests", "Answered requests by method and status", requests);
        registry.register(
            "mesh_edge_request_seconds",
            "Time from a request's headers to those of its answer",
            self.request_seconds.clone(),
        );
        registry.register("mesh_edge_connections", "Open connections", self.connections.clone());
        registry.register("mesh_edge_refused", "Connections refused or ended", self.refused.clone());
        registry.register("mesh_edge_subscribers", "Open event streams", self.subscribers.clone());
        let slow = self.slow_subscribers.clone();
        registry.register("mesh_edge_slow_subscribers", "Event streams ended for being too slow", slow);
    }

    pub(super) fn refuse(&self, reason: Refused) {
        self.refused.get_or_create(&RefusedLabels { reason }).inc();
    }

    /// How many connections were refused for a reason.
    #[cfg(test)]
    pub(super) fn refused(&self, reason: Refused) -> u64 {
        self.refused.get_or_create(&RefusedLabels { reason }).get()
    }
}
