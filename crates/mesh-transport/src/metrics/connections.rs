//! What is counted of handshakes, connections and gossip links.

use prometheus_client::metrics::counter::Counter;

use super::{Labels, TransportMetrics};

/// What happens to payloads on gossip links.
pub(crate) struct LinkCounters {
    pub(crate) sent: Counter,
    pub(crate) busy: Counter,
    pub(crate) received: Counter,
    /// Cut or malformed, and so not delivered.
    pub(crate) broken: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) received_bytes: Counter,
}

/// How a handshake ended. Fit for a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeOutcome {
    Accepted,
    /// A certificate was refused, by us or by the peer.
    Identity,
    /// No application protocol in common, HTTP/1.1 among them.
    Protocol,
    /// It did not finish in time.
    Timeout,
    /// What came is not TLS 1.3 or not QUIC: plaintext, garbage.
    Garbage,
    /// Turned away because too many are under way.
    Limit,
    /// Any other failure.
    Failed,
}

impl HandshakeOutcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Identity => "identity",
            Self::Protocol => "protocol",
            Self::Timeout => "timeout",
            Self::Garbage => "garbage",
            Self::Limit => "limit",
            Self::Failed => "failed",
        }
    }
}

impl TransportMetrics {
    pub(crate) fn handshake(&self, transport: &'static str, outcome: HandshakeOutcome) {
        let labels = Labels([("transport", transport), ("outcome", outcome.as_str())]);
        self.0.handshakes.get_or_create(&labels).inc();
    }

    pub(crate) fn connection_opened(&self, transport: &'static str, direction: &'static str) {
        self.0.connections.get_or_create(&Labels([("transport", transport), ("direction", direction)])).inc();
    }

    pub(crate) fn connection_closed(&self, transport: &'static str, direction: &'static str) {
        self.0.connections.get_or_create(&Labels([("transport", transport), ("direction", direction)])).dec();
    }

    /// The counters of payloads, looked up once: they are counted for every datagram.
    pub(crate) fn link_counters(&self) -> LinkCounters {
        let payloads = |direction, outcome| {
            self.0
                .link_datagrams
                .get_or_create(&Labels([("direction", direction), ("outcome", outcome)]))
                .clone()
        };
        let bytes = |direction| self.0.link_bytes.get_or_create(&Labels([("direction", direction)])).clone();
        LinkCounters {
            sent: payloads("out", "sent"),
            busy: payloads("out", "busy"),
            received: payloads("in", "received"),
            broken: payloads("in", "broken"),
            sent_bytes: bytes("out"),
            received_bytes: bytes("in"),
        }
    }

    pub(crate) fn link_up(&self, path: &'static str, direction: &'static str) {
        self.0.links.get_or_create(&Labels([("path", path), ("direction", direction)])).inc();
    }

    pub(crate) fn link_gone(&self, path: &'static str, direction: &'static str) {
        self.0.links.get_or_create(&Labels([("path", path), ("direction", direction)])).dec();
    }

    pub(crate) fn link_down(&self, reason: &'static str) {
        self.0.link_downs.get_or_create(&Labels([("reason", reason)])).inc();
    }

    pub(crate) fn link_connect(&self, outcome: &'static str) {
        self.0.link_connects.get_or_create(&Labels([("outcome", outcome)])).inc();
    }
}
