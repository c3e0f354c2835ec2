//! Connections of channels from the node's own port.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{FutureExt as _, future::select_ok};
use quinn::VarInt;

use super::{ConnectFailure, Connector, H2Connection, H3Connection, Target};
use crate::{endpoint::Endpoint, error::TransportError, rpc::Transport, tls::alpn};

/// Bytes that may be on their way on one connection, each direction.
const WINDOW_BYTES: u32 = 8 << 20;
/// Bytes that may be on their way on one stream.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// How long one address of a peer is tried before the next is tried beside it.
const ADDRESS_STAGGER: Duration = Duration::from_millis(250);

/// QUIC settings of the connections that channels open.
fn quic_settings(endpoint: &Endpoint) -> quinn::TransportConfig {
    let idle_timeout = endpoint.config().links.idle_timeout;
    let idle_ms = u64::try_from(idle_timeout.as_millis()).unwrap_or(u64::MAX);
    let mut settings = quinn::TransportConfig::default();
    settings
        // Servers open none of these.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(8))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(WINDOW_BYTES.into())
        .datagram_receive_buffer_size(None)
        .initial_rtt(Duration::from_millis(60))
        .keep_alive_interval(Some(idle_timeout / 3))
        .max_idle_timeout(VarInt::from_u64(idle_ms).ok().map(quinn::IdleTimeout::from));
    settings
}

fn failure(target: &Target, transport: Transport, source: TransportError) -> ConnectFailure {
    let (peer, source) = (target.node_id.clone(), source);
    if source.is_identity() {
        return ConnectFailure::Refused { peer, transport, source: Box::new(source) };
    }
    ConnectFailure::Unreachable { peer, transport, source: Box::new(source) }
}

/// Tries the addresses of `target`, each a little later than the one before, and takes
/// the first that succeeds.
async fn first_of<T, F>(
    target: &Target,
    transport: Transport,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, ConnectFailure>
where
    F: Future<Output = Result<T, TransportError>> + Send,
{
    let attempts = target.addresses.iter().zip(0_u32..).map(|(&address, place)| {
        let attempt = connect(address);
        async move {
            if place > 0 {
                tokio::time::sleep(ADDRESS_STAGGER * place).await;
            }
            attempt.await
        }
        .boxed()
    });
    let attempts: Vec<_> = attempts.collect();
    if attempts.is_empty() {
        return Err(ConnectFailure::Unsupported { peer: target.node_id.clone(), transport });
    }
    match select_ok(attempts).await {
        Ok((connected, _others)) => Ok(connected),
        Err(error) => Err(failure(target, transport, error)),
    }
}

#[async_trait]
impl Connector for Endpoint {
    async fn connect_h3(&self, target: &Target) -> Result<H3Connection, ConnectFailure> {
        if !self.config().http3.enabled {
            let (peer, transport) = (target.node_id.clone(), Transport::Http3);
            return Err(ConnectFailure::Unsupported { peer, transport });
        }
        let settings = Arc::new(quic_settings(self));
        let connected = first_of(target, Transport::Http3, |address| {
            self.connect_quic(address, Some(&target.node_id), alpn::H3, settings.clone())
        })
        .await?;
        Ok(H3Connection {
            connection: connected.connection().clone(),
            peer: connected.peer().clone(),
            load: connected.load().clone(),
            keep: Box::new(connected),
        })
    }

    async fn connect_h2(&self, target: &Target) -> Result<H2Connection, ConnectFailure> {
        let stream = first_of(target, Transport::Http2, |address| {
            self.connect_tcp(address, Some(&target.node_id), alpn::H2)
        })
        .await?;
        let (peer, exporter) = (stream.peer().clone(), stream.exporter());
        Ok(H2Connection { io: Box::new(stream), peer, exporter })
    }
}
