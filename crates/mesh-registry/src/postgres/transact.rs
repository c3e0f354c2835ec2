//! Transactions, and how changes get into the tables.

use bytes::Bytes;
use mesh_core::store::{
    Applied, Change, Compare, IdempotencyKey, OUTCOMES_KEPT, Operation, SessionId, Txn, TxnError, TxnOutcome,
};
use prost::Message;
use tokio::time::Instant;

use super::{
    Shared,
    fault::{self, Fault},
    pool::{Link, Parameters},
    rows::{self, Columns},
    schema::{self, BEGIN_WRITE, STANDING},
};
use crate::{
    audit,
    state::{Command, HISTORY_REVISIONS_MAX, Refusal, Reply, Revised, SessionExcerpt, State, TxnCommand},
    wire::{self, WireError, session_outcome::Outcome},
};

const OPERATION: &str = "commit a transaction";

const RECORDS: &str = "SELECT key, value, revision, created_revision, writer, session, token_generation, \
     token_counter FROM record WHERE key = ANY($1)";
const SESSIONS: &str = "SELECT id, owner, ttl_ms, renewals, forgotten FROM session WHERE id = ANY($1)";
const OUTCOME: &str = "SELECT outcome FROM outcome WHERE session = $1 AND sequence = $2";

const ADVANCE: &str = "UPDATE meta SET revision = $1, compacted = greatest(compacted, $2)";
/// What the history has kept long enough.
const PRUNE: &str = "DELETE FROM history WHERE revision <= $1";
const PUT: &str = "INSERT INTO record (key, value, revision, created_revision, writer, session, \
     token_generation, token_counter) SELECT * FROM unnest($1::text[], $2::bytea[], $3::bigint[], \
     $4::bigint[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[]) ON CONFLICT (key) DO UPDATE SET \
     value = excluded.value, revision = excluded.revision, created_revision = excluded.created_revision, \
     writer = excluded.writer, session = excluded.session, \
     token_generation = excluded.token_generation, token_counter = excluded.token_counter";
const DELETE: &str = "DELETE FROM record WHERE key = ANY($1)";
const HISTORY: &str = "INSERT INTO history (key, value, revision, created_revision, writer, session, \
     token_generation, token_counter, cause) SELECT * FROM unnest($1::text[], $2::bytea[], $3::bigint[], \
     $4::bigint[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::smallint[])";
const NOTIFY: &str = "SELECT pg_notify($1, $2)";

const REMEMBER: &str = "INSERT INTO outcome (session, sequence, outcome) VALUES ($1, $2, $3)";
/// Drops the oldest outcome past those that are kept, and notes which it was.
const FORGET: &str = "WITH old AS (DELETE FROM outcome WHERE session = $1 AND sequence <= (SELECT sequence \
     FROM outcome WHERE session = $1 ORDER BY sequence DESC OFFSET $2 LIMIT 1) RETURNING sequence) \
     UPDATE session SET forgotten = (SELECT max(sequence) FROM old) \
     WHERE id = $1 AND EXISTS (SELECT 1 FROM old)";

/// What a commit may need, in the order in which it is sent.
const WRITES: [&str; 8] = [ADVANCE, PRUNE, PUT, DELETE, HISTORY, NOTIFY, REMEMBER, FORGET];
/// Of the columns of a change, those that a record has.
const RECORD_COLUMNS: usize = 8;

/// What came of a transaction that was judged.
type Judged = Result<TxnOutcome, Refusal>;

impl Shared {
    pub(super) async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError> {
        txn.check()?;
        let command = audit::command(txn, self.clock.wall(), self.nonce());
        let after = self.config.request_timeout;
        let deadline = Instant::now() + after;
        let mut tries_left = 2;
        let mut may_be_applied = false;
        let judged = loop {
            let attempt = |link: std::sync::Arc<Link>| {
                let command = &command;
                async move { self.attempt(&link, command).await }
            };
            match self.run_until(deadline, after, OPERATION, attempt).await {
                Ok(judged) => break judged,
                // With an idempotency key, another try finds out what came of this one.
                Err(error)
                    if error.applied() == Applied::Unknown
                        && command.txn.idempotency.is_some()
                        && tries_left > 0
                        && Instant::now() < deadline =>
                {
                    tries_left -= 1;
                    may_be_applied = true;
                }
                Err(error) if may_be_applied => return Err(fault::after_unknown(OPERATION, error).into()),
                Err(error) => return Err(error.into()),
            }
        };
        judged.map_err(|refusal| refusal.into_error(&command.txn.compares))
    }

