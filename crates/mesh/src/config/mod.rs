//! Settings: one TOML file, then the environment, then what the program sets.
//!
//! Each crate owns its section; this module joins them, remembers where every
//! value came from, and reports everything that is wrong at once.

mod control;
mod layer;
mod load;
mod node;
mod problem;
mod source;

use std::path::PathBuf;

use mesh_core::{SettingError, Settings};
use mesh_gossip::GossipConfig;
use mesh_leader::LeaderConfig;
use mesh_registry::RegistryConfig;
#[cfg(feature = "sync")]
use mesh_sync::config::SyncConfig;
use mesh_transport::TransportConfig;
use serde::{Deserialize, Serialize};

pub use control::ControlConfig;
#[cfg(feature = "fuzzing")]
pub(crate) use load::fuzz;
pub use load::{ConfigLoader, LoadedConfig, Setting};
pub use node::NodeConfig;
pub use problem::{ConfigError, ConfigProblem};
pub use source::Source;

/// All settings of a node.
///
/// ```
/// use mesh::MeshConfig;
/// let loaded = MeshConfig::loader().set("gossip.probe_interval", "2s").load()?;
/// assert_eq!(loaded.config.gossip.probe_interval.as_secs(), 2);
/// # Ok::<(), mesh::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeshConfig {
    /// Who the node is.
    pub node: NodeConfig,
    /// Identity, sockets and transports.
    pub transport: TransportConfig,
    /// Membership and failure detection.
    pub gossip: GossipConfig,
    /// The store of control state.
    pub registry: RegistryConfig,
    /// Sessions, leases and elections.
    pub leader: LeaderConfig,
    /// Datasets that converge over any topology.
    #[cfg(feature = "sync")]
    pub sync: SyncConfig,
    /// The control API.
    pub control: ControlConfig,
}

impl MeshConfig {
    /// Reads settings from a file, the environment and the program; nothing is read yet.
    pub fn loader() -> ConfigLoader {
        ConfigLoader::new()
    }

    /// Certificate, key and trust bundle: the files that `[transport.tls]` names, or
    /// `identity/node.pem`, `identity/node.key` and `identity/roots.pem` in the data directory.
    pub fn identity_files(&self) -> [PathBuf; 3] {
        identity_files(&self.node, &self.transport)
    }
}

/// [`MeshConfig::identity_files`] of two sections.
pub(crate) fn identity_files(node: &NodeConfig, transport: &TransportConfig) -> [PathBuf; 3] {
    let folder = node.data_dir.join("identity");
    let tls = &transport.tls;
    let files = [(&tls.certificate, "node.pem"), (&tls.key, "node.key"), (&tls.trust_bundle, "roots.pem")];
    files.map(|(set, name)| set.clone().unwrap_or_else(|| folder.join(name)))
}

impl Settings for MeshConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = self.node.problems();
        problems.extend(self.transport.problems());
        problems.extend(self.gossip.problems());
        problems.extend(self.registry.problems());
        problems.extend(self.leader.problems());
        #[cfg(feature = "sync")]
        problems.extend(self.sync.problems());
        problems.extend(self.control.problems());
        problems
    }
}

#[cfg(test)]
mod tests;
