//! The way to other voters.

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use mesh_core::NodeId;
use mesh_transport::rpc::{Channel, Lane};
use openraft::{
    OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{Backoff, RPCOption, stream_append_sequential},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
        TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{
    codec,
    identity::Seat,
    options::Peers,
    snapshot::SnapshotFile,
    types::{LogId, Snapshot, Types, Vote, Voter},
};
use crate::wire::{self, WireError, raft_client::RaftClient};

/// Appends that wait for an answer on one stream.
const PIPELINE_MAX: usize = 32;
/// How many times longer than openraft asks for an append may take: it waits for the other's disk.
const APPEND_PATIENCE: u32 = 20;
/// Bytes of a snapshot in one message.
const PIECE_BYTES: usize = 1 << 20;
/// Longest wait for one piece of a snapshot, and for its installation.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Makes links to other voters.
pub(super) struct Network {
    pub(super) peers: Arc<dyn Peers>,
    pub(super) seat: Seat,
    pub(super) told: Arc<Told>,
}

/// How far this voter, as a leader, has told others that the log is committed.
///
/// They may have applied that much, and shown it, before the leader itself has: what a leader answers to a read must
/// not be older than this.
#[derive(Debug, Default)]
pub(super) struct Told(AtomicU64);

impl Told {
    /// Noted before it is sent.
    pub(super) fn note(&self, committed: Option<LogId>) {
        self.0.fetch_max(committed.map_or(0, |id| id.index + 1), Ordering::SeqCst);
    }

    /// One after the index of the last entry that others may have applied by this voter's word.
    pub(super) fn next(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Network {
    fn link(&self, target: u64, voter: &Voter, lane: Lane) -> Link {
        Link {
            peers: Arc::clone(&self.peers),
            seat: self.seat,
            target,
            node: voter.node.clone(),
            lane,
            told: Arc::clone(&self.told),
            pipe: None,
        }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Voter) -> Link {
        self.link(target, node, Lane::Control)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Voter) -> Link {
        self.link(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Voter) -> Link {
        self.link(target, node, Lane::Bulk)
    }
}

/// The way to one other voter, for one kind of traffic.
pub(super) struct Link {
    peers: Arc<dyn Peers>,
    seat: Seat,
    target: u64,
    node: Option<NodeId>,
    lane: Lane,
    told: Arc<Told>,
    /// The stream of appends, as long as it works.
    pipe: Option<Pipe>,
}

/// Pause before a voter that could not be reached is tried again.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(100);

/// Appends in a row, answered in order.
struct Pipe {
    requests: mpsc::Sender<wire::RaftAppend>,
    replies: Streaming<wire::RaftAppendReply>,
}

fn unreachable(problem: impl ToString) -> Unreachable<Types> {
    Unreachable::from_string(problem)
}

fn refused(status: &Status) -> RPCError<Types> {
    // Whoever can't answer, or does not want to, is left alone for a while.
    RPCError::Unreachable(unreachable(format!("{:?}: {}", status.code(), status.message())))
}

fn odd(error: &WireError) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(error))
}

impl Link {
    fn client(&self, lane: Lane) -> Result<RaftClient<Channel>, RPCError<Types>> {
        let node = self.node.as_ref().ok_or_else(|| unreachable("the voter has no name"))?;
        let channel = self.peers.channel(node, lane).map_err(unreachable)?;
        Ok(RaftClient::new(channel))
    }

    fn head(&self) -> wire::RaftHead {
        wire::RaftHead { group: self.seat.group.to_bytes(), from: self.seat.id, to: self.target }
    }

    fn late(&self, action: RPCTypes, timeout: Duration) -> Timeout<Types> {
        Timeout { action, id: self.seat.id, target: self.target, timeout }
    }

    /// Runs one call within its time.
    async fn call<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RPCError<Types>> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(refused(&status)),
            Err(_) => Err(self.late(action, limit).into()),
        }
    }

    fn append_message(&self, request: AppendEntriesRequest<Types>) -> wire::RaftAppend {
        self.told.note(request.leader_commit);
        wire::RaftAppend {
            head: Some(self.head()),
            ballot: Some(codec::ballot_to(&request.vote)),
            before: request.prev_log_id.map(codec::log_id_to),
            entries: request.entries.iter().map(codec::entry_to).collect(),
            committed: request.leader_commit.map(codec::log_id_to),
        }
    }

    async fn ask_vote(
        &self,
        request: VoteRequest<Types>,
        pre: bool,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let message = wire::RaftVoteRequest {
            head: Some(self.head()),
            ballot: Some(codec::ballot_to(&request.vote)),
            last: request.last_log_id.map(codec::log_id_to),
            pre,
            transfer: request.leadership_transfer,
        };
        let mut client = self.client(Lane::Heartbeat)?;
        let reply = self.call(RPCTypes::Vote, option.soft_ttl(), client.vote(message)).await?;
        let vote = codec::required_ballot("a vote", reply.ballot).map_err(|error| odd(&error))?;
        Ok(VoteResponse {
            vote,
            vote_granted: reply.granted,
            last_log_id: reply.last.map(codec::log_id_from),
        })
    }

    /// The open stream of appends, or a new one.
    async fn pipe(&mut self, limit: Duration) -> Result<Pipe, RPCError<Types>> {
        if let Some(pipe) = self.pipe.take() {
            return Ok(pipe);
        }
        let mut client = self.client(self.lane)?;
        let (requests, queued) = mpsc::channel(PIPELINE_MAX);
        let queued = futures_util::stream::unfold(queued, |mut queued| async move {
            let next = queued.recv().await?;
            Some((next, queued))
        });
        let replies = self.call(RPCTypes::AppendEntries, limit, client.append_many(queued)).await?;
        Ok(Pipe { requests, replies })
    }
}

