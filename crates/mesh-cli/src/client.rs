//! Talks to a node's edge port over mutual TLS, as the operator of a context.

mod events;

use std::{
    io::ErrorKind,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mesh::transport::{
    Identity,
    error::IdentityError,
    identity::{FileSource, IdentityOptions, IdentitySource},
    tls,
};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

#[cfg(feature = "fuzzing")]
pub(crate) use events::fuzz;
pub use events::{ServerEvent, ServerEvents};

use crate::{
    context::{Context, Target},
    failure::{Exit, Failure, chain},
};

/// The largest reply that is read, in bytes.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Times that an answer which names another node is followed.
const REDIRECTS_MAX: usize = 2;
const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";
/// Longest time for a connection, so that one dead node leaves time for the next.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// The edge of a cluster, as one operator sees it.
///
/// Each request tries the context's addresses in turn until one answers.
#[derive(Clone)]
pub struct Edge {
    target: Target,
    identity: Identity,
    tls: TlsConnector,
}

/// What a request asks for.
#[derive(Clone, Debug)]
struct Ask<'a> {
    method: Method,
    path_and_query: &'a str,
    accept: &'static str,
    last_event_id: Option<&'a str>,
    content_type: &'static str,
    body: Bytes,
}

impl<'a> Ask<'a> {
    fn get(path_and_query: &'a str, accept: &'static str) -> Self {
        let (method, body) = (Method::GET, Bytes::new());
        Self { method, path_and_query, accept, last_event_id: None, content_type: JSON, body }
    }
}

impl Edge {
    /// The edge of a target, called with the operator's certificate; nothing is connected yet.
    ///
    /// # Errors
    ///
    /// The certificate, its key or the trust bundle can't be used; the file is named.
    pub async fn new(target: Target) -> Result<Self, Failure> {
        let Context { certificate, key, trust_bundle, .. } = &target.context;
        let source = FileSource::new(certificate, key, trust_bundle, None, Duration::from_secs(3600));
        let unusable = |error: IdentityError| {
            let next = match &error {
                IdentityError::Read { source, .. } if source.kind() == ErrorKind::NotFound => {
                    "start a cluster with `mesh up`, which makes an operator's certificate"
                }
                _ => "mend that file, or choose another context with --context",
            };
            Failure::from_error(Exit::Usage, &error)
                .while_doing(format!("cannot act as the operator of context {:?}", target.name))
                .next(next)
        };
        let material = source.load().await.map_err(unusable)?;
        let identity = Identity::new(material, IdentityOptions::default()).map_err(unusable)?;
        let tls = TlsConnector::from(identity.client_config(&[b"http/1.1"]));
        Ok(Self { target, identity, tls })
    }

    /// The same operator at one other address.
    #[must_use]
    pub fn at(&self, address: &str) -> Self {
        let mut other = self.clone();
        other.target.context.edge = vec![address.to_owned()];
        other
    }

    /// The same, with so much more time for answers: the request itself asks the node to wait.
    #[must_use]
    pub fn lasting(&self, longer: Duration) -> Self {
        let mut other = self.clone();
        other.target.timeout += longer;
        other
    }

    /// Whom the operator's certificate names.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The context it was made from.
    pub fn context(&self) -> &Context {
        &self.target.context
    }

    /// The addresses that are tried, in order.
    pub fn addresses(&self) -> &[String] {
        &self.target.context.edge
    }

    /// Reads a JSON document.
    ///
    /// # Errors
    ///
    /// Nobody answered, or the answer was a refusal; the failure says which and what to do.
    pub async fn get(&self, path: &str, query: &[(String, String)]) -> Result<Value, Failure> {
        let path_and_query = with_query(path, query);
        self.json(&Ask::get(&path_and_query, JSON)).await
    }

