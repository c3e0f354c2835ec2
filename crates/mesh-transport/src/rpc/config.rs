//! Limits of servers and channels.

use std::time::Duration;

use mesh_core::{SettingError, Settings};

use super::PolicyConfig;
use crate::TransportConfig;

/// Limits of an [`RpcServer`](super::RpcServer).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct ServerConfig {
    /// Longest message that a handler is given. A longer one is refused when its
    /// length arrives, before its bytes do. A service with a smaller limit of its own
    /// keeps that. Default: 4 MiB.
    pub message_bytes_max: u64,
    /// Longest header block. Default: 16 KiB.
    pub header_bytes_max: u32,
    /// Requests at work at once, all connections together; more are refused with
    /// RESOURCE_EXHAUSTED. Default: 4096.
    pub requests_in_flight_max: usize,
    /// Requests at work at once on one connection; the client queues more. Default: 1024.
    pub requests_per_connection_max: u32,
    /// Longest time for one request; a shorter `grpc-timeout` counts. `None` leaves it
    /// to the client. Default: none.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub deadline_max: Option<Duration>,
    /// Longest pause inside a message, and in a header block. Default: 10s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub message_stall_timeout: Duration,
    /// Longest wait for the first message of a request. Default: 60s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub first_message_timeout: Duration,
    /// How long a shutdown waits for requests at work. Default: 30s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub drain_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            message_bytes_max: 4 << 20,
            header_bytes_max: 16 << 10,
            requests_in_flight_max: 4096,
            requests_per_connection_max: 1024,
            deadline_max: None,
            message_stall_timeout: Duration::from_secs(10),
            first_message_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Reports settings outside their range.
struct Ranges<'a> {
    section: &'static str,
    problems: &'a mut Vec<SettingError>,
}

impl Ranges<'_> {
    fn number(&mut self, setting: &str, value: u64, least: u64, most: u64) {
        if !(least..=most).contains(&value) {
            let setting = format!("{}.{setting}", self.section);
            self.problems.push(SettingError::new(
                setting,
                value,
                format!("must be between {least} and {most}"),
            ));
        }
    }

    fn time(&mut self, setting: &str, value: Duration, least: Duration, most: Duration) {
        if !(least..=most).contains(&value) {
            let setting = format!("{}.{setting}", self.section);
            let rule = format!("must be between {least:?} and {most:?}");
            self.problems.push(SettingError::new(setting, format!("{value:?}"), rule));
        }
    }
}

impl Settings for ServerConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        let mut check = Ranges { section: "transport.server", problems: &mut problems };
        check.number("message_bytes_max", self.message_bytes_max, 1024, u64::from(u32::MAX));
        check.number("header_bytes_max", self.header_bytes_max.into(), 1024, 1 << 20);
        check.number("requests_in_flight_max", self.requests_in_flight_max as u64, 1, 1 << 20);
        check.number("requests_per_connection_max", self.requests_per_connection_max.into(), 1, 1 << 20);
        if let Some(deadline_max) = self.deadline_max {
            check.time("deadline_max", deadline_max, MILLISECOND, 86_400 * SECOND);
        }
        check.time("message_stall_timeout", self.message_stall_timeout, 10 * MILLISECOND, 3600 * SECOND);
        check.time("first_message_timeout", self.first_message_timeout, 10 * MILLISECOND, 86_400 * SECOND);
        check.time("drain_timeout", self.drain_timeout, Duration::ZERO, 3600 * SECOND);
        problems
    }
}

/// How a [`Channel`](super::Channel) chooses and keeps its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct ChannelConfig {
    /// Whether HTTP/3 is tried at all. In a file this is `transport.http3.enabled`. Default: true.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub http3: bool,
    /// How long HTTP/3 is tried alone before HTTP/2 is tried beside it. In a file this is
    /// `transport.http3.head_start`. Default: 100ms.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub head_start: Duration,
    /// Longest time for getting a connection. Default: 5s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub connect_timeout: Duration,
    /// First pause before HTTP/3 is tried again after it failed; doubles with each
    /// failure. Default: 1s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub retry_min: Duration,
    /// Longest such pause. Default: 300s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub retry_max: Duration,
    /// Silence on an HTTP/3 connection with a request at work, after which the path
    /// counts as blocked. Half way the peer is asked for a sign of life. Default: 600ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub silence_max: Duration,
    /// Longest life of a connection; its successor is ready before it goes. Default: 1h.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub connection_age_max: Duration,
    /// How often a request is sent, the first time included. Default: 3.
    pub attempts_max: u32,
    /// Longest request that is kept to be sent again, bytes. Default: 256 KiB.
    pub replay_bytes_max: usize,
    /// Requests at work at once; more are refused. Default: 4096.
    pub requests_in_flight_max: usize,
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            http3: true,
            head_start: Duration::from_millis(100),
            connect_timeout: Duration::from_secs(5),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(300),
            silence_max: Duration::from_millis(600),
            connection_age_max: Duration::from_secs(3600),
            attempts_max: 3,
            replay_bytes_max: 256 << 10,
            requests_in_flight_max: 4096,
        }
    }
}

