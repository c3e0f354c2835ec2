//! What voters ask of each other, answered.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use mesh_core::{NodeId, Role};
use mesh_transport::rpc::PeerInfo;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, VoteRequest,
};
use tonic::{Request, Response, Status, Streaming};

use super::{
    codec,
    core::Core,
    group::Group,
    identity::GroupId,
    log::chain,
    types::{LogId, Snapshot, Types},
};
use crate::wire::{self, WireError, raft_server};

/// The service of one node, whether or not it has a group yet.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) core: Arc<Core>,
}

fn invalid(error: &WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: &dyn std::error::Error) -> Status {
    Status::unavailable(format!("this voter has stopped: {}", chain(error)))
}

/// Who calls, if it may carry the registry at all.
fn caller<T>(request: &Request<T>) -> Result<NodeId, Status> {
    let peer = request.extensions().get::<PeerInfo>();
    let peer = peer.ok_or_else(|| Status::internal("the connection has no peer"))?;
    if peer.identity.role().as_str() != Role::CONTROL {
        return Err(Status::permission_denied(format!(
            "{} has the role {}, voters have the role {}",
            peer.identity.node_id(),
            peer.identity.role(),
            Role::CONTROL
        )));
    }
    Ok(peer.identity.node_id().clone())
}

impl Service {
    fn group(&self) -> Result<Arc<Group>, Status> {
        self.core.seated().ok_or_else(|| Status::unavailable("this node belongs to no group of voters yet"))
    }

    /// The group that `head` speaks of, if `node` may speak so.
    fn admit(&self, node: &NodeId, head: Option<&wire::RaftHead>) -> Result<Arc<Group>, Status> {
        let head = head.ok_or_else(|| Status::invalid_argument("the request has no head"))?;
        let group = self.group()?;
        let theirs = GroupId::from_bytes(&head.group);
        if theirs != Some(group.seat.group) {
            let theirs = theirs.map_or_else(|| "of no group".to_owned(), |id| format!("of group {id}"));
            return Err(Status::failed_precondition(format!(
                "the request is {theirs}, this node belongs to {}",
                group.seat.group
            )));
        }
        if head.to != group.seat.id {
            return Err(Status::failed_precondition(format!(
                "the request is for voter {}, this is {}",
                head.to, group.seat.id
            )));
        }
        // One that is not known was taken in by entries that are still to come.
        match group.node_of(head.from) {
            Some(known) if known != *node => Err(Status::permission_denied(format!(
                "voter {} is {known}, the certificate says {node}",
                head.from
            ))),
            _ => Ok(group),
        }
    }
}

fn append_request(message: wire::RaftAppend) -> Result<AppendEntriesRequest<Types>, Status> {
    let vote = codec::required_ballot("an append", message.ballot).map_err(|error| invalid(&error))?;
    let entries = message.entries.into_iter().map(codec::entry_from).collect::<Result<Vec<_>, _>>();
    let entries = entries.map_err(|error| invalid(&error))?;
    let before = message.before.map(codec::log_id_from);
    let due = before.map_or(0, |id| id.index + 1);
    for (entry, due) in entries.iter().zip(due..) {
        if entry.log_id.index != due {
            return Err(Status::invalid_argument(format!(
                "entry {} stands where entry {due} is due",
                entry.log_id.index
            )));
        }
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id: before,
        entries,
        leader_commit: message.committed.map(codec::log_id_from),
    })
}

/// A full disk takes no entries; signs of life and votes are small, and go on.
fn check_space(group: &Group, message: &wire::RaftAppend) -> Result<(), Status> {
    match group.log.full() {
        Some(reason) if !message.entries.is_empty() => Err(Status::resource_exhausted(reason)),
        _ => Ok(()),
    }
}

fn partial(through: Option<LogId>) -> wire::RaftPartial {
    wire::RaftPartial { through: through.map(codec::log_id_to) }
}

fn append_reply(result: StreamAppendResult<Types>) -> wire::RaftAppendReply {
    use wire::raft_append_reply::Result as Kind;
    let result = match result {
        Ok(through) => Kind::Partial(partial(through)),
        Err(StreamAppendError::Conflict(_)) => Kind::Conflict(wire::Empty {}),
        Err(StreamAppendError::HigherVote(vote)) => Kind::Higher(codec::ballot_to(&vote)),
    };
    wire::RaftAppendReply { result: Some(result) }
}

