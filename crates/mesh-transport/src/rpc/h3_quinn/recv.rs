//! The receiving half of a stream.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h3::{error::Code, quic};

use super::error;

/// Chunks that are taken from quinn at once. Each is what one packet carried, and taking
/// one costs a lock.
const CHUNKS: usize = 16;
/// So many are taken one by one before. Small messages have no more, and room for many is
/// not free.
const SINGLE_CHUNKS: u8 = 4;

/// The receiving half. Dropped before its end, it asks the peer to stop.
pub(crate) struct RecvStream {
    stream: quinn::RecvStream,
    /// Taken from quinn and not handed out, last first.
    chunks: Vec<Bytes>,
    /// Chunks taken so far, up to [`SINGLE_CHUNKS`].
    taken: u8,
    /// What the peer is told when we lose interest; `None` once the end was read
    /// or a code was sent.
    stop_on_drop: Option<Code>,
}

impl RecvStream {
    /// The receiving half of a request stream. A client that stops reading has
    /// cancelled; a server that stops reading has simply heard enough (RFC 9114, 4.1).
    pub(super) fn request(stream: quinn::RecvStream, side: quinn::Side) -> Self {
        let code = if side.is_client() { Code::H3_REQUEST_CANCELLED } else { Code::H3_NO_ERROR };
        Self { stream, chunks: Vec::new(), taken: 0, stop_on_drop: Some(code) }
    }

    /// A stream that the peer opened in one direction.
    pub(super) fn unidirectional(stream: quinn::RecvStream) -> Self {
        Self { stream, chunks: Vec::new(), taken: 0, stop_on_drop: Some(Code::H3_STREAM_CREATION_ERROR) }
    }
}

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, quic::StreamErrorIncoming>> {
        if let Some(chunk) = self.chunks.pop() {
            return Poll::Ready(Ok(Some(chunk)));
        }
        // The futures keep no state between polls, so a fresh one each time is fine,
        // and `stop_sending` never finds the stream away.
        let read = if self.taken < SINGLE_CHUNKS {
            let read = ready!(pin!(self.stream.read_chunk(usize::MAX, true)).poll(cx));
            self.taken += 1;
            read.map(|chunk| chunk.map(|chunk| chunk.bytes))
        } else {
            let mut chunks = [const { Bytes::new() }; CHUNKS];
            let read = ready!(pin!(self.stream.read_chunks(&mut chunks)).poll(cx));
            read.map(|count| {
                let [first, others @ ..] = chunks;
                self.chunks.extend(others.into_iter().take(count?.saturating_sub(1)).rev());
                Some(first)
            })
        };
        match read {
            Ok(Some(chunk)) => Poll::Ready(Ok(Some(chunk))),
            Ok(None) => {
                self.stop_on_drop = None;
                Poll::Ready(Ok(None))
            }
            Err(failure) => {
                self.stop_on_drop = None;
                Poll::Ready(Err(error::read(failure)))
            }
        }
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.stop_on_drop = None;
        // Fails only if the stream is over, and then there is nothing to stop.
        let _ = self.stream.stop(error::code(error_code));
    }

    fn recv_id(&self) -> quic::StreamId {
        error::stream_id(self.stream.id())
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if let Some(code) = self.stop_on_drop {
            let _ = self.stream.stop(error::code(code.value()));
        }
    }
}
