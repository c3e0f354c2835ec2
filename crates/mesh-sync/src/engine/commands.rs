//! What the front asks for, carried out with the tasks of datasets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use mesh_core::NodeId;
use tokio::sync::oneshot;

use super::{
    AuthorStatus, DatasetStatus, Document, DocumentHead, DocumentPage, EngineEvent, FlushReport, PeerAddress,
    PeerState, Queued, RoundOutcome, RoundReport, SyncError, SyncHealth, SyncStatus, Watch, Written,
    actor::{Actor, verify_on_all_cores},
    core::{Core, lock, stopped},
    dataset::{Dataset, tell},
    frame::{Answer, Request},
};
use crate::{
    EntryId,
    bootstrap::{AccessRequest, AccessState, KeptRequest},
    config::DatasetConfig,
    documents::{Conflict, DocumentKey},
    entry::{
        AuthorId, AuthorSequence, Collection, DatasetId, Draft, Entry, Outcome, PAYLOAD_BYTES_MAX, Rejection,
        Verified,
    },
    queue::DeadLetter,
    replica::{PeerStatus, PruneDraft},
    state::Round,
    store::StoreError,
    ticket::{Ticket, TicketPeer},
};

/// Authors that a status names.
const AUTHORS_MAX: usize = 1000;
/// Entries of one author that one prune looks at.
const PRUNE_LOOK_MAX: usize = 4096;

/// Runs work that blocks on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SyncError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| SyncError::Interrupted(error.into()))
}

fn store_error(dataset: &DatasetId) -> impl FnOnce(StoreError) -> SyncError {
    let dataset = dataset.clone();
    move |source| SyncError::Store { dataset, source }
}

impl Core {
    pub(super) fn dataset_names(&self) -> Vec<DatasetId> {
        self.all().iter().map(|dataset| dataset.id.clone()).collect()
    }

    pub(super) async fn write(&self, dataset: &DatasetId, draft: Draft) -> Result<Written, SyncError> {
        self.dataset(dataset)?.ask(move |actor, told| actor.write_draft(draft, told)).await?
    }

