//! How everything stands.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use mesh_core::NodeId;

use crate::engine::{
    AuthorStatus, DatasetStatus, PeerState, SyncError, SyncHealth, SyncStatus,
    core::{Core, lock},
    dataset::{Dataset, tell},
};
use crate::{entry::DatasetId, state::Round};

use super::{blocking, store_error};

/// Authors that a status names.
const AUTHORS_MAX: usize = 1000;

impl Core {
    pub(in crate::engine) async fn status(&self) -> SyncStatus {
        let mut status =
            SyncStatus { serving: self.serving.load(Ordering::Relaxed), ..SyncStatus::default() };
        status.connected =
            self.links().iter().filter(|link| link.is_open()).map(|link| link.peer.clone()).collect();
        for front in self.all() {
            match self.status_of(&front).await {
                Ok(dataset) => status.datasets.push(dataset),
                Err(error) => {
                    status.health = SyncHealth::Unhealthy;
                    status.problems.push(format!("{}: {}", front.id, crate::engine::shake::describe(&error)));
                }
            }
        }
        self.judge(&mut status);
        status
    }

    fn judge(&self, status: &mut SyncStatus) {
        use crate::state::Standing;
        for dataset in &status.datasets {
            if let Some(problem) = &dataset.failed {
                status.health = SyncHealth::Unhealthy;
                status.problems.push(format!("{}: its store has failed: {problem}", dataset.dataset));
            }
            if let Some(problem) = &dataset.full {
                status.health = SyncHealth::Unhealthy;
                status.problems.push(format!("{}: nothing is written: {problem}", dataset.dataset));
            }
            for peer in dataset.peers.iter().filter(|peer| peer.standing == Standing::Active) {
                status.tracked_peers += 1;
                status.peers_without_confirmation += usize::from(!peer.confirmed);
                let lag_ms = u64::try_from(peer.lag.as_millis()).unwrap_or(u64::MAX);
                status.max_lag_ms = status.max_lag_ms.max(lag_ms);
                if peer.lag < self.config.lag_degraded {
                    continue;
                }
                status.lagging_peers += 1;
                let health = match peer.lag >= self.config.lag_unhealthy {
                    true => SyncHealth::Unhealthy,
                    false => SyncHealth::Degraded,
                };
                status.health = status.health.max(health);
                let text = match (&peer.last_problem, peer.connected) {
                    (Some(problem), false) => format!("it is away: {problem}"),
                    (None, false) => "it is away".to_owned(),
                    (_, true) => "it is connected and does not keep up".to_owned(),
                };
                let (dataset, peer, lag) = (&dataset.dataset, &peer.peer, peer.lag.as_secs());
                status.problems.push(format!("{dataset}: {peer} is {lag}s behind; {text}"));
            }
        }
    }

    /// What a scrape tells, as of the last time that tasks of datasets looked.
    #[cfg(feature = "metrics")]
    pub(crate) fn gauges(&self) -> crate::counters::Gauges {
        let mut gauges = crate::counters::Gauges { streams: self.links().len(), ..Default::default() };
        for front in self.all() {
            let summary = front.store.summary();
            gauges.datasets += 1;
            gauges.entries += summary.count;
            gauges.bytes += summary.bytes;
            gauges.pending += lock(&front.books).access.pending().count();
            let board = lock(&front.board);
            gauges.queued += board.queue.entries;
            gauges.dead_letters += board.queue.dead_letters;
            if board.failed.is_some() || board.full.is_some() {
                gauges.health = SyncHealth::Unhealthy;
            }
            for peer in &board.peers {
                match (peer.active, peer.connected, peer.in_sync) {
                    (false, false, _) => gauges.retired += 1,
                    (_, true, true) => gauges.in_sync += 1,
                    (_, true, false) => gauges.behind += 1,
                    (true, false, _) => gauges.away += 1,
                }
                if peer.active {
                    gauges.max_lag_s = gauges.max_lag_s.max(peer.behind.as_secs_f64());
                    let health = match peer.behind {
                        lag if lag >= self.config.lag_unhealthy => SyncHealth::Unhealthy,
                        lag if lag >= self.config.lag_degraded => SyncHealth::Degraded,
                        _ => SyncHealth::Ok,
                    };
                    gauges.health = gauges.health.max(health);
                }
            }
        }
        gauges
    }

    async fn status_of(&self, front: &Arc<Dataset>) -> Result<DatasetStatus, SyncError> {
        let reading = Arc::clone(front);
        let vector = blocking(move || reading.store.vector(None, AUTHORS_MAX + 1)).await?;
        let vector = vector.map_err(store_error(&front.id))?;
        let summary = front.store.summary();
        let (statuses, queue, waiting, dead, root) = front
            .ask(|actor, told| {
                let statuses = actor.replica.peers();
                let waiting: BTreeMap<NodeId, usize> = statuses
                    .iter()
                    .map(|status| (status.peer.clone(), actor.queue.waiting_for(&status.peer)))
                    .collect();
                let mut dead: BTreeMap<NodeId, usize> = BTreeMap::new();
                for letter in actor.queue.dead_letters() {
                    *dead.entry(letter.peer.clone()).or_default() += 1;
                }
                tell(told, (statuses, actor.queue.stats(), waiting, dead, actor.replica.root()));
            })
            .await?;
        let board = lock(&front.board).clone();
        let books = lock(&front.books);
        let wall = self.clock.wall();
        let mut peers = Vec::new();
        for (peer, known) in books.peers.peers() {
            let status = statuses.iter().find(|status| status.peer == *peer);
            let stats = books.peers.stats(peer).cloned().unwrap_or_default();
            let in_sync = status.is_some_and(|status| status.connected && status.in_sync);
            let connected = status.is_some_and(|status| status.connected);
            peers.push(PeerState {
                peer: peer.clone(),
                author: known.author,
                addresses: known.addresses.clone(),
                standing: known.standing,
                connected,
                in_sync,
                lag: status.map(|status| status.behind).unwrap_or_default(),
                confirmed: status.is_some_and(|status| status.confirmed),
                cursor: status.and_then(|status| status.cursor),
                followed: status.and_then(|status| status.followed),
                left: status.filter(|_| connected).map_or(0, |status| status.left(&root)),
                queued: waiting.get(peer).copied().unwrap_or(0),
                dead_letters: dead.get(peer).copied().unwrap_or(0),
                last_success: if in_sync { Some(wall) } else { stats.last_success },
                last_problem: board.problems.get(peer).filter(|_| !connected).cloned(),
                stats,
            });
        }
        let authors = vector.iter().take(AUTHORS_MAX).map(|(author, head)| AuthorStatus {
            author: *author,
            contiguous: head.contiguous,
            highest: head.highest,
            pruned: head.pruned,
            held: head.held,
        });
        Ok(DatasetStatus {
            dataset: front.id.clone(),
            entries: summary.count,
            bytes: summary.bytes,
            root,
            documents: front.view.is_ready().then(|| front.view.read().len()),
            authors: authors.collect(),
            authors_total: vector.len(),
            peers,
            queue,
            pending_requests: books.access.pending().count(),
            blobs_missing: board.blobs_missing,
            full: board.full,
            failed: board.failed,
        })
    }

    pub(in crate::engine) fn history(
        &self,
        dataset: &DatasetId,
        peer: &NodeId,
    ) -> Result<Vec<Round>, SyncError> {
        let front = self.dataset(dataset)?;
        let rounds = lock(&front.books).peers.history(peer).cloned().collect();
        Ok(rounds)
    }
}
