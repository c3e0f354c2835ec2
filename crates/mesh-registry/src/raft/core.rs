//! What a node keeps of its group, whether or not it has one yet.

use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{
    NodeId,
    fs::DirectoryLock,
    store::{Applied, StoreError},
};
use tokio::sync::{Semaphore, watch};
use tonic::Status;

use super::{
    Begin, RaftError, RaftOptions,
    group::{Group, log_folder, open_log},
    identity::{GroupId, Identity, Seat},
    join,
    log::chain,
    options::Kept,
    pilot::{self, Candidates},
    propose::propose,
    provider::RESTORE_PIECE_BYTES,
    repair::BEGIN_FROM,
    types::Voter,
};
use crate::{
    Leadership,
    planted::PlantedBug,
    state::{Command, Reply},
    wire,
};

/// The raft id of the node that begins a group. Others get the index of a log entry, which is never so low.
const FIRST_ID: u64 = 1;
/// Longest wait for a node that is alone to be elected, and between two looks.
const ELECTION_MAX: Duration = Duration::from_secs(30);
const ELECTION_LOOK: Duration = Duration::from_millis(10);

/// See the module.
pub(super) struct Core {
    pub(super) options: RaftOptions,
    pub(super) permits: Arc<Semaphore>,
    identity: Mutex<Identity>,
    group: watch::Sender<Option<Arc<Group>>>,
    failure: watch::Sender<Option<Arc<RaftError>>>,
    /// Nodes that would like to be one of the group.
    pub(super) candidates: Candidates,
    /// Whether the leader said that this node is none of the group any more.
    outside: AtomicBool,
    /// The raft ids that nodes had, for a planted bug.
    pub(super) former: Mutex<BTreeMap<NodeId, u64>>,
    planted: Mutex<Option<PlantedBug>>,
    /// One at a time takes a seat or gives one up.
    seating: tokio::sync::Mutex<()>,
    /// `None` once the node has stopped.
    lock: Mutex<Option<Arc<DirectoryLock>>>,
}

/// Restores a snapshot in a group that has just begun.
async fn fill(group: &Arc<Group>, path: PathBuf) -> Result<(), RaftError> {
    let failed = |problem: String| RaftError::BeginFrom { path: path.clone(), problem };
    let bytes = tokio::task::spawn_blocking({
        let path = path.clone();
        move || fs::read(path)
    });
    let bytes = bytes.await.map_err(io::Error::other).and_then(|read| read);
    let bytes = bytes.map_err(|error| failed(error.to_string()))?;
    let bytes = Bytes::from(bytes);
    let elected = async {
        while group.own_read_index().await.is_none() {
            tokio::time::sleep(ELECTION_LOOK).await;
        }
    };
    let late = |_| failed(format!("the node was not elected within {ELECTION_MAX:?}"));
    tokio::time::timeout(ELECTION_MAX, elected).await.map_err(late)?;
    let (id, xxh3) = (rng().u64(1..), xxhash_rust::xxh3::xxh3_64(&bytes));
    let starts = (0..bytes.len()).step_by(RESTORE_PIECE_BYTES);
    let pieces = starts.map(|start| Command::RestoreChunk {
        id,
        offset: start as u64,
        data: bytes.slice(start..bytes.len().min(start + RESTORE_PIECE_BYTES)),
    });
    let end = Command::RestoreEnd { id, bytes: bytes.len() as u64, xxh3 };
    for command in pieces.chain([end]) {
        match propose(group, command).await {
            Ok(Reply::Staged(Ok(_))) => {}
            Ok(Reply::Restored(Ok(restored))) => {
                let (revision, generation) = (restored.revision, restored.generation);
                tracing::info!(path = %path.display(), %revision, generation, "the new group has the store of a snapshot");
            }
            Ok(Reply::Staged(Err(problem)) | Reply::Restored(Err(problem))) => return Err(failed(problem)),
            other => return Err(failed(format!("the log answered {other:?}"))),
        }
    }
    Ok(())
}