#[tonic::async_trait]
impl raft_server::Raft for Service {
    async fn append(
        &self,
        request: Request<wire::RaftAppend>,
    ) -> Result<Response<wire::RaftAppendReply>, Status> {
        use wire::raft_append_reply::Result as Kind;
        let node = caller(&request)?;
        let message = request.into_inner();
        let group = self.admit(&node, message.head.as_ref())?;
        check_space(&group, &message)?;
        let request = append_request(message)?;
        let reply = group.raft.append_entries(request).await.map_err(|error| stopped(&error))?;
        let result = match reply {
            AppendEntriesResponse::Success => Kind::Done(wire::Empty {}),
            AppendEntriesResponse::PartialSuccess(through) => Kind::Partial(partial(through)),
            AppendEntriesResponse::Conflict => Kind::Conflict(wire::Empty {}),
            AppendEntriesResponse::HigherVote(vote) => Kind::Higher(codec::ballot_to(&vote)),
        };
        Ok(Response::new(wire::RaftAppendReply { result: Some(result) }))
    }

    type AppendManyStream = Pin<Box<dyn Stream<Item = Result<wire::RaftAppendReply, Status>> + Send>>;

    async fn append_many(
        &self,
        request: Request<Streaming<wire::RaftAppend>>,
    ) -> Result<Response<Self::AppendManyStream>, Status> {
        let node = caller(&request)?;
        let group = self.group()?;
        let service = self.clone();
        let (refused, mut refusal) = tokio::sync::mpsc::channel(1);
        // Ends at the first message that is not to be taken; what came before it is answered first.
        let messages =
            futures_util::stream::unfold((request.into_inner(), refused), move |(mut messages, refused)| {
                let (service, node) = (service.clone(), node.clone());
                async move {
                    // An end without a word is the peer's way to close the stream.
                    let message = messages.message().await.ok()??;
                    let admitted = service
                        .admit(&node, message.head.as_ref())
                        .and_then(|group| check_space(&group, &message))
                        .and_then(|()| append_request(message));
                    match admitted {
                        Ok(request) => Some((request, (messages, refused))),
                        Err(status) => {
                            let _ = refused.send(status).await;
                            None
                        }
                    }
                }
            });
        let replies = group.raft.stream_append(messages).map(|reply| match reply {
            Ok(reply) => Ok(append_reply(reply)),
            Err(error) => Err(stopped(&error)),
        });
        let last = futures_util::stream::poll_fn(move |cx| refusal.poll_recv(cx)).map(Err);
        // A leader that died leaves its stream open; it must not keep a node that stops from stopping.
        let mut groups = self.core.groups();
        let over = async move { groups.wait_for(Option::is_none).await.is_ok() };
        Ok(Response::new(Box::pin(replies.chain(last).take_until(Box::pin(over)))))
    }

    async fn vote(
        &self,
        request: Request<wire::RaftVoteRequest>,
    ) -> Result<Response<wire::RaftVoteReply>, Status> {
        let node = caller(&request)?;
        let message = request.into_inner();
        let group = self.admit(&node, message.head.as_ref())?;
        let vote = codec::required_ballot("a vote", message.ballot).map_err(|error| invalid(&error))?;
        let request = VoteRequest {
            vote,
            last_log_id: message.last.map(codec::log_id_from),
            leadership_transfer: message.transfer,
        };
        let reply =
            if message.pre { group.raft.pre_vote(request).await } else { group.raft.vote(request).await };
        let reply = reply.map_err(|error| stopped(&error))?;
        Ok(Response::new(wire::RaftVoteReply {
            ballot: Some(codec::ballot_to(&reply.vote)),
            granted: reply.vote_granted,
            last: reply.last_log_id.map(codec::log_id_to),
        }))
    }

