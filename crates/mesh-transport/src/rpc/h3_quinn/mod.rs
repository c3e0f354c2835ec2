//! HTTP/3 over quinn: our implementation of h3's transport traits.
//!
//! Three things are ours here. A request stream that is dropped before it was
//! finished is reset, because a FIN would make a cancelled upload look complete.
//! Reset and stop codes are those of RFC 9114. And writes are gathered: header
//! block, data and trailers of a small message leave in one piece.
//!
//! # Marks
//!
//! h3 hides the stream, so there is no call to say "send what you have now", or "here
//! is a header block". A DATA frame of no bytes says nothing on the wire, so it is never
//! sent; the adapter takes it as a mark. Two marks are the wish to flush. One mark makes
//! a header block of the data that follow. See [`MARK`].
//!
//! A client gives h3 a request that stands in for the real one, whose header block the
//! adapter drops; the real block follows with a mark. See [`STAND_IN`].

mod connection;
mod error;
mod header;
mod outgoing;
mod recv;
mod send;

use bytes::Bytes;

pub(crate) use connection::{Connection, Opener};
pub(crate) use header::{request as request_block, response as response_block, stand_in};
pub(crate) use outgoing::{Outgoing, send_body};
pub(crate) use recv::RecvStream;
pub(crate) use send::{SendStream, Stopped};

/// Data that put nothing on the wire and tell the adapter something.
const MARK: Bytes = Bytes::new();

/// The HEADERS frame that h3 makes of [`stand_in`].
const STAND_IN: [u8; 10] = [0x01, 0x08, 0, 0, 0xd4, 0xd7, 0x50, 0x81, 0x8b, 0xc1];
/// Nobody's name: node ids have no underscore.
const STAND_IN_AUTHORITY: &str = "_";

use std::task::{Context, Poll};

use h3::quic::{self, StreamErrorIncoming, StreamId, WriteBuf};

/// Both halves of a request stream.
pub(crate) struct BidiStream {
    send: SendStream,
    recv: RecvStream,
}

impl BidiStream {
    fn new((send, recv): (quinn::SendStream, quinn::RecvStream), on: &Opener) -> Self {
        on.load.request();
        Self { send: SendStream::request(send), recv: RecvStream::request(recv, on.connection.side()) }
    }
}

impl quic::SendStream<Bytes> for BidiStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.send.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl quic::RecvStream for BidiStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.recv.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl quic::BidiStream<Bytes> for BidiStream {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    fn split(self) -> (SendStream, RecvStream) {
        (self.send, self.recv)
    }
}
