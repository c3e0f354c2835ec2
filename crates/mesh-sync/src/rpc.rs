//! The gRPC service `mesh.sync.v1.Sync`, and the way to it over mesh-transport.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use mesh_core::{BoxError, NodeId};
use mesh_transport::{
    ChannelExporter,
    rpc::{Channels, Lane, PeerInfo, Target},
};
use tokio::sync::mpsc;
use tonic::{Code, Request, Response, Status, Streaming};

pub use crate::wire::{DESCRIPTOR_SET, Frame, sync_client, sync_server};
use crate::{
    engine::{Carrier, CarrierError, Dial, FRAME_BYTES_MAX, Proof, STREAM_FRAMES_MAX, SyncHandler, Wire},
    handshake::Claimant,
};

/// Bytes of a message on the wire: a frame, and what is around it.
const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX + 64;

/// Serves peers. Add it to a server with [`SyncService::into_server`].
#[derive(Clone, Debug)]
pub struct SyncService {
    handler: SyncHandler,
}

impl SyncService {
    /// A service of this node's engine.
    pub const fn new(handler: SyncHandler) -> Self {
        Self { handler }
    }

    /// The service with its limits, to be added to a server.
    pub fn into_server(self) -> sync_server::SyncServer<Self> {
        sync_server::SyncServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// Frames as they come. Dropping it ends the stream.
pub type Frames = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send + 'static>>;

/// What a stream's way out looks like to gRPC.
fn outgoing(frames: mpsc::Receiver<Bytes>) -> impl Stream<Item = Frame> + Send + 'static {
    stream::unfold(frames, |mut frames| async move {
        let content = frames.recv().await?;
        Some((Frame { content }, frames))
    })
}

/// Passes on what comes in, at the pace at which it is taken.
fn pump(mut incoming: Streaming<Frame>) -> (mpsc::Receiver<Bytes>, tokio::task::JoinHandle<()>) {
    let (sender, receiver) = mpsc::channel(STREAM_FRAMES_MAX);
    let task = tokio::spawn(async move {
        while let Some(Ok(frame)) = incoming.next().await {
            if sender.send(frame.content).await.is_err() {
                return;
            }
        }
    });
    (receiver, task)
}

/// Ends a task with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The certificate names the node, and the exporter ties its claim to the connection.
fn proof(node: &NodeId, exporter: Option<&ChannelExporter>) -> Proof {
    const { assert!(ChannelExporter::LABEL.len() == Claimant::EXPORTER_LABEL.len(), "the same label") };
    match exporter {
        Some(exporter) => Proof::Channel { node: node.clone(), exporter: *exporter.as_bytes() },
        None => Proof::Nothing,
    }
}

#[tonic::async_trait]
impl sync_server::Sync for SyncService {
    type ExchangeStream = Frames;

    async fn exchange(&self, request: Request<Streaming<Frame>>) -> Result<Response<Frames>, Status> {
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let Some(peer) = peer.filter(|peer| peer.exporter.is_some()) else {
            return Err(Status::unauthenticated(
                "streams of sync need a connection with a certificate of the cluster",
            ));
        };
        let proof = proof(peer.identity.node_id(), peer.exporter.as_ref());
        let (receiver, pump) = pump(request.into_inner());
        let (sender, frames) = mpsc::channel(STREAM_FRAMES_MAX);
        let keep: Option<Box<dyn std::any::Any + Send + Sync>> = Some(Box::new(AbortOnDrop(pump)));
        let wire = Wire { proof, sender, receiver, keep };
        let handler = self.handler.clone();
        let serving = tokio::spawn(async move {
            if let Err(error) = handler.serve(wire).await {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(peer_id = %peer.identity.node_id(), error, "sync stream ended");
            }
        });
        // The response is dropped when the caller goes, and the stream ends with it.
        let serving = AbortOnDrop(serving);
        let replies = outgoing(frames).map(move |frame| {
            let _ = &serving;
            Ok(frame)
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

/// The way to other nodes over mesh-transport.
#[derive(Clone, Debug)]
pub struct GrpcCarrier {
    channels: Channels,
}

impl GrpcCarrier {
    /// Opens streams on the channels of this node.
    pub const fn new(channels: Channels) -> Self {
        Self { channels }
    }
}

#[async_trait]
impl Carrier for GrpcCarrier {
    fn name(&self) -> &'static str {
        "grpc"
    }

    /// Addresses are `host:port`; a name is looked up.
    async fn open(&self, dial: &Dial) -> Result<Wire, CarrierError> {
        let peer = &dial.peer;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in &dial.addresses {
            match address.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => {
                    // A name that is not known now may be tomorrow.
                    let found = tokio::net::lookup_host(address.as_str()).await;
                    addresses.extend(found.into_iter().flatten());
                }
            }
        }
        addresses.dedup();
        if addresses.is_empty() {
            return Err(CarrierError::NoAddress { peer: peer.clone(), carrier: "grpc" });
        }
        let target = Target { node_id: peer.clone(), addresses, http3: None };
        let channel = self.channels.open(target, Lane::Sync);
        let mut client = sync_client::SyncClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (sender, frames) = mpsc::channel(STREAM_FRAMES_MAX);
        let response = client.exchange(outgoing(frames)).await.map_err(|status| failure(peer, status))?;
        let exporter = response.extensions().get::<ChannelExporter>().copied();
        if exporter.is_none() {
            let source = Arc::new(BoxError::from("the connection has no exporter"));
            return Err(CarrierError::Refused { peer: peer.clone(), source });
        }
        let proof = proof(peer, exporter.as_ref());
        let (receiver, pump) = pump(response.into_inner());
        Ok(Wire { proof, sender, receiver, keep: Some(Box::new(AbortOnDrop(pump))) })
    }
}

fn failure(peer: &NodeId, status: Status) -> CarrierError {
    let refused = matches!(
        status.code(),
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::InvalidArgument
    );
    let (peer, source) = (peer.clone(), Arc::new(BoxError::from(status)));
    match refused {
        true => CarrierError::Refused { peer, source },
        false => CarrierError::Unreachable { peer, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_crates_mean_the_same_exporter() {
        assert_eq!(ChannelExporter::LABEL, Claimant::EXPORTER_LABEL);
    }
}
