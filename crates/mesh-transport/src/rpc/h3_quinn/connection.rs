//! A connection, and the half of it that opens streams.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming},
};
use quinn::ConnectionError;

use crate::endpoint::Load;

use super::{BidiStream, RecvStream, SendStream, Stopped, error};

type Incoming<T> = Pin<Box<dyn Stream<Item = Result<T, ConnectionError>> + Send>>;
type Opening<T> = Option<Pin<Box<dyn Future<Output = Result<T, ConnectionError>> + Send + Sync>>>;
type Pair = (quinn::SendStream, quinn::RecvStream);

/// A quinn connection for h3.
pub(crate) struct Connection {
    opener: Opener,
    bidi: Incoming<Pair>,
    uni: Incoming<quinn::RecvStream>,
    last_accepted: Option<Stopped>,
}

impl Connection {
    /// Tells `load` of its requests.
    pub(crate) fn new(connection: quinn::Connection, load: Load) -> Self {
        let bidi = stream::unfold(connection.clone(), |connection| async move {
            Some((connection.accept_bi().await, connection))
        });
        let uni = stream::unfold(connection.clone(), |connection| async move {
            Some((connection.accept_uni().await, connection))
        });
        Self {
            opener: Opener::new(connection, load),
            bidi: Box::pin(bidi),
            uni: Box::pin(uni),
            last_accepted: None,
        }
    }

    /// When the peer loses interest in the response on the request stream that was
    /// accepted last. To be taken right after h3 handed out that request.
    pub(crate) fn take_stopped(&mut self) -> Option<Stopped> {
        self.last_accepted.take()
    }
}

impl quic::Connection<Bytes> for Connection {
    type RecvStream = RecvStream;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RecvStream, ConnectionErrorIncoming>> {
        match ready!(self.uni.poll_next_unpin(cx)) {
            Some(accepted) => Poll::Ready(match accepted {
                Ok(stream) => Ok(RecvStream::unidirectional(stream)),
                Err(failure) => Err(error::connection(failure)),
            }),
            None => unreachable!("the stream of accepted streams has no end"),
        }
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BidiStream, ConnectionErrorIncoming>> {
        match ready!(self.bidi.poll_next_unpin(cx)) {
            Some(accepted) => Poll::Ready(match accepted {
                Ok(pair) => {
                    self.last_accepted = Some(SendStream::stopped(&pair.0));
                    Ok(BidiStream::new(pair, &self.opener))
                }
                Err(failure) => Err(error::connection(failure)),
            }),
            None => unreachable!("the stream of accepted streams has no end"),
        }
    }

    fn opener(&self) -> Opener {
        self.opener.clone()
    }
}

impl quic::OpenStreams<Bytes> for Connection {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        self.opener.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.opener.close(code, reason);
    }
}

/// Opens streams of a connection.
pub(crate) struct Opener {
    pub(super) connection: quinn::Connection,
    pub(super) load: Load,
    opening_bidi: Opening<Pair>,
    opening_uni: Opening<quinn::SendStream>,
}

impl Opener {
    fn new(connection: quinn::Connection, load: Load) -> Self {
        Self { connection, load, opening_bidi: None, opening_uni: None }
    }
}

impl Clone for Opener {
    fn clone(&self) -> Self {
        Self::new(self.connection.clone(), self.load.clone())
    }
}

/// Polls the attempt under way, or starts one. The first poll of an attempt needs
/// no allocation, and it almost always succeeds: waiting means that the peer's
/// limit of concurrent streams is reached.
macro_rules! poll_opening {
    ($self:ident, $slot:ident, $open:ident, $cx:ident) => {{
        if $self.$slot.is_none() {
            match pin!($self.connection.$open()).poll($cx) {
                Poll::Ready(opened) => return Poll::Ready(opened.map_err(error::on_connection)),
                Poll::Pending => {
                    let connection = $self.connection.clone();
                    $self.$slot = Some(Box::pin(async move { connection.$open().await }));
                }
            }
        }
        let Some(opening) = &mut $self.$slot else { unreachable!("filled above") };
        let opened = ready!(opening.as_mut().poll($cx));
        $self.$slot = None;
        Poll::Ready(opened.map_err(error::on_connection))
    }};
}

impl Opener {
    fn poll_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Pair, StreamErrorIncoming>> {
        poll_opening!(self, opening_bidi, open_bi, cx)
    }

    fn poll_uni(&mut self, cx: &mut Context<'_>) -> Poll<Result<quinn::SendStream, StreamErrorIncoming>> {
        poll_opening!(self, opening_uni, open_uni, cx)
    }
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        let pair = ready!(self.poll_bidi(cx))?;
        Poll::Ready(Ok(BidiStream::new(pair, self)))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        let stream = ready!(self.poll_uni(cx))?;
        Poll::Ready(Ok(SendStream::unidirectional(stream)))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(error::code(code.value()), reason);
    }
}
