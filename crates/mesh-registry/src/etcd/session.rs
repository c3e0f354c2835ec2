//! Sessions: each is a lease with a key of its own on it.

use std::{collections::BTreeMap, time::Duration};

use mesh_core::{
    Revision,
    store::{Applied, OpenSession, Session, SessionError, SessionId, StoreError},
};
use prost::Message;

use super::{
    Shared,
    connection::{Kind, Link},
    fault::{self, Fault},
    layout::{self, StoredSession},
    lock, wire as pb,
};
use crate::wire::{self, values};

/// Sessions whose last renewal this handle keeps in mind, to renew them in one round trip less.
const KNOWN_MAX: usize = 10_000;
/// Tries to renew between two changes of etcd's leader.
const TRIES_MAX: usize = 8;

/// The sessions that this handle renewed, each with the revision of its key.
pub(super) type Renewed = BTreeMap<SessionId, (i64, StoredSession)>;

impl Shared {
    pub(super) async fn open_session(&self, request: OpenSession) -> Result<Session, SessionError> {
        const OPERATION: &str = "open a session";
        request.check()?;
        let error = |fault: Fault| SessionError::Store(fault.into_error(OPERATION));
        let grant = pb::LeaseGrantRequest { ttl: whole_seconds(request.ttl), id: 0 };
        let lease = self
            .connections
            .call(OPERATION, Kind::Repeatable, |link| async move { link.lease().lease_grant(grant).await })
            .await
            .map_err(error)?;
        let id = layout::session_of(lease.id).filter(|_| lease.ttl > 0 && lease.error.is_empty());
        let Some(id) = id else {
            let reason = format!("etcd granted no lease: {}", lease.error);
            return Err(StoreError::Unavailable {
                operation: OPERATION,
                reason,
                applied: Applied::No,
                source: None,
            }
            .into());
        };
        let ttl = Duration::from_secs(u64::try_from(lease.ttl).unwrap_or(0));
        let stored = StoredSession {
            owner: request.owner.as_str().to_owned(),
            ttl_ms: values::millis(ttl),
            renewals: 0,
            closing: false,
        };
        let guard = pb::Compare::absent(self.layout.session(id));
        // If it is there already, then by the first try of this put.
        if self.put_session(OPERATION, id, &stored, guard).await.map_err(error)?.is_none()
            && self.read_session(OPERATION, id).await.map_err(error)?.is_none_or(|(_, found)| found != stored)
        {
            let reason = "etcd gave out the id of an open session".to_owned();
            return Err(StoreError::Unavailable {
                operation: OPERATION,
                reason,
                applied: Applied::No,
                source: None,
            }
            .into());
        }
        Ok(Session { id, owner: request.owner, ttl, renewals: 0 })
    }

    /// Renews the lease, then writes that it was renewed. If both happened in one term of etcd's leader,
    /// it was this leader that renewed, so that no later leader ends the lease too early; if not, again.
    pub(super) async fn keep_alive(&self, id: SessionId) -> Result<Session, SessionError> {
        const OPERATION: &str = "renew a session";
        let gone = SessionError::Gone { session: id };
        let error = |fault: Fault| SessionError::Store(fault.into_error(OPERATION));
        let Some(lease) = layout::lease_of(id) else { return Err(gone) };
        for _ in 0..TRIES_MAX {
            let renewed = self.renew_lease(OPERATION, lease).await.map_err(error)?;
            if renewed.ttl <= 0 {
                lock(&self.renewed).remove(&id);
                return Err(gone);
            }
            let Some((stored, term)) = self.count_renewal(OPERATION, id).await.map_err(error)? else {
                return Err(gone);
            };
            if renewed.header.is_some_and(|header| header.raft_term == term) {
                let owner =
                    values::node("a session in etcd", "owner", &stored.owner).map_err(fault::damaged)?;
                let ttl = Duration::from_millis(stored.ttl_ms);
                return Ok(Session { id, owner, ttl, renewals: stored.renewals });
            }
        }
        let reason = "etcd keeps changing its leader".to_owned();
        Err(StoreError::Unavailable { operation: OPERATION, reason, applied: Applied::Unknown, source: None }
            .into())
    }

    async fn renew_lease(
        &self,
        operation: &'static str,
        lease: i64,
    ) -> Result<pb::LeaseKeepAliveResponse, Fault> {
        // Renewing twice does no harm, so that this may be repeated like a read.
        self.connections
            .call(operation, Kind::Read, |link| async move {
                let request = futures_util::stream::iter([pb::LeaseKeepAliveRequest { id: lease }]);
                let mut answers = link.lease().lease_keep_alive(request).await?.into_inner();
                let answer = answers.message().await?;
                answer.map(tonic::Response::new).ok_or_else(|| tonic::Status::unavailable("the stream ended"))
            })
            .await
    }

