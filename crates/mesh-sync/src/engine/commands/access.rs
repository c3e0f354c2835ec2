//! Tickets, and requests for access.

use std::sync::Arc;

use mesh_core::NodeId;
use tokio::sync::oneshot;

use crate::engine::{
    EngineEvent, SyncError,
    core::{Core, lock},
    dataset::tell,
    frame::{Answer, Request},
};
use crate::{
    bootstrap::{AccessRequest, AccessState, KeptRequest},
    config::DatasetConfig,
    entry::{AuthorId, DatasetId},
    handshake::DATASETS_MAX,
    ticket::{Ticket, TicketPeer},
};

impl Core {
    pub(in crate::engine) fn ticket(&self, dataset: &DatasetId) -> Result<Ticket, SyncError> {
        self.dataset(dataset)?;
        if self.addresses.is_empty() {
            return Err(SyncError::NoAddress);
        }
        // The address names the node too, so that whoever calls it knows whom to expect.
        let named = |peer: &TicketPeer| match peer.address().contains('@') {
            true => Ok(peer.clone()),
            false => TicketPeer::new(peer.transport(), &format!("{}@{}", self.local, peer.address())),
        };
        let peers = self.addresses.iter().map(named).collect::<Result<Vec<_>, _>>()?;
        Ok(Ticket::new(dataset.clone(), peers)?)
    }

    pub(in crate::engine) async fn join(
        self: &Arc<Self>,
        ticket: &Ticket,
        note: &str,
    ) -> Result<AccessState, SyncError> {
        let dataset = ticket.dataset().clone();
        if self.find(&dataset).is_none() {
            let kept = self.all().len();
            if kept >= DATASETS_MAX {
                return Err(SyncError::TooManyDatasets { dataset, kept });
            }
            let config = DatasetConfig { name: dataset.as_str().to_owned(), ..DatasetConfig::default() };
            let opened = self.open(dataset.clone(), config).await;
            opened.map_err(|error| SyncError::Failed {
                dataset: dataset.clone(),
                problem: crate::engine::shake::describe(&error),
            })?;
        }
        let mut last = format!("no address is for {}", self.carrier.name());
        let mut found = None;
        for address in ticket.peers() {
            if address.transport() != self.carrier.name() {
                continue;
            }
            let Some((node, place)) = address.address().split_once('@') else {
                last = format!("{address} does not name its node, as {}:node@host:port", self.carrier.name());
                continue;
            };
            let Ok(node) = NodeId::new(node) else {
                last = format!("{node:?} is no node");
                continue;
            };
            if node == self.local {
                last = "it is this node's own".to_owned();
                continue;
            }
            self.relate(&node, &dataset, vec![place.to_owned()]).await?;
            match self.ask_access(&node, &dataset, note).await {
                Ok(state) if state == AccessState::Granted => return Ok(state),
                Ok(state) => found = Some(state),
                Err(error) => last = crate::engine::shake::describe(&error),
            }
        }
        found.ok_or(SyncError::NobodyAnswered { count: ticket.peers().len(), last })
    }

    async fn ask_access(
        self: &Arc<Self>,
        node: &NodeId,
        dataset: &DatasetId,
        note: &str,
    ) -> Result<AccessState, SyncError> {
        let open = self.connect(node).await?;
        if open.contains(dataset) {
            return Ok(AccessState::Granted);
        }
        let unreachable = |problem: &str| {
            let source = Arc::new(problem.into());
            let source = crate::engine::CarrierError::Unreachable { peer: node.clone(), source };
            SyncError::Unreachable { peer: node.clone(), source }
        };
        let link = self.link(node).ok_or_else(|| unreachable("the stream has ended"))?;
        if link.number_of(dataset).is_some() {
            return Ok(AccessState::Granted);
        }
        let addresses = self.addresses.iter().map(ToString::to_string).collect();
        let request = Request::Access { dataset: dataset.clone(), addresses, note: note.to_owned() };
        match link.ask(dataset, request).await {
            Some(Answer::Access(AccessState::Granted)) => {
                self.reopen(node, "access was granted");
                Ok(AccessState::Granted)
            }
            Some(Answer::Access(state)) => Ok(state),
            Some(Answer::Refused(why)) => Err(unreachable(&why)),
            _ => Err(unreachable("it did not answer the request")),
        }
    }

