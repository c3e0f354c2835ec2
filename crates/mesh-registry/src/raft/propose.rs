//! Commands on their way into the log: many that come at once become one entry.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use mesh_core::store::SessionId;
use openraft::{errors::ClientWriteError, impls::ProgressResponder, raft::ClientWriteResult};
use tokio::sync::{mpsc, oneshot};

use super::{
    group::Group,
    types::{Answer, Proposal, Types},
};
use crate::{
    gather::{Gather, Together, Waits},
    state::{Command, Reply},
};

/// Entries at once, and what one of them holds.
const ENTRIES: Together = Together { under_way_max: 4, jobs_max: 256, bytes_max: 512 << 10 };
/// Renewals that wait for their tick; more wait with their callers.
const RENEWALS_MAX: usize = 4096;
/// Renewals wait so long for others, so that all of them together cost one entry.
const RENEWAL_TICK: Duration = Duration::from_millis(100);

/// Why a command was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// This node does not lead. Nothing was applied.
    NotLeader,
    /// It may have been applied, or may yet be.
    Unknown,
}

/// About how many bytes it takes in the log.
fn weigh(command: &Command) -> usize {
    use mesh_core::store::Operation;
    const BESIDES: usize = 64;
    match command {
        Command::Txn(command) => {
            let compares = command.txn.compares.iter().map(|compare| BESIDES + compare.key().as_str().len());
            let operations = command.txn.operations.iter().map(|operation| {
                let value = match operation {
                    Operation::Put { value, .. } | Operation::Grant { value, .. } => value.len(),
                    Operation::Delete { .. } => 0,
                };
                BESIDES + operation.key().as_str().len() + value
            });
            BESIDES + compares.chain(operations).sum::<usize>()
        }
        Command::RestoreChunk { data, .. } => BESIDES + data.len(),
        _ => BESIDES,
    }
}

type Answered = Result<Reply, Unanswered>;

struct Job {
    command: Command,
    answer: oneshot::Sender<Answered>,
}

impl Waits for Job {
    fn is_given_up(&self) -> bool {
        self.answer.is_closed()
    }
}

/// The way into one group's log.
pub(super) struct Proposer {
    queue: Gather<Job>,
    renewals: mpsc::Sender<(SessionId, oneshot::Sender<Answered>)>,
}

impl Proposer {
    /// One for `group`, which holds it. Its tasks end with the group.
    pub(super) fn new(group: Weak<Group>) -> Self {
        let (renewals, waiting) = mpsc::channel(RENEWALS_MAX);
        tokio::spawn(renew(group, waiting));
        Self { queue: Gather::new(ENTRIES), renewals }
    }

    /// How many wait for the next entry.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Renews a session together with all that are renewed about now.
    pub(super) async fn renew(&self, session: SessionId) -> Answered {
        let (answer, answered) = oneshot::channel();
        if self.renewals.send((session, answer)).await.is_err() {
            return Err(Unanswered::NotLeader);
        }
        answered.await.unwrap_or(Err(Unanswered::Unknown))
    }
}

/// An entry that its only caller sees through. When it is done, or the caller goes away, those who waited
/// meanwhile have the next.
struct UnderWay<'g>(&'g Arc<Group>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let Some(batch) = self.0.proposer.queue.next() else { return };
        let group = Arc::clone(self.0);
        // Not on the caller's: that may be about to end, and the caller with it.
        self.0.runtime.spawn(async move {
            let mut next = Some(batch);
            while let Some(batch) = next {
                put(&group, batch).await;
                next = group.proposer.queue.next();
            }
        });
    }
}

/// Puts a command into the log; its reply once it is applied.
///
/// Dropping the future leaves the command where it is: it may be applied if it is on its way, and is not if it waits
/// for others to be back.
pub(super) async fn propose(group: &Arc<Group>, command: Command) -> Answered {
    let (answer, answered) = oneshot::channel();
    let wait = |command| Job { command, answer };
    let Some(command) = group.proposer.queue.enter(weigh(&command), command, wait) else {
        return answered.await.unwrap_or(Err(Unanswered::Unknown));
    };
    let under_way = UnderWay(group);
    let answered = write(group, command).await;
    drop(under_way);
    answered
}

/// Puts one entry into the log and hands out the replies.
async fn put(group: &Arc<Group>, batch: Vec<Job>) {
    let (mut commands, mut answers) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for job in batch {
        commands.push(job.command);
        answers.push(job.answer);
    }
    let single = commands.len() == 1;
    let command = match commands.pop() {
        Some(command) if single => command,
        last => {
            commands.extend(last);
            Command::Batch(commands)
        }
    };
    let reply = write(group, command).await;
    // Whoever asked may be gone.
    match reply {
        Ok(reply) if single => {
            if let Some(answer) = answers.pop() {
                let _ = answer.send(Ok(reply));
            }
        }
        Ok(Reply::Batch(replies)) => {
            for (answer, reply) in answers.into_iter().zip(replies) {
                let _ = answer.send(Ok(reply));
            }
        }
        // No other reply fits a batch; if one came, nobody could tell what was applied.
        Ok(_) => {}
        Err(error) => {
            for answer in answers {
                let _ = answer.send(Err(error));
            }
        }
    }
}

/// One entry, from proposal to reply.
pub(super) async fn write(group: &Group, command: Command) -> Answered {
    let (responder, done) = ProgressResponder::<Types, ClientWriteResult<Types>>::complete_only();
    let sent = group.raft.client_write_ff(Proposal::new(command), Some(responder)).await;
    if sent.is_err() {
        return Err(Unanswered::NotLeader);
    }
    match done.await {
        Ok(Ok(response)) => match response.data {
            Answer(Some(reply)) => Ok(reply),
            Answer(None) => Err(Unanswered::Unknown),
        },
        // It was turned away before it was appended.
        Ok(Err(ClientWriteError::ForwardToLeader(_))) => Err(Unanswered::NotLeader),
        Ok(Err(_)) | Err(_) => Err(Unanswered::Unknown),
    }
}

/// Renews sessions, those of one tick together. The first after a pause does not wait.
async fn renew(group: Weak<Group>, mut waiting: mpsc::Receiver<(SessionId, oneshot::Sender<Answered>)>) {
    let mut tick = tokio::time::interval(RENEWAL_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while let Some((session, answer)) = waiting.recv().await {
        tick.tick().await;
        let mut asked: BTreeMap<SessionId, Vec<oneshot::Sender<Answered>>> = BTreeMap::new();
        asked.entry(session).or_default().push(answer);
        while let Ok((session, answer)) = waiting.try_recv() {
            asked.entry(session).or_default().push(answer);
        }
        let Some(group) = group.upgrade() else { return };
        tokio::spawn(async move {
            let reply = propose(&group, Command::Renew(asked.keys().copied().collect())).await;
            let replies: Vec<Answered> = match reply {
                Ok(Reply::Renewed(sessions)) => {
                    sessions.into_iter().map(|session| Ok(Reply::Renewed(vec![session]))).collect()
                }
                Ok(_) => vec![Err(Unanswered::Unknown); asked.len()],
                Err(error) => vec![Err(error); asked.len()],
            };
            for (answers, reply) in asked.into_values().zip(replies) {
                for answer in answers {
                    let _ = answer.send(reply.clone());
                }
            }
        });
    }
}
