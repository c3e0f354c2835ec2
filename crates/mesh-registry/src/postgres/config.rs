//! Settings of the `[registry.postgres]` section.

use std::{fmt, path::PathBuf, time::Duration};

use mesh_core::{SettingError, Settings};
use tokio_postgres::config::{Host, SslMode};

/// Settings of the `postgres` provider.
///
/// ```
/// use mesh_core::Settings;
/// use mesh_registry::postgres::PostgresConfig;
/// let config = PostgresConfig { schema: "Mesh!".to_owned(), ..PostgresConfig::default() };
/// let problems = config.validate().unwrap_err();
/// assert!(problems[0].to_string().starts_with("registry.postgres.schema (Mesh!)"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct PostgresConfig {
    /// Where PostgreSQL is: `postgres://user@host:port/database`; several hosts with commas between. Default: postgres://mesh@localhost/mesh.
    pub url: ConnectionUrl,
    /// File with the user's password, readable by its owner alone; better there than in `url`. Default: none.
    pub password_file: Option<PathBuf>,
    /// The schema that holds all tables; made if there is none. A store of its own for each. Default: mesh.
    pub schema: String,
    /// Certificates for TLS. Without `trust_bundle` connections are not encrypted.
    pub tls: PostgresTlsConfig,
    /// Connections that one node opens for requests; one more waits for changes. Default: 4.
    pub connections_max: usize,
    /// Longest wait for a connection to be made. Default: 2s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub connect_timeout: Duration,
    /// Longest wait for an answer, repeated tries included. Default: 5s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub request_timeout: Duration,
    /// Longest wait for a whole snapshot or restore. Default: 5m.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub transfer_timeout: Duration,
    /// How long a watch tries to go on after it lost the database, before it ends with an error. Default: 30s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub watch_resume_for: Duration,
    /// Time between two looks at the sessions of all nodes, to end those that were not renewed. Default: 250ms.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub observe_interval: Duration,
    /// How much the clocks of two nodes may differ in rate, in parts per million; sessions live so much
    /// longer in the store than for their owner. Default: 1000.
    pub drift_ppm: u32,
}

/// Files for TLS to PostgreSQL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct PostgresTlsConfig {
    /// PEM file with the roots that the server's certificate is checked against; turns TLS on. Default: none.
    pub trust_bundle: Option<PathBuf>,
    /// PEM file with our certificate, where the server asks for one. Default: none.
    pub certificate: Option<PathBuf>,
    /// PEM file with our certificate's key. Default: none.
    pub key: Option<PathBuf>,
}

/// Where the database is. It may hold a password, so it is never printed as it is.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize), serde(transparent))]
pub struct ConnectionUrl(String);

impl ConnectionUrl {
    /// Takes a URL, or the `key=value` form; it is checked by [`PostgresConfig`].
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn parse(&self) -> Result<tokio_postgres::Config, tokio_postgres::Error> {
        self.0.parse()
    }
}

impl fmt::Display for ConnectionUrl {
    /// Hosts, database and user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(config) = self.parse() else { return f.write_str("not shown") };
        let hosts = config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        });
        let hosts: Vec<String> = hosts.collect();
        let (user, name) = (config.get_user().unwrap_or(""), config.get_dbname().unwrap_or(""));
        write!(f, "postgres://{user}@{}/{name}", hosts.join(","))
    }
}

impl fmt::Debug for ConnectionUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for ConnectionUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            url: ConnectionUrl::new("postgres://mesh@localhost/mesh"),
            password_file: None,
            schema: "mesh".to_owned(),
            tls: PostgresTlsConfig::default(),
            connections_max: 4,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            transfer_timeout: Duration::from_secs(300),
            watch_resume_for: Duration::from_secs(30),
            observe_interval: Duration::from_millis(250),
            drift_ppm: 1000,
        }
    }
}

/// Longest schema name; the channel of notifications has a few characters more, and 63 is the limit.
const SCHEMA_BYTES_MAX: usize = 50;

