//! Serves the streams of peers, whatever transport they came over.

use std::sync::Arc;

use super::{Wire, core::Core};

/// Serves peers of any transport: give it the accepting side of each stream. Clones serve the same engine.
#[derive(Clone)]
pub struct SyncHandler {
    core: Arc<Core>,
}

impl std::fmt::Debug for SyncHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncHandler").field("local", &self.core.local).finish_non_exhaustive()
    }
}

/// Why a stream was not served, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The other end did not prove who it is, or is not let in.
    #[error("the handshake failed")]
    Handshake(#[from] crate::handshake::HandshakeError),
    /// It said nothing for too long.
    #[error("the peer said nothing for {0:?}")]
    Silent(std::time::Duration),
    /// It ended the stream.
    #[error("the peer ended the stream: {0}")]
    Ended(String),
    /// It broke the rules.
    #[error("the peer sent what can't be read: {0}")]
    Malformed(String),
    /// This node does not serve now, or has too many streams.
    #[error("this node takes no streams now")]
    NotServing,
}

impl SyncHandler {
    pub(super) const fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Serves one stream until it ends: proves who is at the other end first, then replicates.
    ///
    /// # Errors
    ///
    /// [`ServeError`] says how it ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the stream.
    pub async fn serve(&self, wire: Wire) -> Result<(), ServeError> {
        super::shake::serve(&self.core, wire).await
    }
}
