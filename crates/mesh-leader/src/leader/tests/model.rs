//! A store as a plain value, and nodes around it, with hand-made time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_core::{
    FencingToken, Instant, Machine, NodeId, Revision, Settings,
    store::{
        Change, Compare, DeleteCause, Fresh, Grant, IdempotencyKey, Key, Operation, Page, Record, Session,
        SessionError, SessionId, StoreError, Txn, TxnError, TxnOutcome, WatchEvent,
    },
};

use crate::{
    Answer, CampaignOptions, Command, Effect, Input, LeaderConfig, LeaderCore, LeadershipEvent, LeaseSignal,
    MemberHint, OpId, Order, Refusal, Request, RequestId, Scope, Transition, TtlRefusal, WatchId,
    records::scope_key,
};

#[cfg(feature = "planted-bugs")]
thread_local! {
    /// The bug that every core of this thread's worlds has.
    pub(super) static PLANTED: std::cell::Cell<Option<crate::PlantedBug>> = const { std::cell::Cell::new(None) };
}

pub(super) const MS: fn(u64) -> Duration = Duration::from_millis;

/// The contract of a store in its shortest form.
#[derive(Default)]
pub(super) struct Store {
    pub(super) records: BTreeMap<Key, Record>,
    pub(super) sessions: BTreeMap<SessionId, (Session, Instant)>,
    history: Vec<(Revision, Vec<Change>)>,
    outcomes: BTreeMap<IdempotencyKey, Result<TxnOutcome, String>>,
    pub(super) revision: u64,
    generation: u64,
    next_session: u64,
    pub(super) txns: Vec<Txn>,
    /// Takes no ask, as from a node that does not keep the store.
    pub(super) denies_asks: bool,
}

impl Store {
    /// Session ids are never used again, over restores too.
    fn new_session(&mut self) -> SessionId {
        self.next_session += 1;
        SessionId(self.generation * 1_000_000 + self.next_session)
    }

    fn commit(&mut self, changes: Vec<Change>) -> Revision {
        if !changes.is_empty() {
            self.history.push((Revision(self.revision), changes));
        }
        Revision(self.revision)
    }

    pub(super) fn end_session(&mut self, id: SessionId, cause: DeleteCause) {
        self.sessions.remove(&id);
        let keys: Vec<Key> =
            self.records.values().filter(|r| r.session == Some(id)).map(|r| r.key.clone()).collect();
        self.revision += 1;
        let changes = keys
            .into_iter()
            .map(|key| {
                self.records.remove(&key);
                Change::Deleted { key, cause }
            })
            .collect();
        self.commit(changes);
    }