    async fn attempt(&self, link: &Link, command: &TxnCommand) -> Result<Judged, Fault> {
        let txn = &command.txn;
        let compared = txn.compares.iter().map(Compare::key);
        let keys: Vec<&str> =
            compared.chain(txn.operations.iter().map(Operation::key)).map(|key| key.as_str()).collect();
        let named = txn.operations.iter().filter_map(session_in);
        let sessions: Vec<i64> = named
            .chain(txn.idempotency.map(|key| key.session))
            .filter_map(|id| i64::try_from(id.0).ok())
            .collect();
        let once = txn.idempotency.unwrap_or(IdempotencyKey { session: SessionId(0), sequence: 0 });
        let (owner, sequence) = (rows::signed(once.session.0), rows::ordered(once.sequence));
        let (by_key, by_id): (Parameters<'_>, Parameters<'_>) = (&[&keys], &[&sessions]);
        let by_sequence: Parameters<'_> = &[&owner, &sequence];
        // All of it goes out at once; the server answers in this order.
        let ((), meta, records, sessions, outcome) = tokio::try_join!(
            biased;
            link.batch(BEGIN_WRITE),
            link.query(STANDING, &[]),
            link.query(RECORDS, by_key),
            link.query(SESSIONS, by_id),
            link.query(OUTCOME, by_sequence),
        )?;
        let (revision, generation) = schema::standing(&meta)?;
        let records = records.iter().map(rows::record).collect::<Result<Vec<_>, _>>()?;
        let mut excerpts = Vec::new();
        for row in &sessions {
            let forgotten: Option<i64> = row.try_get("forgotten")?;
            let forgotten = forgotten.map(rows::from_ordered);
            let session = rows::session(row)?;
            let mut excerpt = SessionExcerpt { session, outcome: None, forgotten };
            if excerpt.session.id == once.session
                && let Some(row) = outcome.first()
            {
                let kept: Vec<u8> = row.try_get(0)?;
                excerpt.outcome = Some((once.sequence, read_outcome(Bytes::from(kept))?));
            }
            excerpts.push(excerpt);
        }
        let own = excerpts.iter().find(|excerpt| excerpt.session.id == once.session);
        let is_new = txn.idempotency.is_some()
            && own.is_some_and(|own| {
                own.outcome.is_none() && own.forgotten.is_none_or(|oldest| once.sequence > oldest)
            });
        let mut state = State::excerpt(generation, revision, records, excerpts);
        let Reply::Txn(judged) = state.apply(&Command::Txn(command.clone())) else {
            return Err(fault::damaged(&"a transaction had no outcome").into());
        };
        let changes = state.take_changes();
        let remember = is_new.then_some((owner, sequence, &judged));
        self.write(link, &changes, remember).await?;
        Ok(judged)
    }

    /// Writes the changes of the transaction that is open, and commits it.
    pub(super) async fn write(
        &self,
        link: &Link,
        changes: &[Revised],
        remember: Option<(i64, i64, &Judged)>,
    ) -> Result<(), Fault> {
        // Statements that the server does not know yet would be overtaken by the commit.
        let mut ready = Vec::with_capacity(WRITES.len());
        for sql in WRITES {
            ready.push(link.prepare(sql).await?);
        }
        let [advance, prune, put, delete, add, notify, keep, forget] = ready.as_slice() else {
            return Err(fault::damaged(&"a statement is missing").into());
        };
        let newest = changes.last().map(|revised| revised.revision);
        let (mut puts, mut gone, mut history) = (Columns::default(), Vec::new(), Columns::default());
        for revised in changes {
            for change in revised.changes.iter() {
                match change {
                    Change::Put(record) => {
                        puts.put(record);
                        history.put(record);
                    }
                    Change::Deleted { key, cause } => {
                        gone.push(key.as_str());
                        history.deleted(key, revised.revision, *cause);
                    }
                }
            }
        }
        let revision = rows::signed(newest.unwrap_or_default().0);
        let text = revision.to_string();
        let (session, sequence, outcome) = match remember {
            Some((session, sequence, judged)) => (session, sequence, encode_outcome(sequence, judged)),
            None => (0, 0, Vec::new()),
        };
        let (changed, remembers) = (newest.is_some(), remember.is_some());
        let kept = rows::signed(OUTCOMES_KEPT);
        let (all_puts, all_history) = (puts.parameters(), history.parameters());
        let forgotten = revision - rows::signed(HISTORY_REVISIONS_MAX as u64);
        let (of_advance, of_prune): (Parameters<'_>, Parameters<'_>) =
            (&[&revision, &forgotten], &[&forgotten]);
        let of_delete: Parameters<'_> = &[&gone];
        let of_notify: Parameters<'_> = &[&self.channel, &text];
        let of_keep: Parameters<'_> = &[&session, &sequence, &outcome];
        let of_forget: Parameters<'_> = &[&session, &kept];
        // One after the other on the wire, in this order, without waiting in between.
        tokio::try_join!(
            biased;
            link.send(changed, advance, of_advance),
            link.send(changed && forgotten > 0, prune, of_prune),
            link.send(!puts.key.is_empty(), put, &all_puts[..RECORD_COLUMNS]),
            link.send(!gone.is_empty(), delete, of_delete),
            link.send(changed, add, &all_history),
            link.send(changed, notify, of_notify),
            link.send(remembers, keep, of_keep),
            link.send(remembers, forget, of_forget),
            link.batch("COMMIT"),
        )
        .map_err(Fault::of_commit)?;
        Ok(())
    }
}

/// Writes records in a transaction that is committed later.
pub(super) async fn put(link: &Link, columns: &Columns<'_>) -> Result<u64, tokio_postgres::Error> {
    link.execute(PUT, &columns.parameters()[..RECORD_COLUMNS]).await
}

fn encode_outcome(sequence: i64, judged: &Judged) -> Vec<u8> {
    let outcome = match judged {
        Ok(outcome) => Outcome::Applied(outcome.into()),
        Err(refusal) => Outcome::Refused((&refusal.clone().without_record()).into()),
    };
    let kept = wire::SessionOutcome { sequence: rows::from_ordered(sequence), outcome: Some(outcome) };
    kept.encode_to_vec()
}

fn session_in(operation: &Operation) -> Option<SessionId> {
    match operation {
        Operation::Put { session, .. } => *session,
        Operation::Grant { session, .. } => Some(*session),
        Operation::Delete { .. } => None,
    }
}

fn read_outcome(kept: Bytes) -> Result<Judged, WireError> {
    const WHAT: &str = "a kept outcome";
    let kept = wire::SessionOutcome::decode(kept).map_err(wire::malformed(WHAT))?;
    match kept.outcome.ok_or_else(|| wire::bad(WHAT, "outcome", "it is missing"))? {
        Outcome::Refused(refusal) => Ok(Err(Refusal::try_from(refusal)?)),
        Outcome::Applied(applied) => Ok(Ok(TxnOutcome::try_from(applied)?)),
    }
}
