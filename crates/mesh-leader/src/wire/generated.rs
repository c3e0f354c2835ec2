// Generated from proto/leader.proto by `cargo xtask codegen`. Do not edit.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::all, reason = "generated")]

#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct SubscribeRequest {
    /// Scopes to follow; none follows all.
    #[prost(string, repeated, tag = "1")]
    pub scopes: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// The id of the last event that the caller has. Empty, unknown or no longer kept: begin with a snapshot.
    #[prost(string, tag = "2")]
    pub after: ::prost::alloc::string::String,
}
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct SubscribeReply {
    /// Resume after it. Empty on all parts of a snapshot but the last.
    #[prost(string, tag = "1")]
    pub id: ::prost::alloc::string::String,
    #[prost(oneof = "subscribe_reply::Item", tags = "2, 3")]
    pub item: ::core::option::Option<subscribe_reply::Item>,
}
/// Nested message and enum types in `SubscribeReply`.
pub mod subscribe_reply {
    #[derive(Clone, PartialEq, ::prost::Oneof)]
    pub enum Item {
        #[prost(message, tag = "2")]
        Snapshot(super::Snapshot),
        #[prost(message, tag = "3")]
        Event(super::Event),
    }
}
/// Who leads now. What the caller held before the first part is to be forgotten.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Snapshot {
    #[prost(message, repeated, tag = "1")]
    pub leaders: ::prost::alloc::vec::Vec<Leader>,
    /// Which part this is, from 1.
    #[prost(uint32, tag = "2")]
    pub part: u32,
    #[prost(uint32, tag = "3")]
    pub parts: u32,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Leader {
    #[prost(string, tag = "1")]
    pub scope: ::prost::alloc::string::String,
    /// Empty while nobody leads.
    #[prost(string, tag = "2")]
    pub leader: ::prost::alloc::string::String,
    #[prost(message, optional, tag = "3")]
    pub token: ::core::option::Option<Token>,
    #[prost(uint64, tag = "4")]
    pub term: u64,
    /// Milliseconds since the Unix epoch on the leader's clock, for people.
    #[prost(uint64, tag = "5")]
    pub since_ms: u64,
    #[prost(fixed64, tag = "6")]
    pub correlation_id: u64,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Token {
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    #[prost(uint64, tag = "2")]
    pub counter: u64,
}
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Event {
    #[prost(enumeration = "Transition", tag = "1")]
    pub transition: i32,
    #[prost(string, tag = "2")]
    pub scope: ::prost::alloc::string::String,
    /// Who leads from here on, or who did until here: the transition tells which.
    #[prost(string, tag = "3")]
    pub leader: ::prost::alloc::string::String,
    #[prost(message, optional, tag = "4")]
    pub token: ::core::option::Option<Token>,
    #[prost(uint64, tag = "5")]
    pub term: u64,
    /// A word of a closed set: "handed-over", "session-expired".
    #[prost(string, tag = "6")]
    pub reason: ::prost::alloc::string::String,
    #[prost(fixed64, tag = "7")]
    pub correlation_id: u64,
    /// Milliseconds since the Unix epoch on the answering node's clock, for people.
    #[prost(uint64, tag = "8")]
    pub at_ms: u64,
}
/// Value of `leader/lease/<scope>`: who leads. The record's token and session are the store's.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct LeaseRecord {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(string, tag = "2")]
    pub holder: ::prost::alloc::string::String,
    #[prost(uint64, tag = "3")]
    pub term: u64,
    /// On the clock of the node that wrote it.
    #[prost(uint64, tag = "4")]
    pub acquired_ms: u64,
    #[prost(fixed64, tag = "5")]
    pub correlation_id: u64,
    #[prost(string, tag = "6")]
    pub zone: ::prost::alloc::string::String,
    #[prost(string, tag = "7")]
    pub spread: ::prost::alloc::string::String,
}
/// Value of `leader/scope/<scope>`: what outlives a reign. Written with each grant.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct ScopeRecord {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Grows by one with each reign.
    #[prost(uint64, tag = "2")]
    pub term: u64,
    #[prost(string, tag = "3")]
    pub last_holder: ::prost::alloc::string::String,
    #[prost(string, tag = "4")]
    pub preferred: ::prost::alloc::string::String,
}
/// Value of `leader/candidate/<scope>/<node>`: who would lead. Goes with the node's session.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct CandidateRecord {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(sint32, tag = "2")]
    pub priority: i32,
    #[prost(string, tag = "3")]
    pub zone: ::prost::alloc::string::String,
    #[prost(string, tag = "4")]
    pub spread: ::prost::alloc::string::String,
}
/// Value of `leader/ask/<scope>`: somebody asks the holder to hand over.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct AskRecord {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The reign that is to end.
    #[prost(message, optional, tag = "2")]
    pub token: ::core::option::Option<Token>,
    /// Who shall lead next; empty leaves it to the holder.
    #[prost(string, tag = "3")]
    pub to: ::prost::alloc::string::String,
    #[prost(string, tag = "4")]
    pub by: ::prost::alloc::string::String,
    #[prost(string, tag = "5")]
    pub reason: ::prost::alloc::string::String,
    #[prost(fixed64, tag = "6")]
    pub correlation_id: u64,
    /// Why the holder did not; empty while it is asked.
    #[prost(string, tag = "7")]
    pub refused: ::prost::alloc::string::String,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum Transition {
    Unspecified = 0,
    Observed = 1,
    Elected = 2,
    Renewed = 3,
    Lost = 4,
    Expired = 5,
    SteppedDown = 6,
    Fenced = 7,
}
impl Transition {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::Unspecified => "TRANSITION_UNSPECIFIED",
            Self::Observed => "TRANSITION_OBSERVED",
            Self::Elected => "TRANSITION_ELECTED",
            Self::Renewed => "TRANSITION_RENEWED",
            Self::Lost => "TRANSITION_LOST",
            Self::Expired => "TRANSITION_EXPIRED",
            Self::SteppedDown => "TRANSITION_STEPPED_DOWN",
            Self::Fenced => "TRANSITION_FENCED",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "TRANSITION_UNSPECIFIED" => Some(Self::Unspecified),
            "TRANSITION_OBSERVED" => Some(Self::Observed),
            "TRANSITION_ELECTED" => Some(Self::Elected),
            "TRANSITION_RENEWED" => Some(Self::Renewed),
            "TRANSITION_LOST" => Some(Self::Lost),
            "TRANSITION_EXPIRED" => Some(Self::Expired),
            "TRANSITION_STEPPED_DOWN" => Some(Self::SteppedDown),
            "TRANSITION_FENCED" => Some(Self::Fenced),
            _ => None,
        }
    }
}
/// Generated client implementations.
#[cfg(feature = "rpc")]
pub mod leadership_client {
    #![allow(
        unused_variables,
        dead_code,
        missing_docs,
        clippy::wildcard_imports,
        clippy::let_unit_value,
    )]
    use tonic::codegen::*;
    use tonic::codegen::http::Uri;
    /// Tells who leads. Any node of the cluster may call it.
    #[derive(Debug, Clone)]
    pub struct LeadershipClient<T> {
        inner: tonic::client::Grpc<T>,
    }
    impl<T> LeadershipClient<T>
    where
        T: tonic::client::GrpcService<tonic::body::Body>,
        T::Error: Into<StdError>,
        T::ResponseBody: Body<Data = Bytes> + std::marker::Send + 'static,
        <T::ResponseBody as Body>::Error: Into<StdError> + std::marker::Send,
    {
        pub fn new(inner: T) -> Self {
            let inner = tonic::client::Grpc::new(inner);
            Self { inner }
        }
        pub fn with_origin(inner: T, origin: Uri) -> Self {
            let inner = tonic::client::Grpc::with_origin(inner, origin);
            Self { inner }
        }
        pub fn with_interceptor<F>(
            inner: T,
            interceptor: F,
        ) -> LeadershipClient<InterceptedService<T, F>>
        where
            F: tonic::service::Interceptor,
            T::ResponseBody: Default,
            T: tonic::codegen::Service<
                http::Request<tonic::body::Body>,
                Response = http::Response<
                    <T as tonic::client::GrpcService<tonic::body::Body>>::ResponseBody,
                >,
            >,
            <T as tonic::codegen::Service<
                http::Request<tonic::body::Body>,
            >>::Error: Into<StdError> + std::marker::Send + std::marker::Sync,
        {
            LeadershipClient::new(InterceptedService::new(inner, interceptor))
        }
        /// Compress requests with the given encoding.
        ///
        /// This requires the server to support it otherwise it might respond with an
        /// error.
        #[must_use]
        pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.send_compressed(encoding);
            self
        }
        /// Enable decompressing responses.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.accept_compressed(encoding);
            self
        }
        /// Limits the maximum size of a decoded message.
        ///
        /// Default: `4MB`
        #[must_use]
        pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_decoding_message_size(limit);
            self
        }
        /// Limits the maximum size of an encoded message.
        ///
        /// Default: `usize::MAX`
        #[must_use]
        pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_encoding_message_size(limit);
            self
        }
        /// Every change of leadership that this node sees, from a snapshot on or after a known event.
        pub async fn subscribe(
            &mut self,
            request: impl tonic::IntoRequest<super::SubscribeRequest>,
        ) -> std::result::Result<
            tonic::Response<tonic::codec::Streaming<super::SubscribeReply>>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/mesh.leader.v1.Leadership/Subscribe",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("mesh.leader.v1.Leadership", "Subscribe"));
            self.inner.server_streaming(req, path, codec).await
        }
    }
}
/// Generated server implementations.
#[cfg(feature = "rpc")]
pub mod leadership_server {
    #![allow(
        unused_variables,
        dead_code,
        missing_docs,
        clippy::wildcard_imports,
        clippy::let_unit_value,
    )]
    use tonic::codegen::*;
    /// Generated trait containing gRPC methods that should be implemented for use with LeadershipServer.
    #[async_trait]
    pub trait Leadership: std::marker::Send + std::marker::Sync + 'static {
        /// Server streaming response type for the Subscribe method.
        type SubscribeStream: tonic::codegen::tokio_stream::Stream<
                Item = std::result::Result<super::SubscribeReply, tonic::Status>,
            >
            + std::marker::Send
            + 'static;
        /// Every change of leadership that this node sees, from a snapshot on or after a known event.
        async fn subscribe(
            &self,
            request: tonic::Request<super::SubscribeRequest>,
        ) -> std::result::Result<tonic::Response<Self::SubscribeStream>, tonic::Status>;
    }
    /// Tells who leads. Any node of the cluster may call it.
    #[derive(Debug)]
    pub struct LeadershipServer<T> {
        inner: Arc<T>,
        accept_compression_encodings: EnabledCompressionEncodings,
        send_compression_encodings: EnabledCompressionEncodings,
        max_decoding_message_size: Option<usize>,
        max_encoding_message_size: Option<usize>,
    }
    impl<T> LeadershipServer<T> {
        pub fn new(inner: T) -> Self {
            Self::from_arc(Arc::new(inner))
        }
        pub fn from_arc(inner: Arc<T>) -> Self {
            Self {
                inner,
                accept_compression_encodings: Default::default(),
                send_compression_encodings: Default::default(),
                max_decoding_message_size: None,
                max_encoding_message_size: None,
            }
        }
        pub fn with_interceptor<F>(
            inner: T,
            interceptor: F,
        ) -> InterceptedService<Self, F>
        where
            F: tonic::service::Interceptor,
        {
            InterceptedService::new(Self::new(inner), interceptor)
        }
        /// Enable decompressing requests with the given encoding.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.accept_compression_encodings.enable(encoding);
            self
        }
        /// Compress responses with the given encoding, if the client supports it.
        #[must_use]
        pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.send_compression_encodings.enable(encoding);
            self
        }
        /// Limits the maximum size of a decoded message.
        ///
        /// Default: `4MB`
        #[must_use]
        pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
            self.max_decoding_message_size = Some(limit);
            self
        }
        /// Limits the maximum size of an encoded message.
        ///
        /// Default: `usize::MAX`
        #[must_use]
        pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
            self.max_encoding_message_size = Some(limit);
            self
        }
    }
    impl<T, B> tonic::codegen::Service<http::Request<B>> for LeadershipServer<T>
    where
        T: Leadership,
        B: Body + std::marker::Send + 'static,
        B::Error: Into<StdError> + std::marker::Send + 'static,
    {
        type Response = http::Response<tonic::body::Body>;
        type Error = std::convert::Infallible;
        type Future = BoxFuture<Self::Response, Self::Error>;
        fn poll_ready(
            &mut self,
            _cx: &mut Context<'_>,
        ) -> Poll<std::result::Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, req: http::Request<B>) -> Self::Future {
            match req.uri().path() {
                "/mesh.leader.v1.Leadership/Subscribe" => {
                    #[allow(non_camel_case_types)]
                    struct SubscribeSvc<T: Leadership>(pub Arc<T>);
                    impl<
                        T: Leadership,
                    > tonic::server::ServerStreamingService<super::SubscribeRequest>
                    for SubscribeSvc<T> {
                        type Response = super::SubscribeReply;
                        type ResponseStream = T::SubscribeStream;
                        type Future = BoxFuture<
                            tonic::Response<Self::ResponseStream>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::SubscribeRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Leadership>::subscribe(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = SubscribeSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.server_streaming(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                _ => {
                    Box::pin(async move {
                        let mut response = http::Response::new(
                            tonic::body::Body::default(),
                        );
                        let headers = response.headers_mut();
                        headers
                            .insert(
                                tonic::Status::GRPC_STATUS,
                                (tonic::Code::Unimplemented as i32).into(),
                            );
                        headers
                            .insert(
                                http::header::CONTENT_TYPE,
                                tonic::metadata::GRPC_CONTENT_TYPE,
                            );
                        Ok(response)
                    })
                }
            }
        }
    }
    impl<T> Clone for LeadershipServer<T> {
        fn clone(&self) -> Self {
            let inner = self.inner.clone();
            Self {
                inner,
                accept_compression_encodings: self.accept_compression_encodings,
                send_compression_encodings: self.send_compression_encodings,
                max_decoding_message_size: self.max_decoding_message_size,
                max_encoding_message_size: self.max_encoding_message_size,
            }
        }
    }
    /// Generated gRPC service name
    pub const SERVICE_NAME: &str = "mesh.leader.v1.Leadership";
    impl<T> tonic::server::NamedService for LeadershipServer<T> {
        const NAME: &'static str = SERVICE_NAME;
    }
}
/// The descriptors of this package, an encoded `google.protobuf.FileDescriptorSet`.
#[cfg(feature = "rpc")]
pub const DESCRIPTOR_SET: &[u8] = b"\
    \n\xa7\x0e\n\x0cleader.proto\x12\x0emesh.leader.v1\"@\n\x10SubscribeRequest\x12\x16\n\x06scopes\x18\x01\
    \x20\x03(\tR\x06scopes\x12\x14\n\x05after\x18\x02\x20\x01(\tR\x05after\"\x8f\x01\n\x0eSubscribeReply\
    \x12\x0e\n\x02id\x18\x01\x20\x01(\tR\x02id\x126\n\x08snapshot\x18\x02\x20\x01(\x0b2\x18.mesh.leader.\
    v1.SnapshotH\x00R\x08snapshot\x12-\n\x05event\x18\x03\x20\x01(\x0b2\x15.mesh.leader.v1.EventH\x00R\x05\
    eventB\x06\n\x04item\"f\n\x08Snapshot\x120\n\x07leaders\x18\x01\x20\x03(\x0b2\x16.mesh.leader.v1.Lea\
    derR\x07leaders\x12\x12\n\x04part\x18\x02\x20\x01(\rR\x04part\x12\x14\n\x05parts\x18\x03\x20\x01(\rR\
    \x05parts\"\xb9\x01\n\x06Leader\x12\x14\n\x05scope\x18\x01\x20\x01(\tR\x05scope\x12\x16\n\x06leader\x18\
    \x02\x20\x01(\tR\x06leader\x12+\n\x05token\x18\x03\x20\x01(\x0b2\x15.mesh.leader.v1.TokenR\x05token\x12\
    \x12\n\x04term\x18\x04\x20\x01(\x04R\x04term\x12\x19\n\x08since_ms\x18\x05\x20\x01(\x04R\x07sinceMs\x12\
    %\n\x0ecorrelation_id\x18\x06\x20\x01(\x06R\rcorrelationId\"A\n\x05Token\x12\x1e\n\ngeneration\x18\x01\
    \x20\x01(\x04R\ngeneration\x12\x18\n\x07counter\x18\x02\x20\x01(\x04R\x07counter\"\x86\x02\n\x05Even\
    t\x12:\n\ntransition\x18\x01\x20\x01(\x0e2\x1a.mesh.leader.v1.TransitionR\ntransition\x12\x14\n\x05s\
    cope\x18\x02\x20\x01(\tR\x05scope\x12\x16\n\x06leader\x18\x03\x20\x01(\tR\x06leader\x12+\n\x05token\x18\
    \x04\x20\x01(\x0b2\x15.mesh.leader.v1.TokenR\x05token\x12\x12\n\x04term\x18\x05\x20\x01(\x04R\x04ter\
    m\x12\x16\n\x06reason\x18\x06\x20\x01(\tR\x06reason\x12%\n\x0ecorrelation_id\x18\x07\x20\x01(\x06R\r\
    correlationId\x12\x13\n\x05at_ms\x18\x08\x20\x01(\x04R\x04atMs\"\xc7\x01\n\x0bLeaseRecord\x12\x18\n\x07\
    version\x18\x01\x20\x01(\rR\x07version\x12\x16\n\x06holder\x18\x02\x20\x01(\tR\x06holder\x12\x12\n\x04\
    term\x18\x03\x20\x01(\x04R\x04term\x12\x1f\n\x0bacquired_ms\x18\x04\x20\x01(\x04R\nacquiredMs\x12%\n\
    \x0ecorrelation_id\x18\x05\x20\x01(\x06R\rcorrelationId\x12\x12\n\x04zone\x18\x06\x20\x01(\tR\x04zon\
    e\x12\x16\n\x06spread\x18\x07\x20\x01(\tR\x06spread\"z\n\x0bScopeRecord\x12\x18\n\x07version\x18\x01\
    \x20\x01(\rR\x07version\x12\x12\n\x04term\x18\x02\x20\x01(\x04R\x04term\x12\x1f\n\x0blast_holder\x18\
    \x03\x20\x01(\tR\nlastHolder\x12\x1c\n\tpreferred\x18\x04\x20\x01(\tR\tpreferred\"s\n\x0fCandidateRe\
    cord\x12\x18\n\x07version\x18\x01\x20\x01(\rR\x07version\x12\x1a\n\x08priority\x18\x02\x20\x01(\x11R\
    \x08priority\x12\x12\n\x04zone\x18\x03\x20\x01(\tR\x04zone\x12\x16\n\x06spread\x18\x04\x20\x01(\tR\x06\
    spread\"\xcb\x01\n\tAskRecord\x12\x18\n\x07version\x18\x01\x20\x01(\rR\x07version\x12+\n\x05token\x18\
    \x02\x20\x01(\x0b2\x15.mesh.leader.v1.TokenR\x05token\x12\x0e\n\x02to\x18\x03\x20\x01(\tR\x02to\x12\x0e\
    \n\x02by\x18\x04\x20\x01(\tR\x02by\x12\x16\n\x06reason\x18\x05\x20\x01(\tR\x06reason\x12%\n\x0ecorre\
    lation_id\x18\x06\x20\x01(\x06R\rcorrelationId\x12\x18\n\x07refused\x18\x07\x20\x01(\tR\x07refused*\xd2\
    \x01\n\nTransition\x12\x1a\n\x16TRANSITION_UNSPECIFIED\x10\x00\x12\x17\n\x13TRANSITION_OBSERVED\x10\x01\
    \x12\x16\n\x12TRANSITION_ELECTED\x10\x02\x12\x16\n\x12TRANSITION_RENEWED\x10\x03\x12\x13\n\x0fTRANSI\
    TION_LOST\x10\x04\x12\x16\n\x12TRANSITION_EXPIRED\x10\x05\x12\x1b\n\x17TRANSITION_STEPPED_DOWN\x10\x06\
    \x12\x15\n\x11TRANSITION_FENCED\x10\x072]\n\nLeadership\x12O\n\tSubscribe\x12\x20.mesh.leader.v1.Sub\
    scribeRequest\x1a\x1e.mesh.leader.v1.SubscribeReply0\x01b\x06proto3";
