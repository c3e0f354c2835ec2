//! gRPC services for callers that speak JSON.
//!
//! A [`Transcoder`] stands around a gRPC service. Requests with `application/grpc` pass
//! through. A `POST` of JSON to the path of a method (`/package.Service/Method`) becomes a
//! gRPC call, and its answer becomes JSON again, both by the rules of Protocol Buffers
//! (<https://protobuf.dev/programming-guides/json/>). What the fields are called and which
//! types they have comes from [`Descriptors`], so that no code is written or generated for it.
//!
//! * A unary call is answered with one JSON object, or a problem document whose code is
//!   `rpc.` and the gRPC code in kebab-case, such as `rpc.not-found`.
//! * A stream of answers comes as lines (`application/x-ndjson`), each
//!   `{"result": …}`; the last one is `{"error": <problem>}` if the call failed meanwhile.
//!   Callers that accept `text/event-stream` get events instead: `message`, and at the end
//!   `end` or `error`.
//! * A stream of requests has no form in JSON. It is refused.
//! * Unknown fields are refused. Fields with their default value are left out of answers.
//! * Headers of the request reach the handler as metadata, and the other way round;
//!   `grpc-timeout` is the deadline here, too.
//!
//! [`service_routes`] serves such services on the edge port, under the
//! [policy](crate::rpc::Policy) of an endpoint.

mod answer;
mod descriptors;
mod frames;
mod problem;
mod routes;
mod service;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use problem::json as document;

pub use descriptors::{DescriptorError, Descriptors};
pub use routes::service_routes;
pub use service::Transcoder;
