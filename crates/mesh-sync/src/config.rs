//! Settings of the `[sync]` section.

use std::{collections::BTreeSet, time::Duration};

use mesh_core::{NodeId, SettingError, Settings};

use crate::{
    bootstrap::AccessPolicy,
    entry::{AdmissionConfig, AuthorId, DatasetId},
    handshake::DATASETS_MAX,
    lanes::{LaneLimits, Rate},
    queue::QueueLimits,
};

/// Settings of anti-entropy sync.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::Settings;
/// use mesh_sync::config::SyncConfig;
/// let config = SyncConfig { lag_degraded: Duration::from_secs(300), ..SyncConfig::default() };
/// let problems = config.validate().unwrap_err();
/// assert!(problems[0].to_string().contains("sync.lag_degraded (300s) must be shorter than sync.lag_unhealthy (120s)"));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct SyncConfig {
    /// Whether this node syncs at all. Default: true.
    pub enabled: bool,
    /// Datasets that this node keeps, at most 256. Default: none.
    pub datasets: Vec<DatasetConfig>,
    /// Entries that wait to be sent, for each dataset; further ones are left to the next check. Default: 100000.
    pub queue_entries_max: usize,
    /// Bytes of entries that wait to be sent, for each dataset; further ones are left to the next check. Default: 1073741824.
    pub queue_bytes_max: u64,
    /// What waits to be sent for longer becomes a dead letter. Default: 7days.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub queue_age_max: Duration,
    /// Dead letters that are kept for each dataset; the oldest makes way. Default: 10000.
    pub dead_letters_max: usize,
    /// Failures after which what is to be sent becomes a dead letter. Default: 10.
    pub attempts_max: u32,
    /// Entries that are verified and stored in one commit. Default: 1024.
    pub batch_entries: usize,
    /// Time between two checks that a peer has the same entries. Default: 1s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub check_interval: Duration,
    /// How far a timestamp may be ahead of this node's clock; entries further ahead wait. Default: 250ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub max_drift: Duration,
    /// From this lag of a peer on the node is degraded; shorter than `lag_unhealthy`. Default: 30s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub lag_degraded: Duration,
    /// From this lag of a peer on the node is unhealthy. Default: 2m.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub lag_unhealthy: Duration,
    /// Bytes in a second that are sent to all peers together; 0 is no limit. Default: 0.
    pub bytes_per_second: u64,
    /// Bytes in a second that are sent to each peer; 0 is no limit. Default: 0.
    pub peer_bytes_per_second: u64,
    /// Messages of at least this many bytes are compressed, where the peer can read that; 0 is never. Default: 1024.
    pub compress_from_bytes: usize,
    /// Peers of a dataset; further ones are refused. Default: 4096.
    pub peers_max: usize,
    /// Rounds that are remembered of each peer. Default: 256.
    pub history_rounds_max: usize,
    /// Rounds are remembered for this long. Default: 7days.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub history_age_max: Duration,
    /// Keys of the nodes that may prune, as `author` in `mesh sync status` shows them; the same on all nodes. Default:
    /// none, and nothing is ever pruned.
    pub pruners: Vec<String>,
    /// Time between two prunes at a node that may prune; 0s is only when an operator asks for it. Default: 1h.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub prune_interval: Duration,
    /// How long a deletion is remembered at least. Default: 30days.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub tombstone_retention: Duration,
}

/// One dataset.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct DatasetConfig {
    /// Its name.
    pub name: String,
    /// Time between two checks that a peer has the same entries. Default: that of the section.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub check_interval: Option<Duration>,
    /// Its share of what is sent, while others have something to send too. Default: 10.
    pub priority: u32,
    /// Bytes that may wait to be sent. Default: that of the section.
    pub queue_bytes_max: Option<u64>,
    /// Who may join without being asked for: nobody (`ask`), every node of the cluster (`cluster`), or nobody at all, not
    /// even after being asked for (`closed`). Default: ask.
    pub access: Access,
    /// Nodes that may join without being asked for where `access` is `ask`. Default: none.
    pub access_nodes: Vec<NodeId>,
    /// Whether it may be pruned. Not where readers need all entries, as those do that merge them themselves. Default: true.
    pub prune: bool,
}

