//! Reads server-sent events (HTML Living Standard, section 9.2).

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::tls_words;
use crate::failure::{Exit, Failure};

/// The largest event that is taken, in bytes.
const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerEvent {
    /// Where to resume after it.
    pub id: Option<String>,
    /// What kind of event it is.
    pub event: String,
    /// Its data.
    pub data: String,
}

/// A stream of events.
#[derive(Debug)]
pub struct ServerEvents {
    body: Incoming,
    parser: Parser,
}

impl ServerEvents {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, parser: Parser::default() }
    }

    /// Where to resume: the id of the last event, or of the last sign of life after it.
    pub fn last_event_id(&self) -> Option<&str> {
        self.parser.last_id.as_deref()
    }

    /// The next event; `None` when the node ended the stream in good order.
    ///
    /// # Errors
    ///
    /// The connection broke, or what came is no event stream.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<ServerEvent>, Failure> {
        loop {
            if let Some(event) = self.parser.take()? {
                return Ok(Some(event));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.parser.bytes.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(Failure::new(Exit::Unreachable, tls_words(&error))
                        .while_doing("the stream broke off"));
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct Parser {
    bytes: Vec<u8>,
    last_id: Option<String>,
}

impl Parser {
    /// The next whole event; comments and heartbeats are skipped.
    fn take(&mut self) -> Result<Option<ServerEvent>, Failure> {
        while let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
            let event = parse(&String::from_utf8_lossy(&block));
            if event.id.is_some() {
                self.last_id.clone_from(&event.id);
            }
            if !event.data.is_empty() {
                return Ok(Some(event));
            }
        }
        if self.bytes.len() > EVENT_BYTES_MAX {
            let text = format!("the node sent an event of more than {EVENT_BYTES_MAX} bytes");
            return Err(Failure::new(Exit::Failed, text));
        }
        Ok(None)
    }
}

fn parse(block: &str) -> ServerEvent {
    let mut event = ServerEvent::default();
    let mut data = Vec::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.to_owned()),
            "event" => event.event = value.to_owned(),
            "data" => data.push(value),
            _ => {}
        }
    }
    event.data = data.join("\n");
    event
}

/// What a fuzzer calls: however a stream of events is cut, the same events come out of it.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    let events = |size: usize| {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        for piece in data.chunks(size) {
            parser.bytes.extend_from_slice(piece);
            while let Ok(Some(event)) = parser.take() {
                events.push((event.id, event.event, event.data));
            }
        }
        (events, parser.last_id)
    };
    assert_eq!(events(5), events(data.len().max(1)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_the_bytes_are_cut() {
        let text =
            b": hello\n\nid: 7\nevent: joined\ndata: {\"a\":\ndata: 1}\n\nid: 8\n: beat\n\ndata: x\n\n";
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for piece in text.chunks(size) {
                parser.bytes.extend_from_slice(piece);
                while let Some(event) = parser.take().expect("well formed") {
                    events.push(event);
                }
            }
            assert_eq!(events.len(), 2, "pieces of {size}");
            assert_eq!((events[0].id.as_deref(), events[0].event.as_str()), (Some("7"), "joined"));
            assert_eq!(events[0].data, "{\"a\":\n1}");
            assert_eq!(events[1].data, "x");
            assert_eq!(parser.last_id.as_deref(), Some("8"));
        }
    }
}
