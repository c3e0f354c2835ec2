//! A gRPC service with one method of each kind, written by hand.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client::Grpc as ClientGrpc,
    codegen::http::{self, uri::PathAndQuery},
    server::{
        ClientStreamingService, Grpc as ServerGrpc, NamedService, ServerStreamingService, StreamingService,
        UnaryService,
    },
};
use tonic_prost::ProstCodec;

use crate::rpc::{Channel, Idempotent, PeerInfo};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Text {
    #[prost(string, tag = "1")]
    pub(super) text: String,
    #[prost(uint64, tag = "2")]
    pub(super) number: u64,
}

pub(super) fn text(text: impl Into<String>, number: u64) -> Text {
    Text { text: text.into(), number }
}

/// What handlers saw.
#[derive(Debug, PartialEq)]
pub(super) enum Seen {
    /// A handler began to wait.
    Waiting,
    /// A message of an upload.
    Message(u64),
    /// An upload that looked complete, with its number of messages.
    Complete(u64),
    /// An upload that did not.
    Broken(tonic::Code),
    /// A handler was dropped before it was done.
    Dropped,
}

/// Tells when a handler is dropped.
struct TellDropped(Option<mpsc::UnboundedSender<Seen>>);

impl Drop for TellDropped {
    fn drop(&mut self) {
        if let Some(seen) = self.0.take() {
            let _ = seen.send(Seen::Dropped);
        }
    }
}

#[derive(Clone)]
pub(super) struct Echo {
    seen: mpsc::UnboundedSender<Seen>,
    /// Handlers of `wait` answer when this is notified.
    pub(super) go: Arc<tokio::sync::Notify>,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;
type Texts = Pin<Box<dyn Stream<Item = Result<Text, Status>> + Send>>;

impl Echo {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Seen>) {
        let (seen, receiver) = mpsc::unbounded_channel();
        (Self { seen, go: Arc::default() }, receiver)
    }
}

fn signed<T>(request: &Request<T>, word: &str) -> String {
    let peer = request.extensions().get::<PeerInfo>().expect("every request has it");
    format!("{word} from {} over {}", peer.identity.id, peer.transport)
}

struct Say;
impl UnaryService<Text> for Say {
    type Response = Text;
    type Future = Answer<Text>;
    fn call(&mut self, request: Request<Text>) -> Self::Future {
        let answer = text(signed(&request, &request.get_ref().text), request.get_ref().number);
        let exporter = request.extensions().get::<PeerInfo>().and_then(|peer| peer.exporter);
        Box::pin(async move {
            let mut response = Response::new(answer);
            if let Some(exporter) = exporter {
                let value = tonic::metadata::MetadataValue::from_bytes(exporter.as_bytes());
                response.metadata_mut().insert_bin("exporter-bin", value);
            }
            Ok(response)
        })
    }
}

/// Answers when told to.
struct Wait(Echo);
impl UnaryService<Text> for Wait {
    type Response = Text;
    type Future = Answer<Text>;
    fn call(&mut self, request: Request<Text>) -> Self::Future {
        let Echo { seen, go } = self.0.clone();
        Box::pin(async move {
            let mut told = TellDropped(Some(seen.clone()));
            let _ = seen.send(Seen::Waiting);
            go.notified().await;
            told.0 = None;
            Ok(Response::new(request.into_inner()))
        })
    }
}

struct Count;
impl ServerStreamingService<Text> for Count {
    type Response = Text;
    type ResponseStream = Texts;
    type Future = Answer<Texts>;
    fn call(&mut self, request: Request<Text>) -> Self::Future {
        let signed = signed(&request, "counted");
        let answers = (0..request.get_ref().number).map(move |number| Ok(text(signed.clone(), number)));
        let answers: Texts = Box::pin(futures_util::stream::iter(answers));
        Box::pin(async move { Ok(Response::new(answers)) })
    }
}

