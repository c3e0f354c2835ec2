//! How frames get from one node to another: a narrow trait, and what both ends of a stream need.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use mesh_core::{BoxError, NodeId};
use tokio::sync::mpsc;

/// Frames that wait in one direction of a stream; the sender waits beyond that.
pub const STREAM_FRAMES_MAX: usize = 16;

/// Whom to call, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// The node. A carrier that proves identities accepts no other one.
    pub peer: NodeId,
    /// Where it may be, best first, in the carrier's own form.
    pub addresses: Vec<String>,
}

/// What a stream's transport has proved about its other end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proof {
    /// A mutually authenticated channel. The certificate names the node, and both ends have the same exporter, which
    /// no other channel has.
    Channel {
        /// Whom the certificate names.
        node: NodeId,
        /// What the channel's exporter gives for [`Claimant::EXPORTER_LABEL`](crate::handshake::Claimant::EXPORTER_LABEL).
        exporter: [u8; 32],
    },
    /// Nothing. Both ends prove their keys in three messages.
    Nothing,
}

/// A stream of frames, both ways and in order. Dropping it ends the stream.
pub struct Wire {
    /// What was proved about the other end.
    pub proof: Proof,
    /// The way out. A closed one means that the stream has ended.
    pub sender: mpsc::Sender<Bytes>,
    /// The way in. `None` means that the stream has ended.
    pub receiver: mpsc::Receiver<Bytes>,
    /// Whatever has to live as long as the stream.
    pub keep: Option<Box<dyn std::any::Any + Send + Sync>>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("proof", &self.proof).finish_non_exhaustive()
    }
}

/// Why there is no stream.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CarrierError {
    /// Nobody answered, or the connection broke. Worth trying again.
    #[error("{peer} does not answer")]
    Unreachable {
        /// Who was called.
        peer: NodeId,
        /// What happened.
        #[source]
        source: Arc<BoxError>,
    },
    /// The other end is not who it should be, or did not accept us. Not worth trying again soon.
    #[error("{peer} was refused, or refused us")]
    Refused {
        /// Who was called.
        peer: NodeId,
        /// What happened.
        #[source]
        source: Arc<BoxError>,
    },
    /// No address of the peer is known, or none that this carrier can use.
    #[error("no address of {peer} is known that {carrier} can use")]
    NoAddress {
        /// Who was called.
        peer: NodeId,
        /// Over what.
        carrier: &'static str,
    },
}

impl CarrierError {
    /// How the queue counts it.
    pub fn send_failure(&self) -> crate::queue::SendFailure {
        use crate::queue::SendFailure;
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        match self {
            Self::Refused { .. } => SendFailure::Authentication(text),
            Self::Unreachable { .. } | Self::NoAddress { .. } => SendFailure::Unreachable(text),
        }
    }
}

/// Opens streams to peers. The other end gives its side of the stream to
/// [`SyncHandler::serve`](super::SyncHandler::serve).
///
/// Implementers keep the order of frames, deliver each whole or end the stream, and wait instead of buffering without
/// bound. Frames have at most [`FRAME_BYTES_MAX`](super::FRAME_BYTES_MAX).
#[async_trait]
pub trait Carrier: Send + Sync + 'static {
    /// Its name in tickets, as `grpc`.
    fn name(&self) -> &'static str;

    /// Opens a stream.
    ///
    /// # Errors
    ///
    /// [`CarrierError`] tells whether another attempt is worth it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the attempt.
    async fn open(&self, dial: &Dial) -> Result<Wire, CarrierError>;
}
