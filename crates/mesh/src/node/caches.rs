//! What a node remembers of the store, for the reconciler to compare.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_core::{
    BoxError,
    store::{Key, Prefix, Record},
};
use mesh_leader::Leadership;
use mesh_registry::reconcile::{Cached, Difference};

/// Who leads what and who would, as this node's leadership believes.
pub(super) struct LeadershipCache(pub(super) Leadership);

#[tonic::async_trait]
impl Cached for LeadershipCache {
    fn name(&self) -> &'static str {
        "leadership"
    }

    fn prefix(&self) -> Prefix {
        mesh_leader::records_prefix()
    }

    fn expected(&self, record: &Record) -> Option<Bytes> {
        mesh_leader::expected(record)
    }

    async fn snapshot(&self) -> BTreeMap<Key, Bytes> {
        self.0.leaders().iter().flat_map(mesh_leader::remembered).collect()
    }

    /// Its copy is only ever made from the store, so that it reads everything again.
    async fn repair(&self, _: &Difference) -> Result<(), BoxError> {
        Ok(self.0.reread().await?)
    }
}
