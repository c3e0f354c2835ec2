//! Settings of the `[registry.etcd]` section.

use std::{path::PathBuf, time::Duration};

use mesh_core::{SettingError, Settings};

/// Settings of the `etcd` provider.
///
/// ```
/// use mesh_core::Settings;
/// use mesh_registry::etcd::EtcdConfig;
/// let mut config = EtcdConfig::default();
/// config.endpoints = vec!["127.0.0.1:2379".to_owned()];
/// let problems = config.validate().unwrap_err();
/// assert!(problems[0].to_string().starts_with("registry.etcd.endpoints (127.0.0.1:2379)"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct EtcdConfig {
    /// Addresses of etcd's client port, `http://` or `https://`. Others are tried when one fails. Default: ["http://127.0.0.1:2379"].
    pub endpoints: Vec<String>,
    /// The beginning of all keys that we write; a store of its own for each. Default: mesh.
    pub root: String,
    /// The etcd user, where etcd asks for one. Default: none.
    pub user: Option<String>,
    /// File with the user's password, readable by its owner alone. Default: none.
    pub password_file: Option<PathBuf>,
    /// Certificates for `https://`.
    pub tls: EtcdTlsConfig,
    /// Longest wait for a connection. Default: 2s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub connect_timeout: Duration,
    /// Longest wait for an answer, other endpoints and repeated tries included. Default: 5s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub request_timeout: Duration,
    /// How long a watch tries to go on after it lost etcd, before it ends with an error. Default: 30s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub watch_resume_for: Duration,
}

/// Files for TLS to etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct EtcdTlsConfig {
    /// PEM file with the roots that etcd's certificate is checked against; needed for `https://`. Default: none.
    pub trust_bundle: Option<PathBuf>,
    /// PEM file with our certificate, where etcd asks for one. Default: none.
    pub certificate: Option<PathBuf>,
    /// PEM file with our certificate's key. Default: none.
    pub key: Option<PathBuf>,
    /// The name in etcd's certificate, if it is not the endpoint's. Default: none.
    pub server_name: Option<String>,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            root: "mesh".to_owned(),
            user: None,
            password_file: None,
            tls: EtcdTlsConfig::default(),
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            watch_resume_for: Duration::from_secs(30),
        }
    }
}

/// Most endpoints.
const ENDPOINTS_MAX: usize = 32;
/// Longest root, in bytes.
const ROOT_BYTES_MAX: usize = 200;

impl Settings for EtcdConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        let mut problem = |setting: &str, value: &dyn std::fmt::Display, rule: &str| {
            problems.push(SettingError::new(format!("registry.etcd.{setting}"), value, rule));
        };
        if !(1..=ENDPOINTS_MAX).contains(&self.endpoints.len()) {
            let count = format!("{} of them", self.endpoints.len());
            problem("endpoints", &count, &format!("must be 1 to {ENDPOINTS_MAX}"));
        }
        for endpoint in &self.endpoints {
            let is_url = ["http://", "https://"].iter().any(|scheme| {
                endpoint.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
            });
            if !is_url || endpoint.parse::<tonic::codegen::http::Uri>().is_err() {
                problem("endpoints", endpoint, "must be of the form http://host:port or https://host:port");
            } else if endpoint.contains('@') {
                // Not repeated: it may hold a password.
                problem("endpoints", &"not shown", "must not hold a user; set registry.etcd.user");
            }
        }
        let root = self.root.trim_matches('/');
        if root.is_empty() || root.len() > ROOT_BYTES_MAX || root.chars().any(char::is_control) {
            problem("root", &self.root, "must be 1 to 200 bytes without control characters");
        }
        if self.user.is_some() != self.password_file.is_some() {
            let user = self.user.as_deref().unwrap_or("none");
            problem("user", &user, "must be set together with registry.etcd.password_file");
        }
        let secure = self.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        if secure && self.tls.trust_bundle.is_none() {
            problem("tls.trust_bundle", &"none", "must be set for https:// endpoints");
        }
        if !secure && self.tls != EtcdTlsConfig::default() {
            problem(
                "endpoints",
                &self.endpoints.join(" "),
                "must be https:// for registry.etcd.tls to matter",
            );
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            let shown = self.tls.certificate.as_deref().map_or("none".into(), |path| path.to_string_lossy());
            problem("tls.certificate", &shown, "must be set together with registry.etcd.tls.key");
        }
        for (name, value, least, most) in [
            ("connect_timeout", self.connect_timeout, 10, 60_000),
            ("request_timeout", self.request_timeout, 100, 300_000),
            ("watch_resume_for", self.watch_resume_for, 0, 86_400_000),
        ] {
            if !(least..=most).contains(&value.as_millis()) {
                let rule = format!("must be between {least}ms and {most}ms");
                problem(name, &format!("{}ms", value.as_millis()), &rule);
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut EtcdConfig)) -> String {
        let mut config = EtcdConfig::default();
        change(&mut config);
        let problems = config.validate().expect_err("refused");
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_bad_setting_is_named_with_its_rule() {
        EtcdConfig::default().validate().expect("the defaults are fine");
        assert!(
            refused(|c| c.endpoints.clear()).contains("registry.etcd.endpoints (0 of them) must be 1 to 32")
        );
        let secret = refused(|c| c.endpoints = vec!["http://u:secret@h:1".into()]);
        assert!(secret.contains("must not hold a user") && !secret.contains("secret"), "{secret}");
        assert!(refused(|c| c.root = "//".into()).contains("registry.etcd.root (//)"));
        assert!(refused(|c| c.user = Some("u".into())).contains("password_file"));
        assert!(refused(|c| c.endpoints = vec!["https://h:1".into()]).contains("tls.trust_bundle (none)"));
        assert!(refused(|c| c.tls.server_name = Some("h".into())).contains("must be https://"));
        assert!(
            refused(|c| c.request_timeout = Duration::ZERO).contains("registry.etcd.request_timeout (0ms)")
        );
    }
}
