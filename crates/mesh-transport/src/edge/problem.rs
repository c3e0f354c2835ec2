//! Errors as problem+json (RFC 9457) with a stable code.

use std::{borrow::Cow, ops::Deref, time::Duration};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

/// Longest text of a caller that a problem repeats, in characters.
const SHOWN_CHARS_MAX: usize = 200;

/// Why a request was refused or failed, in words for people and in a code for programs.
///
/// The code is `<what>.<part>.<problem>` in kebab-case and never changes its
/// meaning. As JSON:
///
/// ```
/// use http::StatusCode;
/// use mesh_transport::edge::Problem;
///
/// let problem = Problem::new(StatusCode::NOT_FOUND, "peers.unknown", "no such peer")
///     .object("w-9")
///     .cause("this node knows no member of that name")
///     .action("list the members with GET /control/v1/peers");
/// let json = serde_json::to_value(&problem)?;
/// assert_eq!(json["type"], "urn:mesh:problem:peers.unknown");
/// assert_eq!(json["status"], 404);
/// assert_eq!(json["object"], "w-9");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(transparent)]
#[error("{}{}", .0.title, .0.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default())]
pub struct Problem(Box<ProblemDetails>);

/// The parts of a [`Problem`]; reached through it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProblemDetails {
    /// A URN made from the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// What kind of thing went wrong, the same for each occurrence.
    pub title: Cow<'static, str>,
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: Cow<'static, str>,
    /// What it is about: an id, a parameter, a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The cause of this occurrence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Seconds after which a repetition may succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<f64>,
    /// The id of the request, as in the `x-request-id` header and in our logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Problem {
    /// A problem with nothing but its kind.
    pub fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        title: impl Into<Cow<'static, str>>,
    ) -> Self {
        let code = code.into();
        Self(Box::new(ProblemDetails {
            kind: format!("urn:mesh:problem:{code}"),
            title: title.into(),
            status: status.as_u16(),
            code,
            object: None,
            detail: None,
            action: None,
            retry_after: None,
            request_id: None,
        }))
    }

    /// Names what it is about. Cut to a readable length: it may come from the caller.
    #[must_use]
    pub fn object(mut self, object: impl AsRef<str>) -> Self {
        self.0.object = Some(cut(object.as_ref(), SHOWN_CHARS_MAX));
        self
    }

    /// Says why it happened this time. Cut to a readable length.
    #[must_use]
    pub fn cause(mut self, cause: impl AsRef<str>) -> Self {
        self.0.detail = Some(cut(cause.as_ref(), 4 * SHOWN_CHARS_MAX));
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn action(mut self, action: impl AsRef<str>) -> Self {
        self.0.action = Some(cut(action.as_ref(), 4 * SHOWN_CHARS_MAX));
        self
    }

    /// Says when a repetition may succeed. Also sent as the `retry-after` header, in whole seconds.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some((after.as_secs_f64() * 1000.0).ceil() / 1000.0);
        self
    }

    pub(super) fn request_id(mut self, id: &str) -> Self {
        self.0.request_id = Some(id.to_owned());
        self
    }

    /// The HTTP status; 500 if a hand-written one is out of range.
    pub fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl Deref for Problem {
    type Target = ProblemDetails;
    fn deref(&self) -> &ProblemDetails {
        &self.0
    }
}

fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // A struct of texts and numbers always serializes; an empty body would still carry the status.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status_code(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.ceil().max(1.0) as u64));
        }
        // Lets the request-id layer write the body again with the id in it.
        response.extensions_mut().insert(self);
        response
    }
}
