//! The store as its users see it.

use std::{collections::BTreeSet, fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt;
use mesh_core::{
    NodeId, Revision, WallTime,
    store::{
        Applied, ByteStream, Fresh, Key, OpenSession, Page, Prefix, Record, Restored, Scan, Session,
        SessionError, SessionId, Stale, StoreError, StoreStatus, Txn, TxnError, TxnOutcome, VersionedStore,
        WatchFrom, WatchOptions, WatchStream,
    },
};
use tokio::sync::OwnedSemaphorePermit;
use tonic::service::Routes;

use super::{
    Begin, GroupId, RaftError, RaftOptions,
    core::{Core, rng},
    group::Group,
    log::chain,
    propose::{Unanswered, propose},
    service::Service,
};
use crate::{
    LeaderHint, Leadership, LedBy, audit,
    members::{GroupMembers, Members},
    numbers::{Gauges, StoreNumbers},
    quorum::{Lead, QuorumReads, Witness},
    state::{Command, Reply, SnapshotWriter, State, TRIMMED_MAX},
    wire::raft_server::RaftServer,
};

/// How long a request waits for the next leader before it looks again.
const LOOK: Duration = Duration::from_millis(20);
/// Bytes of a snapshot that is to be restored, in one entry.
pub(super) const RESTORE_PIECE_BYTES: usize = 512 << 10;

/// A node of the group of voters, or one that may become one. Clones share it.
///
/// Changes are taken by the leader; linearizable reads are answered by every voter, after it has asked the
/// leader how far it must be. A node that can't answer says who can (see [`LeaderHint`] and [`LedBy`]).
#[derive(Clone)]
pub struct RaftStore {
    core: Arc<Core>,
}

impl fmt::Debug for RaftStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.core.group();
        f.debug_struct("RaftStore")
            .field("node_id", &self.core.options.node_id)
            .field("group", &group.as_ref().map(|group| group.seat.group))
            .field("id", &group.as_ref().map(|group| group.seat.id))
            .finish_non_exhaustive()
    }
}

impl RaftStore {
    /// Opens the directory, and goes on with the group that it belongs to, if there is one. Call it inside
    /// a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`RaftError`] says what is wrong with the directory.
    pub async fn start(options: RaftOptions, begin: Begin) -> Result<Self, RaftError> {
        Ok(Self { core: Core::open(options, begin).await? })
    }

    /// Adds the service by which voters talk to each other. Only nodes whose certificate has the role
    /// `control` may call it.
    pub fn mount(&self, routes: Routes) -> Routes {
        routes.add_service(RaftServer::new(Service { core: Arc::clone(&self.core) }))
    }

    /// The group that this node belongs to; `None` until one takes it in.
    pub fn group(&self) -> Option<GroupId> {
        self.core.group().map(|group| group.seat.group)
    }

    /// This node's number in the group.
    pub fn voter_id(&self) -> Option<u64> {
        self.core.group().map(|group| group.seat.id)
    }

    /// The nodes that vote, as this one knows it; while that changes, those that do so before and after.
    ///
    /// Until a change is complete, most of the old voters are needed as well: a group of one that takes in two
    /// can't do without its first.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        let Some(group) = self.core.group() else { return BTreeSet::new() };
        let membership = group.membership();
        let votes = |id: &u64| membership.get_joint_config().iter().all(|voters| voters.contains(id));
        let voters = membership.voter_ids().filter(votes);
        voters.filter_map(|id| membership.get_node(&id)?.node.clone()).collect()
    }

    /// Waits until the node belongs to a group.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn joined(&self) -> GroupId {
        let mut groups = self.core.groups();
        let joined = groups.wait_for(Option::is_some).await.ok().and_then(|group| group.clone());
        match joined {
            Some(group) => group.seat.group,
            // The sender lives as long as `self`.
            None => std::future::pending().await,
        }
    }

    /// Ends when the node had to stop by itself, with the reason.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn failed(&self) -> Arc<RaftError> {
        self.core.failed().await
    }

    /// Lets another voter lead, if this one does, and stops. What is under way gets
    /// [`StoreError::Unavailable`].
    pub async fn stop(&self) {
        self.core.stop().await;
    }

    #[cfg(test)]
    pub(super) fn group_here(&self) -> Arc<Group> {
        self.core.group().expect("it belongs to a group")
    }

    #[cfg(test)]
    pub(super) fn core_here(&self) -> Arc<Core> {
        Arc::clone(&self.core)
    }

    #[cfg(test)]
    pub(super) fn die(&self) {
        self.core.die();
    }

    /// Makes this node break a rule from here on. For tests of a test harness.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&self, bug: crate::PlantedBug) {
        self.core.plant(bug);
    }
}

