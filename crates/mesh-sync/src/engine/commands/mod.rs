//! What the front asks for, carried out with the tasks of datasets.

mod access;
pub(super) mod chunks;
pub(super) mod documents;
mod letters;
mod peers;
pub(super) mod prune;
mod rounds;
mod status;

use std::sync::{Arc, atomic::Ordering};

use mesh_core::NodeId;

use crate::engine::{
    SyncError,
    core::{Core, lock, stopped},
    dataset::Dataset,
};
use crate::{entry::DatasetId, store::StoreError};

/// Runs work that blocks on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SyncError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| SyncError::Interrupted(error.into()))
}

fn store_error(dataset: &DatasetId) -> impl FnOnce(StoreError) -> SyncError {
    let dataset = dataset.clone();
    move |source| SyncError::Store { dataset, source }
}

impl Core {
    pub(in crate::engine) fn dataset_names(&self) -> Vec<DatasetId> {
        self.all().iter().map(|dataset| dataset.id.clone()).collect()
    }

    fn known_peer(&self, dataset: &Dataset, peer: &NodeId) -> Result<(), SyncError> {
        match lock(&dataset.books).peers.relationship(peer) {
            Some(_) => Ok(()),
            None => Err(SyncError::UnknownPeer { peer: peer.clone(), dataset: dataset.id.clone() }),
        }
    }

    async fn viewed(&self, dataset: &DatasetId) -> Result<Arc<Dataset>, SyncError> {
        let front = self.dataset(dataset)?;
        let mut stop = self.stop.subscribe();
        tokio::select! {
            biased;
            read = front.view.wait() => match read {
                Ok(()) => Ok(Arc::clone(&front)),
                Err(problem) => Err(SyncError::Failed { dataset: dataset.clone(), problem }),
            },
            () = stopped(&mut stop) => Err(SyncError::Stopped),
        }
    }

    pub(in crate::engine) fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Relaxed);
    }

    fn chosen(&self, dataset: Option<&DatasetId>) -> Result<Vec<Arc<Dataset>>, SyncError> {
        match dataset {
            Some(dataset) => Ok(vec![self.dataset(dataset)?]),
            None => Ok(self.all()),
        }
    }
}
