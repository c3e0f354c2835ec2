//! The whole at once: snapshots, restores, and what is forgotten.

use std::sync::Arc;

use futures_util::StreamExt;
use mesh_core::{
    Revision, WallTime,
    store::{ByteStream, Key, Prefix, Record, Restored, Scan, StoreError},
};
use tokio::time::Instant;

use super::{
    Shared,
    fault::{self, Fault},
    pool::Link,
    read, rows,
    rows::Columns,
    schema::begin_write,
    session, transact,
};
use crate::{
    audit::AUDIT_PREFIX,
    state::{Revised, SnapshotReader, SnapshotWriter, State},
};

/// Largest store that a snapshot is made of: what a restore takes.
const SNAPSHOT_BYTES_MAX: usize = 1 << 30;
/// Records and bytes that one statement of a restore writes.
const BATCH_RECORDS: usize = 1000;
const BATCH_BYTES: usize = 8 << 20;
/// Audit records that one transaction drops.
const AUDITS_MAX: i64 = 1000;

/// A large store takes longer than a request may, on both sides; the transfer has a deadline of its own.
const NO_LIMITS: &str = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";
const COMPACT: &str =
    "UPDATE meta SET compacted = greatest(compacted, least($1, revision)) RETURNING compacted";
const FORGET: &str = "DELETE FROM history WHERE revision <= $1";
const META: &str = "SELECT revision, generation FROM meta";
const REPLACE: &str = "DELETE FROM record WHERE key NOT LIKE '~%'";
const AFTER_RESTORE: &str = "UPDATE meta SET revision = greatest(revision, $1) + 1, \
     compacted = greatest(revision, $1) + 1, generation = greatest(generation, $2) + 1 \
     RETURNING revision, generation";
const SKIP_IDS: &str = "SELECT setval('session_id', greatest($1, (SELECT last_value FROM session_id)))";
const OLD_AUDITS: &str = "SELECT key, value, revision, created_revision, writer, session, \
     token_generation, token_counter FROM record WHERE key >= $1 AND key < $2 ORDER BY key LIMIT $3";