impl Gauges for RaftStore {
    fn numbers(&self) -> StoreNumbers {
        self.core.group().map(|group| group.numbers()).unwrap_or_default()
    }
}

#[async_trait]
impl Members for RaftStore {
    /// As this node knows it; it asks nobody.
    async fn members(&self) -> Result<GroupMembers, StoreError> {
        Ok(self.group_for("tell who votes")?.members(&self.core.options.node_id))
    }
}

#[async_trait]
impl QuorumReads for RaftStore {
    async fn get_led(&self, key: &Key) -> Result<Option<(Fresh<Option<Record>>, Lead)>, StoreError> {
        let _permit = self.permit()?;
        let group = self.group_for("read")?;
        let Some((lead, next)) = group.lead() else { return Ok(None) };
        let read = async {
            group.applied.reached(next).await;
            let read = |state: &State| Fresh { value: state.get(key).cloned(), revision: state.revision() };
            Ok(group.applied.read(read))
        };
        Ok(Some((self.within("read", Applied::No, read).await?, lead)))
    }

    fn witness(&self) -> Option<Witness> {
        Some(self.core.group()?.witness())
    }
}

impl LeaderHint for RaftStore {
    fn leadership(&self) -> Leadership {
        self.core.group().map_or(Leadership::Unknown, |group| group.leadership())
    }
}

/// What is wrong, with the leader if there is one elsewhere.
fn unavailable(
    operation: &'static str,
    reason: impl Into<String>,
    applied: Applied,
    leadership: Leadership,
) -> StoreError {
    let source: Option<mesh_core::BoxError> = match leadership {
        Leadership::There(leader) => Some(Box::new(LedBy { leader })),
        Leadership::Here | Leadership::Unknown => None,
    };
    StoreError::Unavailable { operation, reason: reason.into(), applied, source }
}

fn unexpected(reply: &Reply) -> StoreError {
    StoreError::Damaged {
        what: "the store's reply".to_owned(),
        problem: format!("{reply:?} fits no such command"),
    }
}

impl RaftStore {
    fn permit(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        let limit = self.core.options.config.requests_in_flight_max;
        Arc::clone(&self.core.permits).try_acquire_owned().map_err(|_| StoreError::Busy { limit })
    }

    fn group_for(&self, operation: &'static str) -> Result<Arc<Group>, StoreError> {
        if let Some(error) = self.core.failure() {
            let reason = format!("this voter has stopped: {}", chain(&*error));
            return Err(unavailable(operation, reason, Applied::No, Leadership::Unknown));
        }
        let none = "this node belongs to no group of voters yet";
        self.core.group().ok_or_else(|| unavailable(operation, none, Applied::No, Leadership::Unknown))
    }

    /// Runs `work` within the request's time. `applied` is what is known of it if time runs out.
    async fn within<T>(
        &self,
        operation: &'static str,
        applied: Applied,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let after = self.core.options.config.request_timeout;
        match tokio::time::timeout(after, work).await {
            Ok(done) => done,
            Err(_) => Err(StoreError::Timeout { operation, after, applied }),
        }
    }

    /// Waits until the local copy holds everything that was committed before the call.
    async fn catch_up(&self, operation: &'static str) -> Result<Arc<Group>, StoreError> {
        let work = async {
            loop {
                let group = self.group_for(operation)?;
                let next = group.read_index().await;
                if let Some(next) = next {
                    group.applied.reached(next).await;
                    return Ok(group);
                }
                // The leader has just changed, or there is none at the moment.
                tokio::time::sleep(LOOK).await;
            }
        };
        self.within(operation, Applied::No, work).await
    }