    pub(super) async fn put(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        key: Bytes,
        payload: Bytes,
    ) -> Result<Written, SyncError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            let source = Box::new(std::io::Cursor::new(payload));
            return self.put_blob(dataset, collection, key, source).await;
        }
        self.write(dataset, Draft::put(collection, key, payload)).await
    }

    pub(super) async fn delete(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        key: Bytes,
    ) -> Result<Written, SyncError> {
        self.write(dataset, Draft::delete(collection, key)).await
    }

    pub(super) async fn submit(
        &self,
        dataset: &DatasetId,
        entries: Vec<Entry>,
    ) -> Result<Vec<Outcome>, SyncError> {
        let front = self.dataset(dataset)?;
        let checked = verify_on_all_cores(entries).await;
        let good: Vec<Verified> = checked.iter().flatten().cloned().collect();
        let stored = front.ask(move |actor, told| actor.take(good, told)).await??;
        let mut stored = stored.into_iter();
        let outcome = |checked| match checked {
            // There is an outcome for each that was given.
            Ok(_) => stored.next().unwrap_or(Outcome::Duplicate),
            Err(error) => Outcome::Rejected(Rejection::Signature(error)),
        };
        Ok(checked.into_iter().map(outcome).collect())
    }

    pub(super) async fn queue(
        &self,
        dataset: &DatasetId,
        peer: &NodeId,
        entry: EntryId,
    ) -> Result<Queued, SyncError> {
        let front = self.dataset(dataset)?;
        self.known_peer(&front, peer)?;
        let reading = Arc::clone(&front);
        let found = blocking(move || reading.store.get(&[entry])).await?.map_err(store_error(dataset))?;
        let Some(stored) = found.into_iter().flatten().next() else {
            return Err(SyncError::UnknownEntry { dataset: dataset.clone(), id: entry });
        };
        let peer = peer.clone();
        front.ask(move |actor, told| actor.enqueue(&peer, &stored.entry, told)).await?
    }

    fn known_peer(&self, dataset: &Dataset, peer: &NodeId) -> Result<(), SyncError> {
        match lock(&dataset.books).peers.relationship(peer) {
            Some(_) => Ok(()),
            None => Err(SyncError::UnknownPeer { peer: peer.clone(), dataset: dataset.id.clone() }),
        }
    }

    async fn viewed(&self, dataset: &DatasetId) -> Result<Arc<Dataset>, SyncError> {
        let front = self.dataset(dataset)?;
        let mut stop = self.stop.subscribe();
        tokio::select! {
            biased;
            read = front.view.wait() => match read {
                Ok(()) => Ok(Arc::clone(&front)),
                Err(problem) => Err(SyncError::Failed { dataset: dataset.clone(), problem }),
            },
            () = stopped(&mut stop) => Err(SyncError::Stopped),
        }
    }

    pub(super) async fn get(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        key: &[u8],
    ) -> Result<Option<Document>, SyncError> {
        let front = self.viewed(dataset).await?;
        let name = DocumentKey { collection: collection.clone(), key: Bytes::copy_from_slice(key) };
        let Some(version) = front.view.read().get(&name).copied() else { return Ok(None) };
        let found = blocking(move || front.store.get(&[version.item.id])).await?;
        let found = found.map_err(store_error(dataset))?.into_iter().flatten().next();
        // What was pruned meanwhile is not there any more.
        Ok(found.map(|stored| Document {
            collection: name.collection,
            key: name.key,
            version,
            payload: stored.entry.payload(),
        }))
    }

    pub(super) async fn list(
        &self,
        dataset: &DatasetId,
        collection: &Collection,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<DocumentPage, SyncError> {
        let front = self.viewed(dataset).await?;
        let documents = front.view.read();
        let mut listed = documents.list_after(collection, after);
        let head = |(key, version): (&DocumentKey, &crate::documents::Version)| DocumentHead {
            collection: key.collection.clone(),
            key: key.key.clone(),
            version: *version,
        };
        let page: Vec<DocumentHead> = listed.by_ref().take(limit.max(1)).map(head).collect();
        let next = listed.next().and_then(|_| page.last().map(|last| last.key.clone()));
        Ok(DocumentPage { documents: page, next })
    }

    pub(super) async fn collections(&self, dataset: &DatasetId) -> Result<Vec<Collection>, SyncError> {
        let front = self.viewed(dataset).await?;
        let collections = front.view.read().collections();
        Ok(collections)
    }

    pub(super) fn conflicts(&self, dataset: &DatasetId) -> Result<Vec<Conflict>, SyncError> {
        let front = self.dataset(dataset)?;
        let documents = front.view.read();
        Ok(documents.conflicts().map(|log| log.iter().cloned().collect()).unwrap_or_default())
    }

    pub(super) fn watch(
        &self,
        dataset: &DatasetId,
        collection: Option<&Collection>,
        prefix: Bytes,
    ) -> Result<Watch, SyncError> {
        let front = self.dataset(dataset)?;
        let commits = front.changes.subscribe();
        Ok(Watch {
            commits,
            collection: collection.cloned(),
            prefix,
            ready: std::collections::VecDeque::new(),
        })
    }

    pub(super) fn set_peers(&self, peers: Vec<PeerAddress>) {
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

    pub(super) fn add_peer(&self, peer: PeerAddress) {
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

    pub(super) async fn remove_peer(&self, peer: &NodeId) -> Result<(), SyncError> {
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

    pub(super) async fn create_relationship(
        &self,
        peer: &NodeId,
        dataset: &DatasetId,
    ) -> Result<(), SyncError> {
        self.relate(peer, dataset, Vec::new()).await?;
        self.reopen(peer, "another dataset is open");
        Ok(())
    }

    async fn relate(
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

    pub(super) async fn remove_relationship(
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

    pub(super) fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Relaxed);
    }

    fn chosen(&self, dataset: Option<&DatasetId>) -> Result<Vec<Arc<Dataset>>, SyncError> {
        match dataset {
            Some(dataset) => Ok(vec![self.dataset(dataset)?]),
            None => Ok(self.all()),
        }
    }

    pub(super) async fn sync_now(
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
                None => front.wanted(&self.local),
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

    pub(super) async fn flush(&self, patience: Duration) -> Result<FlushReport, SyncError> {
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

    pub(super) async fn status(&self) -> SyncStatus {
        let mut status =
            SyncStatus { serving: self.serving.load(Ordering::Relaxed), ..SyncStatus::default() };
        status.connected =
            self.links().iter().filter(|link| link.is_open()).map(|link| link.peer.clone()).collect();
        for front in self.all() {
            match self.status_of(&front).await {
                Ok(dataset) => status.datasets.push(dataset),
                Err(error) => {
                    status.health = SyncHealth::Unhealthy;
                    status.problems.push(format!("{}: {}", front.id, super::shake::describe(&error)));
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
        let mut gauges = crate::counters::Gauges::default();
        gauges.streams = self.links().len();
        for front in self.all() {
            let summary = front.store.summary();
            gauges.datasets += 1;
            gauges.entries += summary.count;
            gauges.bytes += summary.bytes;
            gauges.pending += lock(&front.books).access.pending().count();
            let board = lock(&front.board);
            gauges.queued += board.queue.entries;
            gauges.dead_letters += board.queue.dead_letters;
            if board.failed.is_some() {
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
            failed: board.failed,
        })
    }

    pub(super) fn history(&self, dataset: &DatasetId, peer: &NodeId) -> Result<Vec<Round>, SyncError> {
        let front = self.dataset(dataset)?;
        let rounds = lock(&front.books).peers.history(peer).cloned().collect();
        Ok(rounds)
    }

    pub(super) async fn dead_letters(&self, dataset: &DatasetId) -> Result<Vec<DeadLetter>, SyncError> {
        let front = self.dataset(dataset)?;
        front.ask(|actor, told| tell(told, actor.queue.dead_letters().cloned().collect())).await
    }

    pub(super) async fn retry_dead_letter(
        &self,
        dataset: &DatasetId,
        peer: &NodeId,
        entry: EntryId,
    ) -> Result<(), SyncError> {
        let none = SyncError::NoDeadLetter { dataset: dataset.clone(), peer: peer.clone(), entry };
        let peer = peer.clone();
        let retried = self
            .dataset(dataset)?
            .ask(move |actor, told: oneshot::Sender<Result<bool, SyncError>>| {
                let at = actor.moment();
                match actor.queue.requeue_dead_letter(&peer, &entry, at) {
                    Ok(there) => actor.when_written(move || tell(told, Ok(there))),
                    Err(error) => tell(told, Err(error.into())),
                }
            })
            .await??;
        if retried { Ok(()) } else { Err(none) }
    }

    pub(super) async fn drop_dead_letter(
        &self,
        dataset: &DatasetId,
        peer: &NodeId,
        entry: EntryId,
    ) -> Result<(), SyncError> {
        let none = SyncError::NoDeadLetter { dataset: dataset.clone(), peer: peer.clone(), entry };
        let peer = peer.clone();
        let dropped = self
            .dataset(dataset)?
            .ask(move |actor, told: oneshot::Sender<bool>| {
                let there = actor.queue.drop_dead_letter(&peer, &entry);
                actor.when_written(move || tell(told, there));
            })
            .await?;
        if dropped { Ok(()) } else { Err(none) }
    }

    pub(super) fn ticket(&self, dataset: &DatasetId) -> Result<Ticket, SyncError> {
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

    pub(super) async fn join(
        self: &Arc<Self>,
        ticket: &Ticket,
        note: &str,
    ) -> Result<AccessState, SyncError> {
        let dataset = ticket.dataset().clone();
        if self.find(&dataset).is_none() {
            let config = DatasetConfig { name: dataset.as_str().to_owned(), ..DatasetConfig::default() };
            let opened = self.open(dataset.clone(), config).await;
            opened.map_err(|error| SyncError::Failed {
                dataset: dataset.clone(),
                problem: super::shake::describe(&error),
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
                Err(error) => last = super::shake::describe(&error),
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
            let source = super::CarrierError::Unreachable { peer: node.clone(), source };
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
    pub(super) async fn on_access_asked(
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

    pub(super) fn requests(
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

    pub(super) async fn approve(&self, dataset: &DatasetId, author: &AuthorId) -> Result<(), SyncError> {
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

    pub(super) async fn reject(
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
        answer: impl FnOnce(&mut super::dataset::Books) -> Result<KeptRequest, SyncError> + Send + 'static,
    ) -> Result<KeptRequest, SyncError> {
        self.dataset(dataset)?
            .ask(move |actor, told: oneshot::Sender<Result<KeptRequest, SyncError>>| {
                let answered = answer(&mut lock(&actor.dataset.books));
                actor.when_written(move || tell(told, answered));
            })
            .await?
    }

    pub(super) async fn retire(&self, dataset: &DatasetId, peer: &NodeId) -> Result<(), SyncError> {
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

    pub(super) async fn prune(&self, dataset: &DatasetId) -> Result<Option<PruneDraft>, SyncError> {
        if !self.pruners.contains(&self.author) {
            return Err(SyncError::NoPruner { author: self.author });
        }
        let front = self.viewed(dataset).await?;
        let (reading, wall) = (Arc::clone(&front), self.clock.wall());
        let retention = front.ask(move |actor, told| tell(told, actor.replica.retention(wall))).await?;
        let spent = blocking(move || spent(&reading, retention)).await?.map_err(store_error(dataset))?;
        let author = self.author;
        let draft =
            front.ask(move |actor, told| tell(told, actor.replica.prune_draft(&author, &spent))).await?;
        let Some(prune) = draft else { return Ok(None) };
        self.write(dataset, prune.draft.clone()).await?;
        Ok(Some(prune))
    }
}

impl Actor {
    /// Signs and stores a draft, building on what its document holds.
    fn write_draft(&mut self, draft: Draft, told: oneshot::Sender<Result<Written, SyncError>>) {
        let parent = self.dataset.view.read().last_write(&draft.document()).map(|version| version.item.id);
        self.write(draft, parent, told);
    }
}

/// How far each author's entries are worth nothing any more.
fn spent(
    front: &Dataset,
    retention: crate::replica::Retention,
) -> Result<Vec<(AuthorId, AuthorSequence)>, StoreError> {
    let (mut spent, mut after) = (Vec::new(), None);
    loop {
        let page = front.store.vector(after.as_ref(), AUTHORS_MAX)?;
        let Some((last, _)) = page.last() else { return Ok(spent) };
        after = Some(*last);
        for (author, head) in &page {
            let Some(from) = head.pruned.next() else { continue };
            let listed = front.store.by_author(author, from, PRUNE_LOOK_MAX)?;
            let mut entries = Vec::new();
            for ids in listed.chunks(64) {
                let ids: Vec<_> = ids.iter().map(|authored| authored.item.id).collect();
                entries.extend(front.store.get(&ids)?.into_iter().flatten().map(|stored| stored.entry));
                let last_is_spent = entries.last().is_some_and(|entry| !is_last_write(front, entry));
                if !last_is_spent {
                    break;
                }
            }
            let entries = entries.iter().map(|entry| &**entry);
            let watermark = retention.watermark(entries, |entry| is_last_write(front, entry));
            spent.extend(watermark.map(|watermark| (*author, watermark)));
        }
    }
}

fn is_last_write(front: &Dataset, entry: &Entry) -> bool {
    let documents = front.view.read();
    documents.last_write(&DocumentKey::of(entry)).is_some_and(|version| version.item.id == entry.id())
}
