//! Settings of one replica: those that people choose (`crate::config`) and those that only tests change.

use std::time::Duration;

use mesh_core::{SettingError, Settings};

use crate::entry::{AdmissionConfig, ENTRY_BYTES_MAX};

/// Settings of a replica.
///
/// ```
/// use mesh_core::Settings;
/// use mesh_sync::replica::ReplicaConfig;
/// let config = ReplicaConfig { batch_entries_max: 0, ..ReplicaConfig::default() };
/// let problems = config.validate().unwrap_err();
/// assert!(problems[0].to_string().contains("replica.batch_entries_max (0)"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaConfig {
    /// Time between two heartbeats to a peer. Default: 1s.
    pub heartbeat_interval: Duration,
    /// How long roots may differ, with nothing under way, until the sets are compared. Default: 2s.
    pub reconcile_after: Duration,
    /// How long roots may differ while entries come and go, until the sets are compared all the same. Default: 30s.
    pub reconcile_at_latest: Duration,
    /// Longest pause between two comparisons that brought nothing. Default: 1m.
    pub reconcile_backoff_max: Duration,
    /// Time between two comparisons under a fresh key with a peer whose root is equal. Default: 1h.
    pub audit_interval: Duration,
    /// How long a comparison may go on without a message from the peer. Default: 5s.
    pub session_timeout: Duration,
    /// Comparisons at once; further ones wait. Default: 4.
    pub sessions_max: usize,
    /// How long an entry that a peer was asked for may take, until another one is asked. Default: 2s.
    pub want_timeout: Duration,
    /// How often an entry is asked for, until it is left to the next comparison. Default: 6.
    pub want_attempts_max: u32,
    /// Entries asked of one peer at once. Default: 2048.
    pub wants_per_peer_max: usize,
    /// Entries wanted in all, a quarter of them on the word of one peer; what is beyond is learned of again later.
    /// Default: 65536.
    pub wants_max: usize,
    /// How long a peer may take to acknowledge entries, until they are sent again. Default: 5s.
    pub ack_timeout: Duration,
    /// How often entries are sent again, until the peer counts as stalled. Default: 5.
    pub resends_max: u32,
    /// Bytes of entries on their way to one peer, unacknowledged. Default: 4 MiB.
    pub window_bytes: usize,
    /// Entries that one peer has asked for and that were not sent yet; further ones are dropped. Default: 65536.
    pub give_entries_max: usize,
    /// Peers that get the body of a local entry without asking. Default: 2.
    pub eager_peers: usize,
    /// Names in one list. Default: 1024.
    pub list_entries_max: usize,
    /// Listed arrivals of one peer that are not held yet; further ones are listed later. Default: 16384.
    pub pending_entries_max: usize,
    /// Entries in one commit. Default: 1024.
    pub batch_entries_max: usize,
    /// Bytes of received entries in memory, until they are committed, of one peer. Default: 8 MiB.
    pub intake_bytes_per_peer_max: usize,
    /// The same, of all peers. Default: 64 MiB.
    pub intake_bytes_max: usize,
    /// Bytes of entries that wait for their parents; those of one peer have a quarter. Default: 16 MiB.
    pub orphan_bytes_max: usize,
    /// How long an entry waits for its parents. Default: 30s.
    pub orphan_timeout: Duration,
    /// Time between two looks at what is held of each author, to confirm it to peers. Default: 10s.
    pub confirm_interval: Duration,
    /// Authors whose entries one peer can confirm; further ones count as unconfirmed. Default: 65536.
    pub confirmed_authors_max: usize,
    /// A peer that is behind for so long is named. Default: 30s.
    pub lag_limit: Duration,
    /// How long a tombstone is kept at least. Default: 30 days.
    pub tombstone_retention: Duration,
    /// Arrivals between two checkpoints of the sketch. Default: 16384.
    pub checkpoint_arrivals: u64,
    /// How far ahead a timestamp may be. Default: 250ms.
    pub max_drift: Duration,
    /// Entries from the future of one author that are remembered. Default: 1024.
    pub deferred_per_author_max: usize,
    /// Entries from the future that are remembered in all. Default: 65536.
    pub deferred_max: usize,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        const S: fn(u64) -> Duration = Duration::from_secs;
        let admission = AdmissionConfig::default();
        Self {
            heartbeat_interval: S(1),
            reconcile_after: S(2),
            reconcile_at_latest: S(30),
            reconcile_backoff_max: S(60),
            audit_interval: S(3600),
            session_timeout: S(5),
            sessions_max: 4,
            want_timeout: S(2),
            want_attempts_max: 6,
            wants_per_peer_max: 2048,
            wants_max: 65_536,
            ack_timeout: S(5),
            resends_max: 5,
            window_bytes: 4 << 20,
            give_entries_max: 65_536,
            eager_peers: 2,
            list_entries_max: 1024,
            pending_entries_max: 16_384,
            batch_entries_max: 1024,
            intake_bytes_per_peer_max: 8 << 20,
            intake_bytes_max: 64 << 20,
            orphan_bytes_max: 16 << 20,
            orphan_timeout: S(30),
            confirm_interval: S(10),
            confirmed_authors_max: 65_536,
            lag_limit: S(30),
            tombstone_retention: S(30 * 24 * 3600),
            checkpoint_arrivals: 16_384,
            max_drift: admission.max_drift,
            deferred_per_author_max: admission.deferred_per_author_max,
            deferred_max: admission.deferred_max,
        }
    }
}

