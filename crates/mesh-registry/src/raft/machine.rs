//! The state that entries are applied to, and its snapshots.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use mesh_core::{Clock, Instant, store::SessionId};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::sync::watch;

use super::{
    RaftError,
    log::{Log, Stamps, chain},
    snapshot::{self, SnapshotFile},
    types::{Answer, Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, Types},
};
use crate::{
    deadlines::Deadlines,
    hub::Hub,
    numbers::Durations,
    state::{Command, Expiry, Reply, State},
};

/// Between two tries to write a snapshot to a full disk.
const SPACE_CHECK: Duration = Duration::from_secs(1);

/// The applied state, shared by the log that changes it and all who read it.
pub(super) struct Applied {
    inner: Mutex<Inner>,
    pub(super) hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    stamps: Arc<Stamps>,
    /// One after the index of the last applied entry.
    next: watch::Sender<u64>,
    /// How long entries took to apply, and snapshots to be written.
    pub(super) apply_times: Durations,
    pub(super) snapshot_times: Durations,
    /// Held while a snapshot is put in place.
    placing: Mutex<()>,
}

/// What is behind the lock.
pub(super) struct Inner {
    pub(super) state: State,
    deadlines: Deadlines,
    /// Sessions of which only a run before this one, or another voter, saw the last renewal.
    recovered: BTreeSet<SessionId>,
    last: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<Arc<SnapshotFile>>,
}

impl Applied {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // `State::apply` does not panic; if it did, the state would be as its last command left it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads under the lock.
    pub(super) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.lock().state)
    }

    /// The last entry that is applied.
    pub(super) fn last(&self) -> Option<LogId> {
        self.lock().last
    }

    /// Waits until all entries before `next` are applied.
    pub(super) async fn reached(&self, next: u64) {
        if *self.next.borrow() >= next {
            return;
        }
        let mut applied = self.next.subscribe();
        // Ends only with the sender, which is in `self`.
        let _ = applied.wait_for(|applied| *applied >= next).await;
    }

    /// Sessions whose time has run out.
    pub(super) fn due(&self, max: usize) -> Vec<Expiry> {
        self.lock().deadlines.due(self.clock.now(), max)
    }

    /// The earliest deadline of a session.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.lock().deadlines.next()
    }

    /// This voter leads from now on. Sessions whose last renewal it did not see itself get a full time to
    /// live from now: nobody could renew them while nobody led.
    pub(super) fn elected(&self) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let Inner { state, deadlines, recovered, .. } = &mut *inner;
        for id in std::mem::take(recovered) {
            if let Some(session) = state.session(id) {
                deadlines.observe(session, now);
            }
        }
    }

    /// Puts a snapshot in place, unless a newer one is there by now.
    fn keep(&self, folder: &Path, snapshot: Arc<SnapshotFile>) -> Result<(), RaftError> {
        let _placing = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.lock().snapshot.as_ref().and_then(|present| present.meta.last_log_id);
        if present > snapshot.meta.last_log_id {
            return Ok(());
        }
        snapshot.put_in_place(folder)?;
        self.lock().snapshot = Some(snapshot);
        Ok(())
    }

    /// How many sessions there are whose last renewal this voter did not see.
    #[cfg(test)]
    pub(super) fn recovered(&self) -> usize {
        self.lock().recovered.len()
    }

    #[cfg(feature = "planted-bugs")]
    pub(super) fn plant(&self, bug: crate::PlantedBug) {
        self.lock().state.plant(bug);
    }

    fn apply(&self, entry: &Entry) -> Answer {
        let started = self.clock.now();
        let mut inner = self.lock();
        inner.last = Some(entry.log_id);
        let answer = match &entry.payload {
            EntryPayload::Blank => Answer(None),
            EntryPayload::Membership(membership) => {
                inner.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                Answer(None)
            }
            EntryPayload::Normal(proposal) => {
                let stamp = self.stamps.take(entry.log_id.index);
                Answer(Some(self.apply_command(&mut inner, &proposal.command, stamp)))
            }
        };
        drop(inner);
        self.next.send_replace(entry.log_id.index + 1);
        self.apply_times.record(self.clock.now().since(started));
        answer
    }

    fn apply_command(&self, inner: &mut Inner, command: &Command, stamp: Option<Instant>) -> Reply {
        // One after the other, so that watchers learn where they stand before what they have seen is forgotten.
        if let Command::Batch(commands) = command {
            let replies = commands.iter().map(|command| self.apply_command(inner, command, stamp));
            return Reply::Batch(replies.collect());
        }
        if let Command::Compact(_) = command {
            self.hub.bookmark(inner.state.revision());
        }
        let reply = inner.state.apply(command);
        let now = self.clock.now();
        inner.observe(command, &reply, stamp.unwrap_or(now), stamp.is_none());
        let changes = inner.state.take_changes();
        if let Reply::Restored(Ok(restored)) = &reply {
            let Inner { state, deadlines, recovered, .. } = inner;
            deadlines.restart(state.sessions(), now);
            recovered.clear();
            self.hub.gap(restored.revision);
        } else {
            for revised in changes {
                self.hub.publish(&revised);
            }
        }
        reply
    }
}