    /// Asks for a change and reads the JSON answer.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get). After a timeout the change may or may not have been made.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        Ok(self.post_somewhere(path, body).await?.0)
    }

    /// As [`post`](Self::post), with the address that answered: what was begun there goes on there.
    ///
    /// # Errors
    ///
    /// As [`post`](Self::post).
    pub async fn post_somewhere(&self, path: &str, body: &Value) -> Result<(Value, String), Failure> {
        let body = Bytes::from(body.to_string());
        self.json_from(&Ask { method: Method::POST, body, ..Ask::get(path, JSON) }).await
    }

    /// Sends bytes, and reads the JSON answer.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get). After a timeout the bytes may or may not have been taken.
    pub async fn put(&self, path_and_query: &str, body: Bytes) -> Result<Value, Failure> {
        let put = Ask { method: Method::PUT, content_type: OCTETS, body, ..Ask::get(path_and_query, JSON) };
        self.json(&put).await
    }

    /// Deletes something, and reads the JSON answer.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get). After a timeout it may or may not be deleted.
    pub async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.json(&Ask { method: Method::DELETE, ..Ask::get(path, JSON) }).await
    }

    /// Reads bytes of any length, piece by piece.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn download(&self, path: &str) -> Result<Download, Failure> {
        let (response, address) = self.send(&Ask::get(path, OCTETS)).await?;
        if !response.status().is_success() {
            let status = response.status();
            let body = self.body(response, &address).await?;
            return Err(refusal(status, &body, &address, path));
        }
        Ok(Download { body: response.into_body(), address, timeout: self.target.timeout })
    }

    /// Opens a stream of server-sent events.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn events(
        &self,
        path: &str,
        query: &[(String, String)],
        last_event_id: Option<&str>,
    ) -> Result<ServerEvents, Failure> {
        let path_and_query = with_query(path, query);
        let ask = Ask { last_event_id, ..Ask::get(&path_and_query, "text/event-stream") };
        let (response, address) = self.send(&ask).await?;
        if !response.status().is_success() {
            let status = response.status();
            let body = self.body(response, &address).await?;
            return Err(refusal(status, &body, &address, path));
        }
        Ok(ServerEvents::new(response.into_body()))
    }

    /// The status and body of a plain page such as `/readyz`, whatever the status is.
    ///
    /// # Errors
    ///
    /// Nobody answered.
    pub async fn page(&self, path: &str) -> Result<(StatusCode, String), Failure> {
        let (response, address) = self.send(&Ask::get(path, "*/*")).await?;
        let status = response.status();
        let body = self.body(response, &address).await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// What time a node says it is, in seconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// Nobody answered.
    pub async fn date(&self) -> Result<Option<u64>, Failure> {
        let (response, _) = self.send(&Ask::get("/healthz", "*/*")).await?;
        let date = response.headers().get(header::DATE).and_then(|value| value.to_str().ok());
        let date = date.and_then(|text| httpdate::parse_http_date(text).ok());
        Ok(date.and_then(|date| date.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs()))
    }

    async fn json(&self, ask: &Ask<'_>) -> Result<Value, Failure> {
        Ok(self.json_from(ask).await?.0)
    }

    async fn json_from(&self, ask: &Ask<'_>) -> Result<(Value, String), Failure> {
        let (response, address) = self.send(ask).await?;
        let status = response.status();
        let body = self.body(response, &address).await?;
        if !status.is_success() {
            return Err(refusal(status, &body, &address, ask.path_and_query));
        }
        if body.is_empty() {
            return Ok((Value::Null, address));
        }
        let document = serde_json::from_slice(&body).map_err(|error| {
            Failure::from_error(Exit::Failed, &error)
                .while_doing(format!("the answer of {address} to {} is not JSON", ask.path_and_query))
                .next("check that this address is the edge port of a Mesh node")
        })?;
        Ok((document, address))
    }

    async fn body(&self, response: Response<Incoming>, address: &str) -> Result<Bytes, Failure> {
        let read = Limited::new(response.into_body(), REPLY_BYTES_MAX).collect();
        match timeout(self.target.timeout, read).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(Failure::new(Exit::Unreachable, tls_words(error.as_ref()))
                .while_doing(format!("the answer of {address} broke off"))),
            Err(_) => Err(self.too_slow(address)),
        }
    }

    /// Sends to the first address that takes the connection, and on to where that one says the answer is.
    async fn send(&self, ask: &Ask<'_>) -> Result<(Response<Incoming>, String), Failure> {
        let (mut response, mut address) = self.send_once(ask).await?;
        for _ in 0..REDIRECTS_MAX {
            let Some(next) = redirected(&response) else { break };
            (response, address) =
                self.at(&next).send_once(ask).await.map_err(|failure| {
                    failure.while_doing(format!("{address} says that {next} can answer"))
                })?;
        }
        Ok((response, address))
    }

    async fn send_once(&self, ask: &Ask<'_>) -> Result<(Response<Incoming>, String), Failure> {
        let mut refused = Vec::new();
        let mut exit = Exit::Unreachable;
        for address in &self.target.context.edge {
            match self.connect(address).await {
                Ok(mut connection) => {
                    let sent = connection.send_request(self.request(ask, address)?);
                    return match timeout(self.target.timeout, sent).await {
                        Ok(Ok(response)) => Ok((response, address.clone())),
                        // A read can be asked of the next node; a change may already have happened.
                        Ok(Err(error)) if ask.method == Method::GET => {
                            refused.push(format!("{address}: {}", tls_words(&error)));
                            continue;
                        }
                        Ok(Err(error)) => Err(Failure::new(Exit::Unreachable, tls_words(&error))
                            .while_doing(format!("{address} closed the connection"))),
                        Err(_) => Err(self.too_slow(address)),
                    };
                }
                Err(failure) => {
                    exit = failure.exit;
                    refused.push(failure.message);
                }
            }
        }
        let context = &self.target.name;
        let message = format!("no node of context {context:?} answers: {}", refused.join("; "));
        Err(Failure::new(exit, message)
            .next("check that the cluster runs (`mesh up`), or choose another context with --context"))
    }

    fn too_slow(&self, address: &str) -> Failure {
        let after = humantime::format_duration(self.target.timeout);
        Failure::new(Exit::TimeoutOrPartial, format!("{address} did not answer within {after}"))
            .next("try again with a longer --timeout")
    }

    fn request(&self, ask: &Ask<'_>, address: &str) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(ask.path_and_query)
            .header(header::HOST, address)
            .header(header::ACCEPT, ask.accept)
            .header(header::USER_AGENT, concat!("mesh-cli/", env!("CARGO_PKG_VERSION")));
        if !ask.body.is_empty() || ask.method == Method::PUT {
            request = request.header(header::CONTENT_TYPE, ask.content_type);
        }
        if let Some(id) = ask.last_event_id {
            request = request.header("last-event-id", id);
        }
        request.body(Full::new(ask.body.clone())).map_err(|error| {
            Failure::from_error(Exit::Usage, &error)
                .while_doing(format!("cannot ask {address} for {}", ask.path_and_query))
        })
    }

    async fn connect(
        &self,
        address: &str,
    ) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>, Failure> {
        let limit = self.target.timeout.min(CONNECT_TIMEOUT_MAX);
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::new(Exit::Unreachable, format!("{address}: {}", tls_words(error)))
        };
        if !is_address(address) {
            return Err(Failure::new(Exit::Usage, format!("{address:?} is not of the form host:port")));
        }
        let opened = async {
            let tcp = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
            tcp.set_nodelay(true).map_err(|error| failed(&error))?;
            let tls = self.tls.connect(tls::server_name(None), tcp).await.map_err(|error| failed(&error))?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
                .await
                .map_err(|error| failed(&error))?;
            // Ends when the sender and the response body are dropped.
            tokio::spawn(connection);
            Ok(sender)
        };
        timeout(limit, opened).await.unwrap_or_else(|_| {
            let limit = humantime::format_duration(limit);
            Err(Failure::new(Exit::Unreachable, format!("{address}: no connection within {limit}")))
        })
    }
}

