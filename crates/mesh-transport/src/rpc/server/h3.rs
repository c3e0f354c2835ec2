//! HTTP/3 on a QUIC connection from another node.

use std::{convert::Infallible, future::Future, sync::Arc};

use bytes::Bytes;
use h3::error::Code;
use http::{Request, Response};
use http_body::Body;
use mesh_core::BoxError;
use tower::Service;

use super::{ServeError, Shared};
use crate::endpoint::QuicConnection;
use crate::rpc::{
    PeerInfo, Transport,
    body::ResponseBody,
    http3::{self, Answer, Limits, RequestBody},
};

/// What a server answers to one peer.
struct ToPeer<S> {
    shared: Arc<Shared<S>>,
    peer: PeerInfo,
}

impl<S, B> Answer for ToPeer<S>
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Body = ResponseBody<B>;

    fn answer(
        &self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Response<ResponseBody<B>>> + Send {
        self.shared.handle(request, &self.peer)
    }
}

/// Serves until the peer leaves, the connection breaks, or the server stops.
pub(super) async fn serve<S, B>(
    shared: Arc<Shared<S>>,
    accepted: QuicConnection,
    peer: PeerInfo,
) -> Result<(), ServeError>
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let config = &shared.config;
    let limits = Limits {
        requests_max: config.requests_per_connection_max,
        header_bytes_max: config.header_bytes_max.into(),
        header_timeout: config.message_stall_timeout,
        drain_timeout: config.drain_timeout,
        // Streams between nodes may rest as long as they like.
        write_timeout: None,
    };
    let (stopping, node_id) = (shared.stopping.subscribe(), peer.identity.node_id().clone());
    // `accepted` stays here, and keeps the connection among those that a revocation closes.
    let served = http3::serve(
        accepted.connection().clone(),
        accepted.load().clone(),
        limits,
        stopping,
        ToPeer { shared, peer },
    )
    .await;
    served.map_err(|error| ServeError::Connection {
        transport: Transport::Http3,
        peer: node_id,
        source: Box::new(error),
    })
}

/// Closes a connection on which no request was looked at.
pub(super) fn turn_away(connection: &QuicConnection) {
    let code = quinn::VarInt::from_u32(0x10b);
    debug_assert_eq!(code.into_inner(), Code::H3_REQUEST_REJECTED.value());
    connection.connection().close(code, b"shutting down");
}
