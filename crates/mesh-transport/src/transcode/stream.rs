//! A stream of answers as lines of JSON or as server-sent events.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Frame;
use tonic::{Code, Status, body::Body};

use super::{
    answer::{Answers, status_of},
    frames::Frames,
    problem,
};

/// How messages are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One line each.
    Lines,
    /// One event each.
    Events,
}

impl Form {
    /// What the caller asks for. Lines unless it names events.
    pub(super) fn accepted(headers: &HeaderMap) -> Self {
        let accepted = headers.get_all(header::ACCEPT);
        let mut parts =
            accepted.iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
        let is_events = |part: &str| part.split(';').next().is_some_and(|t| t.trim() == "text/event-stream");
        if parts.any(is_events) { Self::Events } else { Self::Lines }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
        }
    }

    fn message(self, json: &[u8]) -> Bytes {
        match self {
            Self::Lines => [b"{\"result\":", json, b"}\n"].concat().into(),
            Self::Events => [b"event: message\ndata: ", json, b"\n\n"].concat().into(),
        }
    }

    fn error(self, problem: &[u8]) -> Bytes {
        match self {
            Self::Lines => [b"{\"error\":", problem, b"}\n"].concat().into(),
            Self::Events => [b"event: error\ndata: ", problem, b"\n\n"].concat().into(),
        }
    }

    /// What says that there was no error. Lines end with the body; a browser would take
    /// that for a failure and call again.
    fn end(self) -> Option<Bytes> {
        match self {
            Self::Lines => None,
            Self::Events => Some(Bytes::from_static(b"event: end\ndata: {}\n\n")),
        }
    }
}

/// The body of such a response.
pub(super) struct Messages {
    answers: Answers,
    body: Body,
    frames: Frames,
    form: Form,
    over: bool,
}

impl Messages {
    pub(super) fn new(answers: Answers, body: Body, form: Form) -> Self {
        let frames = Frames::new(answers.message_bytes_max);
        Self { answers, body, frames, form, over: false }
    }

    fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(message) = self.frames.next()? else { return Ok(None) };
        Ok(Some(self.form.message(&self.answers.json(&message)?)))
    }

    /// The last thing that is said, if anything is.
    fn finish(&mut self, status: &Status) -> Option<Bytes> {
        self.over = true;
        // The handler's part goes now, and does not wait until the caller has read this.
        self.body = Body::empty();
        if status.code() == Code::Ok {
            return self.form.end();
        }
        let problem = problem::of_status(status, &self.answers.path);
        Some(self.form.error(&problem::json(&problem)))
    }
}

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let text = loop {
            if this.over {
                return Poll::Ready(None);
            }
            match this.next() {
                Ok(Some(text)) => break Some(text),
                Ok(None) => {}
                Err(status) => break this.finish(&status),
            }
            let broken = || Status::internal("the answer broke off");
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.frames.push(&data),
                    Err(frame) => {
                        let status = frame.into_trailers().ok().and_then(|trailers| status_of(&trailers));
                        let whole = !this.frames.is_inside_message();
                        break this.finish(
                            &status.filter(|s| whole || s.code() != Code::Ok).unwrap_or_else(broken),
                        );
                    }
                },
                Some(Err(status)) => break this.finish(&status),
                None => break this.finish(&broken()),
            }
        };
        Poll::Ready(text.map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn events_are_sent_to_those_who_ask_for_them() {
        let form = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            Form::accepted(&headers)
        };
        assert_eq!(form("text/event-stream"), Form::Events);
        assert_eq!(form("application/json, text/event-stream;q=0.5"), Form::Events);
        assert_eq!(form("*/*"), Form::Lines);
        assert_eq!(Form::accepted(&HeaderMap::new()), Form::Lines);
    }
}
