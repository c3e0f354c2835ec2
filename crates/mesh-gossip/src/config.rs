//! Settings of the `[gossip]` section.

use std::{net::SocketAddr, time::Duration};

use mesh_core::{SettingError, Settings};

/// Settings of membership and failure detection.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::Settings;
/// use mesh_gossip::GossipConfig;
/// let config = GossipConfig { probe_interval: Duration::from_millis(10), ..GossipConfig::lan() };
/// let problems = config.validate().unwrap_err();
/// assert!(problems[0].to_string().contains("gossip.probe_interval (10ms)"));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct GossipConfig {
    /// Whether this node is a member. Off: it serves and calls, but nobody lists it. Default: true.
    pub enabled: bool,
    /// Addresses of any nodes of the cluster, `host:port`; one that answers suffices. Default: none.
    pub seeds: Vec<String>,
    /// Time within which each member is probed about once, by one of its observers. Default: 1s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub probe_interval: Duration,
    /// Shortest wait for an answer, however short the measured round trip. Default: 20ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub probe_timeout_min: Duration,
    /// Longest wait for an answer; shorter than `probe_interval`. Default: 500ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub probe_timeout_max: Duration,
    /// Members asked to probe on our behalf after a missed answer. Default: 3.
    pub indirect_probes: usize,
    /// Time a suspected member has to refute once three observers agree. Default: 1600ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub suspicion_min: Duration,
    /// Time a suspected member has to refute while only one observer suspects it. Default: 6s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub suspicion_max: Duration,
    /// Time to refute when three observers saw the address refuse connections. Default: 200ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub suspicion_refused: Duration,
    /// Rings of the overlay: each node probes its successor on every ring. 0 follows the cluster's size, 4 to 16. Default: 0.
    pub rings: usize,
    /// Longest time a change waits for others to share its message. Default: 5ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub push_flush: Duration,
    /// Time between two comparisons of the whole member table with a neighbour, mismatch or not. Default: 10s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub anti_entropy_interval: Duration,
    /// How long dead and left members are remembered. Default: 24h.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub tombstone_ttl: Duration,
    /// Largest metadata of one member, keys and values together, in bytes. Default: 65536.
    pub metadata_bytes_max: usize,
    /// Bytes of other members' loads that ride on one probe or answer, at least one load; 0: only neighbours of a node learn its load. Default: 128.
    pub load_relay_bytes: usize,
    /// Members in the table, tombstones included; further ones are refused. Default: 16384.
    pub members_max: usize,
    /// Messages accepted from one peer in a second; more are dropped and counted. Default: 2000.
    pub messages_per_second_max: u32,
    /// User broadcasts that wait to be sent; more are refused. Default: 256.
    pub broadcast_queue_max: usize,
    /// Largest user broadcast, in bytes. Default: 16384.
    pub broadcast_bytes_max: usize,
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self::lan()
    }
}

impl GossipConfig {
    /// For nodes in one data centre.
    pub fn lan() -> Self {
        Self {
            enabled: true,
            seeds: Vec::new(),
            probe_interval: Duration::from_secs(1),
            probe_timeout_min: Duration::from_millis(20),
            probe_timeout_max: Duration::from_millis(500),
            indirect_probes: 3,
            suspicion_min: Duration::from_millis(1600),
            suspicion_max: Duration::from_secs(6),
            suspicion_refused: Duration::from_millis(200),
            rings: 0,
            push_flush: Duration::from_millis(5),
            anti_entropy_interval: Duration::from_secs(10),
            tombstone_ttl: Duration::from_secs(24 * 3600),
            metadata_bytes_max: 64 * 1024,
            load_relay_bytes: 128,
            members_max: 16 * 1024,
            messages_per_second_max: 2000,
            broadcast_queue_max: 256,
            broadcast_bytes_max: 16 * 1024,
        }
    }

    /// For nodes in several regions.
    pub fn wan() -> Self {
        Self {
            probe_interval: Duration::from_secs(3),
            probe_timeout_min: Duration::from_millis(100),
            probe_timeout_max: Duration::from_millis(2000),
            suspicion_min: Duration::from_secs(5),
            suspicion_max: Duration::from_secs(20),
            suspicion_refused: Duration::from_secs(1),
            ..Self::lan()
        }
    }

    /// For processes on one machine: faster, at a higher cost.
    pub fn local() -> Self {
        Self {
            probe_interval: Duration::from_millis(500),
            probe_timeout_max: Duration::from_millis(250),
            suspicion_min: Duration::from_millis(1000),
            suspicion_max: Duration::from_secs(3),
            ..Self::lan()
        }
    }

