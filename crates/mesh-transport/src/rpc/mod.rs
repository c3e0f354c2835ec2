//! gRPC over HTTP/3 and HTTP/2: a server and a channel.
//!
//! [`RpcServer`] serves one tonic or axum service on authenticated connections of
//! either kind; handlers see the same [`PeerInfo`] on both. A [`Channel`] is a tower
//! service that generated clients accept. It prefers HTTP/3, settles for HTTP/2 when
//! that is all that works, and comes back by itself. [`Policy`] says what each
//! endpoint allows.
//!
//! Connections come from elsewhere: the server is handed accepted ones, the channel
//! asks a [`Connector`].

mod body;
mod channel;
mod config;
pub(crate) mod grpc;
pub(crate) mod h3_quinn;
pub(crate) mod http3;
mod metrics;
mod policy;
mod server;
mod vocabulary;

#[cfg(all(test, feature = "ca"))]
mod tests;

pub use channel::{
    Channel, ChannelError, Channels, ConnectFailure, Connector, H2Connection, H2Io, H3Connection,
    ResponseBody, Target,
};
pub use config::{ChannelConfig, ServerConfig};
pub use metrics::RpcMetrics;
pub use policy::{
    CONTROL, EDGE, EndpointGuard, EndpointPolicy, MESH, Policy, PolicyConfig, PolicyException,
    PolicyViolation,
};
pub use server::{RpcServer, ServeError};
pub use vocabulary::{
    ENCODING_HEADER, Encoding, Idempotent, Lane, PeerInfo, REASON_HEADER, Reason, TRANSPORT_HEADER,
    Transport, UnknownWord,
};
