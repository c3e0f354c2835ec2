//! A recording in the terms of each judge.
//!
//! Keys that were ever granted, fenced or put into a session are leases; all others are plain records.
//! A transaction that touches both is seen by both judges, each looking at its own keys. The tries of
//! one idempotency key are one call: made when the first was sent, answered when the first answer came.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_core::{
    FencingToken, Instant, Revision,
    store::{Compare, IdempotencyKey, Key, Operation, Page, Scan, SessionId, Txn, TxnOutcome},
};

use super::{
    history::{
        Budget, Changed, Commit, Expect, Found, Invocation, LeaseCall, LeaseReply, Leases, Moment,
        RegisterCall, RegisterReply, Registers, Stamped, Tenure, check, check_revisions, check_watches,
    },
    recorder::{Call, Recorded, Recording, Refused, Reply},
};

type RegisterHistory = Vec<Invocation<RegisterCall, RegisterReply>>;
type LeaseHistory = Vec<Invocation<(Key, LeaseCall), LeaseReply>>;

/// A transaction with all its tries.
struct Tried<'r> {
    client: u64,
    call: Moment,
    txn: &'r Txn,
    /// When its outcome was first told, and what it was; `None` if it is unknown.
    answer: Option<(Moment, Told<'r>)>,
    /// Whether it was sent more than once.
    again: bool,
}

