//! gRPC services on the edge port.

use std::{convert::Infallible, sync::Arc};

use axum::{Extension, Router, body::Body as EdgeBody, extract::Request, response::Response, routing::any};
use bytes::Bytes;
use http::StatusCode;
use http_body::Body as HttpBody;
use mesh_core::{BoxError, PeerIdentity};
use tonic::body::Body;
use tower::Service;

use crate::{
    edge::{ConnectionInfo, HttpVersion, Problem},
    rpc::{PeerInfo, RpcServer, Transport},
};

/// The routes `/<service>/<method>` of these services, for a router that an
/// [`EdgeServer`](crate::edge::EdgeServer) serves. What `server` is given decides who is
/// served how: its [policy](crate::rpc::EndpointGuard) and its limits hold here as they do on the
/// mesh port, and handlers find the same [`PeerInfo`].
///
/// # Panics
///
/// If a name has a slash or a brace; names of services have neither.
pub fn service_routes<'s, S, B>(server: &RpcServer<S>, services: impl IntoIterator<Item = &'s str>) -> Router
where
    S: Service<http::Request<Body>, Response = http::Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut router = Router::new();
    for service in services {
        let server = server.clone();
        let call = move |info: Option<Extension<ConnectionInfo>>,
                         peer: Option<Extension<Arc<PeerIdentity>>>,
                         request: Request| {
            let server = server.clone();
            async move { call(&server, info, peer, request).await }
        };
        router = router.route(&format!("/{service}/{{method}}"), any(call));
    }
    router
}

async fn call<S, B>(
    server: &RpcServer<S>,
    info: Option<Extension<ConnectionInfo>>,
    peer: Option<Extension<Arc<PeerIdentity>>>,
    request: Request,
) -> Result<Response, Problem>
where
    S: Service<http::Request<Body>, Response = http::Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (Some(Extension(info)), Some(Extension(identity))) = (info, peer) else {
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "access.unidentified", "the caller is not known")
            .cause("the connection has no client certificate")
            .action("connect with a certificate of this cluster"));
    };
    let (transport, alpn) = match info.version {
        HttpVersion::Http1 => (Transport::Http1, "http/1.1"),
        HttpVersion::Http2 => (Transport::Http2, "h2"),
        HttpVersion::Http3 => (Transport::Http3, "h3"),
    };
    let response = server.call(request, &PeerInfo { identity, transport, alpn, exporter: None }).await;
    Ok(response.map(EdgeBody::new))
}