impl Shared {
    pub(super) async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        const OPERATION: &str = "compact";
        let through = through.min(self.revision().await?);
        self.let_watches_pass(through).await;
        self.run(OPERATION, |link| async move {
            link.batch("BEGIN").await?;
            link.execute(COMPACT, &[&rows::signed(through.0)]).await?;
            link.execute(FORGET, &[&rows::signed(through.0)]).await?;
            link.batch("COMMIT").await.map_err(Fault::of_commit)
        })
        .await
    }

    pub(super) async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        let after = self.config.transfer_timeout;
        let deadline = Instant::now() + after;
        let state = self.run_until(deadline, after, "make a snapshot", |link| async move {
            link.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            link.batch(NO_LIMITS).await?;
            let state = self.copy(&link).await?;
            link.batch("COMMIT").await?;
            Ok(state)
        });
        let state = state.await.map_err(fault::without_effect)?;
        Ok(Box::pin(futures_util::stream::iter(SnapshotWriter::new(state).map(Ok))))
    }

    async fn copy(&self, link: &Arc<Link>) -> Result<State, Fault> {
        let meta = link.query(META, &[]).await?;
        let row = meta.first().ok_or_else(|| fault::damaged(&"meta has no row"))?;
        let (revision, generation) = (rows::unsigned(row.try_get(0)?), rows::unsigned(row.try_get(1)?));
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0;
        for prefix in ["", "~"] {
            let prefix = Prefix::new(prefix).map_err(|error| fault::damaged(&error))?;
            let mut scan = Scan::of(prefix);
            loop {
                let (page, _) = read::page(Arc::clone(link), &scan).await?;
                scan.after = page.records.last().map(|record| record.key.clone());
                bytes += page.records.iter().map(weight).sum::<usize>();
                records.extend(page.records);
                if bytes > SNAPSHOT_BYTES_MAX {
                    return Err(StoreError::Unsupported {
                        provider: "postgres",
                        operation: "make a snapshot of more than 1 GiB",
                        reason: "it could not be restored anywhere; use pg_dump",
                    }
                    .into());
                }
                if !page.more {
                    break;
                }
            }
        }
        let sessions = link.query(session::ALL, &[]).await?;
        let sessions = sessions.iter().map(rows::session).collect::<Result<Vec<_>, _>>()?;
        let sessions = sessions.into_iter().map(Into::into);
        Ok(State::excerpt(generation, Revision(revision), records, sessions))
    }

    /// One transaction replaces everything but what was audited here.
    pub(super) async fn restore(&self, mut snapshot: ByteStream) -> Result<Restored, StoreError> {
        let damaged = |problem: String| StoreError::Damaged { what: "the snapshot".to_owned(), problem };
        let mut reader = SnapshotReader::default();
        let mut bytes = 0;
        while let Some(piece) = snapshot.next().await {
            let piece = piece?;
            bytes += piece.len();
            if bytes > 2 * SNAPSHOT_BYTES_MAX {
                return Err(damaged(format!("it is larger than {} bytes", 2 * SNAPSHOT_BYTES_MAX)));
            }
            reader.push(&piece).map_err(|error| damaged(error.to_string()))?;
        }
        let state = reader.finish().map_err(|error| damaged(error.to_string()))?;
        let after = self.config.transfer_timeout;
        let deadline = Instant::now() + after;
        let restored = self
            .run_until(deadline, after, "restore a snapshot", |link| {
                let state = &state;
                async move { self.replace(&link, state).await }
            })
            .await?;
        self.let_watches_pass(restored.revision).await;
        Ok(restored)
    }

    async fn replace(&self, link: &Link, state: &State) -> Result<Restored, Fault> {
        begin_write(link).await?;
        link.batch(NO_LIMITS).await?;
        link.execute(REPLACE, &[]).await?;
        link.execute("DELETE FROM session", &[]).await?;
        link.execute("DELETE FROM history", &[]).await?;
        for prefix in ["", "~"] {
            let prefix = Prefix::new(prefix).map_err(|error| fault::damaged(&error))?;
            let mut scan = Scan { limit: BATCH_RECORDS, ..Scan::of(prefix) };
            loop {
                let (records, more) = state.scan(&scan);
                scan.after = records.last().map(|record| record.key.clone());
                write(link, records.iter().filter(|record| record.session.is_none())).await?;
                if !more {
                    break;
                }
            }
        }
        link.query(SKIP_IDS, &[&rows::signed(state.last_session().0.max(1))]).await?;
        let (revision, generation) = (rows::signed(state.revision().0), rows::signed(state.generation()));
        let after = link.query(AFTER_RESTORE, &[&revision, &generation]).await?;
        let row = after.first().ok_or_else(|| fault::damaged(&"meta has no row"))?;
        let restored = Restored {
            revision: Revision(rows::unsigned(row.try_get(0)?)),
            generation: rows::unsigned(row.try_get(1)?),
        };
        link.batch("COMMIT").await.map_err(Fault::of_commit)?;
        Ok(restored)
    }

    /// Deletes the oldest audit records from before a moment, at one revision.
    pub(super) async fn trim_audit(&self, before: WallTime) -> Result<u64, StoreError> {
        let end = format!("{AUDIT_PREFIX}{:013}", before.0);
        self.run("trim the audit records", |link| {
            let end = end.clone();
            async move {
                let (newest, _) = begin_write(&link).await?;
                let old = link.query(OLD_AUDITS, &[&AUDIT_PREFIX, &end, &AUDITS_MAX]).await?;
                let old = old.iter().map(rows::record).collect::<Result<Vec<_>, _>>()?;
                let revision = Revision(newest.0 + 1);
                let gone: Vec<_> = old.into_iter().map(|record| deleted(record.key)).collect();
                let count = gone.len() as u64;
                let changes = (count > 0).then(|| Revised { revision, changes: gone.into() });
                self.write(&link, changes.as_slice(), None).await?;
                Ok(count)
            }
        })
        .await
    }
}

fn deleted(key: Key) -> mesh_core::store::Change {
    mesh_core::store::Change::Deleted { key, cause: mesh_core::store::DeleteCause::Written }
}

fn weight(record: &Record) -> usize {
    record.key.as_str().len() + record.value.len()
}

async fn write<'r>(link: &Link, records: impl Iterator<Item = &'r Record>) -> Result<(), Fault> {
    let mut columns = Columns::default();
    let mut bytes = 0;
    for record in records {
        if bytes > BATCH_BYTES {
            transact::put(link, &std::mem::take(&mut columns)).await?;
            bytes = 0;
        }
        bytes += weight(record);
        columns.put(record);
    }
    if !columns.key.is_empty() {
        transact::put(link, &columns).await?;
    }
    Ok(())
}