    fn expire(&mut self, now: Instant) {
        let over: Vec<SessionId> =
            self.sessions.iter().filter(|(_, (_, until))| *until <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.end_session(id, DeleteCause::SessionExpired);
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let record = self.records.get(compare.key());
        match compare {
            Compare::Revision { revision, .. } => record.is_some_and(|r| r.revision == *revision),
            Compare::Absent { .. } => record.is_none(),
            Compare::Present { .. } => record.is_some(),
            Compare::Value { value, .. } => record.is_some_and(|r| r.value == *value),
            Compare::Fence { token, .. } => record.is_some_and(|r| r.token == Some(*token)),
        }
    }

    fn transact(&mut self, txn: &Txn) -> Result<TxnOutcome, TxnError> {
        txn.check()?;
        let asks = |operation: &Operation| matches!(operation, Operation::Put { key, .. } if key.as_str().starts_with("leader/ask/"));
        if self.denies_asks && txn.operations.iter().any(asks) {
            return Err(StoreError::Denied { reason: "nodes with the role control may".to_owned() }.into());
        }
        if let Some(Ok(known)) = txn.idempotency.and_then(|key| self.outcomes.get(&key)) {
            return Ok(known.clone());
        }
        let outcome = self.apply(txn);
        if let (Some(key), Ok(done)) = (txn.idempotency, &outcome) {
            self.outcomes.insert(key, Ok(done.clone()));
        }
        outcome
    }

    fn apply(&mut self, txn: &Txn) -> Result<TxnOutcome, TxnError> {
        if let Some(key) = txn.idempotency
            && !self.sessions.contains_key(&key.session)
        {
            return Err(TxnError::SessionGone { session: key.session });
        }
        let fenced = txn.compares.iter().find(|c| matches!(c, Compare::Fence { .. }) && !self.holds(c));
        if let Some(Compare::Fence { key, token }) = fenced {
            let current = self.records.get(key).and_then(|r| r.token);
            return Err(TxnError::Fenced { key: key.clone(), stated: *token, current });
        }
        if let Some(index) = txn.compares.iter().position(|compare| !self.holds(compare)) {
            let compare = txn.compares[index].clone();
            let found = self.records.get(compare.key()).cloned().map(Box::new);
            return Err(TxnError::Conflict { index, compare, found, revision: Revision(self.revision) });
        }
        for operation in &txn.operations {
            let session = match operation {
                Operation::Put { session, .. } => *session,
                Operation::Grant { session, .. } => Some(*session),
                Operation::Delete { .. } => None,
            };
            if let Some(session) = session.filter(|session| !self.sessions.contains_key(session)) {
                return Err(TxnError::SessionGone { session });
            }
            let key = operation.key();
            if let Some(current) = self.records.get(key).and_then(|r| r.token) {
                let stated = |c: &Compare| matches!(c, Compare::Fence { key: k, token } if k == key && *token == current);
                if !txn.compares.iter().any(stated) {
                    return Err(TxnError::Unfenced { key: key.clone(), current });
                }
            }
        }
        self.revision += 1;
        let revision = Revision(self.revision);
        let mut changes = Vec::new();
        let mut grants = Vec::new();
        for operation in &txn.operations {
            let key = operation.key().clone();
            let before = self.records.get(&key);
            let (value, session, token) = match operation {
                Operation::Delete { .. } => {
                    if self.records.remove(&key).is_some() {
                        changes.push(Change::Deleted { key, cause: DeleteCause::Written });
                    }
                    continue;
                }
                Operation::Put { value, session, .. } => match before {
                    Some(before) if before.token.is_some() => (value, before.session, before.token),
                    _ => (value, *session, None),
                },
                Operation::Grant { value, session, .. } => {
                    let token = FencingToken { generation: self.generation, counter: revision.0 };
                    grants.push(Grant { key: key.clone(), token });
                    (value, Some(*session), Some(token))
                }
            };
            let record = Record {
                key: key.clone(),
                value: value.clone(),
                revision,
                created_revision: before.map_or(revision, |r| r.created_revision),
                last_writer: txn.writer.clone(),
                session,
                token,
            };
            self.records.insert(key, record.clone());
            changes.push(Change::Put(record));
        }
        self.txns.push(txn.clone());
        self.commit(changes);
        Ok(TxnOutcome { revision, grants })
    }

    fn answer(&mut self, now: Instant, request: &Request) -> Answer {
        match request {
            Request::Probe => Answer::Probe(Ok(())),
            Request::OpenSession(open) => {
                let id = self.new_session();
                let session = Session { id, owner: open.owner.clone(), ttl: open.ttl, renewals: 0 };
                self.sessions.insert(id, (session.clone(), now + open.ttl));
                Answer::Session(Ok(session))
            }
            Request::KeepAlive(id) => Answer::Session(match self.sessions.get_mut(id) {
                Some((session, until)) => {
                    *until = now + session.ttl;
                    session.renewals += 1;
                    Ok(session.clone())
                }
                None => Err(SessionError::Gone { session: *id }),
            }),
            Request::CloseSession(id) => {
                if !self.sessions.contains_key(id) {
                    return Answer::Closed(Err(SessionError::Gone { session: *id }));
                }
                self.end_session(*id, DeleteCause::SessionClosed);
                Answer::Closed(Ok(Revision(self.revision)))
            }
            Request::Scan(scan) => {
                let records = self.records.values().filter(|r| scan.prefix.covers(&r.key)).cloned().collect();
                Answer::Page(Ok(Fresh {
                    value: Page { records, more: false },
                    revision: Revision(self.revision),
                }))
            }
            Request::Transact(txn) => Answer::Txn(self.transact(txn)),
        }
    }
}

pub(super) struct Node {
    pub(super) core: LeaderCore,
    watch: Option<(WatchId, usize)>,
    sent: Vec<(RequestId, Request)>,
    pub(super) events: Vec<LeadershipEvent>,
    pub(super) signals: Vec<LeaseSignal>,
    pub(super) done: BTreeMap<OpId, Result<(), Refusal>>,
    pub(super) ttl: Vec<Option<TtlRefusal>>,
    /// Does not run: neither input nor time reach it.
    pub(super) paused: bool,
    /// Reaches the store no more.
    pub(super) cut: bool,
    /// Its requests arrive and their answers do not.
    pub(super) deaf: bool,
    /// Its watch says nothing.
    pub(super) blind: bool,
    /// How long the store takes to answer it.
    pub(super) slow: Duration,
    late: Vec<(Instant, RequestId, Answer)>,
    /// Scopes that its subscribers are told of.
    pub(super) board: BTreeSet<Scope>,
}

impl Node {
    /// Whether the store still has an answer for it.
    pub(super) fn waits(&self) -> bool {
        !self.late.is_empty()
    }
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) store: Store,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Who acted as the leader of what, token by token: checked after each step.
    holders: BTreeMap<(Scope, FencingToken), NodeId>,
    highest: BTreeMap<Scope, FencingToken>,
    terms: BTreeMap<(Scope, u64), FencingToken>,
    ops: u64,
}

