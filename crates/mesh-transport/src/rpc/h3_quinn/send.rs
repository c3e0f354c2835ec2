//! The sending half of a stream: gathers writes, and resets unless finished.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use h3::{
    error::Code,
    quic::{self, StreamErrorIncoming, WriteBuf},
};

use super::{STAND_IN, error};

/// Gathered bytes at which a write no longer waits for more.
const GATHER_BYTES_MAX: usize = 32 * 1024;

/// A DATA frame of no bytes: type 0, length 0.
const MARK_FRAME: [u8; 2] = [0, 0];

/// Resolves when the peer asked us to stop sending (with its code), read
/// everything (`None`), or the connection is gone.
pub(crate) type Stopped = Pin<Box<dyn Future<Output = Option<u64>> + Send>>;

/// The sending half.
pub(crate) struct SendStream {
    stream: quinn::SendStream,
    /// Encoded frames that quinn has not seen.
    gathered: BytesMut,
    /// Being written; quinn took part of it, or none.
    writing: Bytes,
    flush: bool,
    /// The last frame was a mark.
    marked: bool,
    request: bool,
    over: bool,
}

impl SendStream {
    /// The sending half of a request stream: gathers, and resets on drop unless finished.
    pub(super) fn request(stream: quinn::SendStream) -> Self {
        Self::new(stream, true)
    }

    /// A control or QPACK stream. It is never finished; it ends with the connection.
    pub(super) fn unidirectional(stream: quinn::SendStream) -> Self {
        Self::new(stream, false)
    }

    fn new(stream: quinn::SendStream, request: bool) -> Self {
        let (gathered, writing) = (BytesMut::new(), Bytes::new());
        Self { stream, gathered, writing, flush: !request, marked: false, request, over: false }
    }

    /// See [`Stopped`]. h3 can't tell about STOP_SENDING unless something is written.
    pub(super) fn stopped(stream: &quinn::SendStream) -> Stopped {
        let stopped = stream.stopped();
        Box::pin(async move { stopped.await.ok().flatten().map(|code| code.into_inner()) })
    }

    /// Hands everything to quinn.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        loop {
            if self.writing.is_empty() {
                if self.gathered.is_empty() {
                    break;
                }
                self.writing = self.gathered.split().freeze();
            }
            let write = self.stream.write_chunks(std::slice::from_mut(&mut self.writing));
            // Nothing was written if this is pending, so that a fresh future is as good.
            if let Err(failure) = ready!(pin!(write).poll(cx)) {
                self.over = matches!(failure, quinn::WriteError::ConnectionLost(_));
                return Poll::Ready(Err(error::write(failure)));
            }
        }
        self.flush = !self.request;
        Poll::Ready(Ok(()))
    }
}

impl quic::SendStream<Bytes> for SendStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if self.flush || self.gathered.len() >= GATHER_BYTES_MAX || !self.writing.is_empty() {
            return self.poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        let mut data: WriteBuf<Bytes> = data.into();
        let marked = std::mem::take(&mut self.marked);
        if data.remaining() == MARK_FRAME.len() && data.chunk() == MARK_FRAME {
            (self.marked, self.flush) = (!marked, self.flush || marked);
            return Ok(());
        }
        let begin = self.gathered.len();
        // Room for what usually follows: a small message and its trailers.
        let room = if self.gathered.is_empty() { 256 } else { 0 };
        self.gathered.reserve(data.remaining() + room);
        while data.has_remaining() {
            let chunk = data.chunk();
            let bytes = chunk.len();
            self.gathered.extend_from_slice(chunk);
            data.advance(bytes);
        }
        if marked {
            // The frame is the same but for its type: HEADERS instead of DATA.
            self.gathered[begin] = 1;
        } else if self.gathered[begin..] == STAND_IN {
            self.gathered.truncate(begin);
        }
        Ok(())
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        ready!(self.poll_flush(cx))?;
        self.over = true;
        // Fails only if it was finished or reset before.
        let _ = self.stream.finish();
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self, reset_code: u64) {
        self.over = true;
        let _ = self.stream.reset(error::code(reset_code));
    }

    fn send_id(&self) -> quic::StreamId {
        error::stream_id(self.stream.id())
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        // quinn finishes a dropped stream, and the peer would take the part that it
        // got for the whole.
        if self.request && !self.over {
            let _ = self.stream.reset(error::code(Code::H3_REQUEST_CANCELLED.value()));
        }
    }
}
