//! Settings of the `[control]` section.

use mesh_core::{SettingError, Settings};
use serde::{Deserialize, Serialize};

/// What the control API serves. Where it listens is `transport.edge.bind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    /// Whether this node serves the control API at all. Default: true.
    pub enabled: bool,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

impl Settings for ControlConfig {
    fn problems(&self) -> Vec<SettingError> {
        Vec::new()
    }
}