impl Inner {
    /// Keeps the deadlines in step.
    fn observe(&mut self, command: &Command, reply: &Reply, at: Instant, recovered: bool) {
        let Self { deadlines, recovered: unseen, .. } = self;
        let mut seen = |session: &mesh_core::store::Session| {
            deadlines.observe(session, at);
            if recovered {
                unseen.insert(session.id);
            } else {
                unseen.remove(&session.id);
            }
        };
        match (command, reply) {
            (_, Reply::Opened(session)) => seen(session),
            (_, Reply::Renewed(sessions)) => sessions.iter().flatten().for_each(seen),
            (Command::Close(session), _) => self.forget(*session),
            (Command::Expire(asked), _) => {
                for expiry in asked {
                    if self.state.session(expiry.session).is_none() {
                        self.forget(expiry.session);
                    }
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, session: SessionId) {
        self.deadlines.forget(session);
        self.recovered.remove(&session);
    }
}

/// The state machine that openraft feeds.
pub(super) struct Machine {
    applied: Arc<Applied>,
    folder: PathBuf,
    log: Log,
}

impl Machine {
    /// The state as its last snapshot has it; openraft loads that, and then what the log has after it.
    pub(super) fn open(
        folder: PathBuf,
        log: Log,
        drift_ppm: u32,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RaftError> {
        let snapshot = SnapshotFile::open(&folder)?.map(Arc::new);
        let inner = Inner {
            state: State::default(),
            deadlines: Deadlines::new(drift_ppm),
            recovered: BTreeSet::new(),
            last: None,
            membership: StoredMembership::default(),
            snapshot,
        };
        let applied = Applied {
            inner: Mutex::new(inner),
            hub: Arc::default(),
            clock,
            stamps: log.stamps(),
            next: watch::Sender::new(0),
            apply_times: Durations::default(),
            snapshot_times: Durations::default(),
            placing: Mutex::new(()),
        };
        Ok(Self { applied: Arc::new(applied), folder, log })
    }

    pub(super) fn applied(&self) -> Arc<Applied> {
        Arc::clone(&self.applied)
    }

    /// Takes over what a snapshot holds.
    fn take_over(&self, meta: &SnapshotMeta, state: State) {
        let now = self.applied.clock.now();
        let mut inner = self.applied.lock();
        let before = inner.state.revision();
        inner.state = state;
        inner.last = meta.last_log_id;
        inner.membership = meta.last_membership.clone();
        let Inner { state, deadlines, recovered, .. } = &mut *inner;
        deadlines.restart(state.sessions(), now);
        *recovered = state.sessions().map(|session| session.id).collect();
        match state.revised_after(before) {
            // Whoever watches learns of each change, as far as the snapshot has its history.
            Some(revised) => revised.for_each(|revised| self.applied.hub.publish(revised)),
            None => self.applied.hub.gap(state.revision()),
        }
        drop(inner);
        self.applied.next.send_replace(meta.last_log_id.map_or(0, |id| id.index + 1));
    }
}

fn other(error: &RaftError) -> io::Error {
    let kind = match error {
        RaftError::Io { source, .. } => source.kind(),
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, chain(error))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RaftError> + Send + 'static,
) -> Result<T, io::Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?.map_err(|error| other(&error))
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Arc<SnapshotFile>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let inner = self.applied.lock();
        Ok((inner.last, inner.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let answer = self.applied.apply(&entry);
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        if !force && self.log.full().is_some() {
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let inner = self.applied.lock();
        let meta = SnapshotMeta { last_log_id: inner.last, last_membership: inner.membership.clone() };
        // Records are shared, so that the copy is cheap; it is written without the lock.
        let state = inner.state.clone();
        Builder { applied: Arc::clone(&self.applied), folder: self.folder.clone(), state, meta }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Arc<SnapshotFile>,
    ) -> Result<(), io::Error> {
        let (applied, folder) = (self.applied(), self.folder.clone());
        let state = blocking(move || {
            let state = snapshot.load()?;
            applied.keep(&folder, snapshot)?;
            Ok(state)
        })
        .await?;
        self.take_over(meta, state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshot = self.applied.lock().snapshot.clone();
        Ok(snapshot.map(|snapshot| Snapshot { meta: snapshot.meta.clone(), snapshot }))
    }
}

/// Writes one snapshot.
pub(super) struct Builder {
    applied: Arc<Applied>,
    folder: PathBuf,
    state: State,
    meta: SnapshotMeta,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Arc<SnapshotFile>;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let started = self.applied.clock.now();
        let snapshot = loop {
            let (folder, state, meta) = (self.folder.clone(), self.state.clone(), self.meta.clone());
            match blocking(move || snapshot::build(&folder, state, meta)).await {
                Ok(snapshot) => break Arc::new(snapshot),
                // The log goes on as long as it has room; the snapshot comes when there is space again.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    tracing::warn!(%error, "no snapshot of the registry can be written");
                    tokio::time::sleep(SPACE_CHECK).await;
                }
                Err(error) => return Err(error),
            }
        };
        let (applied, folder, built) =
            (Arc::clone(&self.applied), self.folder.clone(), Arc::clone(&snapshot));
        blocking(move || applied.keep(&folder, built)).await?;
        self.applied.snapshot_times.record(self.applied.clock.now().since(started));
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}
