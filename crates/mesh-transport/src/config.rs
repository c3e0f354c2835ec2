//! Settings of the `[transport]` section.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use mesh_core::{SettingError, Settings};

use crate::tls::IssuerPin;

/// Settings of everything that crosses a socket.
///
/// ```
/// use mesh_core::Settings;
/// use mesh_transport::TransportConfig;
/// let mut config = TransportConfig::default();
/// config.limits.handshakes_max = 0;
/// let problems = config.validate().unwrap_err();
/// assert!(problems[0].to_string().starts_with("transport.limits.handshakes_max (0)"));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct TransportConfig {
    /// Address of the one port, UDP and TCP. Port 0 takes any free one. Default: 0.0.0.0:17421.
    pub bind: SocketAddr,
    /// Address that others reach us at, if it is not `bind`. Default: none.
    pub advertise: Option<SocketAddr>,
    /// The port for operators and browsers.
    pub edge: EdgeConfig,
    /// Certificate, key and trust.
    pub tls: TlsConfig,
    /// HTTP/3 and QUIC.
    pub http3: Http3Config,
    /// Gossip links.
    pub links: LinksConfig,
    /// What one node takes on at once.
    pub limits: LimitsConfig,
    /// What each endpoint allows; also by `<namespace>/<endpoint>`. Default: rules for `mesh`, `control` and `edge`.
    #[cfg(feature = "rpc")]
    pub endpoints: std::collections::BTreeMap<String, crate::rpc::EndpointPolicy>,
    /// What endpoints allow beyond their rules, for a while. Default: nothing.
    #[cfg(feature = "rpc")]
    pub exceptions: Vec<crate::rpc::PolicyException>,
    /// Limits of the RPC server.
    #[cfg(feature = "rpc")]
    pub server: crate::rpc::ServerConfig,
    /// How channels choose and keep their connections.
    #[cfg(feature = "rpc")]
    pub channel: crate::rpc::ChannelConfig,
}

#[cfg(feature = "edge")]
pub use crate::edge::EdgeConfig;

/// Where operators and browsers are served.
#[cfg(not(feature = "edge"))]
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct EdgeConfig {
    /// Its address. Default: 127.0.0.1:17480.
    pub bind: SocketAddr,
}

/// Files of the node's identity.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct TlsConfig {
    /// PEM file with our certificate first, then its intermediates. Default: none, from the data directory.
    pub certificate: Option<PathBuf>,
    /// PEM file with the certificate's key, readable by its owner alone. Default: none, from the data directory.
    pub key: Option<PathBuf>,
    /// PEM file with the roots that we trust. Default: none, from the data directory.
    pub trust_bundle: Option<PathBuf>,
    /// PEM file with revocation lists. Default: none.
    pub crl: Option<PathBuf>,
    /// SHA-256 of the public keys of the authorities that may have issued a peer's certificate, in
    /// hexadecimal. Empty: any below the trust bundle. Default: empty.
    pub pinned_issuers: Vec<String>,
    /// Time between two looks at the files. Default: 5s.
    pub reload: ReloadInterval,
}

/// Time between two looks at a file; five seconds unless set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct ReloadInterval(#[cfg_attr(feature = "serde", serde(with = "humantime_serde"))] pub Duration);

impl Default for ReloadInterval {
    fn default() -> Self {
        Self(Duration::from_secs(5))
    }
}

/// HTTP/3 and the QUIC below it.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct Http3Config {
    /// Whether UDP is used at all. Off: HTTP/2 alone. Default: true.
    pub enabled: bool,
    /// How long an HTTP/3 attempt is alone before HTTP/2 joins the race. Default: 100ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub head_start: Duration,
    /// Send and receive buffers asked of the operating system for the UDP socket, in bytes. Default: 4194304.
    pub socket_buffer_bytes: usize,
}

/// Gossip links.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct LinksConfig {
    /// Longest time from asking for a link to its outcome. Default: 2s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub connect_timeout: Duration,
    /// How long QUIC stays silent before the link is tried over HTTP/2. Short ones make a busy start
    /// pay for two handshakes. Default: 800ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub head_start: Duration,
    /// How long QUIC has to prove a refused TCP connection wrong, and a link that is checked has to
    /// answer before a fresh connection is tried. Default: 100ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub refusal_grace: Duration,
    /// A link over which nothing came for this long is down. Default: 30s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub idle_timeout: Duration,
    /// First wait before a link over HTTP/2 tries QUIC again; doubles each time. Default: 1s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub quic_retry_min: Duration,
    /// Longest wait before a link over HTTP/2 tries QUIC again. Default: 300s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub quic_retry_max: Duration,
    /// Links at once; further ones are refused. Default: 1024.
    pub links_max: usize,
    /// Attempts to open a link at once; further ones fail. Default: 256.
    pub dials_max: usize,
    /// Payloads of one peer that wait to be received; its link is not read beyond that. Default: 256.
    pub queue_max: usize,
    /// Payloads over 1100 bytes on their way to one peer; further ones are refused as busy. Default: 64.
    pub large_payloads_max: usize,
}

/// What one node takes on at once.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct LimitsConfig {
    /// Incoming handshakes under way, for UDP and TCP each; the oldest TCP one gives way. Default: 512.
    pub handshakes_max: usize,
    /// Longest time of one handshake. Default: 3s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub handshake_timeout: Duration,
    /// Open connections, all kinds together; further ones are refused. Default: 8192.
    pub connections_max: usize,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([0, 0, 0, 0], 17421)),
            advertise: None,
            edge: EdgeConfig::default(),
            tls: TlsConfig::default(),
            http3: Http3Config::default(),
            links: LinksConfig::default(),
            limits: LimitsConfig::default(),
            #[cfg(feature = "rpc")]
            endpoints: crate::rpc::PolicyConfig::default().endpoints,
            #[cfg(feature = "rpc")]
            exceptions: Vec::new(),
            #[cfg(feature = "rpc")]
            server: crate::rpc::ServerConfig::default(),
            #[cfg(feature = "rpc")]
            channel: crate::rpc::ChannelConfig::default(),
        }
    }
}

