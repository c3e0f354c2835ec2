//! Who is a peer.

use mesh_core::NodeId;
use tokio::sync::oneshot;

use crate::engine::{
    PeerAddress, SyncError,
    actor::Actor,
    core::{Core, lock},
    dataset::tell,
};
use crate::entry::DatasetId;

impl Core {
    pub(in crate::engine) fn set_peers(&self, peers: Vec<PeerAddress>) {
        let peers: Vec<PeerAddress> = peers.into_iter().filter(|peer| peer.peer != self.local).collect();
        {
            let mut members = lock(&self.members);
            for member in members.values_mut() {
                member.addresses.clear();
            }
            for PeerAddress { peer, addresses } in &peers {
                let member = members.entry(peer.clone()).or_default();
                member.addresses.clone_from(addresses);
                member.next_attempt = mesh_core::Instant::ZERO;
            }
            members
                .retain(|_, member| !member.addresses.is_empty() || member.dialling || member.failures > 0);
        }
        self.relate_members(&peers.into_iter().map(|peer| peer.peer).collect::<Vec<_>>());
        self.dial.notify_one();
    }

    pub(in crate::engine) fn add_peer(&self, peer: PeerAddress) {
        if peer.peer == self.local {
            return;
        }
        {
            let mut members = lock(&self.members);
            let member = members.entry(peer.peer.clone()).or_default();
            member.addresses = peer.addresses;
            member.next_attempt = mesh_core::Instant::ZERO;
        }
        self.relate_members(&[peer.peer]);
        self.dial.notify_one();
    }

    /// Members that a policy lets in are peers.
    fn relate_members(&self, members: &[NodeId]) {
        use crate::bootstrap::AccessPolicy;
        for dataset in self.all() {
            let let_in: Vec<NodeId> = members
                .iter()
                .filter(|member| match &dataset.policy {
                    AccessPolicy::Cluster => dataset.is_open_to(member, None),
                    AccessPolicy::Nodes(nodes) => nodes.contains(*member) && dataset.is_open_to(member, None),
                    AccessPolicy::Ask | AccessPolicy::Closed => false,
                })
                .filter(|member| lock(&dataset.books).peers.relationship(member).is_none())
                .cloned()
                .collect();
            if let_in.is_empty() {
                continue;
            }
            let ask = Box::new(move |actor: &mut Actor| {
                for member in let_in {
                    if let Err(error) = actor.relate(&member, Vec::new()) {
                        tracing::warn!(peer_id = %member, %error, "a member was not made a peer");
                    }
                }
            });
            let asks = dataset.asks.clone();
            self.spawn(async move { drop(asks.send(ask).await) });
        }
    }

    pub(in crate::engine) async fn remove_peer(&self, peer: &NodeId) -> Result<(), SyncError> {
        lock(&self.members).remove(peer);
        for dataset in self.all() {
            let peer = peer.clone();
            dataset
                .ask(move |actor, told: oneshot::Sender<()>| {
                    actor.part(&peer);
                    actor.when_written(move || tell(told, ()));
                })
                .await?;
        }
        if let Some(link) = self.link(peer) {
            link.close("the peer was removed here");
        }
        Ok(())
    }

    pub(in crate::engine) async fn create_relationship(
        &self,
        peer: &NodeId,
        dataset: &DatasetId,
    ) -> Result<(), SyncError> {
        self.relate(peer, dataset, Vec::new()).await?;
        self.reopen(peer, "another dataset is open");
        Ok(())
    }

    pub(super) async fn relate(
        &self,
        peer: &NodeId,
        dataset: &DatasetId,
        addresses: Vec<String>,
    ) -> Result<(), SyncError> {
        let front = self.dataset(dataset)?;
        let peer = peer.clone();
        front
            .ask(move |actor, told: oneshot::Sender<Result<(), SyncError>>| {
                match actor.relate(&peer, addresses) {
                    Ok(()) => actor.when_written(move || tell(told, Ok(()))),
                    Err(error) => tell(told, Err(error)),
                }
            })
            .await?
    }

    pub(in crate::engine) async fn remove_relationship(
        &self,
        peer: &NodeId,
        dataset: &DatasetId,
    ) -> Result<(), SyncError> {
        let front = self.dataset(dataset)?;
        self.known_peer(&front, peer)?;
        let leaving = peer.clone();
        front
            .ask(move |actor, told: oneshot::Sender<()>| {
                actor.part(&leaving);
                actor.when_written(move || tell(told, ()));
            })
            .await?;
        self.reopen(peer, "a dataset is not open any more");
        Ok(())
    }
}