/// Who may join a dataset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Access {
    /// An operator decides.
    #[default]
    Ask,
    /// Every node of the cluster.
    Cluster,
    /// Nobody.
    Closed,
}

impl Default for DatasetConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            check_interval: None,
            priority: 10,
            queue_bytes_max: None,
            access: Access::Ask,
            access_nodes: Vec::new(),
            prune: true,
        }
    }
}

impl Default for SyncConfig {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            enabled: true,
            datasets: Vec::new(),
            queue_entries_max: 100_000,
            queue_bytes_max: 1 << 30,
            queue_age_max: DAY * 7,
            dead_letters_max: 10_000,
            attempts_max: 10,
            batch_entries: 1024,
            check_interval: Duration::from_secs(1),
            max_drift: Duration::from_millis(250),
            lag_degraded: Duration::from_secs(30),
            lag_unhealthy: Duration::from_secs(120),
            bytes_per_second: 0,
            peer_bytes_per_second: 0,
            compress_from_bytes: crate::compress::COMPRESS_FROM_BYTES,
            peers_max: 4096,
            history_rounds_max: 256,
            history_age_max: DAY * 7,
            pruners: Vec::new(),
            prune_interval: Duration::from_secs(3600),
            tombstone_retention: DAY * 30,
        }
    }
}

impl DatasetConfig {
    /// Who is let in at once.
    pub fn access_policy(&self) -> AccessPolicy {
        match self.access {
            Access::Ask if self.access_nodes.is_empty() => AccessPolicy::Ask,
            Access::Ask => AccessPolicy::Nodes(self.access_nodes.iter().cloned().collect()),
            Access::Cluster => AccessPolicy::Cluster,
            Access::Closed => AccessPolicy::Closed,
        }
    }
}

impl SyncConfig {
    /// Bounds of a dataset's queue.
    pub fn queue_limits(&self, dataset: &DatasetConfig) -> QueueLimits {
        QueueLimits {
            entries_max: self.queue_entries_max,
            bytes_max: dataset.queue_bytes_max.unwrap_or(self.queue_bytes_max),
            age_max: self.queue_age_max,
            attempts_max: self.attempts_max,
            dead_letters_max: self.dead_letters_max,
            peers_max: self.peers_max,
        }
    }

    /// Limits of what is sent.
    pub fn lane_limits(&self) -> LaneLimits {
        // A tenth of a second at once: enough that timers don't cost throughput, too little to be felt.
        let rate = |bytes_per_second: u64| {
            (bytes_per_second > 0).then_some(Rate { bytes_per_second, burst_bytes: bytes_per_second / 10 })
        };
        LaneLimits {
            total: rate(self.bytes_per_second),
            per_peer: rate(self.peer_bytes_per_second),
            ..LaneLimits::default()
        }
    }

    /// Whose prunes are obeyed.
    pub fn pruners(&self) -> BTreeSet<AuthorId> {
        self.pruners.iter().filter_map(|key| key.parse().ok()).collect()
    }

    /// What is let in of the future.
    pub fn admission(&self) -> AdmissionConfig {
        AdmissionConfig { max_drift: self.max_drift, ..AdmissionConfig::default() }
    }
}

