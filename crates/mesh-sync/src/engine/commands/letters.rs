//! Dead letters.

use mesh_core::NodeId;
use tokio::sync::oneshot;

use crate::engine::{SyncError, core::Core, dataset::tell};
use crate::{EntryId, entry::DatasetId, queue::DeadLetter};

impl Core {
    pub(in crate::engine) async fn dead_letters(
        &self,
        dataset: &DatasetId,
    ) -> Result<Vec<DeadLetter>, SyncError> {
        let front = self.dataset(dataset)?;
        front.ask(|actor, told| tell(told, actor.queue.dead_letters().cloned().collect())).await
    }

    pub(in crate::engine) async fn retry_dead_letter(
        &self,
        dataset: &DatasetId,
        peer: &NodeId,
        entry: EntryId,
    ) -> Result<(), SyncError> {
        let none = SyncError::NoDeadLetter { dataset: dataset.clone(), peer: peer.clone(), entry };
        let peer = peer.clone();
        let retried = self
            .dataset(dataset)?
            .ask(move |actor, told: oneshot::Sender<Result<bool, SyncError>>| {
                let at = actor.moment();
                match actor.queue.requeue_dead_letter(&peer, &entry, at) {
                    Ok(there) => actor.when_written(move || tell(told, Ok(there))),
                    Err(error) => tell(told, Err(error.into())),
                }
            })
            .await??;
        if retried { Ok(()) } else { Err(none) }
    }

    pub(in crate::engine) async fn drop_dead_letter(
        &self,
        dataset: &DatasetId,
        peer: &NodeId,
        entry: EntryId,
    ) -> Result<(), SyncError> {
        let none = SyncError::NoDeadLetter { dataset: dataset.clone(), peer: peer.clone(), entry };
        let peer = peer.clone();
        let dropped = self
            .dataset(dataset)?
            .ask(move |actor, told: oneshot::Sender<bool>| {
                let there = actor.queue.drop_dead_letter(&peer, &entry);
                actor.when_written(move || tell(told, there));
            })
            .await?;
        if dropped { Ok(()) } else { Err(none) }
    }
}
