//! Stands in for the UDP half of the edge port in builds without the feature `rpc`, where
//! settings that ask for it are not valid.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use tokio::task::JoinHandle;

use super::listener::Port;

pub(super) fn bind(_: SocketAddr) -> io::Result<UdpSocket> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn spawn(_: Arc<Port>, _: UdpSocket) -> io::Result<JoinHandle<()>> {
    Err(io::ErrorKind::Unsupported.into())
}
