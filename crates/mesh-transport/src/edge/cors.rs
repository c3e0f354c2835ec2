//! Which web pages may call: those of the same origin, and those configured.

use std::collections::BTreeSet;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};

use super::Problem;

/// Decides by the `Origin` header, which browsers always send across origins.
///
/// A page elsewhere is refused outright instead of being kept from reading the
/// answer only: with client certificates its blind writes would count too.
#[derive(Clone, Debug, Default)]
pub struct CorsPolicy {
    allowed: BTreeSet<String>,
}

impl CorsPolicy {
    /// Same origin only, and these: `https://console.example.org`.
    pub fn new(allowed: impl IntoIterator<Item = String>) -> Self {
        Self { allowed: allowed.into_iter().map(|origin| origin.to_ascii_lowercase()).collect() }
    }

    /// Checks a request's origin. `Some` is a configured foreign one, to be named in the answer.
    ///
    /// # Errors
    ///
    /// A problem with the code `request.origin.refused`.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<Option<HeaderValue>, Problem> {
        let Some(value) = headers.get(header::ORIGIN) else { return Ok(None) };
        let origin = value.to_str().unwrap_or_default().to_ascii_lowercase();
        // HTTP/2 names the host in the URI, HTTP/1.1 in a header. This port has TLS only.
        let host = uri
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| headers.get(header::HOST)?.to_str().ok())
            .unwrap_or_default()
            .to_ascii_lowercase();
        if !host.is_empty() && origin.strip_prefix("https://") == Some(host.as_str()) {
            return Ok(None);
        }
        if self.allowed.contains(&origin) {
            return Ok(Some(value.clone()));
        }
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "request.origin.refused",
            "web pages of this origin may not call",
        )
        .object(origin)
        .cause("only pages of this address itself, and those in transport.edge.origins, may")
        .action("open the console at this address, or add the origin to transport.edge.origins"))
    }

    /// The answer to a preflight of an admitted foreign origin; `None` if it is none.
    pub(super) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        if method != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PUT, PATCH, DELETE"),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "content-type, if-match, if-none-match, last-event-id, x-request-id",
            ),
            (header::ACCESS_CONTROL_MAX_AGE, "600"),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        Some(response)
    }

    /// Names the admitted foreign origin in an answer.
    pub(super) fn decorate(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static("etag, retry-after, x-request-id"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &CorsPolicy, host: &str, origin: &str) -> Result<Option<HeaderValue>, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().expect("host"));
        headers.insert(header::ORIGIN, origin.parse().expect("origin"));
        policy.check(&Uri::from_static("/control/v1/peers"), &headers)
    }

    #[test]
    fn only_the_own_origin_and_configured_ones_may_call() {
        let strict = CorsPolicy::default();
        assert_eq!(strict.check(&Uri::from_static("/"), &HeaderMap::new()), Ok(None), "no browser");
        assert_eq!(check(&strict, "127.0.0.1:17480", "https://127.0.0.1:17480"), Ok(None));
        for origin in
            ["https://evil.example", "http://127.0.0.1:17480", "https://127.0.0.1:17481", "null", ""]
        {
            let problem = check(&strict, "127.0.0.1:17480", origin).expect_err(origin);
            assert_eq!((problem.status, &*problem.code), (403, "request.origin.refused"));
        }
        let open = CorsPolicy::new(["https://Console.example".to_owned()]);
        let origin = check(&open, "127.0.0.1:17480", "https://console.example").expect("configured");
        assert_eq!(origin, Some(HeaderValue::from_static("https://console.example")));
        assert!(check(&open, "127.0.0.1:17480", "https://console.example.evil").is_err());
    }
}