    /// Adds one to the count in the session's key. Returns what it holds and the term in which it was
    /// written; `None` if there is no such key.
    async fn count_renewal(
        &self,
        operation: &'static str,
        id: SessionId,
    ) -> Result<Option<(StoredSession, u64)>, Fault> {
        let mut known = lock(&self.renewed).get(&id).cloned();
        loop {
            let (written, mut stored) = match known {
                Some(known) => known,
                None => match self.read_session(operation, id).await? {
                    Some(found) => found,
                    None => return Ok(None),
                },
            };
            stored.renewals += 1;
            stored.closing = false;
            let guard = pb::Compare::written_at(self.layout.session(id), written);
            let put = match self.put_session(operation, id, &stored, guard).await {
                Ok(put) => put,
                // The count may have been raised or not: it is read anew, and raised once more.
                Err(Fault::NoSuchLease) => return Ok(None),
                Err(fault) => {
                    lock(&self.renewed).remove(&id);
                    return Err(fault);
                }
            };
            if let Some(header) = put {
                let mut renewed = lock(&self.renewed);
                if renewed.len() >= KNOWN_MAX {
                    renewed.clear();
                }
                renewed.insert(id, (header.revision, stored.clone()));
                return Ok(Some((stored, header.raft_term)));
            }
            known = None;
        }
    }

    async fn read_session(
        &self,
        operation: &'static str,
        id: SessionId,
    ) -> Result<Option<(i64, StoredSession)>, Fault> {
        let answer = self.range(operation, pb::RangeRequest::key(self.layout.session(id))).await?;
        let Some(kv) = answer.kvs.into_iter().next() else { return Ok(None) };
        let damaged = |error| fault::damaged(wire::malformed("a session in etcd")(error));
        Ok(Some((kv.mod_revision, StoredSession::decode(kv.value).map_err(damaged)?)))
    }

    /// Writes a session's key if `guard` holds; `None` if it does not.
    async fn put_session(
        &self,
        operation: &'static str,
        id: SessionId,
        stored: &StoredSession,
        guard: pb::Compare,
    ) -> Result<Option<pb::ResponseHeader>, Fault> {
        let put = pb::PutRequest {
            key: self.layout.session(id),
            value: stored.encode_to_vec().into(),
            lease: layout::lease_of(id).unwrap_or(0),
            ignore_lease: false,
        };
        let request = pb::TxnRequest { compare: vec![guard], success: vec![put.op()], failure: Vec::new() };
        let answer = self.txn(operation, Kind::Repeatable, request).await?;
        Ok(answer.header.filter(|_| answer.succeeded))
    }

    pub(super) async fn close_session(&self, id: SessionId) -> Result<Revision, SessionError> {
        const OPERATION: &str = "close a session";
        let gone = SessionError::Gone { session: id };
        let error = |fault: Fault| SessionError::Store(fault.into_error(OPERATION));
        let Some(lease) = layout::lease_of(id) else { return Err(gone) };
        lock(&self.renewed).remove(&id);
        // Says to those who watch that it did not expire.
        loop {
            let found = self.read_session(OPERATION, id).await.map_err(error)?;
            let Some((written, mut stored)) = found else { return Err(gone) };
            stored.closing = true;
            let guard = pb::Compare::written_at(self.layout.session(id), written);
            match self.put_session(OPERATION, id, &stored, guard).await {
                Ok(Some(_)) => break,
                // It was renewed in between.
                Ok(None) => {}
                Err(Fault::NoSuchLease) => return Err(gone),
                Err(fault) => return Err(error(fault)),
            }
        }
        let request = pb::LeaseRevokeRequest { id: lease };
        let revoke = |link: Link| async move { link.lease().lease_revoke(request).await };
        match self.connections.call(OPERATION, Kind::Once, revoke).await {
            Ok(answer) => Ok(self.seen(answer.header.as_ref())),
            Err(Fault::NoSuchLease) => Err(gone),
            Err(fault) => Err(error(fault)),
        }
    }

    /// Whether a session that ended at `revision` was closed by its owner; `None` if it did not end there.
    pub(super) async fn ended_by_owner(&self, id: SessionId, revision: i64) -> Result<Option<bool>, Fault> {
        let key = self.layout.session(id);
        let at = |revision| pb::RangeRequest::key(key.clone()).at(revision).op();
        let request = pb::TxnRequest { success: vec![at(revision), at(revision - 1)], ..Default::default() };
        let answer = self.txn("watch", Kind::Read, request).await?;
        let mut found = answer.responses.into_iter().map(|r| r.into_range().kvs.into_iter().next());
        let (after, before) = (found.next().flatten(), found.next().flatten());
        let (None, Some(before)) = (after, before) else { return Ok(None) };
        let damaged = |error| fault::damaged(wire::malformed("a session in etcd")(error));
        Ok(Some(StoredSession::decode(before.value).map_err(damaged)?.closing))
    }
}

/// What etcd counts in, never less than asked for.
fn whole_seconds(ttl: Duration) -> i64 {
    let rounded = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    i64::try_from(rounded).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_rounded_up_to_whole_seconds() {
        assert_eq!(whole_seconds(Duration::from_millis(500)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(2)), 2);
        assert_eq!(whole_seconds(Duration::from_millis(2001)), 3);
    }
}
