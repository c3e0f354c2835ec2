//! Settings of the `[registry]` section.

use std::time::Duration;

use mesh_core::{SettingError, Settings};

#[cfg(feature = "etcd")]
use crate::etcd::EtcdConfig;
#[cfg(feature = "postgres")]
use crate::postgres::PostgresConfig;
#[cfg(feature = "tokio")]
use crate::reconcile::ReconcileConfig;
#[cfg(feature = "rpc")]
use crate::{RemoteConfig, ServiceConfig};

/// Settings of the registry's store.
///
/// ```
/// use mesh_core::Settings;
/// use mesh_registry::RegistryConfig;
/// let config = RegistryConfig { voters: 2, ..RegistryConfig::default() };
/// let problems = config.validate().unwrap_err();
/// assert_eq!(problems[0].to_string(), "registry.voters (2) must be 1, 3 or 5");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct RegistryConfig {
    /// Who keeps the store: `voters` among the nodes of this cluster, an `etcd` or a `postgres` that is there
    /// already (builds with the feature of that name), or `off`. Default: voters.
    pub provider: Provider,
    /// Nodes that vote, once there are so many with the role `control`; 1, 3 or 5. Default: 3.
    pub voters: u32,
    /// Time between two signs of life of the store's leader. Default: 60ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub heartbeat_interval: Duration,
    /// Silence of the leader after which others may elect another, at the least; at the most it is
    /// twice that, and a new leader is there after two to four times that. Default: 200ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub election_timeout: Duration,
    /// Longest wait for a request to be answered. Default: 5s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub request_timeout: Duration,
    /// Requests at work at once; more are refused. Default: 4096.
    pub requests_in_flight_max: usize,
    /// Log entries after which a snapshot is taken. Default: 10000.
    pub snapshot_entries: u64,
    /// Bytes of log after which a snapshot is taken. Default: 64 MiB.
    pub snapshot_bytes: u64,
    /// How long the history of changes is kept for watches that resume; the newest 10,000 revisions and
    /// 32 MiB at the most. Default: 1h.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub history_retention: Duration,
    /// How long audit records are kept. Default: 30d.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub audit_retention: Duration,
    /// How much the clocks of two nodes may differ in rate, in parts per million; sessions live so much
    /// longer in the store than for their owner. Default: 1000.
    pub drift_ppm: u32,
    /// How long a voter has to be gone before another node takes its place. Default: 30s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub voter_dead_after: Duration,
    /// How what a node remembers of the store is compared with it.
    #[cfg(feature = "tokio")]
    pub reconcile: ReconcileConfig,
    /// The store as a service for other nodes, on nodes that may vote.
    #[cfg(feature = "rpc")]
    pub service: ServiceConfig,
    /// How a node reaches the voters.
    #[cfg(feature = "rpc")]
    pub remote: RemoteConfig,
    /// Where etcd is, for the provider `etcd`. Builds with the feature `etcd`.
    #[cfg(feature = "etcd")]
    pub etcd: EtcdConfig,
    /// Where PostgreSQL is, for the provider `postgres`. Builds with the feature `postgres`.
    #[cfg(feature = "postgres")]
    pub postgres: PostgresConfig,
}

/// Who keeps the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Provider {
    /// Nodes of the cluster with the role `control`; all others are their clients.
    #[default]
    Voters,
    /// An etcd that is there already; needs a build with the feature `etcd`.
    Etcd,
    /// A PostgreSQL that is there already; needs a build with the feature `postgres`.
    Postgres,
    /// Nobody: the node has no registry and no leadership.
    Off,
}

impl Provider {
    /// As the setting names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Voters => "voters",
            Self::Etcd => "etcd",
            Self::Postgres => "postgres",
            Self::Off => "off",
        }
    }

    /// Whether this build has it.
    pub fn is_built(self) -> bool {
        match self {
            Self::Voters | Self::Off => true,
            Self::Etcd => cfg!(feature = "etcd"),
            Self::Postgres => cfg!(feature = "postgres"),
        }
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            provider: Provider::default(),
            voters: 3,
            heartbeat_interval: Duration::from_millis(60),
            election_timeout: Duration::from_millis(200),
            request_timeout: Duration::from_secs(5),
            requests_in_flight_max: 4096,
            snapshot_entries: 10_000,
            snapshot_bytes: 64 << 20,
            history_retention: Duration::from_secs(3600),
            audit_retention: Duration::from_secs(30 * 86_400),
            drift_ppm: 1000,
            voter_dead_after: Duration::from_secs(30),
            #[cfg(feature = "tokio")]
            reconcile: ReconcileConfig::default(),
            #[cfg(feature = "rpc")]
            service: ServiceConfig::default(),
            #[cfg(feature = "rpc")]
            remote: RemoteConfig::default(),
            #[cfg(feature = "etcd")]
            etcd: EtcdConfig::default(),
            #[cfg(feature = "postgres")]
            postgres: PostgresConfig::default(),
        }
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

