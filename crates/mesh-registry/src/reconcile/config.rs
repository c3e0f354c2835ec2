//! Settings of the `[registry.reconcile]` section.

use std::time::Duration;

use mesh_core::{SettingError, Settings};

/// How caches are compared with the store.
///
/// ```
/// use mesh_core::Settings;
/// use mesh_registry::reconcile::ReconcileConfig;
/// let config = ReconcileConfig { repairs_max: 0, ..ReconcileConfig::default() };
/// let problems = config.validate().unwrap_err();
/// assert_eq!(problems[0].to_string(), "registry.reconcile.repairs_max (0) must be between 1 and 10000");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct ReconcileConfig {
    /// Time between two comparisons. Default: 30s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub interval: Duration,
    /// How long a difference has to last before it is mended: changes on their way are none. Default: 2s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub settle: Duration,
    /// Repairs of one cache in one comparison; the rest waits for the next. Default: 100.
    pub repairs_max: usize,
    /// Differences of one cache that are listed. Default: 1000.
    pub differences_max: usize,
}

impl Default for ReconcileConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            settle: Duration::from_secs(2),
            repairs_max: 100,
            differences_max: 1000,
        }
    }
}

impl Settings for ReconcileConfig {
    fn problems(&self) -> Vec<SettingError> {
        const MILLISECOND: Duration = Duration::from_millis(1);
        let mut problems = Vec::new();
        for (setting, value, least) in
            [("interval", self.interval, 10 * MILLISECOND), ("settle", self.settle, Duration::ZERO)]
        {
            let most = Duration::from_secs(86_400);
            if !(least..=most).contains(&value) {
                let rule = format!("must be between {least:?} and {most:?}");
                let setting = format!("registry.reconcile.{setting}");
                problems.push(SettingError::new(setting, format!("{value:?}"), rule));
            }
        }
        for (setting, value) in [("repairs_max", self.repairs_max), ("differences_max", self.differences_max)]
        {
            if !(1..=10_000).contains(&value) {
                let setting = format!("registry.reconcile.{setting}");
                problems.push(SettingError::new(setting, value, "must be between 1 and 10000"));
            }
        }
        problems
    }
}

/// How long things are kept that only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The history that watches resume from; its bounds in revisions and bytes count as well.
    pub history: Duration,
    /// Audit records.
    pub audit: Duration,
}