/// What an append's reply means for a stream of them.
fn append_result(
    reply: wire::RaftAppendReply,
    before: Option<LogId>,
    last: Option<LogId>,
) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
    use wire::raft_append_reply::Result as Kind;
    Ok(match reply.result {
        Some(Kind::Done(_)) => Ok(last),
        Some(Kind::Partial(partial)) => Ok(partial.through.map(codec::log_id_from)),
        Some(Kind::Conflict(_)) => match before {
            Some(before) => Err(StreamAppendError::Conflict(before)),
            None => return Err(NetworkError::from_string("the beginning of the log can't conflict").into()),
        },
        Some(Kind::Higher(ballot)) => Err(StreamAppendError::HigherVote(codec::ballot_from(ballot))),
        None => return Err(NetworkError::from_string("an append was answered with nothing").into()),
    })
}

/// A session of appends on one pipe.
struct Session<'s, S> {
    link: &'s mut Link,
    pipe: Pipe,
    input: S,
    input_over: bool,
    /// What each unanswered append began after and ended with.
    unanswered: VecDeque<(Option<LogId>, Option<LogId>)>,
    limit: Duration,
}

impl<S> Session<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
{
    /// The next reply. `None` once all is answered; the pipe is kept for the next session then.
    async fn next(&mut self) -> Option<Result<StreamAppendResult<Types>, RPCError<Types>>> {
        loop {
            let more = !self.input_over && self.unanswered.len() < PIPELINE_MAX;
            if !more && self.unanswered.is_empty() {
                return None;
            }
            let reply = async {
                if self.unanswered.is_empty() {
                    return std::future::pending().await;
                }
                tokio::time::timeout(self.limit, self.pipe.replies.message()).await
            };
            let reply = tokio::select! {
                biased;
                request = self.input.next(), if more => {
                    let Some(request) = request else {
                        self.input_over = true;
                        continue;
                    };
                    let before = request.prev_log_id;
                    let last = request.entries.last().map(|entry| entry.log_id).or(before);
                    let message = self.link.append_message(request);
                    // There is room for as many as may be unanswered.
                    if self.pipe.requests.try_send(message).is_err() {
                        return Some(Err(unreachable("the stream of appends has ended").into()));
                    }
                    self.unanswered.push_back((before, last));
                    continue;
                }
                reply = pin!(reply) => reply,
            };
            let (before, last) = self.unanswered.pop_front()?;
            return Some(match reply {
                Ok(Ok(Some(reply))) => append_result(reply, before, last),
                Ok(Ok(None)) => Err(unreachable("the stream of appends has ended").into()),
                Ok(Err(status)) => Err(refused(&status)),
                Err(_) => Err(self.link.late(RPCTypes::AppendEntries, self.limit).into()),
            });
        }
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Arc<SnapshotFile>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        use wire::raft_append_reply::Result as Kind;
        let message = self.append_message(request);
        let mut client = self.client(self.lane)?;
        let reply = self.call(RPCTypes::AppendEntries, option.soft_ttl(), client.append(message)).await?;
        Ok(match reply.result {
            Some(Kind::Done(_)) => AppendEntriesResponse::Success,
            Some(Kind::Partial(partial)) => {
                AppendEntriesResponse::PartialSuccess(partial.through.map(codec::log_id_from))
            }
            Some(Kind::Conflict(_)) => AppendEntriesResponse::Conflict,
            Some(Kind::Higher(ballot)) => AppendEntriesResponse::HigherVote(codec::ballot_from(ballot)),
            None => return Err(NetworkError::from_string("an append was answered with nothing").into()),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        if self.lane == Lane::Heartbeat {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            let pipe = match self.pipe(option.hard_ttl() * APPEND_PATIENCE).await {
                Ok(pipe) => pipe,
                Err(error) => {
                    // Whoever replicates tries again at once, and a voter that is gone stays gone for a while.
                    tokio::time::sleep(UNREACHABLE_PAUSE).await;
                    return Err(error);
                }
            };
            let limit = option.hard_ttl() * APPEND_PATIENCE;
            let session =
                Session { link: self, pipe, input, input_over: false, unanswered: VecDeque::new(), limit };
            let replies = futures_util::stream::unfold(Some(session), |session| async move {
                let mut session = session?;
                let Some(reply) = session.next().await else {
                    let Session { link, pipe, .. } = session;
                    link.pipe = Some(pipe);
                    return None;
                };
                let goes_on = matches!(reply, Ok(Ok(_)));
                Some((reply, goes_on.then_some(session)))
            });
            let replies: BoxStream<'s, _> = Box::pin(replies);
            Ok(replies)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(request, false, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(request, true, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            sent = self.send_snapshot(&vote, &snapshot.snapshot) => sent,
            closed = cancel => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        use wire::raft_transfer_reply::Result as Kind;
        let message = wire::RaftTransfer {
            head: Some(self.head()),
            ballot: Some(codec::ballot_to(request.from_leader())),
            successor: *request.to_node_id(),
            last: request.last_log_id().copied().map(codec::log_id_to),
        };
        let mut client = self.client(Lane::Heartbeat)?;
        let reply = self.call(RPCTypes::TransferLeader, option.soft_ttl(), client.transfer(message)).await?;
        Ok(match reply.result {
            Some(Kind::Done(_)) => Ok(()),
            Some(Kind::Other(ballot)) => Err(TransferLeaderError::VoteChanged {
                expected: *request.from_leader(),
                actual: codec::ballot_from(ballot),
            }),
            Some(Kind::Behind(partial)) => Err(TransferLeaderError::LogNotFlushed {
                expected: request.last_log_id().copied(),
                actual: partial.through.map(codec::log_id_from),
            }),
            None => return Err(NetworkError::from_string("a transfer was answered with nothing").into()),
        })
    }

    fn backoff(&self) -> Option<Backoff> {
        let pauses = [50, 100, 200].into_iter().chain(std::iter::repeat(400));
        Some(Backoff::new(pauses.map(Duration::from_millis)))
    }
}

impl Link {
    /// Sends what the other end does not have yet.
    async fn send_snapshot(
        &self,
        vote: &Vote,
        snapshot: &Arc<SnapshotFile>,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let meta = snapshot.describe();
        let piece = |offset, data| wire::RaftSnapshotPiece {
            head: Some(self.head()),
            ballot: Some(codec::ballot_to(vote)),
            meta: Some(meta.clone()),
            offset,
            data,
        };
        let mut client = self.client(Lane::Bulk)?;
        let mut ask = client.clone();
        let first = ask.snapshot(piece(0, bytes::Bytes::new()));
        let mut reply = self.call(RPCTypes::InstallSnapshot, PIECE_TIMEOUT, first).await?;
        loop {
            let theirs = codec::required_ballot("a snapshot's reply", reply.ballot);
            let theirs = theirs.map_err(|error| StreamingError::from(odd(&error)))?;
            if reply.installed || theirs > *vote {
                return Ok(SnapshotResponse { vote: theirs });
            }
            let offset = reply.offset;
            let (file, at) = (Arc::clone(snapshot), offset);
            let read = tokio::task::spawn_blocking(move || file.read(at, PIECE_BYTES)).await;
            let data = match read {
                Ok(Ok(data)) => data,
                Ok(Err(error)) => return Err(unreachable(super::log::chain(&error)).into()),
                Err(error) => return Err(unreachable(error).into()),
            };
            let last = offset + data.len() as u64 >= snapshot.bytes;
            let limit = if last { INSTALL_TIMEOUT } else { PIECE_TIMEOUT };
            let sent = client.snapshot(piece(offset, data));
            reply = self.call(RPCTypes::InstallSnapshot, limit, sent).await?;
        }
    }
}