    async fn read<T>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&State) -> T + Send,
    ) -> Result<T, StoreError> {
        let _permit = self.permit()?;
        Ok(self.catch_up(operation).await?.applied.read(read))
    }

    fn read_stale<T>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&State) -> T,
    ) -> Result<T, StoreError> {
        Ok(self.group_for(operation)?.applied.read(read))
    }

    /// Proposes until it is answered, or until another node leads.
    ///
    /// What may have been applied is proposed again only if it is `repeatable`.
    async fn propose(
        &self,
        operation: &'static str,
        repeatable: bool,
        what: Proposed,
    ) -> Result<Reply, StoreError> {
        let _permit = self.permit()?;
        let mut applied = Applied::No;
        let after = self.core.options.config.request_timeout;
        let work = async {
            loop {
                let group = self.group_for(operation)?;
                match group.leadership() {
                    Leadership::Here => {
                        if let Some(reason) = group.log.full() {
                            return Err(StoreError::ReadOnly { reason });
                        }
                        let before = applied;
                        applied = Applied::Unknown;
                        let answered = match &what {
                            Proposed::Command(command) => propose(&group, command.clone()).await,
                            Proposed::Renewal(session) => group.proposer.renew(*session).await,
                        };
                        match answered {
                            Ok(reply) => return Ok(reply),
                            Err(Unanswered::NotLeader) => applied = before,
                            Err(Unanswered::Unknown) if !repeatable => {
                                let reason = "the leader changed";
                                return Err(unavailable(operation, reason, applied, group.leadership()));
                            }
                            Err(Unanswered::Unknown) => {}
                        }
                    }
                    there @ Leadership::There(_) => {
                        return Err(unavailable(operation, "another node leads", applied, there));
                    }
                    Leadership::Unknown => {}
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(after, work).await {
            Ok(done) => done,
            Err(_) => Err(StoreError::Timeout { operation, after, applied }),
        }
    }

    /// Puts a snapshot into the log, piece by piece, and then in the place of everything.
    async fn replace(&self, id: u64, mut snapshot: ByteStream) -> Result<Restored, StoreError> {
        let refused = |problem: String| StoreError::Damaged { what: "the snapshot".to_owned(), problem };
        let (mut offset, mut hash) = (0, xxhash_rust::xxh3::Xxh3::new());
        while let Some(piece) = snapshot.next().await {
            let mut piece = piece?;
            while !piece.is_empty() {
                let data = piece.split_to(piece.len().min(RESTORE_PIECE_BYTES));
                hash.update(&data);
                let length = data.len() as u64;
                match self.put("restore", false, Command::RestoreChunk { id, offset, data }).await? {
                    Reply::Staged(staged) => staged.map_err(refused)?,
                    other => return Err(unexpected(&other)),
                };
                offset += length;
            }
        }
        let end = Command::RestoreEnd { id, bytes: offset, xxh3: hash.digest() };
        match self.put("restore", false, end).await? {
            Reply::Restored(restored) => restored.map_err(refused),
            other => Err(unexpected(&other)),
        }
    }

    async fn put(
        &self,
        operation: &'static str,
        repeatable: bool,
        command: Command,
    ) -> Result<Reply, StoreError> {
        self.propose(operation, repeatable, Proposed::Command(command)).await
    }
}

/// What is to enter the log.
enum Proposed {
    Command(Command),
    /// With others of the same moment.
    Renewal(SessionId),
}

#[async_trait]
impl VersionedStore for RaftStore {
    async fn get(&self, key: &Key) -> Result<Fresh<Option<Record>>, StoreError> {
        self.read("read", |state| Fresh { value: state.get(key).cloned(), revision: state.revision() }).await
    }

    async fn get_stale(&self, key: &Key) -> Result<Stale<Option<Record>>, StoreError> {
        self.read_stale("read", |state| Stale { value: state.get(key).cloned(), revision: state.revision() })
    }

    async fn scan(&self, scan: &Scan) -> Result<Fresh<Page>, StoreError> {
        scan.check()?;
        self.read("scan", |state| {
            let (records, more) = state.scan(scan);
            Fresh { value: Page { records, more }, revision: state.revision() }
        })
        .await
    }

    async fn scan_stale(&self, scan: &Scan) -> Result<Stale<Page>, StoreError> {
        scan.check()?;
        self.read_stale("scan", |state| {
            let (records, more) = state.scan(scan);
            Stale { value: Page { records, more }, revision: state.revision() }
        })
    }

    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError> {
        txn.check()?;
        let compares = txn.compares.clone();
        let repeatable = txn.idempotency.is_some();
        let nonce = rng().u64(..);
        let command = Command::Txn(audit::command(txn, self.core.options.clock.wall(), nonce));
        match self.put("transact", repeatable, command).await? {
            Reply::Txn(outcome) => outcome.map_err(|refusal| refusal.into_error(&compares)),
            other => Err(unexpected(&other).into()),
        }
    }

    async fn watch(
        &self,
        prefix: &Prefix,
        from: WatchFrom,
        options: WatchOptions,
    ) -> Result<WatchStream, StoreError> {
        let group = match from {
            // What was committed before the call is not to be told.
            WatchFrom::Now => self.catch_up("watch").await?,
            WatchFrom::After(after) => {
                let group = self.group_for("watch")?;
                // Another voter told of it, and this copy is behind; or it is of another history.
                let is_ahead = group.applied.read(State::revision) < after;
                if is_ahead { self.catch_up("watch").await? } else { group }
            }
        };
        let hub = &group.applied.hub;
        Ok(group.applied.read(|state| crate::hub::begin(hub, state, prefix, from, options)))
    }

    async fn open_session(&self, request: OpenSession) -> Result<Session, SessionError> {
        request.check()?;
        // The log keeps milliseconds, and each voter must end the session by the same time to live.
        let ttl =
            Duration::from_millis(request.ttl.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(u64::MAX));
        let command = Command::Open { owner: request.owner, ttl };
        match self.put("open a session", false, command).await? {
            Reply::Opened(session) => Ok(session),
            other => Err(unexpected(&other).into()),
        }
    }

    async fn keep_alive(&self, session: SessionId) -> Result<Session, SessionError> {
        match self.propose("renew a session", true, Proposed::Renewal(session)).await? {
            Reply::Renewed(mut renewed) => renewed.pop().flatten().ok_or(SessionError::Gone { session }),
            other => Err(unexpected(&other).into()),
        }
    }

    async fn close_session(&self, session: SessionId) -> Result<Revision, SessionError> {
        match self.put("close a session", false, Command::Close(session)).await? {
            Reply::Closed(revision) => revision.ok_or(SessionError::Gone { session }),
            other => Err(unexpected(&other).into()),
        }
    }

    async fn session(&self, session: SessionId) -> Result<Option<Session>, StoreError> {
        self.read("read a session", |state| state.session(session).cloned()).await
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        match self.put("compact", true, Command::Compact(through)).await? {
            Reply::Compacted(_) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn trim_audit(&self, before: WallTime) -> Result<u64, StoreError> {
        let mut trimmed = 0;
        loop {
            let reply = self.put("trim the audit records", true, Command::TrimAudit(before)).await?;
            let Reply::Trimmed(count) = reply else { return Err(unexpected(&reply)) };
            trimmed += count as u64;
            if count < TRIMMED_MAX {
                return Ok(trimmed);
            }
        }
    }

    async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        let state = self.read("take a snapshot", State::clone).await?;
        Ok(Box::pin(futures_util::stream::iter(SnapshotWriter::new(state).map(Ok))))
    }

    async fn restore(&self, snapshot: ByteStream) -> Result<Restored, StoreError> {
        let id = rng().u64(1..);
        let restored = self.replace(id, snapshot).await;
        if restored.is_err() {
            // Otherwise the leader drops the pieces, once nothing came for long.
            let _ = self.put("restore", true, Command::RestoreDrop { id, bytes: u64::MAX }).await;
        }
        restored
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        let group = self.group_for("tell the status")?;
        let leader = match group.leadership() {
            Leadership::Here => Some(self.core.options.node_id.clone()),
            Leadership::There(node) => Some(node),
            Leadership::Unknown => None,
        };
        let read_only = group.log.full();
        Ok(group.applied.read(|state| StoreStatus {
            provider: "raft",
            cluster: format!("{}.{}", group.seat.group, state.generation()),
            revision: state.revision(),
            compacted: state.compacted(),
            generation: state.generation(),
            leader,
            read_only,
            records: state.records_len() as u64,
            sessions: state.sessions().len() as u64,
        }))
    }
}