    /// The most rings that are ever used.
    pub const RINGS_MAX: usize = 16;

    /// The seeds that are plain addresses. Names are for the driver to resolve.
    pub fn seed_addresses(&self) -> Vec<SocketAddr> {
        self.seeds.iter().filter_map(|s| s.parse().ok()).collect()
    }
}

impl Settings for GossipConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        let mut rule = |broken: bool, name: &str, value: String, rule: String| {
            if broken {
                problems.push(SettingError::new(format!("gossip.{name}"), value, rule));
            }
        };
        let mut within = |name: &str, value: Duration, min: Duration, max: Duration| {
            let text = format!("must be between {min:?} and {max:?}");
            rule(value < min || value > max, name, format!("{value:?}"), text);
        };
        const MS: fn(u64) -> Duration = Duration::from_millis;
        within("probe_interval", self.probe_interval, MS(50), MS(60_000));
        within("probe_timeout_min", self.probe_timeout_min, MS(1), MS(10_000));
        within("probe_timeout_max", self.probe_timeout_max, MS(5), MS(30_000));
        within("suspicion_min", self.suspicion_min, MS(100), MS(120_000));
        within("suspicion_max", self.suspicion_max, MS(100), MS(600_000));
        within("suspicion_refused", self.suspicion_refused, MS(50), MS(60_000));
        within("push_flush", self.push_flush, MS(0), MS(1_000));
        within("anti_entropy_interval", self.anti_entropy_interval, MS(500), MS(3_600_000));
        within("tombstone_ttl", self.tombstone_ttl, MS(60_000), MS(30 * 24 * 3_600_000));

        let mut shorter = |short: &str, a: Duration, long: &str, b: Duration, equal: bool| {
            let broken = if equal { a > b } else { a >= b };
            let word = if equal { "must not be longer than" } else { "must be shorter than" };
            rule(broken, short, format!("{a:?}"), format!("{word} gossip.{long} ({b:?})"));
        };
        shorter("probe_timeout_max", self.probe_timeout_max, "probe_interval", self.probe_interval, false);
        shorter(
            "probe_timeout_min",
            self.probe_timeout_min,
            "probe_timeout_max",
            self.probe_timeout_max,
            true,
        );
        shorter("suspicion_min", self.suspicion_min, "suspicion_max", self.suspicion_max, true);
        shorter("suspicion_refused", self.suspicion_refused, "suspicion_min", self.suspicion_min, true);

        let mut number = |name: &str, value: usize, min: usize, max: usize| {
            rule(
                value < min || value > max,
                name,
                value.to_string(),
                format!("must be between {min} and {max}"),
            );
        };
        number("indirect_probes", self.indirect_probes, 0, 16);
        number("rings", self.rings, 0, Self::RINGS_MAX);
        number("metadata_bytes_max", self.metadata_bytes_max, 256, 64 * 1024);
        number("load_relay_bytes", self.load_relay_bytes, 0, 512);
        number("members_max", self.members_max, 2, 1 << 20);
        number("messages_per_second_max", self.messages_per_second_max as usize, 50, 1_000_000);
        number("broadcast_queue_max", self.broadcast_queue_max, 1, 1 << 16);
        number("broadcast_bytes_max", self.broadcast_bytes_max, 1, 128 * 1024);
        for seed in &self.seeds {
            let port = seed.rsplit_once(':').map(|(host, port)| (!host.is_empty(), port.parse::<u16>()));
            let srv = seed.starts_with('_');
            let broken = !srv && !matches!(port, Some((true, Ok(1..))));
            rule(
                broken,
                "seeds",
                seed.clone(),
                "must be host:port, or a DNS service name that starts with '_'".into(),
            );
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presets_are_valid() {
        for config in [GossipConfig::lan(), GossipConfig::wan(), GossipConfig::local()] {
            assert_eq!(config.problems(), []);
        }
    }

    #[test]
    fn a_broken_relation_names_both_settings() {
        let config = GossipConfig { probe_timeout_max: Duration::from_secs(2), ..GossipConfig::lan() };
        let problems = config.problems();
        let text = problems.first().expect("one problem").to_string();
        assert_eq!(text, "gossip.probe_timeout_max (2s) must be shorter than gossip.probe_interval (1s)");
    }

    #[test]
    fn seeds_need_a_port() {
        let config = GossipConfig {
            seeds: vec!["node-1".into(), "n:0".into(), "n:7".into(), "_mesh._udp.x".into()],
            ..GossipConfig::lan()
        };
        let named: Vec<String> = config.problems().iter().map(|p| p.value.clone()).collect();
        assert_eq!(named, ["node-1", "n:0"]);
    }
}
