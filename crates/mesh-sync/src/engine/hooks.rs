//! What users do with entries that have just become durable.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::mpsc;

use super::{CommitHook, EngineEvent, core::Core};
use crate::entry::{DatasetId, Verified};

/// Commits that wait for hooks; what is beyond is missed by them, and counted.
const WAITING_MAX: usize = 256;

pub(super) struct HookWork {
    dataset: DatasetId,
    entries: Arc<Vec<Verified>>,
}

pub(super) struct Hooks {
    hooks: RwLock<Vec<Arc<CommitHook>>>,
    work: mpsc::Sender<HookWork>,
}

impl Hooks {
    pub(super) fn new() -> (Self, mpsc::Receiver<HookWork>) {
        let (work, waiting) = mpsc::channel(WAITING_MAX);
        (Self { hooks: RwLock::default(), work }, waiting)
    }

    fn all(&self) -> Vec<Arc<CommitHook>> {
        self.hooks.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Core {
    pub(super) fn add_hook(&self, hook: Arc<CommitHook>) {
        self.hooks.hooks.write().unwrap_or_else(PoisonError::into_inner).push(hook);
    }

    /// Has hooks run. Never waits for them.
    pub(super) fn offer_to_hooks(&self, dataset: &DatasetId, entries: &[Verified]) {
        if self.hooks.all().is_empty() {
            return;
        }
        let work = HookWork { dataset: dataset.clone(), entries: Arc::new(entries.to_vec()) };
        if self.hooks.work.try_send(work).is_err() {
            self.counters.lock().hooks_missed += 1;
        }
    }

    pub(super) async fn run_hooks(&self, work: HookWork) {
        for hook in self.hooks.all() {
            let (dataset, entries) = (work.dataset.clone(), Arc::clone(&work.entries));
            let ran = tokio::task::spawn_blocking(move || hook(&dataset, &entries)).await;
            let problem = match ran {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(panicked) if panicked.is_panic() => "it panicked".to_owned(),
                Err(_) => "it was interrupted".to_owned(),
            };
            self.counters.lock().hooks_failed += 1;
            tracing::warn!(dataset = %work.dataset, problem, "a hook on commits failed; the commit stands");
            self.tell(EngineEvent::HookFailed { dataset: work.dataset.clone(), problem });
        }
    }
}
