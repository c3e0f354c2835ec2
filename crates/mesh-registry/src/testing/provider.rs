//! What a provider brings to be examined.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use mesh_core::{BoxError, Clock, NodeId, SystemClock, store::VersionedStore};

/// A promise of the contract that some provider can't keep. Everything else is asked of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Promise {
    /// Revisions grow by one for each transaction that changed something, with nothing in between.
    DenseRevisions,
    /// Transactions of as many compares and operations as [`TXN_ITEMS_MAX`](mesh_core::store::TXN_ITEMS_MAX).
    LargeTransactions,
    /// A deletion says whether a transaction, a close or an expiry did it.
    DeleteCause,
    /// Old history can be forgotten.
    Compaction,
    /// A watch gets a bookmark before the history is forgotten.
    BookmarkBeforeCompaction,
    /// A watch that resumes has no gap although more has happened since than its bound holds.
    LongResume,
    /// The whole store as a stream.
    Snapshot,
    /// The whole store from a stream.
    Restore,
    /// Everything that was acknowledged is there after all processes were stopped and started again.
    Restart,
    /// The store goes on when the process that takes its writes is killed.
    Failover,
}

impl Promise {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::DenseRevisions,
        Self::LargeTransactions,
        Self::DeleteCause,
        Self::Compaction,
        Self::BookmarkBeforeCompaction,
        Self::LongResume,
        Self::Snapshot,
        Self::Restore,
        Self::Restart,
        Self::Failover,
    ];
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DenseRevisions => "revisions that grow by one",
            Self::LargeTransactions => "transactions of 2048 operations",
            Self::DeleteCause => "why a record was deleted",
            Self::Compaction => "compaction",
            Self::BookmarkBeforeCompaction => "a bookmark before each compaction",
            Self::LongResume => "that a watch resumes over more than its bound without a gap",
            Self::Snapshot => "a snapshot",
            Self::Restore => "a restore",
            Self::Restart => "that everything is there after a restart",
            Self::Failover => "that writes go on after the leader is killed",
        })
    }
}

/// What a provider does not promise, and what it needs.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The promises it does not make, each with the reason and what to do instead.
    pub cannot: Vec<(Promise, &'static str)>,
    /// More that it does not promise, for which there is no case.
    pub remarks: Vec<&'static str>,
    /// The shortest time to live of a session that it keeps.
    pub ttl_min: Duration,
    /// How long the cases wait for something that has to happen before they say that it does not.
    pub patience: Duration,
}

impl Default for Limits {
    /// Promises everything, sessions of half a second, and half a minute of patience.
    fn default() -> Self {
        Self {
            cannot: Vec::new(),
            remarks: Vec::new(),
            ttl_min: mesh_core::store::OpenSession::TTL_MIN,
            patience: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// Takes a promise away.
    #[must_use]
    pub fn without(mut self, promise: Promise, reason: &'static str) -> Self {
        self.cannot.push((promise, reason));
        self
    }

    /// Adds something that it does not promise and that no case examines.
    #[must_use]
    pub fn remark(mut self, remark: &'static str) -> Self {
        self.remarks.push(remark);
        self
    }

    /// Why a promise is not made; `None` if it is.
    pub fn why_not(&self, promise: Promise) -> Option<&'static str> {
        self.cannot.iter().find(|(cannot, _)| *cannot == promise).map(|(_, reason)| *reason)
    }
}

/// Starts providers to examine.
#[async_trait]
pub trait ProviderFactory: Send + Sync {
    /// The provider's name.
    fn provider(&self) -> &'static str;

    /// What it does not promise.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// What is missing on this machine to run it, for instance a package; `None` if nothing is.
    fn missing(&self) -> Option<String> {
        None
    }

    /// A store that nobody else uses while this provider is held. It need not be empty: cases use keys
    /// of their own and look at revisions only from where they begin.
    ///
    /// # Errors
    ///
    /// What went wrong; the case has failed then.
    async fn start(&self) -> Result<Box<dyn Provider>, BoxError>;
}

/// A running provider. Dropping it stops it.
#[async_trait]
pub trait Provider: Send + Sync {
    /// A way to the store. It may be another one after a restart.
    fn store(&self) -> Arc<dyn VersionedStore>;

    /// All ways to the same store, for instance one through each voter.
    fn handles(&self) -> Vec<Arc<dyn VersionedStore>> {
        vec![self.store()]
    }

    /// As whom the store sees its writer.
    fn writer(&self) -> Option<NodeId> {
        None
    }

    /// The clock that times sessions.
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    /// Lets time pass on that clock. Waits, unless the clock can be moved; then it returns once the store
    /// has seen the new time.
    async fn pass(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    /// Stops every process of the store and starts them again on the same disks.
    ///
    /// # Errors
    ///
    /// What went wrong. By default, that it can't.
    async fn restart(&self) -> Result<(), BoxError> {
        Err("this provider can't be restarted here".into())
    }

    /// Kills the process that takes writes, without warning.
    ///
    /// # Errors
    ///
    /// What went wrong. By default, that it can't.
    async fn kill_leader(&self) -> Result<(), BoxError> {
        Err("this provider's leader can't be killed here".into())
    }

    /// Starts what was killed again, and returns once it takes part.
    ///
    /// # Errors
    ///
    /// What went wrong.
    async fn revive(&self) -> Result<(), BoxError> {
        Ok(())
    }
}