/// Bytes on their way from a node.
#[derive(Debug)]
pub struct Download {
    body: Incoming,
    address: String,
    timeout: Duration,
}

impl Download {
    /// The node's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next bytes; `None` at their end.
    ///
    /// # Errors
    ///
    /// The connection broke, or nothing came for as long as answers are waited for.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = timeout(self.timeout, self.body.frame()).await.map_err(|_| {
                let after = humantime::format_duration(self.timeout);
                Failure::new(Exit::TimeoutOrPartial, format!("{} sent nothing for {after}", self.address))
                    .next("try again with a longer --timeout")
            })?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    return Err(Failure::new(Exit::Unreachable, tls_words(&error))
                        .while_doing(format!("the answer of {} broke off", self.address)));
                }
            }
        }
    }
}

/// The address of the node that can answer, if this one can't.
fn redirected(response: &Response<Incoming>) -> Option<String> {
    if response.status() != StatusCode::TEMPORARY_REDIRECT {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let address = location.strip_prefix("https://")?.split('/').next()?;
    is_address(address).then(|| address.to_owned())
}

fn is_address(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok())
}

/// An error in words that say what to look at: a TLS alert names our own certificate's fate.
fn tls_words(error: &(dyn std::error::Error + 'static)) -> String {
    let text = chain(error);
    if text.contains("received fatal alert") {
        return format!("the node refused our certificate ({text})");
    }
    if text.contains("without sending TLS close_notify") {
        return "the node closed the connection without a goodbye".to_owned();
    }
    text
}

/// The failure for an answer that is no success; problem+json says it best.
fn refusal(status: StatusCode, body: &[u8], address: &str, path: &str) -> Failure {
    let exit = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Unreachable,
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Exit::Conflict,
        StatusCode::LOCKED => Exit::Refused,
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Exit::Usage,
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => Exit::TimeoutOrPartial,
        _ => Exit::Failed,
    };
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let field = |name: &str| problem.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let Some(title) = field("title") else {
        return Failure::new(exit, format!("{address} answered {status} to {path}"))
            .next("check that this address is the edge port of a Mesh node");
    };
    let mut message = title.to_owned();
    if let Some(object) = field("object") {
        message.push_str(&format!(" {object:?}"));
    }
    if let Some(detail) = field("detail") {
        message.push_str(&format!(": {detail}"));
    }
    if let Some(code) = field("code") {
        message.push_str(&format!(" [{code}]"));
    }
    if let Some(id) = field("request_id") {
        message.push_str(&format!(" (request {id})"));
    }
    let failure = Failure::new(exit, message);
    match field("action") {
        Some(action) => failure.next(action),
        None => failure,
    }
}

