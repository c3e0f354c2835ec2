//! The body of a request on its way out: recorded, so that it can be sent again, and
//! cut off when nobody waits for the answer any more.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};

/// The body of a request. Dropped, it cuts off the attempt that is reading it.
#[derive(Debug)]
pub(super) struct Upload {
    tape: Arc<Mutex<Tape>>,
}

#[derive(Debug)]
struct Tape {
    source: Body,
    /// Everything that was read from `source`, as long as it fits.
    recorded: Vec<Recorded>,
    room_bytes: usize,
    /// Something was read that is not recorded.
    incomplete: bool,
    source_over: bool,
    /// The number of the attempt that may read; others find their body broken.
    attempt: u32,
    reader: Option<Waker>,
}

#[derive(Clone, Debug)]
enum Recorded {
    Data(Bytes),
    Trailers(HeaderMap),
}

fn lock(tape: &Mutex<Tape>) -> MutexGuard<'_, Tape> {
    tape.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upload {
    /// Records at most `room_bytes`. A longer body is sent once.
    pub(super) fn new(source: Body, room_bytes: usize) -> Self {
        Self {
            tape: Arc::new(Mutex::new(Tape {
                source,
                recorded: Vec::new(),
                room_bytes,
                incomplete: false,
                source_over: false,
                attempt: 0,
                reader: None,
            })),
        }
    }

    /// The body from its beginning, for the next attempt. The one before is cut off.
    /// `None` if the beginning is gone.
    pub(super) fn attempt(&self) -> Option<AttemptBody> {
        let mut tape = lock(&self.tape);
        if tape.incomplete {
            return None;
        }
        let attempt = tape.cut_off();
        Some(AttemptBody { tape: self.tape.clone(), attempt, position: 0 })
    }

    /// Whether [`attempt`](Self::attempt) will yield a body.
    pub(super) fn can_repeat(&self) -> bool {
        !lock(&self.tape).incomplete
    }

    /// Drops the record. Called when the response has begun, after which nothing is
    /// sent again.
    pub(super) fn forget(&self) {
        let mut tape = lock(&self.tape);
        tape.room_bytes = 0;
        // The recorded part stays only as long as the reader has not read it.
        tape.incomplete = true;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        lock(&self.tape).cut_off();
    }
}

impl Tape {
    fn cut_off(&mut self) -> u32 {
        self.attempt += 1;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        self.attempt
    }

    fn record(&mut self, frame: &Frame<Bytes>) -> bool {
        if self.incomplete {
            return false;
        }
        let recorded = if let Some(data) = frame.data_ref() {
            (data.len() <= self.room_bytes).then(|| {
                self.room_bytes -= data.len();
                Recorded::Data(data.clone())
            })
        } else {
            frame.trailers_ref().cloned().map(Recorded::Trailers)
        };
        self.incomplete = recorded.is_none();
        if self.incomplete {
            self.recorded = Vec::new();
        }
        self.recorded.extend(recorded);
        !self.incomplete
    }
}

/// The body as one attempt reads it.
#[derive(Debug)]
pub(super) struct AttemptBody {
    tape: Arc<Mutex<Tape>>,
    attempt: u32,
    /// How many recorded frames this attempt has read.
    position: usize,
}

impl http_body::Body for AttemptBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let mut tape = lock(&this.tape);
        let tape = &mut *tape;
        if tape.attempt != this.attempt {
            return Poll::Ready(Some(Err(Status::aborted("the call was given up"))));
        }
        if let Some(recorded) = tape.recorded.get(this.position) {
            this.position += 1;
            return Poll::Ready(Some(Ok(match recorded.clone() {
                Recorded::Data(data) => Frame::data(data),
                Recorded::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        if tape.source_over {
            return Poll::Ready(None);
        }
        let frame = match Pin::new(&mut tape.source).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                tape.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        };
        match &frame {
            Some(Ok(frame)) => this.position += usize::from(tape.record(frame)),
            // A source that failed has nothing more to say, and the failure can't be replayed.
            Some(Err(_)) => tape.incomplete = true,
            None => tape.source_over = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let tape = lock(&self.tape);
        tape.attempt == self.attempt
            && self.position >= tape.recorded.len()
            && (tape.source_over || tape.source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let tape = lock(&self.tape);
        // Only the untouched source knows how much is to come.
        if tape.recorded.is_empty() && !tape.incomplete {
            tape.source.size_hint()
        } else {
            SizeHint::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full, StreamBody};

    use super::*;

    #[tokio::test]
    async fn a_recorded_body_is_sent_again_from_its_beginning() {
        let frames = [
            Ok::<_, Status>(Frame::data(Bytes::from_static(b"ab"))),
            Ok(Frame::data(Bytes::from_static(b"c"))),
        ];
        let upload = Upload::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))), 100);
        let mut first = upload.attempt().unwrap();
        assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        let second = upload.attempt().unwrap();
        assert!(first.frame().await.unwrap().is_err(), "the first attempt is cut off");
        assert_eq!(second.collect().await.unwrap().to_bytes(), "abc");
        assert_eq!(upload.attempt().unwrap().collect().await.unwrap().to_bytes(), "abc");
    }

    #[tokio::test]
    async fn a_body_too_long_to_record_is_sent_once() {
        let upload = Upload::new(Body::new(Full::new(Bytes::from_static(b"too long"))), 4);
        let first = upload.attempt().unwrap();
        assert_eq!(first.collect().await.unwrap().to_bytes(), "too long");
        assert!(upload.attempt().is_none());
    }

    #[tokio::test]
    async fn dropping_the_upload_cuts_off_a_reader_that_waits() {
        let never = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Status>>());
        let upload = Upload::new(Body::new(never), 4);
        let mut body = upload.attempt().unwrap();
        let reader = tokio::spawn(async move { body.frame().await });
        tokio::task::yield_now().await;
        drop(upload);
        assert!(reader.await.unwrap().unwrap().is_err());
    }
}
