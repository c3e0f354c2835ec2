//! A gRPC service as a user would write it, with the code that a generator would make.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt, stream};
use mesh_transport::rpc::{Channel, PeerInfo};
use tonic::{
    Request, Response, Status,
    body::Body,
    client::Grpc as ClientGrpc,
    codegen::http::{self, uri::PathAndQuery},
    server::{Grpc as ServerGrpc, NamedService, ServerStreamingService, UnaryService},
};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Text {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    #[prost(uint32, tag = "2")]
    pub(crate) count: u32,
}

/// Answers with the caller's name, once (`Greet`) or as often as asked (`GreetOften`).
#[derive(Clone)]
pub(crate) struct Greeter;

/// What a handler learns of its caller without asking it.
fn greeting(request: &Request<Text>) -> Result<Text, Status> {
    let caller = request.extensions().get::<PeerInfo>().ok_or_else(|| Status::internal("nobody called"))?;
    let text = format!("{} to {} over {}", request.get_ref().text, caller.identity.id, caller.transport);
    Ok(Text { text, count: 0 })
}

struct Greet;
impl UnaryService<Text> for Greet {
    type Response = Text;
    type Future = Ready<Result<Response<Text>, Status>>;
    fn call(&mut self, request: Request<Text>) -> Self::Future {
        ready(greeting(&request).map(Response::new))
    }
}

struct GreetOften;
impl ServerStreamingService<Text> for GreetOften {
    type Response = Text;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Text, Status>> + Send>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;
    fn call(&mut self, request: Request<Text>) -> Self::Future {
        ready(greeting(&request).map(|text| {
            let answers = (0..request.get_ref().count).map(move |count| Ok(Text { count, ..text.clone() }));
            let answers: Self::ResponseStream = stream::iter(answers).boxed();
            Response::new(answers)
        }))
    }
}

impl NamedService for Greeter {
    const NAME: &'static str = "test.Greeter";
}

impl tower::Service<http::Request<Body>> for Greeter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = ServerGrpc::new(ProstCodec::<Text, Text>::default());
            Ok(match request.uri().path() {
                "/test.Greeter/Greet" => grpc.unary(Greet, request).await,
                "/test.Greeter/GreetOften" => grpc.server_streaming(GreetOften, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// Calls `Greet`.
pub(crate) async fn greet(channel: Channel, text: &str) -> Result<Response<Text>, Status> {
    let request = Request::new(Text { text: text.to_owned(), count: 0 });
    let path = PathAndQuery::from_static("/test.Greeter/Greet");
    ClientGrpc::new(channel).unary(request, path, ProstCodec::<Text, Text>::default()).await
}

/// Calls `GreetOften` and waits for all answers.
pub(crate) async fn greet_often(channel: Channel, text: &str, count: u32) -> Result<Vec<Text>, Status> {
    let request = Request::new(Text { text: text.to_owned(), count });
    let path = PathAndQuery::from_static("/test.Greeter/GreetOften");
    let codec = ProstCodec::<Text, Text>::default();
    let mut answers = ClientGrpc::new(channel).server_streaming(request, path, codec).await?.into_inner();
    let mut texts = Vec::new();
    while let Some(text) = answers.message().await? {
        texts.push(text);
    }
    Ok(texts)
}

/// What a generator would write beside the code.
pub(crate) fn descriptor_set() -> Vec<u8> {
    use prost::Message as _;
    use prost_types::{
        DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
        ServiceDescriptorProto, field_descriptor_proto::Type,
    };
    let field = |number, name: &str, kind: Type| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        r#type: Some(kind.into()),
        ..FieldDescriptorProto::default()
    };
    let method = |name: &str, often| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: Some(".test.Text".to_owned()),
        output_type: Some(".test.Text".to_owned()),
        server_streaming: Some(often),
        ..MethodDescriptorProto::default()
    };
    let text = DescriptorProto {
        name: Some("Text".to_owned()),
        field: vec![field(1, "text", Type::String), field(2, "count", Type::Uint32)],
        ..DescriptorProto::default()
    };
    let greeter = ServiceDescriptorProto {
        name: Some("Greeter".to_owned()),
        method: vec![method("Greet", false), method("GreetOften", true)],
        ..ServiceDescriptorProto::default()
    };
    let file = FileDescriptorProto {
        name: Some("greeter.proto".to_owned()),
        package: Some("test".to_owned()),
        syntax: Some("proto3".to_owned()),
        message_type: vec![text],
        service: vec![greeter],
        ..FileDescriptorProto::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
}