    async fn snapshot(
        &self,
        request: Request<wire::RaftSnapshotPiece>,
    ) -> Result<Response<wire::RaftSnapshotReply>, Status> {
        let node = caller(&request)?;
        let message = request.into_inner();
        let group = self.admit(&node, message.head.as_ref())?;
        let vote = codec::required_ballot("a snapshot", message.ballot).map_err(|error| invalid(&error))?;
        let meta = message.meta.ok_or_else(|| Status::invalid_argument("the snapshot has no head"))?;
        let mut incoming = Arc::clone(&group.incoming).lock_owned().await;
        if message.data.is_empty() && message.offset < meta.bytes {
            let offset = incoming.offset(&meta);
            let reply =
                wire::RaftSnapshotReply { offset, installed: false, ballot: Some(codec::ballot_to(&vote)) };
            return Ok(Response::new(reply));
        }
        let (offset, data) = (message.offset, message.data);
        let pushed = tokio::task::spawn_blocking(move || {
            let pushed = incoming.push(&meta, offset, &data);
            (pushed, incoming.offset(&meta))
        });
        let (pushed, offset) = pushed.await.map_err(|error| Status::internal(error.to_string()))?;
        let complete = pushed.map_err(|error| Status::unavailable(chain(&error)))?;
        let Some(snapshot) = complete else {
            let reply =
                wire::RaftSnapshotReply { offset, installed: false, ballot: Some(codec::ballot_to(&vote)) };
            return Ok(Response::new(reply));
        };
        let offset = snapshot.bytes;
        let snapshot = Snapshot { meta: snapshot.meta.clone(), snapshot };
        let reply =
            group.raft.install_full_snapshot(vote, snapshot).await.map_err(|error| stopped(&error))?;
        let ballot = Some(codec::ballot_to(&reply.vote));
        Ok(Response::new(wire::RaftSnapshotReply { offset, installed: true, ballot }))
    }

    async fn transfer(
        &self,
        request: Request<wire::RaftTransfer>,
    ) -> Result<Response<wire::RaftTransferReply>, Status> {
        use wire::raft_transfer_reply::Result as Kind;
        let node = caller(&request)?;
        let message = request.into_inner();
        let group = self.admit(&node, message.head.as_ref())?;
        let vote = codec::required_ballot("a transfer", message.ballot).map_err(|error| invalid(&error))?;
        let last = message.last.map(codec::log_id_from);
        let request = TransferLeaderRequest::new(vote, message.successor, last);
        let reply = group.raft.handle_transfer_leader(request).await.map_err(|error| stopped(&error))?;
        let result = match reply {
            Ok(()) => Kind::Done(wire::Empty {}),
            Err(TransferLeaderError::VoteChanged { actual, .. }) => Kind::Other(codec::ballot_to(&actual)),
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => Kind::Behind(partial(actual)),
        };
        Ok(Response::new(wire::RaftTransferReply { result: Some(result) }))
    }

    async fn confirm(
        &self,
        request: Request<wire::RaftConfirm>,
    ) -> Result<Response<wire::RaftConfirmReply>, Status> {
        let node = caller(&request)?;
        let group = self.admit(&node, request.get_ref().head.as_ref())?;
        let promised = group.log.promise().as_ref().map(codec::ballot_to);
        Ok(Response::new(wire::RaftConfirmReply { promised }))
    }

    async fn read_index(
        &self,
        request: Request<wire::RaftReadIndex>,
    ) -> Result<Response<wire::RaftReadIndexReply>, Status> {
        let node = caller(&request)?;
        let group = self.admit(&node, request.get_ref().head.as_ref())?;
        let next = group.own_read_index().await;
        let next = next.ok_or_else(|| Status::unavailable("this node does not lead, or not yet"))?;
        Ok(Response::new(wire::RaftReadIndexReply { next }))
    }

    async fn hello(
        &self,
        request: Request<wire::RaftHello>,
    ) -> Result<Response<wire::RaftHelloReply>, Status> {
        let node = caller(&request)?;
        Ok(Response::new(self.core.answer(node, request.into_inner())))
    }

    async fn adopt(
        &self,
        request: Request<wire::RaftAdopt>,
    ) -> Result<Response<wire::RaftAdoptReply>, Status> {
        let node = caller(&request)?;
        self.core.adopt(&node, request.get_ref()).await?;
        Ok(Response::new(wire::RaftAdoptReply {}))
    }
}