#[derive(Clone, Copy)]
enum Told<'r> {
    Applied(&'r TxnOutcome),
    Refused(&'r Refused),
}

impl Recording {
    /// Gives the recording to all judges.
    ///
    /// # Errors
    ///
    /// What the first of them found, or why nothing can be said.
    pub fn judge(&self, budget: &Budget<'_>) -> Result<(), String> {
        if self.dropped > 0 {
            return Err(format!("nothing can be said: {} calls were not written down", self.dropped));
        }
        check_revisions(&self.stamped()).map_err(|fault| fault.to_string())?;
        check(&Registers, &self.registers(), budget).into_result()?;
        check(&Leases, &self.leases(), budget).into_result()?;
        check_watches(&self.commits(), &self.watches).map_err(|fault| fault.to_string())
    }

    /// The transactions, one for each idempotency key.
    fn transactions(&self) -> Vec<Tried<'_>> {
        let mut all = Vec::new();
        let mut by_key: BTreeMap<IdempotencyKey, usize> = BTreeMap::new();
        for recorded in &self.calls {
            let Call::Transact(txn) = &recorded.what else { continue };
            let index = txn.idempotency.and_then(|key| by_key.get(&key).copied());
            let index = index.unwrap_or_else(|| {
                if let Some(key) = txn.idempotency {
                    by_key.insert(key, all.len());
                }
                let tried =
                    Tried { client: recorded.client, call: recorded.call, txn, answer: None, again: false };
                all.push((tried, true));
                all.len() - 1
            });
            let (tried, first) = &mut all[index];
            tried.again |= !std::mem::take(first);
            let told = match &recorded.answer {
                Some((at, Reply::Applied(outcome))) => Some((*at, Told::Applied(outcome))),
                Some((at, Reply::Refused(refused))) => Some((*at, Told::Refused(refused))),
                _ => None,
            };
            let Some((at, told)) = told else { continue };
            if tried.answer.is_none_or(|(before, _)| at < before) {
                tried.answer = Some((at, told));
            }
        }
        let mut all: Vec<Tried<'_>> = all.into_iter().map(|(tried, _)| tried).collect();
        self.drop_certain_nothings(&mut all);
        // A session that is gone says nothing of the tries before.
        for tried in &mut all {
            if tried.again && matches!(tried.answer, Some((_, Told::Refused(Refused::SessionGone(_))))) {
                tried.answer = None;
            }
        }
        all
    }

    /// Leaves out transactions that failed, were sent once, and certainly did nothing.
    fn drop_certain_nothings(&self, all: &mut Vec<Tried<'_>>) {
        let nothings: BTreeSet<u64> = self
            .calls
            .iter()
            .filter(|recorded| matches!(recorded.answer, Some((_, Reply::Nothing))))
            .map(|recorded| recorded.call.tick)
            .collect();
        all.retain(|tried| tried.again || !nothings.contains(&tried.call.tick));
    }

    fn lease_keys(&self) -> BTreeSet<&Key> {
        let mut keys = BTreeSet::new();
        for recorded in &self.calls {
            let Call::Transact(txn) = &recorded.what else { continue };
            for compare in &txn.compares {
                if let Compare::Fence { key, .. } = compare {
                    keys.insert(key);
                }
            }
            for operation in &txn.operations {
                match operation {
                    Operation::Grant { key, .. } | Operation::Put { key, session: Some(_), .. } => {
                        keys.insert(key);
                    }
                    _ => {}
                }
            }
        }
        keys
    }

    /// The keys that transactions changed.
    fn changed_keys(&self) -> BTreeSet<&Key> {
        let transactions = self.calls.iter().filter_map(|recorded| match &recorded.what {
            Call::Transact(txn) => Some(txn),
            _ => None,
        });
        transactions.flat_map(|txn| txn.operations.iter().map(Operation::key)).collect()
    }

    /// The history of plain records.
    pub fn registers(&self) -> RegisterHistory {
        let leases = self.lease_keys();
        let plain: BTreeSet<&Key> = self.changed_keys().difference(&leases).copied().collect();
        let mut history: RegisterHistory =
            self.transactions().iter().filter_map(|tried| plain_transaction(tried, &leases)).collect();
        for recorded in &self.calls {
            let Some((at, reply)) = &recorded.answer else { continue };
            let found = |record: &mesh_core::store::Record| Found {
                value: record.value.clone(),
                revision: Some(record.revision.0),
            };
            let (keys, found, revision) = match (&recorded.what, reply) {
                (Call::Get(key), Reply::Got(fresh)) if !leases.contains(key) => {
                    (vec![key.clone()], vec![fresh.value.as_ref().map(found)], fresh.revision)
                }
                (Call::Scan(scan), Reply::Scanned(fresh)) => {
                    let keys: Vec<Key> =
                        seen_by(scan, &fresh.value, plain.iter().copied()).cloned().collect();
                    let records = keys.iter().map(|key| fresh.value.records.iter().find(|r| r.key == *key));
                    let records = records.map(|record| record.map(found)).collect();
                    (keys, records, fresh.revision)
                }
                _ => continue,
            };
            if keys.is_empty() {
                continue;
            }
            let reply = RegisterReply::Read { found, revision: Some(revision.0) };
            let input = RegisterCall::Read(keys);
            history.push(Invocation::answered(recorded.client, recorded.call, input, *at, reply));
        }
        history
    }

    /// Every call that was told a revision.
    fn stamped(&self) -> Vec<Stamped> {
        let stamp = |call: Moment, answered: Moment, revision: Revision, made: bool| Stamped {
            call,
            answered,
            revision: revision.0,
            made,
        };
        let mut all = Vec::new();
        for tried in self.transactions() {
            match tried.answer {
                Some((at, Told::Applied(outcome))) => {
                    let made = tried.txn.operations.iter().any(|o| !matches!(o, Operation::Delete { .. }));
                    all.push(stamp(tried.call, at, outcome.revision, made));
                }
                Some((at, Told::Refused(Refused::Conflict { revision, .. }))) if !tried.again => {
                    all.push(stamp(tried.call, at, *revision, false));
                }
                _ => {}
            }
        }
        for Recorded { call, answer, .. } in &self.calls {
            match answer {
                Some((at, Reply::Got(fresh))) => all.push(stamp(*call, *at, fresh.revision, false)),
                Some((at, Reply::Scanned(fresh))) => all.push(stamp(*call, *at, fresh.revision, false)),
                Some((at, Reply::Closed(revision))) => all.push(stamp(*call, *at, *revision, false)),
                _ => {}
            }
        }
        all
    }

    /// What was committed, for the judge of watches.
    pub fn commits(&self) -> Vec<Commit> {
        let leases = self.lease_keys();
        let changed = |operation: &Operation| {
            let value: Option<Bytes> = match operation {
                Operation::Put { value, .. } | Operation::Grant { value, .. } => Some(value.clone()),
                Operation::Delete { .. } => None,
            };
            let key = operation.key().clone();
            Changed { session: leases.contains(&key), key, value }
        };
        let commit = |tried: Tried<'_>| {
            let revision = match tried.answer {
                None => None,
                Some((_, Told::Applied(outcome))) => Some(outcome.revision),
                Some((_, Told::Refused(_))) => return None,
            };
            let changes = tried.txn.operations.iter().map(changed).collect();
            Some(Commit { call: tried.call, revision, changes })
        };
        self.transactions().into_iter().filter_map(commit).collect()
    }

    /// The history of leases.
    pub fn leases(&self) -> LeaseHistory {
        let sessions = Sessions::of(&self.calls);
        let mut history = LeaseHistory::new();
        for tried in self.transactions() {
            sessions.transaction(&tried, &mut history);
        }
        let leases = self.lease_keys();
        for recorded in &self.calls {
            let Recorded { client, call, what, answer } = recorded;
            let mut push = |key: &Key, input: LeaseCall, reply: Option<(Moment, LeaseReply)>| {
                let input = (key.clone(), input);
                history.push(match reply {
                    Some((at, reply)) => Invocation::answered(*client, *call, input, at, reply),
                    None => Invocation::open(*client, *call, input),
                });
            };
            match (what, answer) {
                (Call::Get(key), Some((at, Reply::Got(fresh)))) if leases.contains(key) => {
                    let token = fresh.value.as_ref().and_then(|record| record.token);
                    push(key, LeaseCall::Look, Some((*at, LeaseReply::Seen(token))));
                }
                (Call::Scan(scan), Some((at, Reply::Scanned(fresh)))) => {
                    for key in seen_by(scan, &fresh.value, leases.iter().copied()) {
                        let record = fresh.value.records.iter().find(|record| record.key == *key);
                        let token = record.and_then(|record| record.token);
                        push(key, LeaseCall::Look, Some((*at, LeaseReply::Seen(token))));
                    }
                }
                (Call::KeepAlive(session), Some((at, Reply::Gone))) => {
                    for key in sessions.scopes(*session) {
                        let renew = LeaseCall::Renew(sessions.tenure(*session));
                        push(key, renew, Some((*at, LeaseReply::Gone)));
                    }
                }
                (Call::Close(_), Some((_, Reply::Nothing))) => {}
                (Call::Close(session), answer) => {
                    let reply = match answer {
                        Some((at, Reply::Closed(_))) => Some((*at, LeaseReply::Done)),
                        Some((at, Reply::Gone)) => Some((*at, LeaseReply::Gone)),
                        _ => None,
                    };
                    for key in sessions.scopes(*session) {
                        push(key, LeaseCall::End(session.0), reply.clone());
                    }
                }
                _ => {}
            }
        }
        history
    }
}

