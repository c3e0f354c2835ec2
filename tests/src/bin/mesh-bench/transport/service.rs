//! The service that is called: an echo, and a source of large messages. Written by hand,
//! so that the benchmark needs no generated code.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use mesh_transport::rpc::Idempotent;
use tonic::{
    Request, Response, Status,
    body::Body,
    client::{Grpc as ClientGrpc, GrpcService},
    codegen::{
        StdError,
        http::{self, uri::PathAndQuery},
    },
    server::{Grpc as ServerGrpc, NamedService, ServerStreamingService, UnaryService},
};
use tonic_prost::ProstCodec;

/// Bytes of payload in a unary call, each way.
const SMALL_BYTES: usize = 100;
/// Bytes of payload in a message of the bulk stream.
pub(super) const LARGE_BYTES: usize = 64 << 10;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) data: Bytes,
    #[prost(uint64, tag = "2")]
    pub(super) number: u64,
}

impl Payload {
    pub(super) fn small() -> Self {
        Self { data: Bytes::from_static(&[7; SMALL_BYTES]), number: 0 }
    }

    pub(super) fn large() -> Self {
        Self { data: Bytes::from_static(&[7; LARGE_BYTES]), number: 0 }
    }

    /// Asks for `number` large messages.
    pub(super) fn ask(number: u64) -> Self {
        Self { data: Bytes::new(), number }
    }
}

/// One end of a connection that calls go out on. Clones share the connection.
pub(super) trait Caller: Clone + Send + 'static {
    /// One unary call with a small payload.
    fn echo(&mut self) -> impl Future<Output = Result<()>> + Send;
    /// Receives `messages` large messages.
    fn download(&mut self, messages: u64) -> impl Future<Output = Result<()>> + Send;
}

#[derive(Clone)]
pub(super) struct Service;

type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;
type Payloads = Pin<Box<dyn Stream<Item = Result<Payload, Status>> + Send>>;

struct Echo;
impl UnaryService<Payload> for Echo {
    type Response = Payload;
    type Future = Answer<Payload>;
    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        Box::pin(async move { Ok(Response::new(request.into_inner())) })
    }
}

struct Download;
impl ServerStreamingService<Payload> for Download {
    type Response = Payload;
    type ResponseStream = Payloads;
    type Future = Answer<Payloads>;
    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        let messages = (0..request.get_ref().number).map(|_| Ok(Payload::large()));
        let messages: Payloads = Box::pin(futures_util::stream::iter(messages));
        Box::pin(async move { Ok(Response::new(messages)) })
    }
}

impl NamedService for Service {
    const NAME: &'static str = "bench.Service";
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = ServerGrpc::new(ProstCodec::<Payload, Payload>::default());
            Ok(match request.uri().path() {
                "/bench.Service/Echo" => grpc.unary(Echo, request).await,
                "/bench.Service/Download" => grpc.server_streaming(Download, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// What a generated client would be.
#[derive(Clone)]
pub(super) struct Client<C>(pub(super) C);

impl<C> Caller for Client<C>
where
    C: GrpcService<Body> + Clone + Send + 'static,
    C::Future: Send,
    C::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<StdError>,
{
    async fn echo(&mut self) -> Result<()> {
        let mut grpc = ClientGrpc::new(self.0.clone());
        ready(&mut grpc).await?;
        let mut request = Request::new(Payload::small());
        request.extensions_mut().insert(Idempotent);
        let path = PathAndQuery::from_static("/bench.Service/Echo");
        let answer = grpc.unary(request, path, ProstCodec::<Payload, Payload>::default()).await?;
        ensure!(answer.get_ref().data.len() == SMALL_BYTES, "the answer is not the question");
        Ok(())
    }

    async fn download(&mut self, messages: u64) -> Result<()> {
        let mut grpc = ClientGrpc::new(self.0.clone());
        ready(&mut grpc).await?;
        let path = PathAndQuery::from_static("/bench.Service/Download");
        let request = Request::new(Payload::ask(messages));
        let codec = ProstCodec::<Payload, Payload>::default();
        let mut answer = grpc.server_streaming(request, path, codec).await?.into_inner();
        let mut received = 0;
        while let Some(message) = answer.next().await {
            ensure!(message?.data.len() == LARGE_BYTES, "a message has another length");
            received += 1;
        }
        ensure!(received == messages, "{received} of {messages} messages arrived");
        Ok(())
    }
}

async fn ready<C>(grpc: &mut ClientGrpc<C>) -> Result<()>
where
    C: GrpcService<Body>,
{
    let outcome = grpc.ready().await;
    outcome.map_err(|error| anyhow::anyhow!("not ready: {}", Into::<StdError>::into(error)))
}