    /// A peer asks for access.
    pub(in crate::engine) async fn on_access_asked(
        self: &Arc<Self>,
        node: &NodeId,
        author: AuthorId,
        dataset: &DatasetId,
        addresses: Vec<String>,
        note: String,
    ) -> Answer {
        // Whether there is such a dataset is told to nobody who may not have it.
        let refused = || Answer::Refused("the dataset takes no new peers".into());
        let Some(front) = self.find(dataset) else { return refused() };
        let prefix = format!("{}:", self.carrier.name());
        let request = AccessRequest {
            author,
            node: node.clone(),
            addresses: addresses
                .iter()
                .filter_map(|address| address.strip_prefix(&prefix))
                .map(str::to_owned)
                .collect(),
            note,
        };
        let (asked, wall, policy) = (request.clone(), self.clock.wall(), front.policy.clone());
        let answered = front
            .ask(move |actor, told: oneshot::Sender<Option<(AccessState, bool)>>| {
                let answered = {
                    let mut books = lock(&actor.dataset.books);
                    let is_new = books.access.request(&author).is_none();
                    books.access.ask(asked, &policy, wall).ok().map(|state| (state, is_new))
                };
                actor.when_written(move || tell(told, answered));
            })
            .await;
        let Ok(Some((state, is_new))) = answered else { return refused() };
        match &state {
            AccessState::Granted => drop(self.relate(node, dataset, request.addresses).await),
            AccessState::Pending if is_new => {
                tracing::info!(%dataset, node_id = %node, %author, "a node asks for access to a dataset");
                let (dataset, node) = (dataset.clone(), node.clone());
                self.tell(EngineEvent::AccessAsked { dataset, node, author, at: wall });
            }
            _ => {}
        }
        Answer::Access(state)
    }

    pub(in crate::engine) fn requests(
        &self,
        dataset: Option<&DatasetId>,
    ) -> Result<Vec<(DatasetId, KeptRequest)>, SyncError> {
        let mut requests = Vec::new();
        for front in self.chosen(dataset)? {
            let books = lock(&front.books);
            requests.extend(books.access.requests().map(|kept| (front.id.clone(), kept.clone())));
        }
        Ok(requests)
    }

    pub(in crate::engine) async fn approve(
        &self,
        dataset: &DatasetId,
        author: &AuthorId,
    ) -> Result<(), SyncError> {
        let (author, wall) = (*author, self.clock.wall());
        let kept = self
            .answer_request(dataset, move |books| {
                books.access.approve(&author, wall).cloned().map_err(Into::into)
            })
            .await?;
        self.relate(&kept.request.node, dataset, kept.request.addresses).await?;
        self.reopen(&kept.request.node, "access was granted");
        Ok(())
    }

    pub(in crate::engine) async fn reject(
        &self,
        dataset: &DatasetId,
        author: &AuthorId,
        reason: &str,
    ) -> Result<(), SyncError> {
        let (author, wall, reason) = (*author, self.clock.wall(), reason.to_owned());
        let kept = self
            .answer_request(dataset, move |books| {
                books.access.reject(&author, &reason, wall).cloned().map_err(Into::into)
            })
            .await?;
        let node = kept.request.node.clone();
        self.dataset(dataset)?
            .ask(move |actor, told: oneshot::Sender<()>| {
                actor.part(&node);
                actor.when_written(move || tell(told, ()));
            })
            .await?;
        self.reopen(&kept.request.node, "access was taken back");
        Ok(())
    }

    async fn answer_request(
        &self,
        dataset: &DatasetId,
        answer: impl FnOnce(&mut crate::engine::dataset::Books) -> Result<KeptRequest, SyncError> + Send + 'static,
    ) -> Result<KeptRequest, SyncError> {
        self.dataset(dataset)?
            .ask(move |actor, told: oneshot::Sender<Result<KeptRequest, SyncError>>| {
                let answered = answer(&mut lock(&actor.dataset.books));
                actor.when_written(move || tell(told, answered));
            })
            .await?
    }

    pub(in crate::engine) async fn retire(
        &self,
        dataset: &DatasetId,
        peer: &NodeId,
    ) -> Result<(), SyncError> {
        let front = self.dataset(dataset)?;
        self.known_peer(&front, peer)?;
        let peer = peer.clone();
        front
            .ask(move |actor, told: oneshot::Sender<()>| {
                actor.retire(&peer);
                actor.when_written(move || tell(told, ()));
            })
            .await
    }
}
