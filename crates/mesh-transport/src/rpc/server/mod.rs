//! Serves one service on HTTP/3 and HTTP/2.

mod h2;
mod h3;
mod handle;

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use mesh_core::{BoxError, Validated};
use tokio::sync::{Semaphore, mpsc, watch};
use tower::Service;

use crate::endpoint::Incoming;

use super::{EndpointGuard, PeerInfo, RpcMetrics, ServerConfig, Transport};

/// Why a connection ended, other than by agreement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The connection broke, or the peer did not keep to the protocol.
    #[error("{transport} connection from {peer} ended")]
    Connection {
        /// What carried it.
        transport: Transport,
        /// The other end.
        peer: mesh_core::NodeId,
        /// Why.
        #[source]
        source: BoxError,
    },
}

/// Serves one service, on any number of connections of either kind. Clones are handles
/// of the same server.
///
/// What a bare tonic service lacks is added here: deadlines (`grpc-timeout`), message
/// size and concurrency limits, the endpoint's [policy](super::Policy), and a drain.
///
/// ```no_run
/// # use mesh_transport::rpc::*; use std::sync::Arc; use mesh_core::{Settings, SystemClock};
/// # async fn f(endpoint: mesh_transport::endpoint::Endpoint) -> Result<(), Box<dyn std::error::Error>> {
/// let policy = PolicyConfig::default().validate().map_err(|p| p[0].clone())?;
/// let policy = Policy::new(&policy, Arc::new(SystemClock));
/// let server = RpcServer::new(
///     tonic::service::Routes::default(),
///     policy.endpoint(None, MESH)?,
///     ServerConfig::default().validate().map_err(|p| p[0].clone())?,
///     RpcMetrics::new(endpoint.metrics().clone()),
/// );
/// server.serve(endpoint.rpc_incoming().ok_or("taken before")?).await;
/// # Ok(()) }
/// ```
pub struct RpcServer<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for RpcServer<S> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<S> fmt::Debug for RpcServer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcServer").field("endpoint", &self.shared.endpoint.name()).finish_non_exhaustive()
    }
}

struct Shared<S> {
    service: S,
    endpoint: EndpointGuard,
    config: Validated<ServerConfig>,
    metrics: RpcMetrics,
    permits: Arc<Semaphore>,
    /// Turns true once, when the server is asked to stop. Each connection holds a
    /// receiver while it lives.
    stopping: watch::Sender<bool>,
}

/// Resolves when `stopping` turns true.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // The sender is in `Shared`, which every connection keeps alive.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

impl<S, B> RpcServer<S>
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Serves `service` under the rules of `endpoint`.
    pub fn new(
        service: S,
        endpoint: EndpointGuard,
        config: Validated<ServerConfig>,
        metrics: RpcMetrics,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(config.requests_in_flight_max));
        let stopping = watch::Sender::new(false);
        Self { shared: Arc::new(Shared { service, endpoint, config, metrics, permits, stopping }) }
    }

    /// Serves every connection that comes in, until the endpoint closes. `incoming` is
    /// that of [`Endpoint::rpc_incoming`](crate::endpoint::Endpoint::rpc_incoming).
    ///
    /// It goes on after [`shutdown`](Self::shutdown), to turn callers away in a manner
    /// that tells them that their requests were not acted on.
    ///
    /// # Cancel safety
    ///
    /// Connections have tasks of their own and go on when the future is dropped.
    pub async fn serve(&self, mut incoming: mpsc::Receiver<Incoming>) {
        while let Some(connection) = incoming.recv().await {
            let server = self.clone();
            tokio::spawn(async move {
                if let Err(error) = server.serve_connection(connection).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
                }
            });
        }
    }

    /// Serves one connection until it ends.
    ///
    /// # Errors
    ///
    /// [`ServeError::Connection`] if it did not end by agreement.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection; requests at work are abandoned.
    pub async fn serve_connection(&self, connection: Incoming) -> Result<(), ServeError> {
        match connection {
            Incoming::Quic(connection) if self.is_shutting_down() => {
                h3::turn_away(&connection);
                Ok(())
            }
            Incoming::Quic(connection) => {
                let identity = connection.peer().clone();
                let exporter = connection.exporter();
                let peer = PeerInfo { identity, transport: Transport::Http3, alpn: "h3", exporter };
                h3::serve(self.shared.clone(), connection, peer).await
            }
            Incoming::Tcp(stream) => {
                let identity = stream.peer().clone();
                let exporter = stream.exporter();
                let peer = PeerInfo { identity, transport: Transport::Http2, alpn: "h2", exporter };
                h2::serve(self.shared.clone(), stream, peer).await
            }
        }
    }

    /// Serves one request that came on a connection of somebody else's, such as the edge port's,
    /// from `peer`. Policy, limits, deadline and metrics are those of this server; whoever has the
    /// connection watches over slow readers and shuts down in good order.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future, or the body of the response, abandons the request.
    pub async fn call<R>(&self, request: Request<R>, peer: &PeerInfo) -> Response<tonic::body::Body>
    where
        R: Body<Data = Bytes> + Send + Unpin + 'static,
        R::Error: Into<BoxError>,
    {
        self.shared.handle(request, peer).await.map(tonic::body::Body::new)
    }

    /// Asks every connection to finish: peers are told to send no more requests
    /// (GOAWAY), those at work are completed, and then connections close. Returns
    /// when all are gone, at the latest a little after `drain_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the drain under way.
    pub async fn shutdown(&self) {
        self.shared.stopping.send_replace(true);
        let limit = self.shared.config.drain_timeout + Duration::from_secs(1);
        // Each connection holds a receiver.
        let _ = tokio::time::timeout(limit, self.shared.stopping.closed()).await;
    }

    /// Whether [`shutdown`](Self::shutdown) was called.
    pub fn is_shutting_down(&self) -> bool {
        *self.shared.stopping.borrow()
    }
}