/// A source of randomness for ids. Ids only have to differ.
pub(super) fn rng() -> fastrand::Rng {
    #[expect(
        clippy::disallowed_methods,
        reason = "ids of groups and directories are to differ from run to run"
    )]
    fastrand::Rng::new()
}

impl Core {
    pub(super) async fn open(options: RaftOptions, begin: Begin) -> Result<Arc<Self>, RaftError> {
        let options = RaftOptions { peers: Arc::new(Kept::new(options.peers)), ..options };
        let lock = Arc::new(DirectoryLock::acquire(&options.directory)?);
        let identity = Identity::open(&options.directory, &options.node_id, &mut rng())?;
        let core = Arc::new(Self {
            permits: Arc::new(Semaphore::new(options.config.requests_in_flight_max)),
            options,
            identity: Mutex::new(identity.clone()),
            group: watch::Sender::new(None),
            failure: watch::Sender::new(None),
            candidates: Candidates::default(),
            outside: AtomicBool::new(false),
            former: Mutex::default(),
            planted: Mutex::default(),
            seating: tokio::sync::Mutex::new(()),
            lock: Mutex::new(Some(lock)),
        });
        match (identity.seat, begin) {
            (Some(seat), _) => core.resume(seat).await?,
            (None, Begin::NewGroup) => core.begin(None).await?,
            (None, Begin::FromSnapshot) => {
                let snapshot = core.options.directory.join(BEGIN_FROM);
                core.begin(Some(snapshot)).await?;
            }
            (None, Begin::Wait) => {}
        }
        join::start(&core);
        Ok(core)
    }