impl Settings for ChannelConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        let mut check = Ranges { section: "transport.channel", problems: &mut problems };
        check.time("head_start", self.head_start, Duration::ZERO, 10 * SECOND);
        check.time("connect_timeout", self.connect_timeout, 10 * MILLISECOND, 300 * SECOND);
        check.time("retry_min", self.retry_min, MILLISECOND, 3600 * SECOND);
        check.time("retry_max", self.retry_max, self.retry_min, 86_400 * SECOND);
        check.time("silence_max", self.silence_max, 50 * MILLISECOND, 300 * SECOND);
        check.time("connection_age_max", self.connection_age_max, 100 * MILLISECOND, 30 * 86_400 * SECOND);
        check.number("attempts_max", self.attempts_max.into(), 1, 100);
        check.number("replay_bytes_max", self.replay_bytes_max as u64, 0, 1 << 30);
        check.number("requests_in_flight_max", self.requests_in_flight_max as u64, 1, 1 << 20);
        problems
    }
}

impl TransportConfig {
    /// The rules of all endpoints.
    pub fn policy_config(&self) -> PolicyConfig {
        PolicyConfig { endpoints: self.endpoints.clone(), exceptions: self.exceptions.clone() }
    }

    /// The settings of channels, with those that the HTTP/3 section holds.
    pub fn channel_config(&self) -> ChannelConfig {
        let (http3, head_start) = (self.http3.enabled, self.http3.head_start);
        ChannelConfig { http3, head_start, ..self.channel.clone() }
    }

    pub(crate) fn rpc_problems(&self) -> Vec<SettingError> {
        let mut problems = self.policy_config().problems();
        problems.extend(self.server.problems());
        problems.extend(self.channel.problems());
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_a_bad_value_is_named() {
        assert_eq!(ServerConfig::default().problems(), []);
        assert_eq!(ChannelConfig::default().problems(), []);
        let retry_max = MILLISECOND;
        let problems = ChannelConfig { retry_max, ..ChannelConfig::default() }.problems();
        assert_eq!(
            problems[0].to_string(),
            "transport.channel.retry_max (1ms) must be between 1s and 86400s"
        );
    }
    #[test]
    fn the_transport_section_reports_the_rules_of_rpc() {
        let mut config = TransportConfig::default();
        assert_eq!(config.rpc_problems(), []);
        config.server.requests_in_flight_max = 0;
        config.endpoints.entry("mesh".into()).or_default().transports.pop();
        config.http3.head_start = Duration::from_millis(7);
        assert_eq!(config.channel_config().head_start, Duration::from_millis(7));
        let problems: Vec<String> = config.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems[0],
            "transport.endpoints.mesh.transports ([h3]) must have h3 and h2 on a mesh endpoint"
        );
        assert_eq!(problems[1], "transport.server.requests_in_flight_max (0) must be between 1 and 1048576");
    }

    #[cfg(feature = "edge")]
    #[test]
    fn settings_read_from_text_keep_their_defaults() {
        let text = r#"{
            "endpoints": { "mesh": {}, "blobs": { "encodings": ["raw"], "raw_access": ["role:control"] } },
            "exceptions": [{ "endpoint": "mesh", "transport": "http/1.1", "reason": "old agents",
                "approver": "ada", "expires": "2027-01-31T00:00:00Z" }],
            "http3": { "head_start": "50ms" },
            "channel": { "retry_max": "10s" }
        }"#;
        let config: TransportConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.rpc_problems(), []);
        assert_eq!(config.channel_config().head_start, Duration::from_millis(50));
        assert_eq!(config.channel_config().retry_min, SECOND);
        assert!(config.channel_config().http3);
        let unknown = r#"{ "endpoints": { "mesh": { "transports": ["h4"] } } }"#;
        let error = serde_json::from_str::<TransportConfig>(unknown).unwrap_err().to_string();
        assert!(error.starts_with("transport \"h4\" is not known; known are h3, h2, http/1.1"), "{error}");
    }
}
