//! Runs replicas on tokio: one engine for a node, with all its datasets and peers.
//!
//! [`Engine::start`] opens the datasets and starts a task for each, one for each stream to a peer, and one that
//! connects. Callers have a [`SyncHandle`], or a [`BlockingSync`] where there is no runtime; servers of any transport
//! give streams to the [`SyncHandler`].
//!
//! * **A write is durable when it returns.** Nobody hears of it before.
//! * **Nobody waits for one peer.** Each stream has a task and bounded lanes of its own; what does not fit is dropped,
//!   and comes again by anti-entropy.
//! * **Tasks never touch a disk.** Stores are read and written on threads that may block, signatures are checked on all
//!   cores.
//! * **No mark of the clock is kept.** A timestamp counts once its entry is stored, so the newest entry that is held
//!   tells where the clock goes on: a restart never stamps ahead of it.

mod actor;
mod blobs;
mod blocking;
mod carrier;
mod commands;
pub(crate) mod core;
mod dataset;
mod dial;
mod error;
mod event;
mod frame;
mod handle;
mod handler;
mod hooks;
mod link;
mod options;
mod shake;
mod status;
#[cfg(test)]
pub(crate) mod tests;
mod view;

use std::sync::Arc;

use self::core::Core;
pub use self::{
    blocking::BlockingSync,
    carrier::{Carrier, CarrierError, Dial, Proof, STREAM_FRAMES_MAX, Wire},
    error::{EngineError, SyncError},
    event::{
        Change, Document, DocumentHead, DocumentPage, EngineEvent, Events, Notice, Progress, Watch,
        WatchEvent, Written,
    },
    frame::FRAME_BYTES_MAX,
    handle::{
        CommitHook, FlushReport, PeerAddress, PruneReport, Queued, RoundOutcome, RoundReport, SyncHandle,
    },
    handler::{ServeError, SyncHandler},
    options::EngineOptions,
    status::{AuthorStatus, DatasetStatus, PeerState, SyncHealth, SyncStatus},
};

/// A running engine. Dropping it stops its tasks without waiting for them; [`shutdown`](Self::shutdown) waits.
pub struct Engine {
    core: Arc<Core>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("local", &self.core.local).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the datasets of the settings and those that were joined before, and starts. When it returns, all of them
    /// are ready to sync; views of documents may still be read.
    ///
    /// # Errors
    ///
    /// [`EngineError`]; nothing runs.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn start(options: EngineOptions) -> Result<Self, EngineError> {
        Core::start(options).await.map(|core| Self { core })
    }

    /// Its front.
    pub fn handle(&self) -> SyncHandle {
        SyncHandle { core: Arc::clone(&self.core) }
    }

    /// Stops: no more is taken, what is under way is finished, and the stores are let go of.
    pub async fn shutdown(self) {
        self.core.shutdown().await;
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.core.stop.send_replace(true);
    }
}