    /// Goes on in the group that the directory belongs to.
    async fn resume(self: &Arc<Self>, seat: Seat) -> Result<(), RaftError> {
        let folder = log_folder(&self.options.directory);
        // A voter without its log and votes could be talked into voting twice.
        let is_there = fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some());
        if !is_there {
            let problem = "the log that belongs to it is missing".to_owned();
            return Err(RaftError::Damaged { path: folder, at: 0, problem });
        }
        let log = open_log(&self.options, self.lock()).await?;
        self.enter(Group::start(&self.options, seat, log).await?);
        Ok(())
    }

    /// Begins a new group, with the store of a snapshot if there is one.
    async fn begin(self: &Arc<Self>, snapshot: Option<PathBuf>) -> Result<(), RaftError> {
        self.clear()?;
        let seat = Seat { group: GroupId::random(&mut rng()), id: FIRST_ID };
        let log = open_log(&self.options, self.lock()).await?;
        let group = Group::start(&self.options, seat, log).await?;
        group.initialize(self.voter()).await?;
        if let Some(snapshot) = snapshot
            && let Err(error) = fill(&group, snapshot).await
        {
            group.stop().await;
            return Err(error);
        }
        // Only now: a crash before leaves a directory that belongs to nothing, and a group that nobody knows.
        self.take_seat(seat)?;
        tracing::info!(group = %seat.group, "a new group of voters begins with this node");
        self.enter(group);
        Ok(())
    }

    /// Removes what a start that was not completed left behind.
    fn clear(&self) -> Result<(), RaftError> {
        let directory = &self.options.directory;
        let log = log_folder(directory);
        let removed = match fs::remove_dir_all(&log) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        removed.map_err(|source| RaftError::Io { verb: "remove", path: log, source })?;
        super::snapshot::clear(directory)
    }

    fn take_seat(&self, seat: Seat) -> Result<(), RaftError> {
        let mut identity = self.identity_lock();
        let seated = Identity { seat: Some(seat), ..identity.clone() };
        seated.save(&self.options.directory)?;
        *identity = seated;
        Ok(())
    }

    fn enter(self: &Arc<Self>, group: Arc<Group>) {
        #[cfg(feature = "planted-bugs")]
        if let Some(bug) = *self.planted.lock().unwrap_or_else(PoisonError::into_inner) {
            group.log.plant(bug);
            group.applied.plant(bug);
        }
        self.watch_failure(&group);
        pilot::start(self, &group);
        self.group.send_replace(Some(group));
    }

    /// Tells of the end of `group`, should it come by itself.
    fn watch_failure(&self, group: &Arc<Group>) {
        use openraft::async_runtime::watch::WatchReceiver;
        let (failure, mut log) = (self.failure.clone(), group.log.failure());
        let mut metrics = group.raft.metrics();
        tokio::spawn(async move {
            loop {
                let log_failed = log.borrow_and_update().clone();
                if let Some(error) = log_failed {
                    failure.send_replace(Some(error));
                    return;
                }
                let state = metrics.borrow_watched().running_state.clone();
                match state {
                    Ok(()) => {}
                    // Somebody stopped it.
                    Err(openraft::errors::Fatal::Stopped) => return,
                    Err(error) => {
                        let error = RaftError::Stopped(error.into());
                        tracing::error!(error = %chain(&error), "the registry's log stopped");
                        failure.send_replace(Some(Arc::new(error)));
                        return;
                    }
                }
                tokio::select! {
                    changed = log.changed() => if changed.is_err() { return },
                    changed = metrics.changed() => if changed.is_err() { return },
                }
            }
        });
    }

    fn identity_lock(&self) -> MutexGuard<'_, Identity> {
        // It is replaced as a whole.
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity_lock().clone()
    }

    /// This node as others see it in the group.
    pub(super) fn voter(&self) -> Voter {
        let Identity { node, directory, .. } = self.identity();
        Voter { node: Some(node), directory }
    }

    /// The group that this node can speak for; `None` if it is none of it, or none any more.
    pub(super) fn group(&self) -> Option<Arc<Group>> {
        self.seated().filter(|_| !self.is_outside())
    }

    /// The group that the directory belongs to.
    pub(super) fn seated(&self) -> Option<Arc<Group>> {
        self.group.borrow().clone()
    }

    /// Whether the group has gone on without this node.
    pub(super) fn is_outside(&self) -> bool {
        self.outside.load(Ordering::Relaxed)
    }

    /// Takes a leader's word on whether this node is one of the group.
    pub(super) fn learn(&self, reply: &wire::RaftHelloReply) {
        let Some(group) = self.seated() else { return };
        if GroupId::from_bytes(&reply.group) != Some(group.seat.group) {
            return;
        }
        let before = self.outside.swap(!reply.member, Ordering::Relaxed);
        if before == reply.member {
            let (voter, group_id) = (group.seat.id, group.seat.group);
            tracing::info!(voter, group = %group_id, member = reply.member, "the leader said who is in the group");
            // Whoever is outside must not ask for votes.
            group.raft.runtime_config().elect(reply.member);
        }
    }

    pub(super) fn groups(&self) -> watch::Receiver<Option<Arc<Group>>> {
        self.group.subscribe()
    }

    /// Ends when the node had to stop by itself.
    pub(super) async fn failed(&self) -> Arc<RaftError> {
        let mut failure = self.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        match failed {
            Some(error) => error,
            // The sender lives as long as `self`.
            None => std::future::pending().await,
        }
    }

    pub(super) fn failure(&self) -> Option<Arc<RaftError>> {
        self.failure.borrow().clone()
    }

    /// What this node has in its data directory.
    pub(super) fn hello(&self) -> wire::RaftHello {
        let identity = self.identity();
        wire::RaftHello {
            group: identity.seat.map(|seat| seat.group.to_bytes()).unwrap_or_default(),
            id: identity.seat.map_or(0, |seat| seat.id),
            directory: identity.directory,
        }
    }

    /// Answers a node that asks whether it is one of the group.
    pub(super) fn answer(&self, node: NodeId, hello: wire::RaftHello) -> wire::RaftHelloReply {
        let Some(group) = self.group() else { return wire::RaftHelloReply::default() };
        let leader = match group.leadership() {
            Leadership::Here => Some(self.options.node_id.clone()),
            Leadership::There(node) => Some(node),
            Leadership::Unknown => None,
        };
        let leads = group.leadership() == Leadership::Here;
        let member = group.node_of(hello.id).is_some_and(|known| known == node);
        if leads {
            self.candidates.heard(node, hello, self.options.clock.now());
        }
        wire::RaftHelloReply {
            group: group.seat.group.to_bytes(),
            leader: leader.map(String::from).unwrap_or_default(),
            leads,
            member,
        }
    }

    /// Whether this node breaks that rule on purpose.
    pub(super) fn has_bug(&self, bug: PlantedBug) -> bool {
        cfg!(feature = "planted-bugs")
            && *self.planted.lock().unwrap_or_else(PoisonError::into_inner) == Some(bug)
    }

    #[cfg(feature = "planted-bugs")]
    pub(super) fn plant(&self, bug: PlantedBug) {
        *self.planted.lock().unwrap_or_else(PoisonError::into_inner) = Some(bug);
        if let Some(group) = self.seated() {
            group.log.plant(bug);
            group.applied.plant(bug);
        }
    }

    /// Takes the seat that a group's leader gives this node.
    ///
    /// Dropping the future changes nothing: a node that has a seat goes on until it has its group.
    pub(super) async fn adopt(self: &Arc<Self>, by: &NodeId, asked: &wire::RaftAdopt) -> Result<(), Status> {
        let (core, by, asked) = (Arc::clone(self), by.clone(), asked.clone());
        let adopted = tokio::spawn(async move { core.be_seated(&by, &asked).await }).await;
        adopted.map_err(|error| Status::unavailable(error.to_string()))?
    }

    async fn be_seated(self: &Arc<Self>, by: &NodeId, asked: &wire::RaftAdopt) -> Result<(), Status> {
        let _seating = self.seating.lock().await;
        let Some(group) = GroupId::from_bytes(&asked.group) else {
            return Err(Status::invalid_argument("a group has 16 bytes"));
        };
        let seat = Seat { group, id: asked.id };
        let identity = self.identity();
        if identity.directory != asked.directory {
            return Err(Status::failed_precondition(format!(
                "the data directory has number {:016x}, not {:016x}",
                identity.directory, asked.directory
            )));
        }
        let failed = |error: RaftError| Status::unavailable(chain(&error));
        if self.lock().is_none() {
            return Err(Status::unavailable("this node stops"));
        }
        match identity.seat {
            // The group may not have come about when the seat was taken.
            Some(present) if present == seat => {
                if self.seated().is_none() {
                    self.resume(seat).await.map_err(failed)?;
                }
                return Ok(());
            }
            Some(present) => {
                return Err(Status::failed_precondition(format!(
                    "the data directory belongs to voter {} of group {}",
                    present.id, present.group
                )));
            }
            None => {}
        }
        self.clear().map_err(failed)?;
        let log = open_log(&self.options, self.lock()).await.map_err(failed)?;
        self.take_seat(seat).map_err(failed)?;
        tracing::info!(group = %seat.group, voter = seat.id, %by, "taken into a group of voters");
        self.enter(Group::start(&self.options, seat, log).await.map_err(failed)?);
        Ok(())
    }

    fn lock(&self) -> Option<Arc<DirectoryLock>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops, and leaves the directory to others.
    pub(super) async fn stop(&self) {
        if let Some(group) = self.group() {
            group.hand_over().await;
        }
        if let Some(group) = self.group.send_replace(None) {
            group.applied.hub.end(|| StoreError::Unavailable {
                operation: "go on with a watch",
                reason: "this voter stops".to_owned(),
                applied: Applied::No,
                source: None,
            });
            group.stop().await;
        }
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Ends the group, as if it had not come about.
    #[cfg(test)]
    pub(super) async fn lose_group(&self) {
        if let Some(group) = self.group.send_replace(None) {
            group.stop().await;
        }
    }

    /// Lets go of everything at once, as the death of the process would. What runs on the runtime ends with it.
    #[cfg(test)]
    pub(super) fn die(&self) {
        self.group.send_replace(None);
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
