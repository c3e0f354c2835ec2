//! What a node keeps of its group, whether or not it has one yet.

use std::{
    fs, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh_core::{NodeId, fs::DirectoryLock};
use tokio::sync::{Semaphore, watch};
use tonic::Status;

use super::{
    Begin, RaftError, RaftOptions,
    group::{Group, log_folder, open_log},
    identity::{GroupId, Identity, Seat},
    log::chain,
    types::Voter,
};
use crate::wire;

/// The raft id of the node that begins a group. Others get the index of a log entry, which is never so low.
const FIRST_ID: u64 = 1;

/// See the module.
pub(super) struct Core {
    pub(super) options: RaftOptions,
    pub(super) permits: Arc<Semaphore>,
    identity: Mutex<Identity>,
    group: watch::Sender<Option<Arc<Group>>>,
    failure: watch::Sender<Option<Arc<RaftError>>>,
    /// One at a time takes a seat or gives one up.
    seating: tokio::sync::Mutex<()>,
    lock: Arc<DirectoryLock>,
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
        let lock = Arc::new(DirectoryLock::acquire(&options.directory)?);
        let identity = Identity::open(&options.directory, &options.node_id, &mut rng())?;
        let core = Arc::new(Self {
            permits: Arc::new(Semaphore::new(options.config.requests_in_flight_max)),
            options,
            identity: Mutex::new(identity.clone()),
            group: watch::Sender::new(None),
            failure: watch::Sender::new(None),
            seating: tokio::sync::Mutex::new(()),
            lock,
        });
        let directory = &core.options.directory;
        match (identity.seat, begin) {
            (Some(_), Begin::NewGroup) => return Err(RaftError::HasGroup { path: directory.clone() }),
            (Some(seat), Begin::Wait) => core.resume(seat).await?,
            (None, Begin::NewGroup) => core.begin().await?,
            (None, Begin::Wait) => {}
        }
        Ok(core)
    }

    /// Goes on in the group that the directory belongs to.
    async fn resume(&self, seat: Seat) -> Result<(), RaftError> {
        let folder = log_folder(&self.options.directory);
        // A voter without its log and votes could be talked into voting twice.
        let is_there = fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some());
        if !is_there {
            let problem = "the log that belongs to it is missing".to_owned();
            return Err(RaftError::Damaged { path: folder, at: 0, problem });
        }
        let log = open_log(&self.options, &self.lock).await?;
        self.enter(Group::start(&self.options, seat, log).await?);
        Ok(())
    }

    /// Begins a new group.
    async fn begin(&self) -> Result<(), RaftError> {
        self.clear()?;
        let seat = Seat { group: GroupId::random(&mut rng()), id: FIRST_ID };
        let log = open_log(&self.options, &self.lock).await?;
        let group = Group::start(&self.options, seat, log).await?;
        group.initialize(self.voter()).await?;
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

    fn enter(&self, group: Arc<Group>) {
        self.watch_failure(&group);
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

    pub(super) fn group(&self) -> Option<Arc<Group>> {
        self.group.borrow().clone()
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

    pub(super) fn hello(&self, _asked: &wire::RaftHello) -> wire::RaftHelloReply {
        let identity = self.identity();
        wire::RaftHelloReply {
            group: identity.seat.map(|seat| seat.group.to_bytes()).unwrap_or_default(),
            id: identity.seat.map_or(0, |seat| seat.id),
            directory: identity.directory,
        }
    }

    /// Takes the seat that a group's leader gives this node.
    pub(super) async fn adopt(&self, by: &NodeId, asked: &wire::RaftAdopt) -> Result<(), Status> {
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
        match identity.seat {
            Some(present) if present == seat => return Ok(()),
            Some(present) => {
                return Err(Status::failed_precondition(format!(
                    "the data directory belongs to voter {} of group {}",
                    present.id, present.group
                )));
            }
            None => {}
        }
        let failed = |error: RaftError| Status::unavailable(chain(&error));
        self.clear().map_err(failed)?;
        let log = open_log(&self.options, &self.lock).await.map_err(failed)?;
        self.take_seat(seat).map_err(failed)?;
        tracing::info!(group = %seat.group, voter = seat.id, %by, "taken into a group of voters");
        self.enter(Group::start(&self.options, seat, log).await.map_err(failed)?);
        Ok(())
    }

    pub(super) async fn stop(&self) {
        let group = self.group.send_replace(None);
        if let Some(group) = group {
            group.stop().await;
        }
    }
}