/// Those of `keys` that a scan has looked at.
fn seen_by<'k>(
    scan: &Scan,
    page: &Page,
    keys: impl Iterator<Item = &'k Key>,
) -> impl Iterator<Item = &'k Key> {
    let last = page.records.last().filter(|_| page.more).map(|record| record.key.clone());
    keys.filter(move |key| {
        scan.prefix.covers(key)
            && scan.after.as_ref().is_none_or(|after| *key > after)
            && last.as_ref().is_none_or(|last| *key <= last)
    })
}

/// The part of a transaction that is about plain records.
fn plain_transaction(
    tried: &Tried<'_>,
    leases: &BTreeSet<&Key>,
) -> Option<Invocation<RegisterCall, RegisterReply>> {
    let txn = tried.txn;
    let mut expects = Vec::new();
    // Where each compare went.
    let mut places = Vec::with_capacity(txn.compares.len());
    for compare in &txn.compares {
        let plain = (!leases.contains(compare.key())).then(|| expectation(compare)).flatten();
        places.push(plain.as_ref().map(|_| expects.len()));
        expects.extend(plain);
    }
    let plain = txn.operations.iter().filter(|operation| !leases.contains(operation.key()));
    let writes: Vec<(Key, Option<Bytes>)> = plain
        .map(|operation| match operation {
            Operation::Put { key, value, .. } | Operation::Grant { key, value, .. } => {
                (key.clone(), Some(value.clone()))
            }
            Operation::Delete { key } => (key.clone(), None),
        })
        .collect();
    if expects.is_empty() && writes.is_empty() {
        return None;
    }
    let input = RegisterCall::Write { expects, writes };
    let (at, reply) = match tried.answer {
        None => return Some(Invocation::open(tried.client, tried.call, input)),
        Some((at, Told::Applied(outcome))) => {
            (at, RegisterReply::Done { revision: Some(outcome.revision.0) })
        }
        Some((at, Told::Refused(Refused::Conflict { index, revision, .. }))) => {
            let index = places.get(*index).copied().flatten()?;
            // The answer to a retry has the revision of the retry, not that of the decision.
            let revision = (!tried.again).then_some(revision.0);
            (at, RegisterReply::Refused { index: Some(index), revision })
        }
        Some((_, Told::Refused(_))) => return None,
    };
    Some(Invocation::answered(tried.client, tried.call, input, at, reply))
}

fn expectation(compare: &Compare) -> Option<Expect> {
    Some(match compare {
        Compare::Absent { key } => Expect::Absent(key.clone()),
        Compare::Present { key } => Expect::Present(key.clone()),
        Compare::Value { key, value } => Expect::Value(key.clone(), value.clone()),
        Compare::Revision { key, revision } => Expect::Revision(key.clone(), revision.0),
        Compare::Fence { .. } => return None,
    })
}

/// What is known of sessions.
#[derive(Default)]
struct Sessions<'r> {
    /// Until when each certainly lives: its time to live after its last answered renewal was sent.
    until: BTreeMap<SessionId, Instant>,
    /// What was to be granted to each.
    scopes: BTreeMap<SessionId, BTreeSet<&'r Key>>,
}

