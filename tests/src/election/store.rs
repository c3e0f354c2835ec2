//! The modelled log: three voters, of which at most one leads, and the state that they agree on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_core::{
    FencingToken, Instant, NodeId, Revision,
    store::{
        Applied, Compare, Fresh, Grant, IdempotencyKey, Key, Page, Prefix, Record, SessionError, SessionId,
        StoreError, Txn, TxnError, WatchEvent,
    },
};
use mesh_leader::{Answer, Request, RequestId, WatchId};
use mesh_registry::{
    Deadlines, decode_command, encode_command,
    state::{Command, Refusal, Reply, Revised, State, TxnCommand},
};

use crate::HostClock;

/// Voters of the log.
pub(super) const VOTERS: usize = 3;
/// Sessions that one entry expires.
const EXPIRIES_MAX: usize = 64;

/// A rule that the modelled log breaks on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreBug {
    /// A renewal is answered before its entry commits.
    AnswerRenewalEarly,
    /// A new leader takes every session for one that was never renewed.
    ForgetRenewals,
    /// A voter counts time to live from before it heard of a renewal: half of it.
    HalveTtl,
    /// A voter that was away counts the renewals that it gets when it is back from before it left.
    DateMissedRenewalsBack,
    /// A leader answers reads of a record with the state that it began with.
    ReadAsOfTheElection,
    /// One event of a watch in so many comes twice.
    RepeatEvent,
}

impl StoreBug {
    /// Those that break a rule of leadership.
    pub const ALL: [Self; 4] =
        [Self::AnswerRenewalEarly, Self::ForgetRenewals, Self::HalveTtl, Self::DateMissedRenewalsBack];

    /// Those that do no harm to elections: clients alone can see them.
    pub const SEEN_BY_CLIENTS: [Self; 2] = [Self::ReadAsOfTheElection, Self::RepeatEvent];
}

/// Who waits for an answer.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) node: usize,
    pub(super) run: u32,
    pub(super) request: RequestId,
    /// The transaction, for the compares in its error; none for a guarded write's caller.
    pub(super) txn: Option<Box<Txn>>,
}

/// What an entry is for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// A call of a core.
    Call(Caller),
    /// Renewals of several cores.
    Renewals(Vec<(SessionId, Caller)>),
    /// A write that a leader made under its token; with a key, it may come a second time.
    Guarded {
        node: usize,
        scope: usize,
        token: FencingToken,
        key: Option<IdempotencyKey>,
        /// Where the call is written down.
        call: Option<usize>,
        /// For the error.
        compares: Vec<Compare>,
    },
    /// A session for the writes of a node's program.
    Program { node: usize },
    /// The store's own.
    Own,
}

pub(super) struct Voter {
    pub(super) clock: HostClock,
    pub(super) up: bool,
    pub(super) paused: bool,
    /// It does not reach the others.
    pub(super) cut: bool,
    /// When it last came back.
    back: Instant,
    pub(super) deadlines: Deadlines,
    /// Sessions whose last renewal is in its log from before it started: it knows that much, and not when.
    recovered: BTreeSet<SessionId>,
    /// Sessions that were opened or renewed while it was away.
    missed: BTreeSet<SessionId>,
    /// The store was restored while it was away.
    missed_restore: bool,
}

impl Voter {
    pub(super) fn takes_part(&self) -> bool {
        self.up && !self.paused && !self.cut
    }
}

struct Entry {
    bytes: bytes::Bytes,
    purpose: Purpose,
    /// When it was appended, on the clock of the run.
    appended: Instant,
}

/// A core that watches.
pub(super) struct Subscription {
    pub(super) node: usize,
    pub(super) run: u32,
    pub(super) id: WatchId,
    prefix: Prefix,
    /// No event is delivered before this: they come in order.
    pub(super) last: Instant,
}

/// What came of an entry, for the world to deliver.
pub(super) struct Committed {
    pub(super) purpose: Purpose,
    pub(super) reply: Reply,
    pub(super) changes: Vec<Revised>,
    /// What it granted, and to whom.
    pub(super) granted: Vec<(Key, FencingToken, NodeId)>,
    /// When the leader took it in, on the clock of the run.
    pub(super) appended: Instant,
}

