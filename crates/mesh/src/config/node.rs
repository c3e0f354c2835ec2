//! Settings of the `[node]` section.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use mesh_core::{ClusterName, NodeId, Role, SettingError, Settings, TrustDomain};
use serde::{Deserialize, Serialize};

/// Who this node is and where it keeps its data.
///
/// The certificate is the authority on identity: `id`, `cluster`, `trust_domain`
/// and `role` may be left out. Where one is set and the certificate says
/// otherwise, the node does not start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// The name of this node. Default: the one in its certificate.
    pub id: Option<NodeId>,
    /// The cluster it belongs to. Default: the one in its certificate.
    pub cluster: Option<ClusterName>,
    /// Who issues the cluster's certificates. Default: the one in its certificate.
    pub trust_domain: Option<TrustDomain>,
    /// What this node is for. Default: the one in its certificate.
    pub role: Option<Role>,
    /// Where it runs, coarsely: a data centre, a cloud region. Default: none.
    pub region: Option<String>,
    /// Where it runs, finely: what fails together. Default: none.
    pub zone: Option<String>,
    /// Words that people select nodes by. Default: none.
    pub labels: BTreeMap<String, String>,
    /// The folder for everything that must survive a restart. Default: `mesh-data`.
    pub data_dir: PathBuf,
    /// Longest time for a goodbye before the node stops without one. Default: 5s.
    #[serde(with = "humantime_serde")]
    pub leave_timeout: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            id: None,
            cluster: None,
            trust_domain: None,
            role: None,
            region: None,
            zone: None,
            labels: BTreeMap::new(),
            data_dir: PathBuf::from("mesh-data"),
            leave_timeout: Duration::from_secs(5),
        }
    }
}

impl NodeConfig {
    /// The most labels that a node may carry.
    pub const LABELS_MAX: usize = 64;
    /// The longest label name, region or zone, in bytes.
    pub const NAME_BYTES_MAX: usize = 63;
    /// The longest label value, in bytes.
    pub const VALUE_BYTES_MAX: usize = 255;
}

impl Settings for NodeConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        let names = [("region", &self.region), ("zone", &self.zone)];
        for (name, value) in names.into_iter().filter_map(|(n, v)| v.as_ref().map(|v| (n, v))) {
            if !is_name(value) {
                problems.push(SettingError::new(format!("node.{name}"), value, NAME_RULE));
            }
        }
        for (label, value) in &self.labels {
            if !is_name(label) {
                problems.push(SettingError::new(format!("node.labels.{label}"), label, NAME_RULE));
            }
            if value.len() > Self::VALUE_BYTES_MAX || value.chars().any(char::is_control) {
                let rule =
                    format!("must have at most {} bytes and no control characters", Self::VALUE_BYTES_MAX);
                problems.push(SettingError::new(format!("node.labels.{label}"), value, rule));
            }
        }
        if self.labels.len() > Self::LABELS_MAX {
            let rule = format!("must not be more than {}", Self::LABELS_MAX);
            problems.push(SettingError::new("node.labels", format!("{} labels", self.labels.len()), rule));
        }
        if self.data_dir.as_os_str().is_empty() {
            problems.push(SettingError::new("node.data_dir", "", "must name a folder"));
        }
        if self.leave_timeout > Duration::from_secs(300) {
            let value = humantime_serde::re::humantime::format_duration(self.leave_timeout);
            problems.push(SettingError::new("node.leave_timeout", value, "must not be longer than 5m"));
        }
        problems
    }
}

const NAME_RULE: &str = "must have 1 to 63 of the characters a-z, A-Z, 0-9, '-', '_', '.' and '/'";

fn is_name(text: &str) -> bool {
    (1..=NodeConfig::NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
}
