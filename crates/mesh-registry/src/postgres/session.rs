//! Sessions: rows whose counter their owners raise, and the observer that ends those that stand still.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Revision,
    store::{Change, DeleteCause, Key, OpenSession, Session, SessionError, SessionId, StoreError},
};
use tracing::{info, warn};

use super::{Shared, fault::Fault, pool::Link, rows, schema::begin_write};
use crate::{
    deadlines::Deadlines,
    state::{Expiry, Revised},
    wire::values,
};

/// Opens none if the database has moved: the ids that it gives out may have been given out before.
const OPEN: &str = "INSERT INTO session (id, owner, ttl_ms, renewals) \
     SELECT nextval('session_id'), $1, $2, 0 FROM meta \
     WHERE system = (SELECT system_identifier FROM pg_control_system()) \
     AND timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) \
     RETURNING id, owner, ttl_ms, renewals";
const RENEW: &str = "UPDATE session SET renewals = renewals + 1 WHERE id = $1 \
     RETURNING id, owner, ttl_ms, renewals";
const ONE: &str = "SELECT id, owner, ttl_ms, renewals FROM session WHERE id = $1";
pub(super) const ALL: &str = "SELECT id, owner, ttl_ms, renewals FROM session ORDER BY id";
/// Without a count of renewals: whatever it is.
const END: &str = "DELETE FROM session WHERE id = $1 AND ($2::bigint IS NULL OR renewals = $2) RETURNING id";
const RECORDS_OF: &str = "SELECT key FROM record WHERE session = $1 ORDER BY key";

/// Sessions that one transaction ends.
const EXPIRIES_MAX: usize = 100;

impl Shared {
    pub(super) async fn open_session(&self, request: OpenSession) -> Result<Session, SessionError> {
        request.check()?;
        let opened = self.run("open a session", |link| {
            let (owner, ttl) = (request.owner.clone(), rows::signed(values::millis(request.ttl)));
            async move {
                let row = link.query(OPEN, &[&owner.as_str(), &ttl]).await.map_err(Fault::of_commit)?;
                rows::session(row.first().ok_or(Fault::Moved)?)
            }
        });
        Ok(opened.await?)
    }

    /// One statement, which is durable when it is answered.
    pub(super) async fn keep_alive(&self, id: SessionId) -> Result<Session, SessionError> {
        let renewed = self.run("renew a session", |link| async move {
            let row = link.query(RENEW, &[&rows::signed(id.0)]).await.map_err(Fault::of_commit)?;
            row.first().map(rows::session).transpose()
        });
        renewed.await?.ok_or(SessionError::Gone { session: id })
    }

    pub(super) async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        self.read("read a session", |link| async move {
            link.query(ONE, &[&rows::signed(id.0)]).await?.first().map(rows::session).transpose()
        })
        .await
    }

    pub(super) async fn close_session(&self, id: SessionId) -> Result<Revision, SessionError> {
        let end = [(id, None)];
        let ended = self.run("close a session", |link| async move {
            self.end(&link, &end, DeleteCause::SessionClosed).await
        });
        let ended = ended.await?;
        ended.first().map(|(_, revision)| *revision).ok_or(SessionError::Gone { session: id })
    }

    /// Ends those sessions that are there and were renewed so often, each with its records at a revision
    /// of its own.
    async fn end(
        &self,
        link: &Link,
        sessions: &[(SessionId, Option<u64>)],
        cause: DeleteCause,
    ) -> Result<Vec<(SessionId, Revision)>, Fault> {
        let (mut revision, _) = begin_write(link).await?;
        let mut ended = Vec::new();
        let mut changes = Vec::new();
        for (session, renewals) in sessions {
            let (id, renewals) = (rows::signed(session.0), renewals.map(rows::signed));
            if link.query(END, &[&id, &renewals]).await?.is_empty() {
                continue;
            }
            let keys = link.query(RECORDS_OF, &[&id]).await?;
            let mut deleted = Vec::new();
            for row in &keys {
                let key: Key = values::key("a row of a record", row.try_get(0)?)?;
                deleted.push(Change::Deleted { key, cause });
            }
            if !deleted.is_empty() {
                revision = Revision(revision.0 + 1);
                changes.push(Revised { revision, changes: deleted.into() });
            }
            ended.push((*session, revision));
        }
        self.write(link, &changes, None).await?;
        Ok(ended)
    }
}

/// Ends sessions that were not renewed in time, as long as the store is open.
pub(super) async fn observe(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(shared.config.observe_interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut observer = Observer { deadlines: Deadlines::new(shared.config.drift_ppm), seen: BTreeMap::new() };
    loop {
        interval.tick().await;
        let looked = observer.look(&shared).await;
        shared.looks.send_modify(|looks| *looks += 1);
        if let Err(error) = looked {
            warn!(error = &error as &dyn std::error::Error, "sessions can't be observed");
            // Nobody could renew meanwhile.
            observer.deadlines.extend_all(shared.clock.now());
        }
    }
}

struct Observer {
    deadlines: Deadlines,
    /// The count of renewals that each deadline was counted from.
    seen: BTreeMap<SessionId, u64>,
}

impl Observer {
    async fn look(&mut self, shared: &Shared) -> Result<(), StoreError> {
        // What stands still was read after `before`; what was renewed, was so before `after`.
        let before = shared.clock.now();
        let sessions = shared
            .read("observe sessions", |link| async move {
                link.query(ALL, &[]).await?.iter().map(rows::session).collect::<Result<Vec<_>, _>>()
            })
            .await?;
        let after = shared.clock.now();
        let open: BTreeSet<SessionId> = sessions.iter().map(|session| session.id).collect();
        self.seen.retain(|id, _| {
            let there = open.contains(id);
            if !there {
                self.deadlines.forget(*id);
            }
            there
        });
        for session in &sessions {
            if self.seen.insert(session.id, session.renewals) != Some(session.renewals) {
                self.deadlines.observe(session, after);
            }
        }
        let due = self.deadlines.due(before, EXPIRIES_MAX);
        if due.is_empty() {
            return Ok(());
        }
        let due: Vec<_> =
            due.iter().map(|Expiry { session, renewals }| (*session, Some(*renewals))).collect();
        let ended = shared
            .run("end sessions", |link| {
                let due = due.clone();
                async move { shared.end(&link, &due, DeleteCause::SessionExpired).await }
            })
            .await?;
        for (session, revision) in ended {
            info!(session = session.0, revision = revision.0, "a session has expired");
            self.deadlines.forget(session);
        }
        Ok(())
    }
}