fn with_query(path: &str, query: &[(String, String)]) -> String {
    let mut text = path.to_owned();
    for (at, (name, value)) in query.iter().enumerate() {
        text.push(if at == 0 { '?' } else { '&' });
        text.push_str(&encode(name));
        if !value.is_empty() {
            text.push('=');
            text.push_str(&encode(value));
        }
    }
    text
}

/// Percent-encodes all but unreserved characters (RFC 3986, section 2.3).
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        let query = [("label.a b".to_owned(), "ü&=".to_owned()), ("watch".to_owned(), String::new())];
        assert_eq!(with_query("/p", &query), "/p?label.a%20b=%C3%BC%26%3D&watch");
    }

    #[test]
    fn a_problem_becomes_cause_object_and_next_step() {
        let body = br#"{"title":"no such peer","status":404,"code":"peers.unknown","object":"w-9",
            "detail":"this node knows no member of that name","action":"list the members","request_id":"r1"}"#;
        let failure = refusal(StatusCode::NOT_FOUND, body, "a:1", "/p");
        insta::assert_snapshot!(failure, @r#"
        error: no such peer "w-9": this node knows no member of that name [peers.unknown] (request r1)
         next: list the members
        "#);
        assert_eq!(failure.exit, Exit::Failed);
        let failure = refusal(StatusCode::FORBIDDEN, b"<html>", "a:1", "/p");
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.message.contains("a:1 answered 403"), "{failure}");
    }

    #[test]
    fn addresses_need_a_port() {
        for (address, good) in [
            ("127.0.0.1:80", true),
            ("[::1]:80", true),
            ("localhost:80", true),
            ("localhost", false),
            ("https://x:1", false),
        ] {
            assert_eq!(is_address(address), good, "{address}");
        }
    }
}
