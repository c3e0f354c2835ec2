//! Entries of one author, signed ahead.

use anyhow::Result;
use mesh_core::{Hlc, WallTime};
use mesh_sync::{
    entry::{Author, AuthorKey, AuthorSequence, Collection, DatasetId, Draft, Verified},
    reconcile::{EpochKey, Index},
    replica::ReplicaConfig,
    store::{Arrival, Checkpoint, EntryStore},
};

/// Entries in one commit.
pub(super) const BATCH: u64 = 1024;

/// The key of a node. Its own alone, which is all that matters here.
pub(super) fn key_of(name: &str) -> [u8; 32] {
    let mut key = [7; 32];
    key.iter_mut().zip(name.bytes()).for_each(|(key, byte)| *key = byte);
    key
}

pub(super) struct Writer {
    author: Author,
    collection: Collection,
    payload_bytes: usize,
    rng: fastrand::Rng,
    written: u64,
}

impl Writer {
    pub(super) fn new(name: &str, dataset: &DatasetId, payload_bytes: usize) -> Result<Self> {
        let key = AuthorKey::from_seed(key_of(name));
        Ok(Self {
            author: Author::new(key, dataset.clone(), AuthorSequence::FIRST),
            collection: Collection::new("bench")?,
            payload_bytes,
            rng: fastrand::Rng::with_seed(7),
            written: 0,
        })
    }

    /// Payloads that compression makes nothing of.
    pub(super) fn batch(&mut self, count: u64) -> Result<Vec<Verified>> {
        let mut batch = Vec::new();
        for n in self.written..self.written + count {
            let mut payload = vec![0; self.payload_bytes];
            self.rng.fill(&mut payload);
            let draft = Draft::put(&self.collection, format!("key {n}"), payload);
            batch.push(self.author.sign(draft, Hlc::from_wall(WallTime(1_700_000_000_000 + n)))?);
        }
        self.written += count;
        Ok(batch)
    }

    /// Fills a store, with the checkpoints that a replica writes beside entries.
    pub(super) fn fill(&mut self, store: &dyn EntryStore, key: EpochKey, entries: u64) -> Result<()> {
        let mut index = Index::new(key);
        let every = ReplicaConfig::default().checkpoint_arrivals;
        let mut checkpoint = 0;
        while self.written < entries {
            let batch = self.batch(BATCH.min(entries - self.written))?;
            store.insert_batch(&batch, &[])?;
            for entry in &batch {
                index.insert(entry.item());
            }
            let sequence = self.written;
            index.set_arrival(mesh_sync::reconcile::Arrival { incarnation: store.incarnation().0, sequence });
            if sequence >= checkpoint + every {
                checkpoint = sequence;
                let blob = index.sketch().checkpoint(&index.root());
                store.write_checkpoint(&Checkpoint { arrival: Arrival(sequence), blob })?;
            }
        }
        Ok(())
    }
}