/// Sums what it is sent.
struct Collect(Echo);
impl ClientStreamingService<Text> for Collect {
    type Response = Text;
    type Future = Answer<Text>;
    fn call(&mut self, request: Request<Streaming<Text>>) -> Self::Future {
        let signed = signed(&request, "collected");
        let seen = self.0.seen.clone();
        Box::pin(async move {
            let mut messages = request.into_inner();
            let (mut sum, mut count) = (0, 0);
            loop {
                match messages.message().await {
                    Ok(Some(message)) => {
                        sum += message.number;
                        count += 1;
                        let _ = seen.send(Seen::Message(message.number));
                    }
                    Ok(None) => break,
                    Err(status) => {
                        let _ = seen.send(Seen::Broken(status.code()));
                        return Err(status);
                    }
                }
            }
            let _ = seen.send(Seen::Complete(count));
            Ok(Response::new(text(signed, sum)))
        })
    }
}

struct Chat;
impl StreamingService<Text> for Chat {
    type Response = Text;
    type ResponseStream = Texts;
    type Future = Answer<Texts>;
    fn call(&mut self, request: Request<Streaming<Text>>) -> Self::Future {
        let signed = signed(&request, "chatted");
        let answers = request.into_inner().map(move |message| Ok(text(signed.clone(), message?.number + 1)));
        let answers: Texts = Box::pin(answers);
        Box::pin(async move { Ok(Response::new(answers)) })
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            // As large as the codec goes, so that the server's own limit is what counts.
            let mut grpc =
                ServerGrpc::new(ProstCodec::<Text, Text>::default()).max_decoding_message_size(usize::MAX);
            Ok(match request.uri().path().rsplit('/').next() {
                Some("Say") => grpc.unary(Say, request).await,
                Some("Wait") => grpc.unary(Wait(echo), request).await,
                Some("Count") => grpc.server_streaming(Count, request).await,
                Some("Collect") => grpc.client_streaming(Collect(echo), request).await,
                Some("Chat") => grpc.streaming(Chat, request).await,
                Some("Panic") => panic!("a bug in a handler"),
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// What a generated client would be.
#[derive(Clone)]
pub(super) struct Client {
    grpc: ClientGrpc<Channel>,
}

fn codec() -> ProstCodec<Text, Text> {
    ProstCodec::default()
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}

impl Client {
    pub(super) fn new(channel: Channel) -> Self {
        Self { grpc: ClientGrpc::new(channel) }
    }

    pub(super) async fn say(&mut self, request: Text) -> Result<Response<Text>, Status> {
        self.unary(request, "/test.Echo/Say", false).await
    }

    pub(super) async fn say_idempotent(&mut self, request: Text) -> Result<Response<Text>, Status> {
        self.unary(request, "/test.Echo/Say", true).await
    }

    pub(super) async fn wait(
        &mut self,
        request: impl tonic::IntoRequest<Text>,
    ) -> Result<Response<Text>, Status> {
        self.grpc.unary(request.into_request(), path("/test.Echo/Wait"), codec()).await
    }

    pub(super) async fn wait_idempotent(&mut self, number: u64) -> Result<Response<Text>, Status> {
        self.unary(text("", number), "/test.Echo/Wait", true).await
    }

    async fn unary(
        &mut self,
        request: Text,
        method: &'static str,
        idempotent: bool,
    ) -> Result<Response<Text>, Status> {
        let mut request = Request::new(request);
        if idempotent {
            request.extensions_mut().insert(Idempotent);
        }
        self.grpc.unary(request, path(method), codec()).await
    }

    pub(super) async fn count(&mut self, number: u64) -> Result<Vec<Text>, Status> {
        let request = Request::new(text("", number));
        let answer = self.grpc.server_streaming(request, path("/test.Echo/Count"), codec()).await?;
        answer.into_inner().collect::<Vec<_>>().await.into_iter().collect()
    }

    pub(super) async fn collect(
        &mut self,
        messages: impl Stream<Item = Text> + Send + 'static,
    ) -> Result<Text, Status> {
        let request = Request::new(messages);
        let answer = self.grpc.client_streaming(request, path("/test.Echo/Collect"), codec()).await?;
        Ok(answer.into_inner())
    }

    pub(super) async fn chat(
        &mut self,
        messages: impl Stream<Item = Text> + Send + 'static,
    ) -> Result<Streaming<Text>, Status> {
        let request = Request::new(messages);
        Ok(self.grpc.streaming(request, path("/test.Echo/Chat"), codec()).await?.into_inner())
    }
}
