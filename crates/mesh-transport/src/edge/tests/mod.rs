//! The toolkit as callers meet it.

mod events;
#[cfg(all(feature = "ca", feature = "rpc"))]
mod http3;
#[cfg(feature = "ca")]
mod listener;
mod stack;

use axum::response::Response;
use http_body_util::BodyExt;

/// A response's status and body; JSON bodies are indented.
async fn read(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("body").to_bytes();
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(json) => (status, serde_json::to_string_pretty(&json).expect("json")),
        Err(_) => (status, text),
    }
}
