//! The HTTP toolkit that every control route shares.
//!
//! A crate writes its routes as an ordinary [`axum::Router`] and takes from here
//! what should behave the same everywhere:
//!
//! * [`Problem`]: an error with a stable code, its object, its cause and what to do;
//! * [`EntityTag`], [`conditional`] and [`IfMatch`]: 304 for readers, 412 for writers;
//! * [`PageQuery`] and [`Cursor`]: keyset pages;
//! * [`Filter`][]: `?state=alive&label.tier=gold,silver&zone!=eu-1a&search=w-`;
//! * [`EventHub`]: server-sent events that resume without a gap;
//! * [`RateLimiter`], [`CorsPolicy`], [`RequestId`]: applied by [`stack`];
//! * [`health_routes`]: `/healthz`, `/readyz`, `/metrics`;
//! * [`EdgeServer`]: HTTP/1.1, HTTP/2 and, by configuration, HTTP/3 over mutual TLS.
//!
//! [`stack`] puts the shared layers around a router, [`EdgeServer::bind`] serves it.

mod config;
mod cors;
mod etag;
mod filter;
mod handshakes;
mod health;
mod hub;
mod json;
mod limit;
mod listener;
mod metrics;
mod page;
mod problem;
#[cfg_attr(not(feature = "rpc"), path = "no_quic.rs")]
mod quic;
mod request_id;
mod sse;
mod stack;
mod supervise;
mod time;
mod watched;

pub use config::EdgeConfig;
pub use cors::CorsPolicy;
pub use etag::{EntityTag, IfMatch, conditional};
pub use filter::{Condition, Field, Fields, Filter};
pub use health::{HealthRoutes, Readiness, ReadinessReason, health_routes};
pub use hub::{EventHub, EventId, EventIdError, HubLimits, NewEvent, SubscribeOptions};
pub use json::JsonBody;
pub use limit::RateLimiter;
pub use listener::{ConnectionInfo, EDGE_ALPNS, EdgeError, EdgeServer, EdgeTls, HttpVersion};
pub use metrics::EdgeMetrics;
pub use page::{Cursor, Page, PageLimits, PageQuery};
pub use problem::{Problem, ProblemDetails};
pub use request_id::RequestId;
pub use sse::Subscription;
pub use stack::{StackOptions, stack};
pub use time::{WallAnchor, rfc3339};

#[cfg(test)]
mod tests;

/// The pairs of a request's query string, decoded, in order.
///
/// # Errors
///
/// A [`Problem`] with the code `request.query.invalid` if it is not form-encoded text.
pub fn query_pairs(uri: &http::Uri) -> Result<Vec<(String, String)>, Problem> {
    axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri).map(|query| query.0).map_err(|error| {
        Problem::new(http::StatusCode::BAD_REQUEST, "request.query.invalid", "the query string can't be read")
            .cause(error.body_text())
            .action("percent-encode names and values as UTF-8")
    })
}
