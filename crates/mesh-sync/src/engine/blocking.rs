//! A front for callers without a runtime.

use std::sync::Arc;

use tokio::runtime::Runtime;

use super::{Engine, EngineError, EngineOptions, SyncHandle};

/// An engine with a runtime of its own, for callers that have none. Dropping it shuts the engine down.
///
/// Don't use it from within a runtime: waiting there would stop the runtime's thread.
pub struct BlockingSync {
    engine: Option<Engine>,
    handle: SyncHandle,
    runtime: Arc<Runtime>,
}

impl std::fmt::Debug for BlockingSync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockingSync").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl BlockingSync {
    /// Starts an engine on `runtime`, which must have its timer enabled and threads of its own.
    ///
    /// # Errors
    ///
    /// [`EngineError`].
    pub fn start(runtime: Arc<Runtime>, options: EngineOptions) -> Result<Self, EngineError> {
        let engine = runtime.block_on(Engine::start(options))?;
        let handle = engine.handle();
        Ok(Self { engine: Some(engine), handle, runtime })
    }

    /// The handle, for what is not waited for.
    pub const fn handle(&self) -> &SyncHandle {
        &self.handle
    }

    /// Calls a method of the handle and waits for it.
    ///
    /// ```no_run
    /// # fn f(sync: mesh_sync::engine::BlockingSync) -> Result<(), Box<dyn std::error::Error>> {
    /// use mesh_sync::entry::{Collection, DatasetId};
    /// let (notes, list) = (DatasetId::new("notes")?, Collection::new("shopping")?);
    /// sync.wait(|sync| async move { sync.put(&notes, &list, "milk", "2 l").await })?;
    /// # Ok(()) }
    /// ```
    pub fn wait<T, F: Future<Output = T>>(&self, call: impl FnOnce(SyncHandle) -> F) -> T {
        self.runtime.block_on(call(self.handle.clone()))
    }

    /// Stops the engine and waits until all is durable and its stores are closed.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.runtime.block_on(engine.shutdown());
        }
    }
}

impl Drop for BlockingSync {
    fn drop(&mut self) {
        self.stop();
    }
}
