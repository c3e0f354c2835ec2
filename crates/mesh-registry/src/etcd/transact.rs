//! Transactions.
//!
//! The first try says everything that must hold as compares of etcd's own. If
//! etcd finds that one of them does not hold, its answer has all that the
//! transaction looks at, at one revision: the [`Excerpt`]. The rules that all
//! providers share judge that. Either the transaction is refused, or it is
//! tried again under the condition that nothing of the excerpt has changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{
    FencingToken, NodeId, Revision,
    store::{
        Applied, Compare, Grant, IdempotencyKey, Key, OUTCOMES_KEPT, Operation, Session, SessionId,
        StoreError, Txn, TxnError, TxnOutcome,
    },
};
use prost::Message;
use tokio::time::Instant;

use super::{
    Meta, Shared,
    connection::Kind,
    fault::{self, Fault},
    layout::{self, Layout},
    wire as pb,
};
use crate::{
    audit,
    state::{Command, Refusal, Reply, SessionExcerpt, State, TxnCommand},
    wire::{self, WireError, session_outcome::Outcome},
};

const OPERATION: &str = "commit a transaction";
/// Reads that ride on a transaction for the case that it fails; etcd's default limit is 128.
const READS_MAX: usize = 120;
/// Pause before a try that lost against others.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Everything that one transaction looks at, as it was at one revision.
struct Excerpt {
    meta: i64,
    /// Each key with the revision of its last write, 0 for none.
    written: BTreeMap<Key, i64>,
    sessions: BTreeMap<SessionId, bool>,
    state: State,
    /// Whether what comes of the transaction is known already, or can't be known any more.
    settled: bool,
}

/// A transaction on its way.
struct Attempt<'t> {
    layout: &'t Layout,
    command: &'t TxnCommand,
    txn: &'t Txn,
    keys: BTreeSet<&'t Key>,
    sessions: BTreeSet<SessionId>,
    /// Of all its tries together.
    deadline: Instant,
}

