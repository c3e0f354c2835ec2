//! Rounds that somebody waits for.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mesh_core::NodeId;
use tokio::sync::oneshot;

use crate::engine::{
    FlushReport, RoundOutcome, RoundReport, SyncError,
    core::{Core, lock},
    dataset::Dataset,
};
use crate::{entry::DatasetId, replica::PeerStatus};

impl Core {
    pub(in crate::engine) async fn sync_now(
        self: &Arc<Self>,
        dataset: Option<&DatasetId>,
        peer: Option<&NodeId>,
        patience: Duration,
    ) -> Result<Vec<RoundReport>, SyncError> {
        let chosen = self.chosen(dataset)?;
        let mut rounds = Vec::new();
        for front in chosen {
            let peers = match peer {
                Some(peer) => {
                    self.known_peer(&front, peer)?;
                    BTreeSet::from([peer.clone()])
                }
                None => front.neighbours(&self.local),
            };
            rounds.push((front, peers));
        }
        let absent: BTreeSet<NodeId> = rounds
            .iter()
            .flat_map(|(_, peers)| peers)
            .filter(|peer| self.link(peer).is_none())
            .cloned()
            .collect();
        let connecting = absent.iter().map(|peer| self.connect(peer));
        // Who can't be reached shows below.
        let _ = tokio::time::timeout(patience / 2, futures_util::future::join_all(connecting)).await;
        let waits = rounds.into_iter().map(|(front, peers)| self.round(front, peers, patience));
        let reports: Result<Vec<Vec<RoundReport>>, SyncError> =
            futures_util::future::join_all(waits).await.into_iter().collect();
        Ok(reports?.into_iter().flatten().collect())
    }

    async fn round(
        &self,
        front: Arc<Dataset>,
        peers: BTreeSet<NodeId>,
        patience: Duration,
    ) -> Result<Vec<RoundReport>, SyncError> {
        let since = self.clock.now();
        let until = since + patience;
        let asked = peers.clone();
        let reached = front
            .ask(move |actor, told: oneshot::Sender<BTreeSet<NodeId>>| {
                let now = actor.core.now();
                let connected = actor.connected();
                for peer in asked.intersection(&connected) {
                    actor.replica.check(now, peer);
                }
                let mut told = Some(told);
                actor.add_observer(Box::new(move |statuses, now| {
                    let equal = |status: &&PeerStatus| {
                        asked.contains(&status.peer)
                            && status.connected
                            && status.in_sync
                            && status.root_at.is_some_and(|at| at >= since)
                    };
                    let equal: BTreeSet<NodeId> =
                        statuses.iter().filter(equal).map(|status| status.peer.clone()).collect();
                    let reachable = asked.intersection(&connected).count();
                    let over = equal.len() >= reachable || now >= until;
                    if over {
                        told.take().map(|told| told.send(equal));
                    }
                    over
                }));
            })
            .await?;
        let problems = lock(&front.board).problems.clone();
        let report = |peer: NodeId| {
            let open = self.link(&peer).is_some_and(|link| link.number_of(&front.id).is_some());
            let outcome = if reached.contains(&peer) {
                RoundOutcome::Equal
            } else if open {
                RoundOutcome::Unfinished
            } else {
                let problem = problems.get(&peer).cloned().unwrap_or_else(|| match self.link(&peer) {
                    Some(_) => "the peer does not open the dataset to this node".to_owned(),
                    None => "there is no stream yet".to_owned(),
                });
                RoundOutcome::NotConnected { problem }
            };
            RoundReport { dataset: front.id.clone(), peer, outcome }
        };
        Ok(peers.into_iter().map(report).collect())
    }

    pub(in crate::engine) async fn flush(&self, patience: Duration) -> Result<FlushReport, SyncError> {
        let waits = self.all().into_iter().map(|front| self.flush_one(front, patience));
        let mut report = FlushReport::default();
        for one in futures_util::future::join_all(waits).await {
            let one = one?;
            report.acknowledged.extend(one.acknowledged);
            report.waiting.extend(one.waiting);
            report.away.extend(one.away);
        }
        Ok(report)
    }

    async fn flush_one(&self, front: Arc<Dataset>, patience: Duration) -> Result<FlushReport, SyncError> {
        // A write that has returned is durable, so the root covers it.
        let since = self.clock.now();
        let until = since + patience;
        let (peers, has) = front
            .ask(move |actor, told: oneshot::Sender<(BTreeSet<NodeId>, BTreeSet<NodeId>)>| {
                let root = actor.replica.root();
                let now = actor.core.now();
                let connected = actor.connected();
                for peer in &connected {
                    actor.replica.check(now, peer);
                }
                let mut told = Some(told);
                actor.add_observer(Box::new(move |statuses, now| {
                    let has = |status: &&PeerStatus| {
                        let equal = status.in_sync && status.root_at.is_some_and(|at| at >= since);
                        let followed = status.followed.is_some_and(|at| {
                            at.incarnation == root.arrival.incarnation && at.sequence >= root.arrival.sequence
                        });
                        connected.contains(&status.peer) && status.connected && (equal || followed)
                    };
                    let has: BTreeSet<NodeId> =
                        statuses.iter().filter(has).map(|status| status.peer.clone()).collect();
                    let over = has.len() >= connected.len() || now >= until;
                    if over {
                        told.take().map(|told| told.send((connected.clone(), has)));
                    }
                    over
                }));
            })
            .await?;
        let mut report = FlushReport::default();
        let pair = |peer: &NodeId| (front.id.clone(), peer.clone());
        for peer in &peers {
            match has.contains(peer) {
                true => report.acknowledged.push(pair(peer)),
                false => report.waiting.push(pair(peer)),
            }
        }
        report.away.extend(front.active().difference(&peers).map(pair));
        Ok(report)
    }
}
