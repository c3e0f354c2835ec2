//! Settings of the `[leader]` section.

use std::time::Duration;

use mesh_core::{NodeId, SettingError, Settings, store::OpenSession};

use crate::{Scope, event::CampaignOptions};

/// Settings of sessions, leases and elections.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::Settings;
/// use mesh_leader::LeaderConfig;
/// let config = LeaderConfig { ttl: Duration::from_millis(10), ..LeaderConfig::default() };
/// let problems = config.validate().unwrap_err();
/// assert!(problems[0].to_string().contains("leader.ttl (10ms)"));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct LeaderConfig {
    /// How long a node's leases outlive its last renewal: the longest time without a leader after a crash. Default: 2s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub ttl: Duration,
    /// How much the clocks of two machines may differ in speed, in parts per million. Default: 1000.
    pub drift_ppm: u32,
    /// Round trips to the store that are measured at the start, to refuse a `ttl` that can't be kept. 0 takes any `ttl`. Default: 8.
    pub ttl_probes: u32,
    /// Time that a candidate leaves to each better one before it tries itself. Default: 50ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub backoff_min: Duration,
    /// Longest time between two tries of a candidate whose tries fail. Default: 2s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub backoff_max: Duration,
    /// Time for which a node that stepped down leaves the scope to others. Default: 5s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub step_down_pause: Duration,
    /// A leader hands over to a candidate that was better for so long: the preferred one, one that spreads scopes better, or one of higher priority. 0 keeps the leader. Default: 0s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub handback_after: Duration,
    /// The record of a scope that has had no leader and no candidate for so long is deleted; the scope's terms then begin at 1 again. Default: 1h.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub forget_after: Duration,
    /// How long a node waits for the holder to do as an operator asked. Default: 5s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub ask_timeout: Duration,
    /// Transactions under way at once; further ones wait for their turn. Default: 64.
    pub requests_max: usize,
    /// Scopes that this node campaigns for; further ones are refused. Default: 4096.
    pub campaigns_max: usize,
    /// Records of leadership that this node keeps in memory; further ones are left out, except those of its own scopes. Default: 65536.
    pub records_max: usize,
    /// Events kept for subscribers; one that is further behind starts again from a snapshot. Default: 4096.
    pub events_kept: usize,
    /// Subscribers at once; further ones are refused. Default: 1024.
    pub subscribers_max: usize,
    /// Scopes that this node campaigns for, or observes, from its start. Default: none.
    pub scopes: Vec<ScopeConfig>,
}

/// One scope that a node takes part in from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct ScopeConfig {
    /// Its name.
    pub name: String,
    /// The higher one leads, among candidates that are equal in preference and spread. Default: 0.
    #[cfg_attr(feature = "serde", serde(default))]
    pub priority: i32,
    /// The node that shall lead whenever it can. Default: none.
    #[cfg_attr(feature = "serde", serde(default))]
    pub preferred: Option<NodeId>,
    /// Scopes of one spread group are led by different nodes and zones where that is possible. Default: none.
    #[cfg_attr(feature = "serde", serde(default))]
    pub spread: Option<String>,
    /// Follow it without campaigning. Default: false.
    #[cfg_attr(feature = "serde", serde(default))]
    pub observe: bool,
}

impl ScopeConfig {
    /// How this node campaigns for it.
    pub fn campaign_options(&self) -> CampaignOptions {
        CampaignOptions {
            priority: self.priority,
            preferred: self.preferred.clone(),
            spread: self.spread.clone(),
        }
    }
}

impl Default for LeaderConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(2),
            drift_ppm: 1000,
            ttl_probes: 8,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            step_down_pause: Duration::from_secs(5),
            handback_after: Duration::ZERO,
            forget_after: Duration::from_secs(3600),
            ask_timeout: Duration::from_secs(5),
            requests_max: 64,
            campaigns_max: 4096,
            records_max: 65_536,
            events_kept: 4096,
            subscribers_max: 1024,
            scopes: Vec::new(),
        }
    }
}

/// Longest name of a spread group, in bytes.
pub(crate) const SPREAD_BYTES_MAX: usize = 63;