impl ReplicaConfig {
    pub(super) fn admission(&self) -> AdmissionConfig {
        AdmissionConfig {
            max_drift: self.max_drift,
            deferred_per_author_max: self.deferred_per_author_max,
            deferred_max: self.deferred_max,
            ..AdmissionConfig::default()
        }
    }
}

impl Settings for ReplicaConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        let mut rule = |broken: bool, name: &str, value: String, rule: String| {
            if broken {
                problems.push(SettingError::new(format!("replica.{name}"), value, rule));
            }
        };
        const MS: fn(u64) -> Duration = Duration::from_millis;
        const DAY: u64 = 24 * 3_600_000;
        for (name, value, min, max) in [
            ("heartbeat_interval", self.heartbeat_interval, MS(50), MS(60_000)),
            ("reconcile_after", self.reconcile_after, MS(50), MS(600_000)),
            ("reconcile_at_latest", self.reconcile_at_latest, MS(1_000), MS(3_600_000)),
            ("reconcile_backoff_max", self.reconcile_backoff_max, MS(1_000), MS(3_600_000)),
            ("audit_interval", self.audit_interval, MS(1_000), MS(30 * DAY)),
            ("session_timeout", self.session_timeout, MS(100), MS(600_000)),
            ("want_timeout", self.want_timeout, MS(50), MS(600_000)),
            ("ack_timeout", self.ack_timeout, MS(50), MS(600_000)),
            ("orphan_timeout", self.orphan_timeout, MS(1_000), MS(3_600_000)),
            ("confirm_interval", self.confirm_interval, MS(100), MS(3_600_000)),
            ("lag_limit", self.lag_limit, MS(1_000), MS(30 * DAY)),
            ("tombstone_retention", self.tombstone_retention, MS(0), MS(3650 * DAY)),
            ("max_drift", self.max_drift, MS(1), MS(3_600_000)),
        ] {
            let text = format!("must be between {min:?} and {max:?}");
            rule(value < min || value > max, name, format!("{value:?}"), text);
        }
        for (name, value, min, max) in [
            ("sessions_max", self.sessions_max, 1, 1024),
            ("want_attempts_max", self.want_attempts_max as usize, 1, 1000),
            ("wants_per_peer_max", self.wants_per_peer_max, 16, 1 << 20),
            ("wants_max", self.wants_max, 64, 1 << 24),
            ("resends_max", self.resends_max as usize, 1, 1000),
            ("window_bytes", self.window_bytes, 4096, 1 << 30),
            ("give_entries_max", self.give_entries_max, 16, 1 << 24),
            ("eager_peers", self.eager_peers, 0, 1024),
            ("list_entries_max", self.list_entries_max, 1, super::message::LIST_MAX),
            ("pending_entries_max", self.pending_entries_max, 16, 1 << 24),
            ("batch_entries_max", self.batch_entries_max, 1, 1 << 16),
            ("intake_bytes_per_peer_max", self.intake_bytes_per_peer_max, ENTRY_BYTES_MAX, 1 << 32),
            ("intake_bytes_max", self.intake_bytes_max, ENTRY_BYTES_MAX, 1 << 36),
            ("orphan_bytes_max", self.orphan_bytes_max, ENTRY_BYTES_MAX, 1 << 32),
            ("confirmed_authors_max", self.confirmed_authors_max, 1, 1 << 24),
            (
                "checkpoint_arrivals",
                usize::try_from(self.checkpoint_arrivals).unwrap_or(usize::MAX),
                16,
                1 << 32,
            ),
            ("deferred_per_author_max", self.deferred_per_author_max, 1, 1 << 24),
            ("deferred_max", self.deferred_max, 1, 1 << 24),
        ] {
            let text = format!("must be between {min} and {max}");
            rule(value < min || value > max, name, value.to_string(), text);
        }
        rule(
            self.window_bytes > self.intake_bytes_per_peer_max,
            "window_bytes",
            self.window_bytes.to_string(),
            format!(
                "must not be more than replica.intake_bytes_per_peer_max ({}), or peers like this one refuse what it sends",
                self.intake_bytes_per_peer_max
            ),
        );
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(ReplicaConfig::default().problems(), []);
    }

    #[test]
    fn a_broken_setting_names_itself_its_value_and_the_limit() {
        let config = ReplicaConfig {
            want_timeout: Duration::from_millis(1),
            window_bytes: 16 << 20,
            ..ReplicaConfig::default()
        };
        let texts: Vec<String> = config.problems().iter().map(ToString::to_string).collect();
        for part in [
            "replica.want_timeout (1ms) must be between 50ms",
            "replica.window_bytes (16777216) must not be more than replica.intake_bytes_per_peer_max (8388608)",
        ] {
            assert!(texts.iter().any(|text| text.contains(part)), "{part} is not in {texts:?}");
        }
    }
}
