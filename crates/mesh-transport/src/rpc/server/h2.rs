//! HTTP/2 on a TLS stream.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_core::BoxError;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

use super::{ServeError, Shared, stopped};
use crate::rpc::{PeerInfo, Transport};

/// Serves until the peer leaves, the connection breaks, or the server stops.
pub(super) async fn serve<S, B, I>(shared: Arc<Shared<S>>, io: I, peer: PeerInfo) -> Result<(), ServeError>
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut stopping = shared.stopping.subscribe();
    let failed = {
        let peer = peer.identity.node_id().clone();
        move |source: hyper::Error| ServeError::Connection {
            transport: Transport::Http2,
            peer,
            source: Box::new(source),
        }
    };
    let config = &shared.config;
    let drain_timeout = config.drain_timeout;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.requests_per_connection_max)
        .max_header_list_size(config.header_bytes_max)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(config.message_stall_timeout);
    let late = *stopping.borrow();
    let service = service_fn(move |request: Request<Incoming>| {
        let (shared, peer) = (shared.clone(), peer.clone());
        async move {
            if late {
                // Tells the peer that the request was not looked at.
                return Err(h2::Error::from(h2::Reason::REFUSED_STREAM));
            }
            Ok(shared.handle(request, &peer).await)
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        ended = connection.as_mut() => return ended.map_err(failed),
        () = stopped(&mut stopping) => {}
    }
    connection.as_mut().graceful_shutdown();
    match tokio::time::timeout(drain_timeout, connection).await {
        Ok(ended) => ended.map_err(failed),
        Err(_) => Ok(()),
    }
}