impl Shared {
    pub(super) async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError> {
        txn.check()?;
        let command = audit::command(txn, self.clock.wall(), self.nonce());
        let deadline = self.connections.deadline();
        let attempt = Attempt::new(&self.layout, &command, deadline);
        let mut pause = Duration::from_millis(1);
        let mut excerpt = None;
        loop {
            let meta = self.meta_until(deadline).await?;
            let tried = match excerpt.take() {
                None => match attempt.direct(meta)? {
                    Some(request) => self.commit(&attempt, meta, request, None).await,
                    None => self.excerpt(&attempt).await.map(Tried::Failed),
                },
                Some(excerpt) => self.judge(&attempt, meta, excerpt).await,
            };
            match tried {
                Ok(Tried::Done(outcome)) => return Ok(outcome),
                Ok(Tried::Refused(refusal)) => return Err(refusal.into_error(&attempt.txn.compares)),
                Ok(Tried::Failed(seen)) => {
                    // The generation is a part of what was seen, and ours may be old.
                    if seen.meta != meta.written_at {
                        self.forget_meta();
                    }
                    excerpt = Some(seen);
                }
                Ok(Tried::Lost) => {}
                // With an idempotency key, the next try finds out what came of this one.
                Err(Fault::Store(error))
                    if error.is_transient()
                        && error.applied() == Applied::Unknown
                        && attempt.txn.idempotency.is_some()
                        && Instant::now() + pause < deadline => {}
                Err(Fault::Compacted | Fault::NoSuchLease) => {}
                Err(fault) => return Err(fault.into_error(OPERATION).into()),
            }
            if Instant::now() + pause >= deadline {
                return Err(self.gave_up(attempt.txn).into());
            }
            if excerpt.is_none() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    fn gave_up(&self, txn: &Txn) -> StoreError {
        let applied = if txn.idempotency.is_some() { Applied::Unknown } else { Applied::No };
        StoreError::Timeout { operation: OPERATION, after: self.connections.request_timeout, applied }
    }

    /// Decides by what was seen, and commits that if nothing of it has changed.
    async fn judge(&self, attempt: &Attempt<'_>, meta: Meta, mut excerpt: Excerpt) -> Result<Tried, Fault> {
        let Reply::Txn(verdict) = excerpt.state.apply(&Command::Txn(attempt.command.clone())) else {
            return Ok(Tried::Lost);
        };
        let refused = match verdict {
            Err(refusal) if excerpt.settled || attempt.txn.idempotency.is_none() => {
                return Ok(Tried::Refused(refusal));
            }
            Ok(outcome) if excerpt.settled => return Ok(Tried::Done(outcome)),
            Ok(_) => None,
            Err(refusal) => Some(refusal),
        };
        let mut request = pb::TxnRequest { compare: attempt.unchanged(&excerpt), ..Default::default() };
        request.success = match &refused {
            None => attempt.effects(meta),
            Some(refusal) => {
                vec![attempt.touch()].into_iter().chain(attempt.remember(meta, Err(refusal))).collect()
            }
        };
        if refused.is_none() {
            request.compare.extend(attempt.grants_unchanged());
        }
        request.failure = attempt.reads_if_few();
        self.commit(attempt, meta, request, refused).await
    }

    /// Sends a transaction; if it fails, what was seen comes back.
    async fn commit(
        &self,
        attempt: &Attempt<'_>,
        meta: Meta,
        request: pb::TxnRequest,
        refused: Option<Refusal>,
    ) -> Result<Tried, Fault> {
        let has_reads = !request.failure.is_empty();
        // A second one of the same number would find the outcome of the first.
        let kind = if attempt.txn.idempotency.is_some() { Kind::Repeatable } else { Kind::Once };
        let answer = self.txn_until(attempt.deadline, OPERATION, kind, request).await?;
        if answer.succeeded {
            if let Some(refusal) = refused {
                return Ok(Tried::Refused(refusal));
            }
            if answer.header.as_ref().is_some_and(|header| header.cluster_id != meta.cluster) {
                // A restored etcd may have granted a token for the second time.
                return Err(Fault::Store(StoreError::Unavailable {
                    operation: OPERATION,
                    reason: "etcd was restored from a backup meanwhile".to_owned(),
                    applied: Applied::Unknown,
                    source: None,
                }));
            }
            let revision = self.seen(answer.header.as_ref());
            return Ok(Tried::Done(attempt.outcome(meta.generation, revision)));
        }
        if !has_reads {
            return self.excerpt(attempt).await.map(Tried::Failed);
        }
        let revision = self.seen(answer.header.as_ref());
        attempt.read(revision, answer.responses).map(Tried::Failed).map_err(|e| fault::damaged(e).into())
    }

    /// Reads all that the transaction looks at, at one revision.
    async fn excerpt(&self, attempt: &Attempt<'_>) -> Result<Excerpt, Fault> {
        let mut responses = Vec::new();
        let mut at = 0;
        for reads in attempt.reads(0).chunks(READS_MAX) {
            let mut reads = reads.to_vec();
            for read in &mut reads {
                if let Some(pb::request_op::Request::RequestRange(range)) = &mut read.request {
                    range.revision = at;
                }
            }
            let request = pb::TxnRequest { success: reads, ..Default::default() };
            let answer = self.txn_until(attempt.deadline, OPERATION, Kind::Read, request).await?;
            if at == 0 {
                at = answer.header.unwrap_or_default().revision;
            }
            responses.extend(answer.responses);
        }
        attempt.read(layout::revision(at), responses).map_err(|e| fault::damaged(e).into())
    }
}

enum Tried {
    Done(TxnOutcome),
    Refused(Refusal),
    Failed(Excerpt),
    Lost,
}

impl<'t> Attempt<'t> {
    fn new(layout: &'t Layout, command: &'t TxnCommand, deadline: Instant) -> Self {
        let txn = &command.txn;
        let compared = txn.compares.iter().map(Compare::key);
        let keys = compared.chain(txn.operations.iter().map(Operation::key)).collect();
        let sessions = txn.operations.iter().filter_map(session_in);
        let sessions = sessions.chain(txn.idempotency.map(|key| key.session)).collect();
        Self { layout, command, txn, keys, sessions, deadline }
    }

    /// The token that the transaction states for a key.
    fn stated(&self, key: &Key) -> Option<FencingToken> {
        self.txn.compares.iter().find_map(|compare| match compare {
            Compare::Fence { key: of, token } if of == key => Some(*token),
            _ => None,
        })
    }

    /// The whole transaction as etcd can judge it; `None` if it can't judge a compare.
    fn direct(&self, meta: Meta) -> Result<Option<pb::TxnRequest>, StoreError> {
        let mut compare = Vec::new();
        for wanted in &self.txn.compares {
            let key = self.layout.record(wanted.key());
            match wanted {
                Compare::Revision { revision, .. } => match i64::try_from(revision.0) {
                    Ok(revision) if revision > 0 => compare.push(pb::Compare::written_at(key, revision)),
                    _ => return Ok(None),
                },
                Compare::Absent { .. } => compare.push(pb::Compare::absent(key)),
                Compare::Present { .. } => compare.push(pb::Compare::present(key)),
                // Values are stored together with their writer.
                Compare::Value { .. } => return Ok(None),
                Compare::Fence { key, token } => match i64::try_from(token.counter) {
                    Ok(counter) if counter > 0 => {
                        let marker = self.layout.grant(key);
                        compare.push(pb::Compare::written_at(marker.clone(), counter));
                        compare.push(pb::Compare::has_value(marker, marker_value(token.generation)));
                    }
                    _ => return Ok(None),
                },
            }
        }
        for session in &self.sessions {
            if layout::lease_of(*session).is_none() {
                return Ok(None);
            }
            compare.push(pb::Compare::present(self.layout.session(*session)));
        }
        compare.extend(self.grants_unchanged());
        compare.extend(self.new_to_the_session());
        if self.txn.operations.iter().any(|operation| matches!(operation, Operation::Grant { .. })) {
            compare.push(pb::Compare::written_at(self.layout.meta(), meta.written_at));
        }
        Ok(Some(pb::TxnRequest { compare, success: self.effects(meta), failure: self.reads_if_few() }))
    }

    /// No operation changes a grant whose token is not stated, or moves one to another session.
    fn grants_unchanged(&self) -> impl Iterator<Item = pb::Compare> {
        self.txn.operations.iter().filter_map(|operation| {
            let key = operation.key();
            match (self.stated(key), operation) {
                (None, _) => Some(pb::Compare::absent(self.layout.grant(key))),
                (Some(_), Operation::Put { session: Some(session), .. }) => {
                    Some(pb::Compare::hangs_on(self.layout.record(key), layout::lease_of(*session)?))
                }
                _ => None,
            }
        })
    }

    /// The sequence number was not seen before, and is not so old that this could not be known.
    fn new_to_the_session(&self) -> Vec<pb::Compare> {
        let Some(IdempotencyKey { session, sequence }) = self.txn.idempotency else { return Vec::new() };
        let mut compares = vec![pb::Compare::absent(self.layout.outcome(session, sequence))];
        if let Some(newer) = sequence.checked_add(OUTCOMES_KEPT) {
            let start = self.layout.outcome(session, newer);
            compares.push(pb::Compare::none_between(start, self.layout.outcomes_end(session)));
        }
        compares
    }

    /// Everything is as it was seen.
    fn unchanged(&self, excerpt: &Excerpt) -> Vec<pb::Compare> {
        let mut compares = vec![pb::Compare::written_at(self.layout.meta(), excerpt.meta)];
        for (key, written) in &excerpt.written {
            compares.push(pb::Compare::written_at(self.layout.record(key), *written));
        }
        for (session, open) in &excerpt.sessions {
            let key = self.layout.session(*session);
            compares.push(if *open { pb::Compare::present(key) } else { pb::Compare::absent(key) });
        }
        compares.extend(self.new_to_the_session());
        compares
    }

    /// A read that makes etcd treat the transaction as linearizable even if nothing else is in it.
    fn touch(&self) -> pb::RequestOp {
        pb::RangeRequest { count_only: true, ..pb::RangeRequest::key(self.layout.meta()) }.op()
    }

    fn effects(&self, meta: Meta) -> Vec<pb::RequestOp> {
        let txn = self.txn;
        let mut ops = vec![self.touch()];
        for operation in &txn.operations {
            let key = operation.key();
            let stated = self.stated(key);
            match operation {
                Operation::Put { value, session, .. } => {
                    let lease = session.and_then(layout::lease_of).unwrap_or(0);
                    let keep = stated.is_some() && session.is_none();
                    ops.push(self.put(key, value, &txn.writer, stated, lease, keep));
                }
                Operation::Delete { .. } => {
                    ops.push(delete(self.layout.record(key)));
                    if stated.is_some() {
                        ops.push(delete(self.layout.grant(key)));
                    }
                }
                Operation::Grant { value, session, .. } => {
                    let lease = layout::lease_of(*session).unwrap_or(0);
                    let token = FencingToken { generation: meta.generation, counter: 0 };
                    ops.push(self.put(key, value, &txn.writer, Some(token), lease, false));
                    let (key, value) = (self.layout.grant(key), marker_value(meta.generation));
                    ops.push(pb::PutRequest { key, value, lease, ignore_lease: false }.op());
                }
            }
        }
        if let Some((key, value)) = &self.command.audit {
            ops.push(self.put(key, value, &txn.writer, None, 0, false));
        }
        ops.extend(self.remember(meta, Ok(())));
        ops
    }

    fn put(
        &self,
        key: &Key,
        value: &Bytes,
        writer: &NodeId,
        token: Option<FencingToken>,
        lease: i64,
        ignore_lease: bool,
    ) -> pb::RequestOp {
        let value = layout::record_value(value, writer, token);
        pb::PutRequest { key: self.layout.record(key), value, lease, ignore_lease }.op()
    }

    /// Keeps what came of it for retries, and drops what is too old to be kept.
    fn remember(&self, meta: Meta, outcome: Result<(), &Refusal>) -> Vec<pb::RequestOp> {
        let Some(IdempotencyKey { session, sequence }) = self.txn.idempotency else { return Vec::new() };
        let outcome = match outcome {
            // Revision 0 stands for that of this write.
            Ok(()) => Outcome::Applied((&self.outcome(meta.generation, Revision(0))).into()),
            Err(refusal) => Outcome::Refused((&refusal.clone().without_record()).into()),
        };
        let kept = wire::SessionOutcome { sequence, outcome: Some(outcome) };
        let put = pb::PutRequest {
            key: self.layout.outcome(session, sequence),
            value: kept.encode_to_vec().into(),
            lease: layout::lease_of(session).unwrap_or(0),
            ignore_lease: false,
        };
        let mut ops = vec![put.op()];
        if let Some(oldest) = sequence.checked_sub(OUTCOMES_KEPT - 1).filter(|oldest| *oldest > 0) {
            let (key, range_end) = (self.layout.outcome(session, 0), self.layout.outcome(session, oldest));
            ops.push(pb::DeleteRangeRequest { key, range_end }.op());
        }
        ops
    }

    fn outcome(&self, generation: u64, revision: Revision) -> TxnOutcome {
        let token = FencingToken { generation, counter: revision.0 };
        let granted = self.txn.operations.iter().filter_map(|operation| match operation {
            Operation::Grant { key, .. } => Some(Grant { key: key.clone(), token }),
            _ => None,
        });
        TxnOutcome { revision, grants: granted.collect() }
    }

    /// Reads of all that the transaction looks at, in the order in which [`Attempt::read`] takes them.
    fn reads(&self, revision: i64) -> Vec<pb::RequestOp> {
        let mut reads = vec![pb::RangeRequest::key(self.layout.meta())];
        reads.extend(self.keys.iter().map(|key| pb::RangeRequest::key(self.layout.record(key))));
        reads.extend(self.sessions.iter().map(|id| pb::RangeRequest::key(self.layout.session(*id))));
        if let Some(IdempotencyKey { session, sequence }) = self.txn.idempotency {
            reads.push(pb::RangeRequest::key(self.layout.outcome(session, sequence)));
            if let Some(newer) = sequence.checked_add(OUTCOMES_KEPT) {
                let start = self.layout.outcome(session, newer);
                let newer = pb::RangeRequest::between(start, self.layout.outcomes_end(session), 1);
                reads.push(pb::RangeRequest { keys_only: true, ..newer });
            }
        }
        reads.into_iter().map(|read| read.at(revision).op()).collect()
    }

    fn reads_if_few(&self) -> Vec<pb::RequestOp> {
        let reads = self.reads(0);
        if reads.len() > READS_MAX { Vec::new() } else { reads }
    }

    fn read(&self, revision: Revision, responses: Vec<pb::ResponseOp>) -> Result<Excerpt, WireError> {
        let mut ranges = responses.into_iter().map(|response| response.into_range().kvs.into_iter().next());
        let mut next = || ranges.next().flatten();
        let meta = next();
        let generation = meta.as_ref().and_then(|kv| super::read_meta(kv.value.clone()).ok());
        let mut written = BTreeMap::new();
        let mut records = Vec::new();
        for key in &self.keys {
            let found = next();
            written.insert((*key).clone(), found.as_ref().map_or(0, |kv| kv.mod_revision));
            records.extend(found.and_then(|kv| self.layout.read_record(kv).transpose()).transpose()?);
        }
        let mut sessions: BTreeMap<SessionId, Option<Session>> = BTreeMap::new();
        for id in &self.sessions {
            sessions.insert(*id, next().map(|kv| Layout::read_session(*id, kv)).transpose()?);
        }
        let open = sessions.iter().map(|(id, session)| (*id, session.is_some())).collect();
        let mut excerpts: Vec<SessionExcerpt> = sessions.into_values().flatten().map(Into::into).collect();
        let mut settled = false;
        if let Some(IdempotencyKey { session, sequence }) = self.txn.idempotency {
            let kept = next();
            let too_old = sequence.checked_add(OUTCOMES_KEPT).is_some() && next().is_some();
            settled = true;
            if let Some(excerpt) = excerpts.iter_mut().find(|excerpt| excerpt.session.id == session) {
                settled = kept.is_some() || too_old;
                excerpt.outcome = kept.map(|kv| read_outcome(sequence, kv)).transpose()?;
                excerpt.forgotten = too_old.then_some(sequence);
            }
        }
        Ok(Excerpt {
            meta: meta.map_or(0, |kv| kv.mod_revision),
            written,
            sessions: open,
            state: State::excerpt(generation.map_or(1, |meta| meta.generation), revision, records, excerpts),
            settled,
        })
    }
}

fn delete(key: Bytes) -> pb::RequestOp {
    pb::DeleteRangeRequest { key, range_end: Bytes::new() }.op()
}

/// What the marker of a grant holds.
fn marker_value(generation: u64) -> Bytes {
    generation.to_string().into()
}

fn session_in(operation: &Operation) -> Option<SessionId> {
    match operation {
        Operation::Put { session, .. } => *session,
        Operation::Grant { session, .. } => Some(*session),
        Operation::Delete { .. } => None,
    }
}

fn read_outcome(sequence: u64, kv: pb::KeyValue) -> Result<(u64, Result<TxnOutcome, Refusal>), WireError> {
    const WHAT: &str = "a kept outcome in etcd";
    let revision = layout::revision(kv.mod_revision);
    let kept = wire::SessionOutcome::decode(kv.value).map_err(wire::malformed(WHAT))?;
    let outcome = match kept.outcome.ok_or_else(|| wire::bad(WHAT, "outcome", "it is missing"))? {
        Outcome::Refused(refusal) => Err(Refusal::try_from(refusal)?),
        Outcome::Applied(applied) => {
            let mut outcome = TxnOutcome::try_from(applied)?;
            outcome.revision = revision;
            for grant in &mut outcome.grants {
                grant.token.counter = revision.0;
            }
            Ok(outcome)
        }
    };
    Ok((sequence, outcome))
}
