//! Settings of the `[registry.remote]` section.

use std::time::Duration;

use mesh_core::{SettingError, Settings};

/// How a node that does not vote uses the store.
///
/// ```
/// use std::time::Duration;
/// use mesh_core::Settings;
/// use mesh_registry::RemoteConfig;
/// let config = RemoteConfig { request_timeout: Duration::ZERO, ..RemoteConfig::default() };
/// let problems = config.validate().unwrap_err();
/// assert_eq!(problems[0].to_string(), "registry.remote.request_timeout (0ns) must be between 10ms and 300s");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct RemoteConfig {
    /// Longest wait for an answer, repeated tries and other voters included. Default: 5s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub request_timeout: Duration,
    /// How long one voter is waited for before another is asked beside it. Default: 150ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub hedge_after: Duration,
    /// First pause after all voters failed; doubles with each round. Default: 5ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub retry_min: Duration,
    /// Longest such pause. Default: 100ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub retry_max: Duration,
    /// Silence on a watch after which it is taken up at another voter; longer than
    /// `registry.service.watch_heartbeat` of the voters. Default: 7s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub watch_silence_max: Duration,
    /// How long a watch tries to go on after it lost its voter, before it ends with an error. Default: 30s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub watch_resume_for: Duration,
    /// Time to live of the session whose numbers make retries of transactions safe. Default: 60s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub retry_session_ttl: Duration,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(5),
            hedge_after: Duration::from_millis(150),
            retry_min: Duration::from_millis(5),
            retry_max: Duration::from_millis(100),
            watch_silence_max: Duration::from_secs(7),
            watch_resume_for: Duration::from_secs(30),
            retry_session_ttl: Duration::from_secs(60),
        }
    }
}

impl Settings for RemoteConfig {
    fn problems(&self) -> Vec<SettingError> {
        const MILLISECOND: Duration = Duration::from_millis(1);
        const SECOND: Duration = Duration::from_secs(1);
        let times = [
            ("request_timeout", self.request_timeout, 10 * MILLISECOND, 300 * SECOND),
            ("hedge_after", self.hedge_after, MILLISECOND, 60 * SECOND),
            ("retry_min", self.retry_min, MILLISECOND, 10 * SECOND),
            ("retry_max", self.retry_max, self.retry_min, 60 * SECOND),
            ("watch_silence_max", self.watch_silence_max, 10 * MILLISECOND, 600 * SECOND),
            ("watch_resume_for", self.watch_resume_for, Duration::ZERO, 86_400 * SECOND),
            ("retry_session_ttl", self.retry_session_ttl, SECOND, 3600 * SECOND),
        ];
        let broken = times.into_iter().filter(|(_, value, least, most)| !(least..=most).contains(&value));
        broken
            .map(|(setting, value, least, most)| {
                let rule = format!("must be between {least:?} and {most:?}");
                SettingError::new(format!("registry.remote.{setting}"), format!("{value:?}"), rule)
            })
            .collect()
    }
}
