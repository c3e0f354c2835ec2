//! The way in: known ids are dropped, signatures checked in batches, and batches committed.

mod answers;
mod commit;
mod orphans;
mod take;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_core::{Instant, NodeId};

use super::{SubmissionId, Verdict};
use crate::{
    EntryId, Item,
    entry::{Deferral, Entry, Outcome, Verified},
};

/// Bytes in one commit.
const COMMIT_BYTES: usize = 16 << 20;
/// Signatures in one job.
const VERIFY_AT_ONCE: usize = 4096;
/// Messages that wait for one entry.
const WAITERS_MAX: usize = 16;
/// Settled ids that are remembered.
const SETTLED_MAX: usize = 16_384;
/// One peer's entries that wait for parents have one of so many shares of the room.
const ORPHAN_SHARES: usize = 4;
/// Entries of submissions that are on their way, and their bytes; further ones are refused.
const SUBMITTED_MAX: usize = 65_536;
const SUBMITTED_BYTES_MAX: usize = 64 << 20;

/// Why entries were not taken. None of them was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// Too much is on its way to the disk. Try again when some of it is there.
    #[error("{waiting} entries wait for the disk, at most {max} may")]
    Full {
        /// How many wait.
        waiting: usize,
        /// The limit.
        max: usize,
    },
    /// The same by bytes.
    #[error("entries of {waiting} bytes wait for the disk, at most {max} bytes may")]
    FullBytes {
        /// How many wait.
        waiting: usize,
        /// The limit.
        max: usize,
    },
    /// The store failed. Open it again.
    #[error("the replica has stopped since its store failed")]
    Stopped,
}

enum Stage {
    Received(Entry),
    Verifying,
    Ready(Verified),
    Committing(Verified),
}

enum Waiter {
    Batch { peer: NodeId, batch: u64, at: usize },
    Submission { id: SubmissionId, at: usize },
}

struct Staged {
    stage: Stage,
    from: Option<NodeId>,
    bytes: usize,
    waiters: Vec<Waiter>,
}

struct Orphan {
    entry: Verified,
    missing: BTreeSet<EntryId>,
    from: NodeId,
    until: Instant,
}

struct Open<T> {
    results: Vec<Option<T>>,
    open: usize,
}

#[derive(Default)]
pub(super) struct Intake {
    staged: BTreeMap<EntryId, Staged>,
    to_verify: VecDeque<EntryId>,
    verifying: bool,
    ready: BTreeSet<Item>,
    /// Those of `ready` that were submitted here.
    ready_local: BTreeSet<Item>,
    orphans: BTreeMap<EntryId, Orphan>,
    /// Who waits for a parent.
    children: BTreeMap<EntryId, BTreeSet<EntryId>>,
    orphan_bytes: usize,
    bytes: usize,
    batches: BTreeMap<(NodeId, u64), Open<Verdict>>,
    submissions: BTreeMap<SubmissionId, Open<Outcome>>,
    submitted: usize,
    /// Bytes of staged entries that nobody sent. Those of peers have a room of their own.
    submitted_bytes: usize,
    next_submission: u64,
    /// Ids that are not held and need not be, such as pruned ones. Not those of bad signatures: another peer may
    /// have a good one.
    settled: BTreeSet<EntryId>,
    settled_order: VecDeque<EntryId>,
}

/// How much is where.
impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake")
            .field("staged", &self.staged.len())
            .field("to_verify", &self.to_verify.len())
            .field("verifying", &self.verifying)
            .field("ready", &self.ready.len())
            .field("orphans", &self.orphans.len())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl Intake {
    pub(super) const fn bytes(&self) -> usize {
        self.bytes + self.orphan_bytes
    }

    pub(super) fn forget_batches(&mut self, peer: &NodeId) {
        self.batches.retain(|(name, _), _| name != peer);
    }

    pub(super) fn note_settled(&mut self, id: EntryId) {
        if self.settled.insert(id) {
            self.settled_order.push_back(id);
            if self.settled_order.len() > SETTLED_MAX
                && let Some(oldest) = self.settled_order.pop_front()
            {
                self.settled.remove(&oldest);
            }
        }
    }

    pub(super) fn is_settled(&self, id: &EntryId) -> bool {
        self.settled.contains(id)
    }

    /// Whether it is on its way, or waits for its parents.
    pub(super) fn is_under_way(&self, id: &EntryId) -> bool {
        self.staged.contains_key(id) || self.orphans.contains_key(id)
    }
}

fn verdict(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Stored { .. } => Verdict::Stored,
        Outcome::Duplicate => Verdict::Duplicate,
        Outcome::Deferred(Deferral::MissingParents(_)) => Verdict::Orphan,
        Outcome::Deferred(_) => Verdict::Deferred,
        Outcome::Rejected(_) => Verdict::Rejected,
    }
}