impl Settings for SyncConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        let mut rule = |broken: bool, name: &str, value: String, rule: String| {
            if broken {
                problems.push(SettingError::new(format!("sync.{name}"), value, rule));
            }
        };
        let mut within = |name: &str, value: Duration, min: Duration, max: Duration| {
            let text = format!("must be between {min:?} and {max:?}");
            rule(value < min || value > max, name, format!("{value:?}"), text);
        };
        const MS: fn(u64) -> Duration = Duration::from_millis;
        const S: fn(u64) -> Duration = Duration::from_secs;
        let year = S(365 * 24 * 3600);
        within("queue_age_max", self.queue_age_max, S(60), year);
        within("check_interval", self.check_interval, MS(50), S(60));
        within("max_drift", self.max_drift, MS(1), S(3600));
        within("lag_degraded", self.lag_degraded, MS(100), year);
        within("lag_unhealthy", self.lag_unhealthy, MS(100), year);
        within("history_age_max", self.history_age_max, S(60), year);
        within("tombstone_retention", self.tombstone_retention, S(0), year * 10);
        if !self.prune_interval.is_zero() {
            within("prune_interval", self.prune_interval, S(1), year);
        }
        for (at, dataset) in self.datasets.iter().enumerate() {
            let interval = dataset.check_interval.unwrap_or(self.check_interval);
            if dataset.check_interval.is_some() {
                within(&format!("datasets[{at}].check_interval"), interval, MS(50), S(60));
            }
        }
        rule(
            self.lag_degraded >= self.lag_unhealthy,
            "lag_degraded",
            format!("{:?}", self.lag_degraded),
            format!("must be shorter than sync.lag_unhealthy ({:?})", self.lag_unhealthy),
        );
        let mut number = |name: &str, value: u64, min: u64, max: u64| {
            let text = format!("must be between {min} and {max}");
            rule(value < min || value > max, name, value.to_string(), text);
        };
        number("queue_entries_max", self.queue_entries_max as u64, 1, 10_000_000);
        number("queue_bytes_max", self.queue_bytes_max, crate::entry::ENTRY_BYTES_MAX as u64, 1 << 40);
        number("dead_letters_max", self.dead_letters_max as u64, 1, 1_000_000);
        number("attempts_max", self.attempts_max.into(), 1, 1000);
        number("batch_entries", self.batch_entries as u64, 1, 65_536);
        number("peers_max", self.peers_max as u64, 1, 65_536);
        number("history_rounds_max", self.history_rounds_max as u64, 1, 10_000);
        for (name, value) in [
            ("bytes_per_second", self.bytes_per_second),
            ("peer_bytes_per_second", self.peer_bytes_per_second),
        ] {
            if value > 0 {
                number(name, value, 1024, u64::MAX);
            }
        }
        for (at, key) in self.pruners.iter().enumerate() {
            let refused = key.parse::<AuthorId>().is_err();
            let text = "must be 64 hexadecimal digits, as `author` in `mesh sync status` shows them";
            rule(refused, &format!("pruners[{at}]"), key.clone(), text.into());
        }
        rule(
            self.datasets.len() > DATASETS_MAX,
            "datasets",
            format!("{} datasets", self.datasets.len()),
            format!("must be at most {DATASETS_MAX}"),
        );
        let mut seen = BTreeSet::new();
        for (at, dataset) in self.datasets.iter().enumerate() {
            let name = |part: &str| format!("datasets[{at}].{part}");
            if let Err(error) = DatasetId::new(&dataset.name) {
                rule(true, &name("name"), dataset.name.clone(), format!("is refused: {error}"));
            }
            let twice = !seen.insert(&dataset.name);
            rule(twice, &name("name"), dataset.name.clone(), "is there twice".into());
            let priority = dataset.priority;
            let broken = !(1..=1000).contains(&priority);
            rule(broken, &name("priority"), priority.to_string(), "must be between 1 and 1000".into());
            rule(
                dataset.access != Access::Ask && !dataset.access_nodes.is_empty(),
                &name("access_nodes"),
                format!("{} nodes", dataset.access_nodes.len()),
                format!("needs sync.{} to be ask", name("access")),
            );
            let bytes = dataset.queue_bytes_max.unwrap_or(self.queue_bytes_max);
            rule(
                bytes > self.queue_bytes_max,
                &name("queue_bytes_max"),
                bytes.to_string(),
                format!("must not be more than sync.queue_bytes_max ({})", self.queue_bytes_max),
            );
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(SyncConfig::default().problems(), []);
    }

    #[test]
    fn a_broken_setting_names_itself_its_value_and_the_limit() {
        let dataset = |name: &str| DatasetConfig { name: name.into(), ..DatasetConfig::default() };
        let node = NodeId::new("a").expect("valid");
        let config = SyncConfig {
            lag_degraded: Duration::from_secs(120),
            attempts_max: 0,
            peer_bytes_per_second: 10,
            pruners: vec!["ab".into()],
            prune_interval: Duration::from_millis(5),
            datasets: vec![
                dataset("a"),
                DatasetConfig { check_interval: Some(Duration::ZERO), priority: 0, ..dataset("a") },
                DatasetConfig {
                    access: Access::Cluster,
                    access_nodes: vec![node],
                    queue_bytes_max: Some(1 << 31),
                    ..dataset("A")
                },
            ],
            ..SyncConfig::default()
        };
        let texts: Vec<String> = config.problems().iter().map(ToString::to_string).collect();
        for part in [
            "sync.lag_degraded (120s) must be shorter than sync.lag_unhealthy (120s)",
            "sync.attempts_max (0) must be between 1 and 1000",
            "sync.peer_bytes_per_second (10) must be between 1024",
            "sync.pruners[0] (ab) must be 64 hexadecimal digits",
            "sync.prune_interval (5ms) must be between 1s",
            "sync.datasets[1].name (a) is there twice",
            "sync.datasets[1].check_interval (0ns) must be between 50ms",
            "sync.datasets[1].priority (0) must be between 1 and 1000",
            "sync.datasets[2].name (A) is refused",
            "sync.datasets[2].access_nodes (1 nodes) needs sync.datasets[2].access to be ask",
            "sync.datasets[2].queue_bytes_max (2147483648) must not be more than sync.queue_bytes_max (1073741824)",
        ] {
            assert!(texts.iter().any(|text| text.contains(part)), "{part} is not in {texts:?}");
        }
        assert_eq!(texts.len(), 11);
    }

    #[test]
    fn settings_reach_the_parts_that_they_are_for() {
        let node = NodeId::new("a").expect("valid");
        let dataset = DatasetConfig {
            queue_bytes_max: Some(7),
            access_nodes: vec![node.clone()],
            ..DatasetConfig::default()
        };
        let config = SyncConfig { attempts_max: 3, bytes_per_second: 1000, ..SyncConfig::default() };
        let limits = config.queue_limits(&dataset);
        assert_eq!((limits.attempts_max, limits.bytes_max), (3, 7));
        assert_eq!(
            config.queue_limits(&DatasetConfig::default()).entries_max,
            QueueLimits::default().entries_max
        );
        assert_eq!(dataset.access_policy(), AccessPolicy::Nodes([node].into()));
        assert_eq!(DatasetConfig::default().access_policy(), AccessPolicy::Ask);
        assert_eq!(config.lane_limits().per_peer, None);
        assert_eq!(config.lane_limits().total, Some(Rate { bytes_per_second: 1000, burst_bytes: 100 }));
        assert_eq!(config.admission(), AdmissionConfig::default());
        let pruner = AuthorId([0xa7; 32]);
        let config = SyncConfig { pruners: vec![pruner.to_string()], ..SyncConfig::default() };
        assert_eq!(config.pruners(), [pruner].into());
    }

    #[cfg(feature = "serde")]
    #[test]
    fn a_file_sets_what_it_names_and_nothing_unknown() {
        assert_eq!(toml::from_str::<SyncConfig>("").expect("empty"), SyncConfig::default());
        let text = r#"
            lag_degraded = "10s"
            [[datasets]]
            name = "notes"
            check_interval = "5s"
            access = "closed"
        "#;
        let config: SyncConfig = toml::from_str(text).expect("valid");
        let notes = DatasetConfig {
            name: "notes".into(),
            check_interval: Some(Duration::from_secs(5)),
            access: Access::Closed,
            ..DatasetConfig::default()
        };
        assert_eq!((config.lag_degraded, &config.datasets), (Duration::from_secs(10), &vec![notes]));
        let written = toml::to_string(&config).expect("can be written");
        assert_eq!(toml::from_str::<SyncConfig>(&written).expect("what was written"), config);
        assert!(toml::from_str::<SyncConfig>("unknown = 1").is_err());
    }
}
