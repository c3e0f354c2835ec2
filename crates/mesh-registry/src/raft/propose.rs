//! Commands on their way into the log: many that come at once become one entry.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use mesh_core::store::SessionId;
use openraft::{errors::ClientWriteError, impls::ProgressResponder, raft::ClientWriteResult};
use tokio::sync::{mpsc, oneshot};

use super::{
    group::Group,
    types::{Answer, Proposal, Types},
};
use crate::state::{Command, Reply};

/// Entries under way at once. More of them would each hold fewer commands.
const ENTRIES_MAX: usize = 4;
/// Commands in one entry.
const COMMANDS_MAX: usize = 256;
/// Bytes of commands in one entry, about; a command that is larger has an entry to itself.
const BYTES_MAX: usize = 512 << 10;
/// Commands that wait for an entry. Callers have permits, so that there are never more.
const QUEUE_MAX: usize = 1 << 20;
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

/// The way into one group's log. Clones share it.
#[derive(Clone)]
pub(super) struct Proposer {
    jobs: mpsc::Sender<Job>,
    renewals: mpsc::Sender<(SessionId, oneshot::Sender<Answered>)>,
}

impl Proposer {
    /// One for `group`, which holds it. Its tasks end with the group.
    pub(super) fn new(group: Weak<Group>) -> Self {
        let (jobs, queued) = mpsc::channel(QUEUE_MAX);
        let (renewals, waiting) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(group, queued));
        tokio::spawn(renew(jobs.clone(), waiting));
        Self { jobs, renewals }
    }

    /// Puts a command into the log; its reply once it is applied.
    ///
    /// Dropping the future leaves the command where it is.
    pub(super) async fn propose(&self, command: Command) -> Answered {
        let (answer, answered) = oneshot::channel();
        if self.jobs.send(Job { command, answer }).await.is_err() {
            return Err(Unanswered::NotLeader);
        }
        answered.await.unwrap_or(Err(Unanswered::Unknown))
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

/// Makes entries of commands.
async fn run(group: Weak<Group>, mut queued: mpsc::Receiver<Job>) {
    let mut under_way = FuturesUnordered::new();
    let mut next: Option<Job> = None;
    loop {
        if next.is_none() {
            tokio::select! {
                biased;
                Some(()) = under_way.next(), if !under_way.is_empty() => continue,
                job = queued.recv(), if under_way.len() < ENTRIES_MAX => match job {
                    Some(job) => next = Some(job),
                    None => break,
                },
            }
        }
        let Some(first) = next.take() else { continue };
        let mut bytes = weigh(&first.command);
        let mut batch = vec![first];
        while batch.len() < COMMANDS_MAX && bytes < BYTES_MAX {
            let Ok(job) = queued.try_recv() else { break };
            bytes += weigh(&job.command);
            if bytes > BYTES_MAX {
                next = Some(job);
                break;
            }
            batch.push(job);
        }
        let Some(group) = group.upgrade() else { break };
        under_way.push(put(group, batch));
        // One that did not fit waits for room like the others.
        while next.is_some() && under_way.len() >= ENTRIES_MAX {
            under_way.next().await;
        }
    }
    while under_way.next().await.is_some() {}
}

/// Puts one entry into the log and hands out the replies.
async fn put(group: Arc<Group>, batch: Vec<Job>) {
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
    let reply = write(&group, command).await;
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
async fn renew(jobs: mpsc::Sender<Job>, mut waiting: mpsc::Receiver<(SessionId, oneshot::Sender<Answered>)>) {
    let mut tick = tokio::time::interval(RENEWAL_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while let Some((session, answer)) = waiting.recv().await {
        tick.tick().await;
        let mut asked: BTreeMap<SessionId, Vec<oneshot::Sender<Answered>>> = BTreeMap::new();
        asked.entry(session).or_default().push(answer);
        while let Ok((session, answer)) = waiting.try_recv() {
            asked.entry(session).or_default().push(answer);
        }
        let (answer, answered) = oneshot::channel();
        let command = Command::Renew(asked.keys().copied().collect());
        if jobs.send(Job { command, answer }).await.is_err() {
            return;
        }
        tokio::spawn(async move {
            let reply = answered.await.unwrap_or(Err(Unanswered::Unknown));
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