impl Settings for LeaderConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        let mut rule = |broken: bool, name: &str, value: String, rule: String| {
            if broken {
                problems.push(SettingError::new(format!("leader.{name}"), value, rule));
            }
        };
        let mut within = |name: &str, value: Duration, min: Duration, max: Duration| {
            let text = format!("must be between {min:?} and {max:?}");
            rule(value < min || value > max, name, format!("{value:?}"), text);
        };
        const MS: fn(u64) -> Duration = Duration::from_millis;
        within("ttl", self.ttl, OpenSession::TTL_MIN, OpenSession::TTL_MAX);
        within("backoff_min", self.backoff_min, MS(1), MS(10_000));
        within("backoff_max", self.backoff_max, MS(1), MS(600_000));
        within("step_down_pause", self.step_down_pause, MS(0), MS(3_600_000));
        within("handback_after", self.handback_after, MS(0), MS(24 * 3_600_000));
        within("forget_after", self.forget_after, MS(1000), MS(365 * 24 * 3_600_000));
        within("ask_timeout", self.ask_timeout, MS(100), MS(60_000));
        rule(
            self.backoff_min > self.backoff_max,
            "backoff_min",
            format!("{:?}", self.backoff_min),
            format!("must not be longer than leader.backoff_max ({:?})", self.backoff_max),
        );
        let mut number = |name: &str, value: usize, min: usize, max: usize| {
            rule(
                value < min || value > max,
                name,
                value.to_string(),
                format!("must be between {min} and {max}"),
            );
        };
        number("drift_ppm", self.drift_ppm as usize, 0, 100_000);
        number("ttl_probes", self.ttl_probes as usize, 0, 1000);
        // Retries must stay within the outcomes that a store remembers for a session.
        number("requests_max", self.requests_max, 1, 64);
        number("campaigns_max", self.campaigns_max, 1, 1 << 20);
        number("records_max", self.records_max, 64, 1 << 24);
        number("events_kept", self.events_kept, 16, 1 << 20);
        number("subscribers_max", self.subscribers_max, 1, 1 << 16);

        let mut seen = std::collections::BTreeSet::new();
        for (at, scope) in self.scopes.iter().enumerate() {
            if let Err(error) = Scope::new(&scope.name) {
                rule(true, &format!("scopes[{at}].name"), scope.name.clone(), format!("is refused: {error}"));
            }
            rule(
                !seen.insert(&scope.name),
                &format!("scopes[{at}].name"),
                scope.name.clone(),
                "is there twice".into(),
            );
            if let Some(spread) = &scope.spread {
                rule(
                    spread.is_empty() || spread.len() > SPREAD_BYTES_MAX,
                    &format!("scopes[{at}].spread"),
                    spread.clone(),
                    format!("must have 1 to {SPREAD_BYTES_MAX} bytes"),
                );
            }
        }
        let campaigns = self.scopes.iter().filter(|scope| !scope.observe).count();
        rule(
            campaigns > self.campaigns_max,
            "scopes",
            format!("{campaigns} campaigns"),
            format!("must not be more than leader.campaigns_max ({})", self.campaigns_max),
        );
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(LeaderConfig::default().problems(), []);
    }

    #[test]
    fn a_broken_setting_names_itself_its_value_and_the_limit() {
        let scope = |name: &str| ScopeConfig { name: name.into(), ..ScopeConfig::default() };
        let config = LeaderConfig {
            ttl: Duration::from_millis(100),
            backoff_min: Duration::from_secs(3),
            requests_max: 0,
            scopes: vec![scope("a"), scope("a"), scope("")],
            ..LeaderConfig::default()
        };
        let texts: Vec<String> = config.problems().iter().map(ToString::to_string).collect();
        for part in [
            "leader.ttl (100ms) must be between 500ms",
            "leader.backoff_min (3s) must not be longer than leader.backoff_max (2s)",
            "leader.requests_max (0) must be between 1 and 64",
            "leader.scopes[1].name (a) is there twice",
            "leader.scopes[2].name () is refused",
        ] {
            assert!(texts.iter().any(|text| text.contains(part)), "{part} is not in {texts:?}");
        }
    }
}