/// The log and its state.
pub(super) struct SimStore {
    pub(super) state: State,
    pub(super) voters: Vec<Voter>,
    pub(super) leader: Option<usize>,
    /// Raised with every change of the leader, so that what was under way is recognised.
    pub(super) epoch: u64,
    log: VecDeque<Entry>,
    renewals: Vec<(SessionId, Caller)>,
    pub(super) watches: BTreeMap<(usize, u32), Subscription>,
    pub(super) bug: Option<StoreBug>,
    /// The state when the leader was elected, for the bug that needs it.
    old: Option<State>,
}

impl SimStore {
    pub(super) fn new(clocks: Vec<HostClock>, drift_ppm: u32) -> Self {
        let voter = |clock| Voter {
            clock,
            up: true,
            paused: false,
            cut: false,
            back: Instant::ZERO,
            deadlines: Deadlines::new(drift_ppm),
            recovered: BTreeSet::new(),
            missed: BTreeSet::new(),
            missed_restore: false,
        };
        Self {
            state: State::default(),
            voters: clocks.into_iter().map(voter).collect(),
            leader: Some(0),
            epoch: 1,
            log: VecDeque::new(),
            renewals: Vec::new(),
            watches: BTreeMap::new(),
            bug: None,
            old: None,
        }
    }

    /// Whether the leader can commit: it hears from a majority.
    pub(super) fn has_quorum(&self) -> bool {
        let leads = self.leader.is_some_and(|at| self.voters[at].takes_part());
        leads && self.voters.iter().filter(|voter| voter.takes_part()).count() > VOTERS / 2
    }

    /// Appends an entry; false if nobody takes it.
    pub(super) fn append(&mut self, now: Instant, command: &Command, purpose: Purpose) -> bool {
        if self.leader.is_none() {
            return false;
        }
        self.log.push_back(Entry { bytes: encode_command(command), purpose, appended: now });
        true
    }

    /// Whether a renewal of a node waits for the next entry.
    pub(super) fn has_renewal_of(&self, node: usize) -> bool {
        self.renewals.iter().any(|(_, caller)| caller.node == node)
    }

    pub(super) fn queue_renewal(&mut self, session: SessionId, caller: Caller) {
        self.renewals.push((session, caller));
    }

    /// One entry for all renewals that have gathered. With the bug, those whom it is to answer now.
    pub(super) fn batch_renewals(&mut self, now: Instant) -> Vec<(Caller, Answer)> {
        if self.renewals.is_empty() {
            return Vec::new();
        }
        let gathered = std::mem::take(&mut self.renewals);
        let command = Command::Renew(gathered.iter().map(|(session, _)| *session).collect());
        if self.bug == Some(StoreBug::AnswerRenewalEarly) {
            self.append(now, &command, Purpose::Own);
            let answer = |(session, caller): (SessionId, Caller)| {
                let answer = self.state.session(session).cloned();
                (caller, Answer::Session(answer.ok_or(SessionError::Gone { session })))
            };
            return gathered.into_iter().map(answer).collect();
        }
        self.append(now, &command, Purpose::Renewals(gathered));
        Vec::new()
    }

    /// Commits all that is in the log.
    pub(super) fn commit_all(&mut self, now: Instant) -> Vec<Committed> {
        std::iter::from_fn(|| self.commit_first(now)).collect()
    }

    /// Commits the oldest entry.
    pub(super) fn commit_first(&mut self, now: Instant) -> Option<Committed> {
        let entry = self.log.pop_front()?;
        let command = decode_command(entry.bytes).expect("what was encoded can be decoded");
        let reply = self.state.apply(&command);
        self.observe(now, entry.appended, &command, &reply);
        let (granted, changes) = (self.granted(&reply), self.state.take_changes());
        Some(Committed { purpose: entry.purpose, reply, changes, granted, appended: entry.appended })
    }

    /// The grants of a reply that stand now; a replayed outcome may name some that do not any more.
    fn granted(&self, reply: &Reply) -> Vec<(Key, FencingToken, NodeId)> {
        let Reply::Txn(Ok(outcome)) = reply else { return Vec::new() };
        let standing = |grant: &Grant| {
            let record = self.state.get(&grant.key).filter(|record| record.token == Some(grant.token))?;
            let owner = self.state.session(record.session?)?.owner.clone();
            Some((grant.key.clone(), grant.token, owner))
        };
        outcome.grants.iter().filter_map(standing).collect()
    }

