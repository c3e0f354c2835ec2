//! Settings of the `[registry.service]` section.

use std::time::Duration;

use mesh_core::{SettingError, Settings};

use super::AccessConfig;

/// Bounds of the store's service, and who may use it.
///
/// ```
/// use mesh_core::Settings;
/// use mesh_registry::ServiceConfig;
/// let config = ServiceConfig { watches_max: 0, ..ServiceConfig::default() };
/// let problems = config.validate().unwrap_err();
/// assert_eq!(problems[0].to_string(), "registry.service.watches_max (0) must be between 1 and 1048576");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct ServiceConfig {
    /// Requests of other nodes at work at once; more are refused as busy. Default: 2048.
    pub requests_in_flight_max: usize,
    /// Watches of other nodes at once; more are refused as busy. Default: 2048.
    pub watches_max: usize,
    /// Most changes that wait for one slow watcher; who asks for more gets this many. Default: 16384.
    pub watch_buffer_changes_max: usize,
    /// A watch on which nothing happens says so this often. Default: 2s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub watch_heartbeat: Duration,
    /// Who may do what.
    pub access: AccessConfig,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            requests_in_flight_max: 2048,
            watches_max: 2048,
            watch_buffer_changes_max: 16_384,
            watch_heartbeat: Duration::from_secs(2),
            access: AccessConfig::default(),
        }
    }
}

impl Settings for ServiceConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        for (setting, value) in [
            ("requests_in_flight_max", self.requests_in_flight_max),
            ("watches_max", self.watches_max),
            ("watch_buffer_changes_max", self.watch_buffer_changes_max),
        ] {
            if !(1..=1 << 20).contains(&value) {
                let setting = format!("registry.service.{setting}");
                problems.push(SettingError::new(setting, value, "must be between 1 and 1048576"));
            }
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.watch_heartbeat) {
            let value = format!("{:?}", self.watch_heartbeat);
            let rule = "must be between 10ms and 60s";
            problems.push(SettingError::new("registry.service.watch_heartbeat", value, rule));
        }
        problems.extend(self.access.problems());
        problems
    }
}