impl Settings for PostgresConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        let mut problem = |setting: &str, value: &dyn fmt::Display, rule: &str| {
            problems.push(SettingError::new(format!("registry.postgres.{setting}"), value, rule));
        };
        match self.url.parse() {
            // The parser's message may repeat what it read.
            Err(_) => problem("url", &"not shown", "must be of the form postgres://user@host:port/database"),
            Ok(url) if url.get_hosts().is_empty() => problem("url", &self.url, "must name a host"),
            Ok(url) if url.get_ssl_mode() == SslMode::Require && self.tls.trust_bundle.is_none() => {
                problem("tls.trust_bundle", &"none", "must be set for sslmode=require");
            }
            Ok(_) => {}
        }
        let mut characters = self.schema.chars();
        let is_name = characters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
            && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_name || self.schema.len() > SCHEMA_BYTES_MAX || self.schema.starts_with("pg_") {
            problem("schema", &self.schema, "must be 1 to 50 of a-z 0-9 _, not begin with a digit or pg_");
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            let shown = self.tls.certificate.as_deref().map_or("none".into(), |path| path.to_string_lossy());
            problem("tls.certificate", &shown, "must be set together with registry.postgres.tls.key");
        }
        if self.tls.certificate.is_some() && self.tls.trust_bundle.is_none() {
            problem("tls.trust_bundle", &"none", "must be set when registry.postgres.tls.certificate is");
        }
        if !(1..=64).contains(&self.connections_max) {
            problem("connections_max", &self.connections_max, "must be between 1 and 64");
        }
        if self.drift_ppm > 100_000 {
            problem("drift_ppm", &self.drift_ppm, "must be between 0 and 100000");
        }
        for (name, value, least, most) in [
            ("connect_timeout", self.connect_timeout, 10, 60_000),
            ("request_timeout", self.request_timeout, 100, 300_000),
            ("transfer_timeout", self.transfer_timeout, 100, 86_400_000),
            ("watch_resume_for", self.watch_resume_for, 0, 86_400_000),
            ("observe_interval", self.observe_interval, 10, 60_000),
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

    fn refused(change: impl FnOnce(&mut PostgresConfig)) -> String {
        let mut config = PostgresConfig::default();
        change(&mut config);
        let problems = config.validate().expect_err("refused");
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_bad_setting_is_named_with_its_rule() {
        PostgresConfig::default().validate().expect("the defaults are fine");
        assert!(refused(|c| c.url = ConnectionUrl::new("nonsense")).contains("registry.postgres.url"));
        let tls = refused(|c| c.url = ConnectionUrl::new("postgres://u@h/d?sslmode=require"));
        assert!(tls.contains("registry.postgres.tls.trust_bundle (none)"), "{tls}");
        for schema in ["", "1a", "a-b", "a\"b", "pg_catalog", &"a".repeat(51)] {
            assert!(
                refused(|c| c.schema = schema.to_owned()).contains("registry.postgres.schema"),
                "{schema}"
            );
        }
        assert!(refused(|c| c.connections_max = 0).contains("registry.postgres.connections_max (0)"));
        assert!(refused(|c| c.observe_interval = Duration::ZERO).contains("observe_interval (0ms)"));
    }

    #[test]
    fn a_password_is_never_printed() {
        let config = PostgresConfig {
            url: ConnectionUrl::new("postgres://u:secret@h,i/d"),
            schema: "?".to_owned(),
            ..PostgresConfig::default()
        };
        assert_eq!(config.url.to_string(), "postgres://u@h,i/d");
        let printed = format!("{config:?} {} {:?}", config.url, config.clone().validate());
        assert!(!printed.contains("secret"), "{printed}");
        let broken = refused(|c| c.url = ConnectionUrl::new("postgres://u:secret@h:port/d"));
        assert!(!broken.contains("secret"), "{broken}");
        #[cfg(feature = "serde")]
        {
            let url = ConnectionUrl::new("postgres://u:secret@h/d");
            let json = serde_json::to_string(&url).expect("serialises");
            assert!(!json.contains("secret"), "{json}");
        }
    }
}