    /// Every voter that has the entry counts from when it appended it. Who is away gets it when it is back.
    fn observe(&mut self, now: Instant, appended: Instant, command: &Command, reply: &Reply) {
        for voter in &mut self.voters {
            let (away, restored) = (!voter.takes_part(), matches!(reply, Reply::Restored(Ok(_))));
            voter.missed_restore |= away && restored;
            let mut at = voter.clock.local(appended.max(voter.back));
            if self.bug == Some(StoreBug::HalveTtl)
                && let Some(session) = sessions_of(reply).next()
            {
                at = at - session.ttl / 2;
            }
            for session in sessions_of(reply) {
                voter.recovered.remove(&session.id);
                if away {
                    voter.missed.insert(session.id);
                } else {
                    voter.deadlines.observe(session, at);
                }
            }
            match command {
                Command::Close(session) => voter.deadlines.forget(*session),
                Command::Expire(asked) => {
                    for expiry in asked.iter().filter(|e| self.state.session(e.session).is_none()) {
                        voter.deadlines.forget(expiry.session);
                    }
                }
                _ if restored && !away => {
                    voter.deadlines.restart(self.state.sessions(), voter.clock.local(now));
                    voter.recovered.clear();
                }
                _ => {}
            }
        }
    }

    /// The leader is gone, or lost its followers. Part of what was not committed is on the others.
    pub(super) fn lose_leader(&mut self, kept: usize) {
        self.leader = None;
        self.epoch += 1;
        self.log.truncate(kept);
        self.renewals.clear();
    }

    pub(super) fn log_len(&self) -> usize {
        self.log.len()
    }

    /// A voter leads from here on, if it may.
    pub(super) fn elect(&mut self, now: Instant, voter: usize) -> Option<Vec<Committed>> {
        let able = self.voters.iter().filter(|voter| voter.takes_part()).count() > VOTERS / 2;
        if self.leader.is_some() || !able || !self.voters[voter].takes_part() {
            return None;
        }
        self.leader = Some(voter);
        self.epoch += 1;
        // A new leader commits what it has before it does anything else.
        let committed = self.commit_all(now);
        let leads = &mut self.voters[voter];
        // What it has not seen itself counts from now: nobody could renew while nobody led.
        for id in std::mem::take(&mut leads.recovered) {
            if let Some(session) = self.state.session(id) {
                leads.deadlines.observe(session, leads.clock.local(now));
            }
        }
        if self.bug == Some(StoreBug::ForgetRenewals) {
            let long_ago = leads.clock.local(now) - std::time::Duration::from_secs(3600);
            leads.deadlines.restart(self.state.sessions(), long_ago);
        }
        if self.bug == Some(StoreBug::ReadAsOfTheElection) {
            self.old = Some(self.state.clone());
        }
        Some(committed)
    }

    /// A voter is back, and gets what it has missed. One that was killed has its log, and nothing of what it
    /// had in memory; one that stood still or was cut off has all that it had.
    pub(super) fn voter_is_back(&mut self, now: Instant, voter: usize) {
        let back = &mut self.voters[voter];
        let (was_killed, before) = (!back.up, back.back);
        (back.up, back.paused, back.cut, back.back) = (true, false, false, now);
        let local = back.clock.local(now);
        let missed = std::mem::take(&mut back.missed);
        let missed_restore = std::mem::take(&mut back.missed_restore);
        if missed_restore || was_killed {
            back.deadlines.restart(self.state.sessions(), local);
            back.recovered.clear();
        }
        if was_killed && !missed_restore {
            let sessions = self.state.sessions().map(|session| session.id);
            back.recovered = sessions.filter(|id| !missed.contains(id)).collect();
        }
        let dated_back = self.bug == Some(StoreBug::DateMissedRenewalsBack);
        let seen = if dated_back { back.clock.local(before) } else { local };
        for session in missed.iter().filter_map(|id| self.state.session(*id)) {
            back.deadlines.observe(session, seen);
        }
    }

    /// Sessions whose time has run out on the leader's clock.
    pub(super) fn due(&self, now: Instant) -> Option<Command> {
        let voter = &self.voters[self.leader?];
        let due = voter.deadlines.due(voter.clock.local(now), EXPIRIES_MAX);
        (!due.is_empty()).then_some(Command::Expire(due))
    }