#[cfg(not(feature = "edge"))]
impl Default for EdgeConfig {
    fn default() -> Self {
        Self { bind: SocketAddr::from(([127, 0, 0, 1], 17480)) }
    }
}

impl Default for Http3Config {
    fn default() -> Self {
        Self { enabled: true, head_start: Duration::from_millis(100), socket_buffer_bytes: 4 * 1024 * 1024 }
    }
}

impl Default for LinksConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            head_start: Duration::from_millis(800),
            refusal_grace: Duration::from_millis(100),
            idle_timeout: Duration::from_secs(30),
            quic_retry_min: Duration::from_secs(1),
            quic_retry_max: Duration::from_secs(300),
            links_max: 1024,
            dials_max: 256,
            queue_max: 256,
            large_payloads_max: 64,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { handshakes_max: 512, handshake_timeout: Duration::from_secs(3), connections_max: 8192 }
    }
}

impl TransportConfig {
    /// The settings of an endpoint on a free port of the loopback interface, for tests and trials.
    pub fn loopback() -> Self {
        Self { bind: SocketAddr::from(([127, 0, 0, 1], 0)), ..Self::default() }
    }
}

impl Settings for TransportConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut check = Check(Vec::new());
        let Self { bind, advertise, edge, tls, http3, links, limits, .. } = self;
        if let Some(advertise) = advertise
            && (advertise.ip().is_unspecified() || advertise.port() == 0)
        {
            check.broken("advertise", advertise, "must be an address and a port that other nodes can reach");
        }
        if edge.bind.port() != 0 && edge.bind == *bind {
            check.broken("edge.bind", edge.bind, "must differ from transport.bind");
        }
        #[cfg(feature = "edge")]
        if edge.http3 && !http3.enabled {
            check.broken("edge.http3", true, "must not be on where transport.http3.enabled is off");
        }
        for pin in &tls.pinned_issuers {
            if let Err(rule) = pin.parse::<IssuerPin>() {
                check.broken("tls.pinned_issuers", pin, &rule);
            }
        }
        let given = [tls.certificate.is_some(), tls.key.is_some(), tls.trust_bundle.is_some()];
        if given.contains(&true) && given.contains(&false) {
            let names = "tls.{certificate,key,trust_bundle}";
            check.broken(names, format!("{given:?}"), "must be given all three, or none");
        }
        const MS: fn(u64) -> Duration = Duration::from_millis;
        check.time("tls.reload", tls.reload.0, MS(100), MS(3_600_000));
        check.time("http3.head_start", http3.head_start, MS(1), MS(10_000));
        check.number("http3.socket_buffer_bytes", http3.socket_buffer_bytes, 64 * 1024, 256 * 1024 * 1024);
        check.time("links.connect_timeout", links.connect_timeout, MS(50), MS(60_000));
        check.time("links.head_start", links.head_start, MS(1), links.connect_timeout);
        check.time("links.refusal_grace", links.refusal_grace, MS(1), links.connect_timeout / 2);
        check.time("links.idle_timeout", links.idle_timeout, MS(1_000), MS(600_000));
        check.time("links.quic_retry_min", links.quic_retry_min, MS(10), links.quic_retry_max);
        check.time("links.quic_retry_max", links.quic_retry_max, links.quic_retry_min, MS(3_600_000));
        check.number("links.links_max", links.links_max, 1, 65_536);
        check.number("links.dials_max", links.dials_max, 1, 65_536);
        check.number("links.queue_max", links.queue_max, 1, 65_536);
        check.number("links.large_payloads_max", links.large_payloads_max, 1, 1024);
        check.number("limits.handshakes_max", limits.handshakes_max, 1, 65_536);
        check.time("limits.handshake_timeout", limits.handshake_timeout, MS(10), MS(60_000));
        check.number("limits.connections_max", limits.connections_max, 1, 1_000_000);
        #[cfg(feature = "edge")]
        check.0.extend(edge.problems());
        #[cfg(feature = "rpc")]
        check.0.extend(self.rpc_problems());
        check.0
    }
}

struct Check(Vec<SettingError>);

impl Check {
    fn broken(&mut self, name: &str, value: impl ToString, rule: &str) {
        self.0.push(SettingError::new(format!("transport.{name}"), value, rule));
    }

    fn time(&mut self, name: &str, value: Duration, min: Duration, max: Duration) {
        if value < min || value > max {
            self.broken(name, format!("{value:?}"), &format!("must be between {min:?} and {max:?}"));
        }
    }

    fn number(&mut self, name: &str, value: usize, min: usize, max: usize) {
        if value < min || value > max {
            self.broken(name, value, &format!("must be between {min} and {max}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(TransportConfig::default().problems(), []);
        assert_eq!(TransportConfig::loopback().problems(), []);
    }

    #[test]
    fn a_broken_rule_names_setting_value_and_range() {
        let mut config = TransportConfig::default();
        config.links.head_start = Duration::from_secs(3);
        config.tls.pinned_issuers = vec!["beef".to_owned()];
        config.tls.key = Some("node.key".into());
        let texts: Vec<String> = config.problems().iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts[0].starts_with("transport.tls.pinned_issuers (beef)") && texts[0].contains("64"));
        assert!(texts[2].contains("transport.links.head_start (3s) must be between 1ms and 2s"), "{texts:?}");
    }
}
