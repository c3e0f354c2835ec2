//! A body on its way out, the same for requests and responses.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};

use bytes::Bytes;
use h3::error::{Code, StreamError};
use http::HeaderMap;
use http_body::Body;

use super::{MARK, SendStream, header};

/// The sending half of a request or response.
pub(crate) trait Outgoing: Send {
    fn data(&mut self, data: Bytes) -> impl Future<Output = Result<(), StreamError>> + Send;
    fn trailers(&mut self, trailers: HeaderMap) -> impl Future<Output = Result<(), StreamError>> + Send;
    fn finish(&mut self) -> impl Future<Output = Result<(), StreamError>> + Send;
    fn reset(&mut self, code: Code);

    /// Sends a header block that is encoded already.
    fn block(&mut self, block: Bytes) -> impl Future<Output = Result<(), StreamError>> + Send {
        async {
            self.data(MARK).await?;
            self.data(block).await
        }
    }

    /// Hands everything to the connection.
    fn flush(&mut self) -> impl Future<Output = Result<(), StreamError>> + Send {
        async {
            self.data(MARK).await?;
            self.data(MARK).await
        }
    }
}

macro_rules! outgoing {
    ($($stream:ty),+) => {$(
        impl Outgoing for $stream {
            fn data(&mut self, data: Bytes) -> impl Future<Output = Result<(), StreamError>> + Send {
                self.send_data(data)
            }
            fn trailers(&mut self, trailers: HeaderMap) -> impl Future<Output = Result<(), StreamError>> + Send {
                self.send_trailers(trailers)
            }
            fn finish(&mut self) -> impl Future<Output = Result<(), StreamError>> + Send {
                self.finish()
            }
            fn reset(&mut self, code: Code) {
                self.stop_stream(code);
            }
        }
    )+};
}
outgoing!(h3::client::RequestStream<SendStream, Bytes>, h3::server::RequestStream<SendStream, Bytes>);

/// Sends all of `body` and finishes the stream. Frames that are ready together leave
/// together; whenever the body has to wait, what was gathered goes out. A body that
/// fails resets the stream with `on_failure`, so that the part that was sent can't be
/// taken for the whole. So does dropping the future.
///
/// # Errors
///
/// The stream's. It is reset by then, or the connection is gone.
pub(crate) async fn send_body<O, B>(mut stream: O, mut body: B, on_failure: Code) -> Result<(), StreamError>
where
    O: Outgoing,
    B: Body<Data = Bytes> + Send + Unpin,
{
    loop {
        let frame = match poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                stream.flush().await?;
                poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
            }
        };
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                // An empty frame would be taken for a mark.
                Ok(data) if data.is_empty() => {}
                Ok(data) => stream.data(data).await?,
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        match header::trailers(&trailers) {
                            Some(block) => stream.block(block).await?,
                            None => stream.trailers(trailers).await?,
                        }
                        return stream.finish().await;
                    }
                }
            },
            Some(Err(_)) => {
                stream.reset(on_failure);
                return Ok(());
            }
            None => return stream.finish().await,
        }
    }
}