    /// The answer to a read, as of now.
    pub(super) fn read(&self, request: &Request) -> Option<Answer> {
        if !self.has_quorum() {
            return None;
        }
        match request {
            Request::Probe => Some(Answer::Probe(Ok(()))),
            Request::Scan(scan) => {
                let (records, more) = self.state.scan(scan);
                let value = Page { records, more };
                Some(Answer::Page(Ok(Fresh { value, revision: self.state.revision() })))
            }
            _ => None,
        }
    }

    /// The answer to a read of one record.
    pub(super) fn get(&self, key: &Key) -> Option<Fresh<Option<Record>>> {
        if !self.has_quorum() {
            return None;
        }
        let state = match &self.old {
            Some(old) if self.bug == Some(StoreBug::ReadAsOfTheElection) => old,
            _ => &self.state,
        };
        Some(Fresh { value: state.get(key).cloned(), revision: state.revision() })
    }

    /// Begins a watch; the events that are due at once.
    pub(super) fn watch(
        &mut self,
        now: Instant,
        (node, run): (usize, u32),
        id: WatchId,
        prefix: Prefix,
        after: Revision,
    ) -> Vec<WatchEvent> {
        let first = match self.state.changes_after(after, &prefix) {
            Some(revised) => revised.into_iter().map(changes).collect(),
            None => vec![WatchEvent::Gap { from: Revision(after.0 + 1), to: self.state.revision() }],
        };
        self.watches.insert((node, run), Subscription { node, run, id, prefix, last: now });
        first
    }
}

impl Subscription {
    /// What it is told of a revision.
    pub(super) fn told(&self, revised: &Revised) -> Option<WatchEvent> {
        revised.under(&self.prefix).map(changes)
    }
}

fn changes(revised: Revised) -> WatchEvent {
    WatchEvent::Changes { revision: revised.revision, changes: revised.changes.to_vec() }
}

fn sessions_of(reply: &Reply) -> impl Iterator<Item = &mesh_core::store::Session> {
    let (opened, renewed) = match reply {
        Reply::Opened(session) => (Some(session), None),
        Reply::Renewed(sessions) => (None, Some(sessions.iter().flatten())),
        _ => (None, None),
    };
    opened.into_iter().chain(renewed.into_iter().flatten())
}

/// The log entry for a request; `None` for a read.
pub(super) fn command_of(request: &Request) -> Option<Command> {
    match request {
        Request::OpenSession(open) => Some(Command::Open { owner: open.owner.clone(), ttl: open.ttl }),
        Request::CloseSession(session) => Some(Command::Close(*session)),
        Request::Transact(txn) => Some(Command::Txn(TxnCommand { txn: txn.clone(), audit: None })),
        Request::Probe | Request::Scan(_) | Request::KeepAlive(_) => None,
    }
}

/// The answer for a caller, of what its entry brought about.
pub(super) fn answer_of(request: &Caller, reply: &Reply, session: Option<SessionId>) -> Option<Answer> {
    Some(match reply {
        Reply::Opened(session) => Answer::Session(Ok(session.clone())),
        Reply::Closed(Some(revision)) => Answer::Closed(Ok(*revision)),
        Reply::Closed(None) => {
            Answer::Closed(Err(SessionError::Gone { session: session.unwrap_or_default() }))
        }
        Reply::Txn(outcome) => {
            let compares = request.txn.as_ref().map(|txn| txn.compares.clone()).unwrap_or_default();
            Answer::Txn(outcome.clone().map_err(|refusal: Refusal| refusal.into_error(&compares)))
        }
        _ => return None,
    })
}

/// What a caller is told when nobody leads.
pub(super) fn refused(request: &Request, applied: Applied) -> Answer {
    let error = || StoreError::Unavailable {
        operation: "answer",
        reason: "nobody leads".to_owned(),
        applied,
        source: None,
    };
    match request {
        Request::Probe => Answer::Probe(Err(error())),
        Request::OpenSession(_) | Request::KeepAlive(_) => Answer::Session(Err(error().into())),
        Request::CloseSession(_) => Answer::Closed(Err(error().into())),
        Request::Scan(_) => Answer::Page(Err(error())),
        Request::Transact(_) => Answer::Txn(Err(TxnError::Store(error()))),
    }
}

/// The node's name.
pub(super) fn name(node: usize) -> NodeId {
    NodeId::new(format!("n{node}")).expect("a node id")
}