impl<'r> Sessions<'r> {
    fn of(calls: &'r [Recorded]) -> Self {
        let mut sessions = Self::default();
        for recorded in calls {
            if let Some((_, Reply::Session(session))) = &recorded.answer {
                let until = sessions.until.entry(session.id).or_default();
                *until = (*until).max(recorded.call.at + session.ttl);
            }
            if let Call::Transact(txn) = &recorded.what {
                for operation in &txn.operations {
                    if let Operation::Grant { key, session, .. } = operation {
                        sessions.scopes.entry(*session).or_default().insert(key);
                    }
                }
            }
        }
        sessions
    }

    fn scopes(&self, session: SessionId) -> impl Iterator<Item = &'r Key> {
        self.scopes.get(&session).into_iter().flatten().copied()
    }

    /// A renewal that was answered proves that the session had not ended, so its promise holds for all
    /// that the session has, whenever it was granted.
    fn tenure(&self, session: SessionId) -> Tenure {
        Tenure { holder: session.0, until: self.until.get(&session).copied().unwrap_or_default() }
    }

    /// A transaction as each of its leases sees it.
    fn transaction(&self, tried: &Tried<'_>, history: &mut LeaseHistory) {
        let txn = tried.txn;
        let mut push = |key: &Key, call: LeaseCall, reply: Option<(Moment, LeaseReply)>| {
            let input = (key.clone(), call);
            history.push(match reply {
                Some((at, reply)) => Invocation::answered(tried.client, tried.call, input, at, reply),
                None => Invocation::open(tried.client, tried.call, input),
            });
        };
        match tried.answer {
            Some((at, Told::Refused(refused))) => {
                self.refused(tried, refused, |key, call, reply| push(key, call, Some((at, reply))));
            }
            Some((at, Told::Applied(outcome))) => {
                for (key, call) in self.steps(txn) {
                    let granted = outcome.grants.iter().find(|grant| grant.key == *key);
                    let reply = match (&call, granted) {
                        (LeaseCall::Acquire(_) | LeaseCall::Transfer(..), Some(grant)) => {
                            LeaseReply::Granted(grant.token)
                        }
                        (LeaseCall::Look, _) => LeaseReply::Seen(None),
                        _ => LeaseReply::Done,
                    };
                    push(key, call, Some((at, reply)));
                }
            }
            None => {
                for (key, call) in self.steps(txn) {
                    push(key, call, None);
                }
            }
        }
    }

    fn refused(
        &self,
        tried: &Tried<'_>,
        refused: &Refused,
        mut push: impl FnMut(&Key, LeaseCall, LeaseReply),
    ) {
        match refused {
            Refused::Fenced { key, stated, current } => {
                push(key, LeaseCall::Guarded(*stated), LeaseReply::Fenced(*current));
            }
            Refused::Unfenced { key, current } => {
                push(key, LeaseCall::Look, LeaseReply::Seen(Some(*current)));
            }
            Refused::SessionGone(session) => {
                for key in self.scopes(*session) {
                    push(key, LeaseCall::Renew(self.tenure(*session)), LeaseReply::Gone);
                }
            }
            Refused::Conflict { index, found, .. } => {
                let Some(Compare::Absent { key }) = tried.txn.compares.get(*index) else { return };
                // The answer to a retry has the record of the retry, not that of the decision.
                if let Some(Some(token)) = found
                    && !tried.again
                {
                    push(key, LeaseCall::Look, LeaseReply::Seen(Some(*token)));
                }
            }
        }
    }

    /// What a transaction does to each lease if it takes effect.
    fn steps<'t>(&self, txn: &'t Txn) -> Vec<(&'t Key, LeaseCall)> {
        let mut fences: BTreeMap<&Key, FencingToken> = BTreeMap::new();
        for compare in &txn.compares {
            if let Compare::Fence { key, token } = compare {
                fences.insert(key, *token);
            }
        }
        let mut steps = Vec::new();
        for operation in &txn.operations {
            let fence = fences.remove(operation.key());
            let call = match (operation, fence) {
                (Operation::Grant { session, .. }, Some(token)) => {
                    LeaseCall::Transfer(token, self.tenure(*session))
                }
                (Operation::Grant { session, .. }, None) => LeaseCall::Acquire(self.tenure(*session)),
                (Operation::Delete { .. }, Some(token)) => LeaseCall::Release(token),
                (Operation::Put { .. }, Some(token)) => LeaseCall::Guarded(token),
                // Without a token only what nobody holds can be changed.
                (Operation::Put { session: Some(_), .. }, None) => LeaseCall::Look,
                _ => continue,
            };
            steps.push((operation.key(), call));
        }
        steps.extend(fences.into_iter().map(|(key, token)| (key, LeaseCall::Guarded(token))));
        steps
    }
}
