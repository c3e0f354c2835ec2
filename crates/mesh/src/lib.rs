#![doc = include_str!("../README.md")]

pub mod config;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
pub mod node;

pub use config::{
    ConfigError, ConfigLoader, ConfigProblem, ControlConfig, LoadedConfig, MeshConfig, NodeConfig, Setting,
    Source,
};
pub use mesh_core as core;
pub use mesh_gossip as gossip;
pub use mesh_leader as leader;
pub use mesh_registry as registry;
#[cfg(feature = "sync")]
pub use mesh_sync as sync;
pub use mesh_transport as transport;
pub use node::{Node, NodeBuilder, NodeError, ResolveError};
