#![doc = include_str!("../README.md")]

pub mod config;
pub mod error;
pub mod identity;
pub mod metrics;
pub mod tls;

#[cfg(feature = "ca")]
pub mod ca;
#[cfg(feature = "edge")]
pub mod edge;
#[cfg(feature = "quic")]
pub mod endpoint;
#[cfg(feature = "quic")]
mod exporter;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
#[cfg(feature = "quic")]
pub mod links;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "quic")]
mod quiet;
#[cfg(feature = "rpc")]
pub mod rpc;
#[cfg(feature = "transcode")]
pub mod transcode;

pub use config::TransportConfig;
pub use error::TransportError;
#[cfg(feature = "quic")]
pub use exporter::ChannelExporter;
pub use identity::Identity;
pub use metrics::TransportMetrics;
