//! Every metric that this crate emits.

#[cfg(feature = "quic")]
mod connections;

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::tls::Rule;

#[cfg(feature = "quic")]
pub(crate) use connections::{HandshakeOutcome, LinkCounters};

/// The crate's metrics. Clones share their counts; [`register`](Self::register) puts them in a registry.
#[derive(Clone, Default)]
pub struct TransportMetrics(Arc<Inner>);

#[derive(Default)]
struct Inner {
    handshakes: Family<Labels<2>, Counter>,
    refused: Family<Labels<1>, Counter>,
    connections: Family<Labels<2>, Gauge>,
    certificate_not_after: Gauge,
    link_datagrams: Family<Labels<2>, Counter>,
    link_bytes: Family<Labels<1>, Counter>,
    links: Family<Labels<2>, Gauge>,
    link_downs: Family<Labels<1>, Counter>,
    link_connects: Family<Labels<1>, Counter>,
    requests: Family<Labels<3>, Counter>,
    downgrades: Family<Labels<1>, Counter>,
    policy_violations: Family<PolicyLabels, Counter>,
}

/// Label names and values, all from small closed sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Labels<const N: usize>(pub(crate) [(&'static str, &'static str); N]);

impl<const N: usize> EncodeLabelSet for Labels<N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.as_slice().encode(encoder)
    }
}

/// Endpoint names come from the configuration, which bounds them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct PolicyLabels(String);

impl EncodeLabelSet for PolicyLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [("endpoint", self.0.as_str())].as_slice().encode(encoder)
    }
}

impl fmt::Debug for TransportMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransportMetrics")
    }
}

impl TransportMetrics {
    /// Puts every metric into `registry`. Call once for each registry.
    pub fn register(&self, registry: &mut Registry) {
        let m = &*self.0;
        registry.register(
            "mesh_transport_handshakes",
            "Incoming handshakes by how they ended",
            m.handshakes.clone(),
        );
        registry.register(
            "mesh_transport_refused_certificates",
            "Certificates of peers that were not accepted, by rule",
            m.refused.clone(),
        );
        registry.register("mesh_transport_connections", "Open connections", m.connections.clone());
        registry.register(
            "mesh_transport_certificate_not_after_seconds",
            "End of validity of our own certificate, seconds since the Unix epoch",
            m.certificate_not_after.clone(),
        );
        registry.register(
            "mesh_transport_link_payloads",
            "Payloads on gossip links, by direction and outcome",
            m.link_datagrams.clone(),
        );
        registry.register(
            "mesh_transport_link_bytes",
            "Bytes of payload on gossip links",
            m.link_bytes.clone(),
        );
        registry.register("mesh_transport_links", "Gossip links that are up", m.links.clone());
        registry.register(
            "mesh_transport_link_downs",
            "Gossip links that went down, by reason",
            m.link_downs.clone(),
        );
        registry.register(
            "mesh_transport_link_connects",
            "Attempts to open a gossip link, by outcome",
            m.link_connects.clone(),
        );
        registry.register(
            "mesh_transport_requests",
            "Requests by transport, encoding and the reason for that choice",
            m.requests.clone(),
        );
        registry.register(
            "mesh_transport_downgrades",
            "Requests that did not use HTTP/3, by reason",
            m.downgrades.clone(),
        );
        registry.register(
            "mesh_transport_policy_violations",
            "Requests that the transport policy refused",
            m.policy_violations.clone(),
        );
    }

    pub(crate) fn refused(&self, rule: Rule) {
        self.0.refused.get_or_create(&Labels([("rule", rule.as_str())])).inc();
    }

    pub(crate) fn certificate_expires(&self, not_after_s: u64) {
        self.0.certificate_not_after.set(i64::try_from(not_after_s).unwrap_or(i64::MAX));
    }

    /// How many incoming handshakes ended so, for tests and status pages.
    pub fn handshakes_total(&self, transport: &'static str, outcome: &'static str) -> u64 {
        self.0.handshakes.get_or_create(&Labels([("transport", transport), ("outcome", outcome)])).get()
    }

    /// How many certificates `rule` refused, for tests and status pages.
    pub fn refused_total(&self, rule: Rule) -> u64 {
        self.0.refused.get_or_create(&Labels([("rule", rule.as_str())])).get()
    }

    /// Counts one finished request.
    pub fn request(&self, transport: &'static str, encoding: &'static str, reason: &'static str) {
        let labels = Labels([("transport", transport), ("encoding", encoding), ("reason", reason)]);
        self.0.requests.get_or_create(&labels).inc();
    }

    /// Counts one request that did not use HTTP/3.
    pub fn downgrade(&self, reason: &'static str) {
        self.0.downgrades.get_or_create(&Labels([("reason", reason)])).inc();
    }

    /// Counts one request that the policy of a configured endpoint refused.
    pub fn policy_violation(&self, endpoint: &str) {
        self.0.policy_violations.get_or_create(&PolicyLabels(endpoint.to_owned())).inc();
    }
}