pub(super) fn node_id(name: &str) -> NodeId {
    name.parse().expect("a node id")
}

pub(super) fn scope(name: &str) -> Scope {
    name.parse().expect("a scope")
}

pub(super) fn config() -> LeaderConfig {
    LeaderConfig { ttl_probes: 0, ..LeaderConfig::default() }
}

impl World {
    pub(super) fn new(names: &[&str]) -> Self {
        Self::with(names, &config())
    }

    pub(super) fn with(names: &[&str], config: &LeaderConfig) -> Self {
        let mut world = Self {
            now: Instant::from_nanos(1_000_000_000),
            store: Store::default(),
            nodes: BTreeMap::new(),
            holders: BTreeMap::new(),
            highest: BTreeMap::new(),
            terms: BTreeMap::new(),
            ops: 0,
        };
        for name in names {
            world.start(name, config);
        }
        world.step();
        world
    }

    pub(super) fn start(&mut self, name: &str, config: &LeaderConfig) {
        let seed = name.bytes().map(u64::from).sum();
        let config = config.clone().validate().expect("valid settings");
        #[allow(unused_mut, reason = "only a core with a planted bug is changed")]
        let mut core = LeaderCore::new(config, node_id(name), seed, self.now);
        #[cfg(feature = "planted-bugs")]
        PLANTED.with(|planted| planted.get().into_iter().for_each(|bug| core.plant(bug)));
        let node = Node {
            core,
            watch: None,
            sent: Vec::new(),
            events: Vec::new(),
            signals: Vec::new(),
            done: BTreeMap::new(),
            ttl: Vec::new(),
            paused: false,
            cut: false,
            deaf: false,
            blind: false,
            slow: Duration::ZERO,
            late: Vec::new(),
            board: BTreeSet::new(),
        };
        self.nodes.insert(node_id(name), node);
    }

