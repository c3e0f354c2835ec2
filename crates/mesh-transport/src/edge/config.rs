//! Settings of the `[transport.edge]` section.

use std::{net::SocketAddr, time::Duration};

use mesh_core::{SettingError, Settings};
use serde::{Deserialize, Serialize};

use super::{HubLimits, PageLimits};

/// Settings of the port for operators, browsers and scrapers.
///
/// ```
/// use mesh_core::Settings;
/// use mesh_transport::edge::EdgeConfig;
/// let config = EdgeConfig { page_items_max: 0, ..EdgeConfig::default() };
/// let problems = config.validate().unwrap_err();
/// assert_eq!(
///     problems[0].to_string(),
///     "transport.edge.page_items_max (0) must be between 1 and 10000"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EdgeConfig {
    /// Address of the port. Default: 127.0.0.1:17480.
    pub bind: SocketAddr,
    /// Whether HTTP/3 is served too, on the UDP port of the same number. Default: false.
    pub http3: bool,
    /// Origins of other web pages that may call, as `https://console.example.org`. Default: none.
    pub origins: Vec<String>,
    /// Connections at once; further ones are closed. Default: 1024.
    pub connections_max: usize,
    /// TLS handshakes at once; beyond that the oldest one of the busiest address gives way. Default: 256.
    pub handshakes_max: usize,
    /// TLS handshakes at once from one address; beyond that its oldest one gives way. Default: 64.
    pub handshakes_per_address_max: usize,
    /// Longest TLS handshake. Default: 5s.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// Longest wait for the headers of a request over HTTP/1.1. Default: 10s.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Longest time from a request's headers to those of its answer; its body must come in that time. Default: 30s.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Longest time in which a caller takes none of the bytes that wait for it. Default: 30s.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// A connection without requests is closed after this. Default: 2m.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// A connection is closed in good order after this, so that certificates are checked anew. Default: 1h.
    #[serde(with = "humantime_serde")]
    pub connection_age_max: Duration,
    /// How long requests under way may go on once a connection is to close. Default: 10s.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Largest headers of a request, in bytes. Default: 32768.
    pub header_bytes_max: usize,
    /// Largest body of a request, in bytes. Default: 1048576.
    pub body_bytes_max: usize,
    /// Requests at once on one HTTP/2 connection. Default: 100.
    pub streams_max: u32,
    /// Requests of one identity in a second, in the long run. Default: 200.
    pub requests_per_second: f64,
    /// Requests of one identity at once, after it was quiet. Default: 400.
    pub requests_burst: u32,
    /// Items on a page when the caller does not say. Default: 100.
    pub page_items: usize,
    /// Most items on a page. Default: 1000.
    pub page_items_max: usize,
    /// Subscribers of one event stream; further ones are refused. Default: 256.
    pub subscribers_max: usize,
    /// Subscriptions of one identity to one event stream. Default: 32.
    pub subscribers_per_identity_max: usize,
    /// Events kept to resume from; a subscriber that is further behind is ended. Default: 4096.
    pub events_kept: usize,
    /// Time between two signs of life on a quiet event stream. Default: 15s.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 17480)),
            http3: false,
            origins: Vec::new(),
            connections_max: 1024,
            handshakes_max: 256,
            handshakes_per_address_max: 64,
            handshake_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(120),
            connection_age_max: Duration::from_secs(3600),
            drain_timeout: Duration::from_secs(10),
            header_bytes_max: 32 * 1024,
            body_bytes_max: 1024 * 1024,
            streams_max: 100,
            requests_per_second: 200.0,
            requests_burst: 400,
            page_items: 100,
            page_items_max: 1000,
            subscribers_max: 256,
            subscribers_per_identity_max: 32,
            events_kept: 4096,
            heartbeat: Duration::from_secs(15),
        }
    }
}

impl EdgeConfig {
    /// The page sizes.
    pub fn page_limits(&self) -> PageLimits {
        PageLimits { default: self.page_items.min(self.page_items_max), max: self.page_items_max }
    }

    /// The bounds of each event stream.
    pub fn hub_limits(&self) -> HubLimits {
        HubLimits {
            events_kept: self.events_kept,
            subscribers_max: self.subscribers_max,
            subscribers_per_identity_max: self.subscribers_per_identity_max,
            heartbeat: self.heartbeat,
        }
    }
}

