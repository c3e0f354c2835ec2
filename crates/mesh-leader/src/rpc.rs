//! The gRPC service `mesh.leader.v1.Leadership`.

use std::{collections::BTreeSet, pin::Pin};

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};

pub use crate::wire::{
    DESCRIPTOR_SET, Event, Leader, Snapshot, SubscribeReply, SubscribeRequest, Token,
    Transition as WireTransition, leadership_client, leadership_server, subscribe_reply,
};
use crate::{EventId, LeaderView, Leadership, LeadershipEvent, Notice, Scope, Subscription, Transition};

/// Scopes in one part of a snapshot.
const SNAPSHOT_ITEMS_MAX: usize = 500;
/// Scopes that one call may name.
const SCOPES_MAX: usize = 1000;

/// Serves who leads. Add it to a server with
/// [`LeadershipServer::new`](leadership_server::LeadershipServer::new).
#[derive(Clone, Debug)]
pub struct LeadershipService {
    leadership: Leadership,
}

impl LeadershipService {
    /// A service of this node's leadership.
    pub fn new(leadership: Leadership) -> Self {
        Self { leadership }
    }
}

/// Replies as they come. Dropping it ends the subscription.
pub type Replies = Pin<Box<dyn Stream<Item = Result<SubscribeReply, Status>> + Send + 'static>>;

#[tonic::async_trait]
impl leadership_server::Leadership for LeadershipService {
    type SubscribeStream = Replies;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Replies>, Status> {
        let request = request.into_inner();
        if request.scopes.len() > SCOPES_MAX {
            let count = request.scopes.len();
            return Err(Status::invalid_argument(format!(
                "{count} scopes are more than {SCOPES_MAX}; follow all of them, or split the call"
            )));
        }
        let scopes: BTreeSet<Scope> = request
            .scopes
            .iter()
            .map(Scope::new)
            .collect::<Result<_, _>>()
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        // An id that can't be read is one that is not known: a snapshot follows.
        let after: Option<EventId> = request.after.parse().ok();
        let subscription = self
            .leadership
            .subscribe(after)
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        let following = Following { subscription, scopes, ready: Vec::new() };
        let replies = stream::unfold(following, |mut following| async move {
            let reply = following.next().await?;
            Some((Ok(reply), following))
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

struct Following {
    subscription: Subscription,
    scopes: BTreeSet<Scope>,
    /// Parts of a snapshot, the next one last.
    ready: Vec<SubscribeReply>,
}

impl Following {
    fn wants(&self, scope: &Scope) -> bool {
        self.scopes.is_empty() || self.scopes.contains(scope)
    }

    async fn next(&mut self) -> Option<SubscribeReply> {
        loop {
            if let Some(reply) = self.ready.pop() {
                return Some(reply);
            }
            match self.subscription.next().await? {
                Notice::Event { id, event } if self.wants(&event.scope) => {
                    let item = Some(subscribe_reply::Item::Event((&*event).into()));
                    return Some(SubscribeReply { id: id.to_string(), item });
                }
                Notice::Event { .. } => {}
                Notice::Snapshot { id, leaders } => {
                    let kept: Vec<Leader> =
                        leaders.iter().filter(|view| self.wants(&view.scope)).map(Leader::from).collect();
                    self.ready = parts(id, &kept);
                }
            }
        }
    }
}

fn parts(id: EventId, leaders: &[Leader]) -> Vec<SubscribeReply> {
    let pages: Vec<&[Leader]> =
        if leaders.is_empty() { vec![leaders] } else { leaders.chunks(SNAPSHOT_ITEMS_MAX).collect() };
    let count = u32::try_from(pages.len()).unwrap_or(u32::MAX);
    let mut replies: Vec<SubscribeReply> = (1..=count)
        .zip(pages)
        .map(|(part, leaders)| SubscribeReply {
            // A reader that is cut before the last part must not resume from here.
            id: if part == count { id.to_string() } else { String::new() },
            item: Some(subscribe_reply::Item::Snapshot(Snapshot {
                leaders: leaders.to_vec(),
                part,
                parts: count,
            })),
        })
        .collect();
    replies.reverse();
    replies
}

impl From<&LeaderView> for Leader {
    fn from(view: &LeaderView) -> Self {
        Self {
            scope: view.scope.as_str().to_owned(),
            leader: view.leader.as_ref().map(|leader| leader.as_str().to_owned()).unwrap_or_default(),
            token: view.token.map(Token::from),
            term: view.term,
            since_ms: view.since.0,
            correlation_id: view.correlation_id,
        }
    }
}

impl From<Transition> for WireTransition {
    fn from(transition: Transition) -> Self {
        match transition {
            Transition::Observed => Self::Observed,
            Transition::Elected => Self::Elected,
            Transition::Renewed => Self::Renewed,
            Transition::Lost => Self::Lost,
            Transition::Expired => Self::Expired,
            Transition::SteppedDown => Self::SteppedDown,
            Transition::Fenced => Self::Fenced,
        }
    }
}

impl From<&LeadershipEvent> for Event {
    fn from(event: &LeadershipEvent) -> Self {
        Self {
            transition: WireTransition::from(event.transition).into(),
            scope: event.scope.as_str().to_owned(),
            leader: event.leader.as_str().to_owned(),
            token: Some(event.token.into()),
            term: event.term,
            reason: event.reason.as_str().to_owned(),
            correlation_id: event.correlation_id,
            at_ms: event.wall.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::InstanceId;

    use super::*;

    #[test]
    fn a_large_snapshot_comes_in_parts_and_only_the_last_can_be_resumed_from() {
        let id = EventId { instance: InstanceId(1), sequence: 9 };
        let leaders = vec![Leader::default(); SNAPSHOT_ITEMS_MAX * 2 + 1];
        let mut parts = parts(id, &leaders);
        parts.reverse();
        let ids: Vec<&str> = parts.iter().map(|part| part.id.as_str()).collect();
        assert_eq!(ids, ["", "", "0000000000000001-9"]);
        assert_eq!(super::parts(id, &[]).len(), 1, "an empty snapshot is one as well");
    }
}