    pub(super) fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(&node_id(name)).expect("a node of this world")
    }

    pub(super) fn command(&mut self, name: &str, command: Command) -> Result<(), Refusal> {
        let now = self.now;
        let done = self.node(name).core.handle(now, Input::Command(command));
        self.step();
        done
    }

    pub(super) fn campaign(&mut self, name: &str, of: &str) {
        self.campaign_with(name, of, CampaignOptions::default());
    }

    pub(super) fn campaign_with(&mut self, name: &str, of: &str, options: CampaignOptions) {
        self.command(name, Command::Campaign { scope: scope(of), options }).expect("accepted");
    }

    pub(super) fn op(&mut self) -> OpId {
        self.ops += 1;
        OpId(self.ops)
    }

    pub(super) fn hand_over(&mut self, at: &str, of: &str, to: Option<&str>) -> OpId {
        let op = self.op();
        let order = Order { by: "an operator".into(), reason: "a test".into() };
        let command = Command::HandOver { op, scope: scope(of), to: to.map(node_id), order };
        self.command(at, command).expect("accepted");
        op
    }

    pub(super) fn hint(&mut self, about: &str, gone: bool) {
        let now = self.now;
        let hint = MemberHint { node_id: node_id(about), gone, shy: false, zone: None };
        self.tell_all(now, &hint);
    }

    pub(super) fn zone(&mut self, about: &str, zone: &str) {
        let now = self.now;
        let zone = Some(zone.to_owned());
        let hint = MemberHint { node_id: node_id(about), gone: false, shy: false, zone };
        self.tell_all(now, &hint);
    }

    fn tell_all(&mut self, now: Instant, hint: &MemberHint) {
        for node in self.nodes.values_mut().filter(|node| !node.paused) {
            node.core.handle(now, Input::Member(hint.clone())).expect("a hint is never refused");
        }
        self.step();
    }

    /// Who can act as the leader now, by the lease's own check.
    pub(super) fn acting(&self, of: &str) -> Vec<String> {
        let scope = scope(of);
        let acting = |node: &&Node| matches!(node.core.check(&scope, self.now), Some(Ok(_)));
        self.nodes.values().filter(acting).map(|node| node.core.node_id().to_string()).collect()
    }

    /// The one who can act now.
    #[track_caller]
    pub(super) fn leader(&self, of: &str) -> String {
        let acting = self.acting(of);
        assert_eq!(acting.len(), 1, "leaders of {of}: {acting:?}");
        acting[0].clone()
    }

    pub(super) fn transitions(&mut self, name: &str) -> Vec<Transition> {
        let events = std::mem::take(&mut self.node(name).events);
        events.into_iter().map(|e| e.transition).filter(|t| *t != Transition::Renewed).collect()
    }

    /// Carries out what there is to do now, until nothing is left.
    pub(super) fn step(&mut self) {
        for _ in 0..10_000 {
            self.store.expire(self.now);
            let mut busy = false;
            let names: Vec<NodeId> = self.nodes.keys().cloned().collect();
            for name in names {
                busy |= self.run(&name);
            }
            self.check();
            if !busy {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    fn run(&mut self, name: &NodeId) -> bool {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(name).filter(|node| !node.paused) else { return false };
        let mut busy = false;
        while let Some(effect) = node.core.poll_effect() {
            busy = true;
            match effect {
                Effect::Request { id, request, .. } => node.sent.push((id, request)),
                Effect::Watch { id, after } => {
                    let at = self.store.history.partition_point(|(revision, _)| *revision <= after);
                    node.watch = Some((id, at));
                }
                Effect::Event(event) => node.events.push(event),
                Effect::Lease(signal) => node.signals.push(signal),
                Effect::Done { op, outcome } => {
                    node.done.insert(op, outcome);
                }
                Effect::Ttl(verdict) => node.ttl.push(verdict),
                Effect::Leader(view) => drop(node.board.insert(view.scope)),
                Effect::Forgotten(scope) => drop(node.board.remove(&scope)),
                Effect::Validity { .. } => {}
            }
        }
        if node.cut {
            node.sent.clear();
        }
        for (id, request) in std::mem::take(&mut node.sent) {
            busy = true;
            let answer = self.store.answer(now, &request);
            if !node.deaf {
                node.late.push((now + node.slow, id, answer));
            }
        }
        let due: Vec<usize> =
            node.late.iter().enumerate().filter(|(_, (at, ..))| *at <= now).map(|(i, _)| i).collect();
        if let Some(first) = due.first() {
            busy = true;
            let (_, request, answer) = node.late.remove(*first);
            if !node.cut {
                node.core.handle(now, Input::Answer { request, answer }).expect("never refused");
            }
        }
        if let Some((watch, at)) = &mut node.watch
            && !node.blind
            && !node.cut
            && let Some((revision, changes)) = self.store.history.get(*at)
        {
            busy = true;
            *at += 1;
            let event = WatchEvent::Changes { revision: *revision, changes: changes.clone() };
            let watch = *watch;
            node.core.handle(now, Input::Watch { watch, event }).expect("never refused");
        }
        busy
    }

    /// What must hold at every moment.
    fn check(&mut self) {
        // Terms count as long as the scope is remembered.
        self.terms.retain(|(scope, _), _| self.store.records.contains_key(&scope_key(scope)));
        let scopes: BTreeSet<Scope> =
            self.nodes.values().flat_map(|node| node.core.leaders().map(|view| view.scope)).collect();
        for scope in scopes {
            let mut acting = Vec::new();
            for node in self.nodes.values() {
                if let Some(Ok(token)) = node.core.check(&scope, self.now) {
                    acting.push((node.core.node_id().clone(), token));
                }
            }
            assert!(acting.len() <= 1, "{scope} has two leaders at {:?}: {acting:?}", self.now);
            let Some((node, token)) = acting.pop() else { continue };
            let term = self.nodes[&node].core.leader(&scope).map_or(0, |view| view.term);
            let known = *self.terms.entry((scope.clone(), term)).or_insert(token);
            assert_eq!(known, token, "{scope}: term {term} has two reigns");
            let holder = self.holders.entry((scope.clone(), token)).or_insert_with(|| node.clone());
            assert_eq!(*holder, node, "{scope}: token {token} had another holder before");
            let highest = self.highest.entry(scope.clone()).or_insert(token);
            assert!(token >= *highest, "{scope}: token {token} after {highest}");
            *highest = token;
        }
    }

    /// Moves time on, and lets everything happen that is due on the way.
    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        for _ in 0..100_000 {
            let nodes = self.nodes.values().filter(|node| !node.paused);
            let next = nodes
                .flat_map(|node| node.core.poll_timeout().into_iter().chain(node.late.iter().map(|l| l.0)))
                .chain(self.store.sessions.values().map(|(_, until)| *until))
                .min()
                .filter(|next| *next < end);
            // Only what is ahead moves time; what is due already was looked at.
            self.now = next.unwrap_or(end).max(self.now + Duration::from_micros(100)).min(end);
            let now = self.now;
            for node in self.nodes.values_mut().filter(|node| !node.paused) {
                node.core.handle_timeout(now);
            }
            self.step();
            if self.now >= end {
                return;
            }
        }
        panic!("time does not pass");
    }

    /// Moves time on until a condition holds.
    #[track_caller]
    pub(super) fn until(&mut self, what: &str, within: Duration, holds: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !holds(self) {
            assert!(self.now.since(start) < within, "{what} did not come about within {within:?}");
            self.advance(MS(1));
        }
        self.now.since(start)
    }
}

impl World {
    /// Somebody outside writes to the store.
    pub(super) fn inject(&mut self, request: &Request) {
        let Answer::Txn(outcome) = self.store.answer(self.now, request) else { panic!("not a transaction") };
        outcome.expect("applied");
    }

    /// A node's watch says that it missed something.
    pub(super) fn gap(&mut self, name: &str) {
        let now = self.now;
        let end = Revision(self.store.revision);
        let node = self.node(name);
        node.blind = false;
        let Some((watch, at)) = node.watch.as_mut() else { panic!("no watch") };
        *at = usize::MAX;
        let watch = *watch;
        let event = WatchEvent::Gap { from: Revision(1), to: end };
        node.core.handle(now, Input::Watch { watch, event }).expect("never refused");
        self.step();
    }
}

impl World {
    /// A node's watch says nothing more, not even that it ended.
    pub(super) fn break_watch(&mut self, name: &str) {
        self.node(name).watch = None;
    }

    /// The store is replaced by an empty one of a later generation; watches end.
    pub(super) fn restore_to_nothing(&mut self) {
        self.store = Store { generation: self.store.generation + 1, ..Store::default() };
        let now = self.now;
        for node in self.nodes.values_mut() {
            let end = Revision(u64::MAX / 2);
            if let Some((watch, _)) = node.watch.take() {
                let event = WatchEvent::Gap { from: Revision(1), to: end };
                node.core.handle(now, Input::Watch { watch, event }).expect("never refused");
            }
        }
        self.terms.clear();
        self.step();
    }
}
