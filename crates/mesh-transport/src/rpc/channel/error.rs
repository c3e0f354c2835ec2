//! Why a request failed before or beside its handler.

use std::{sync::Arc, time::Duration};

use mesh_core::{BoxError, NodeId};
use tonic::Status;

use super::ConnectFailure;
use crate::rpc::Transport;

/// Why a channel could not complete a request. Generated clients see it as the source
/// of a [`Status`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// There is no connection. The request was not sent.
    #[error("no connection to {peer}")]
    Connect {
        /// Who was called.
        peer: NodeId,
        /// The failure that says most.
        #[source]
        source: Arc<ConnectFailure>,
    },
    /// Getting a connection took too long. The request was not sent.
    #[error("no connection to {peer} within {limit:?}")]
    ConnectTimeout {
        /// Who was called.
        peer: NodeId,
        /// `connect_timeout`.
        limit: Duration,
    },
    /// The connection broke. Whether the request took effect is unknown, unless
    /// `unsent` is true.
    #[error("{transport} connection to {peer} broke")]
    Lost {
        /// Who was called.
        peer: NodeId,
        /// Over what.
        transport: Transport,
        /// Whether the peer certainly did not act on the request.
        unsent: bool,
        /// What happened.
        #[source]
        source: Arc<BoxError>,
    },
    /// The peer turned the request away without looking at it, as it does when it is
    /// shutting down or has more streams than it takes.
    #[error("{peer} did not take the request over {transport}")]
    NotTaken {
        /// Who was called.
        peer: NodeId,
        /// Over what.
        transport: Transport,
        /// What it said.
        #[source]
        source: Arc<BoxError>,
    },
    /// The peer ended this request alone.
    #[error("{peer} reset the request over {transport}")]
    Reset {
        /// Who was called.
        peer: NodeId,
        /// Over what.
        transport: Transport,
        /// What it said.
        #[source]
        source: Arc<BoxError>,
    },
    /// The request can't be put on the wire. It was not sent.
    #[error("the request can't be sent to {peer}")]
    Malformed {
        /// Who was called.
        peer: NodeId,
        /// What is wrong with it.
        #[source]
        source: Arc<BoxError>,
    },
    /// Too many requests are at work on this channel. The request was not sent.
    #[error("{limit} requests to {peer} are at work already; retry later")]
    Overloaded {
        /// Who was called.
        peer: NodeId,
        /// `requests_in_flight_max`.
        limit: usize,
    },
    /// The deadline passed. The peer may have acted on the request.
    #[error("no response from {peer} within {limit:?}")]
    DeadlineExceeded {
        /// Who was called.
        peer: NodeId,
        /// The request's deadline.
        limit: Duration,
    },
}

impl ChannelError {
    /// Whether the peer certainly did not act on the request.
    pub fn is_unsent(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::ConnectTimeout { .. } => true,
            Self::NotTaken { .. } | Self::Malformed { .. } | Self::Overloaded { .. } => true,
            Self::Lost { unsent, .. } => *unsent,
            Self::Reset { .. } | Self::DeadlineExceeded { .. } => false,
        }
    }
}

impl From<ChannelError> for Status {
    fn from(error: ChannelError) -> Self {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        let mut status = match &error {
            ChannelError::Connect { source, .. } if matches!(**source, ConnectFailure::Refused { .. }) => {
                Status::unauthenticated(text)
            }
            ChannelError::Connect { .. }
            | ChannelError::ConnectTimeout { .. }
            | ChannelError::Lost { .. }
            | ChannelError::NotTaken { .. } => Status::unavailable(text),
            ChannelError::Reset { .. } => Status::aborted(text),
            ChannelError::Malformed { .. } => Status::internal(text),
            ChannelError::Overloaded { .. } => Status::resource_exhausted(text),
            ChannelError::DeadlineExceeded { .. } => Status::deadline_exceeded(text),
        };
        status.set_source(Arc::new(error));
        status
    }
}