impl Settings for EdgeConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        let mut between = |name: &str, value: u64, min: u64, max: u64| {
            if !(min..=max).contains(&value) {
                let rule = format!("must be between {min} and {max}");
                problems.push(SettingError::new(format!("transport.edge.{name}"), value, rule));
            }
        };
        between("connections_max", self.connections_max as u64, 1, 1_000_000);
        between("handshakes_max", self.handshakes_max as u64, 1, 100_000);
        between("handshakes_per_address_max", self.handshakes_per_address_max as u64, 1, 100_000);
        // hyper's smallest read buffer is 8 KiB; HTTP/2 counts 16 KiB as its own default.
        between("header_bytes_max", self.header_bytes_max as u64, 8192, 1 << 20);
        between("body_bytes_max", self.body_bytes_max as u64, 1024, 1 << 30);
        between("streams_max", u64::from(self.streams_max), 1, 10_000);
        between("requests_burst", u64::from(self.requests_burst), 1, 1_000_000);
        between("page_items_max", self.page_items_max as u64, 1, 10_000);
        between("page_items", self.page_items as u64, 1, 10_000);
        between("subscribers_max", self.subscribers_max as u64, 1, 100_000);
        between("subscribers_per_identity_max", self.subscribers_per_identity_max as u64, 1, 100_000);
        between("events_kept", self.events_kept as u64, 16, 1 << 20);

        for (name, value, min, max) in [
            ("handshake_timeout", self.handshake_timeout, 100, 60_000),
            ("header_timeout", self.header_timeout, 100, 600_000),
            ("request_timeout", self.request_timeout, 100, 3_600_000),
            ("write_timeout", self.write_timeout, 100, 3_600_000),
            ("idle_timeout", self.idle_timeout, 100, 86_400_000),
            ("connection_age_max", self.connection_age_max, 1000, 7 * 86_400_000),
            ("drain_timeout", self.drain_timeout, 10, 3_600_000),
            ("heartbeat", self.heartbeat, 100, 600_000),
        ] {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
            if value < min || value > max {
                let rule = format!(
                    "must be between {} and {}",
                    humantime::format_duration(min),
                    humantime::format_duration(max)
                );
                let value = humantime::format_duration(value);
                problems.push(SettingError::new(format!("transport.edge.{name}"), value, rule));
            }
        }
        if self.http3 && cfg!(not(feature = "rpc")) {
            let rule = "must be false in a program that is built without the feature rpc";
            problems.push(SettingError::new("transport.edge.http3", true, rule));
        }
        if !(1.0..=1e6).contains(&self.requests_per_second) {
            let rule = "must be between 1 and 1000000";
            problems.push(SettingError::new(
                "transport.edge.requests_per_second",
                self.requests_per_second,
                rule,
            ));
        }
        if self.page_items > self.page_items_max {
            let rule = format!("must not be over transport.edge.page_items_max ({})", self.page_items_max);
            problems.push(SettingError::new("transport.edge.page_items", self.page_items, rule));
        }
        for origin in &self.origins {
            let host = origin.strip_prefix("https://").unwrap_or_default();
            if host.is_empty() || host.contains(['/', '*', ' ']) {
                let rule = "must be an origin of the form https://host or https://host:port";
                problems.push(SettingError::new("transport.edge.origins", origin, rule));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_every_problem_names_its_setting() {
        assert_eq!(EdgeConfig::default().problems(), []);
        let wrong = EdgeConfig {
            connections_max: 0,
            requests_per_second: f64::NAN,
            header_timeout: Duration::ZERO,
            page_items: 500,
            page_items_max: 100,
            origins: vec!["*".into(), "http://plain.example".into(), "https://fine.example:8443".into()],
            ..EdgeConfig::default()
        };
        let lines: Vec<String> = wrong.problems().iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        transport.edge.connections_max (0) must be between 1 and 1000000
        transport.edge.header_timeout (0s) must be between 100ms and 10m
        transport.edge.requests_per_second (NaN) must be between 1 and 1000000
        transport.edge.page_items (500) must not be over transport.edge.page_items_max (100)
        transport.edge.origins (*) must be an origin of the form https://host or https://host:port
        transport.edge.origins (http://plain.example) must be an origin of the form https://host or https://host:port
        "#);
    }
}
