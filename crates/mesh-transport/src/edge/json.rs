//! JSON request bodies whose errors are problems.

use axum::extract::{FromRequest, Json, Request, rejection::JsonRejection};
use serde::de::DeserializeOwned;

use super::Problem;

/// A request's body, read as JSON.
///
/// Errors have the code `request.body.invalid` (it is JSON, but not what the route
/// takes), `request.body.syntax` (it is not JSON), `request.body.type` (the header
/// says something else) or `request.body.unreadable` (too large, cut, too slow).
#[derive(Clone, Copy, Debug, Default)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let rejection = match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => return Ok(Self(body)),
            Err(rejection) => rejection,
        };
        let (code, title, action) = match &rejection {
            JsonRejection::JsonDataError(_) => (
                "request.body.invalid",
                "the body is not what this route takes",
                "compare it with the route's schema at /control/openapi.json",
            ),
            JsonRejection::JsonSyntaxError(_) => {
                ("request.body.syntax", "the body is not JSON", "send one JSON value")
            }
            JsonRejection::MissingJsonContentType(_) => (
                "request.body.type",
                "the body is not declared as JSON",
                "send content-type: application/json",
            ),
            _ => ("request.body.unreadable", "the body could not be read", "send a smaller body, at once"),
        };
        // axum says which step failed before it says why; the code already tells the step.
        let text = rejection.body_text();
        let cause = text.split_once(": ").map_or(text.as_str(), |(_, cause)| cause);
        Err(Problem::new(rejection.status(), code, title).cause(cause).action(action))
    }
}