impl Settings for RegistryConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        let mut report = |setting: &str, value: String, rule: String| {
            problems.push(SettingError::new(format!("registry.{setting}"), value, rule));
        };
        if !self.provider.is_built() {
            let name = self.provider.as_str();
            let rule = format!("is not in this build; build with --features {name}, or choose voters or off");
            report("provider", name.to_owned(), rule);
        }
        if ![1, 3, 5].contains(&self.voters) {
            report("voters", self.voters.to_string(), "must be 1, 3 or 5".to_owned());
        }
        let times = [
            ("heartbeat_interval", self.heartbeat_interval, 10 * MILLISECOND, 10 * SECOND),
            ("election_timeout", self.election_timeout, 50 * MILLISECOND, 60 * SECOND),
            ("request_timeout", self.request_timeout, 10 * MILLISECOND, 300 * SECOND),
            ("history_retention", self.history_retention, SECOND, 365 * DAY),
            ("audit_retention", self.audit_retention, SECOND, 3650 * DAY),
            ("voter_dead_after", self.voter_dead_after, SECOND, 30 * DAY),
        ];
        for (setting, value, least, most) in times {
            if !(least..=most).contains(&value) {
                report(setting, format!("{value:?}"), format!("must be between {least:?} and {most:?}"));
            }
        }
        if self.election_timeout < 3 * self.heartbeat_interval {
            report(
                "election_timeout",
                format!("{:?}", self.election_timeout),
                format!(
                    "must be at least three times registry.heartbeat_interval ({:?})",
                    self.heartbeat_interval
                ),
            );
        }
        let numbers = [
            ("requests_in_flight_max", self.requests_in_flight_max as u64, 1, 1 << 20),
            ("snapshot_entries", self.snapshot_entries, 100, 10_000_000),
            ("snapshot_bytes", self.snapshot_bytes, 1 << 20, 16 << 30),
            ("drift_ppm", u64::from(self.drift_ppm), 0, 100_000),
        ];
        for (setting, value, least, most) in numbers {
            if !(least..=most).contains(&value) {
                report(setting, value.to_string(), format!("must be between {least} and {most}"));
            }
        }
        #[cfg(feature = "tokio")]
        problems.extend(self.reconcile.problems());
        #[cfg(feature = "rpc")]
        {
            problems.extend(self.service.problems());
            problems.extend(self.remote.problems());
        }
        #[cfg(feature = "etcd")]
        problems.extend(self.etcd.problems());
        #[cfg(feature = "postgres")]
        problems.extend(self.postgres.problems());
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_is_not_built_in_names_its_feature() {
        for (provider, name) in [(Provider::Etcd, "etcd"), (Provider::Postgres, "postgres")] {
            let config = RegistryConfig { provider, ..RegistryConfig::default() };
            let problems: Vec<String> = config.problems().iter().map(ToString::to_string).collect();
            let refused = format!(
                "registry.provider ({name}) is not in this build; build with --features {name}, or choose voters or off"
            );
            assert_eq!(problems, if provider.is_built() { vec![] } else { vec![refused] });
        }
    }

    #[test]
    fn defaults_are_valid_and_each_broken_rule_is_named() {
        assert_eq!(RegistryConfig::default().problems(), []);
        let config = RegistryConfig {
            voters: 4,
            heartbeat_interval: 100 * MILLISECOND,
            snapshot_entries: 1,
            ..RegistryConfig::default()
        };
        let problems: Vec<String> = config.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "registry.voters (4) must be 1, 3 or 5",
                "registry.election_timeout (200ms) must be at least three times registry.heartbeat_interval (100ms)",
                "registry.snapshot_entries (1) must be between 100 and 10000000",
            ]
        );
    }
}
