//! Reads: one record, pages, the whole, and what etcd says about itself.

use std::sync::atomic::Ordering;

use mesh_core::{
    Revision,
    store::{ByteStream, Key, Page, Prefix, Record, Scan, Session, SessionId, StoreError, StoreStatus},
};
use tokio::time::Instant;

use super::{
    Shared,
    connection::{Kind, Link},
    fault::{self, Fault},
    layout::{self, Layout},
    wire as pb,
};
use crate::state::{SnapshotWriter, State};

/// Records that one request asks for, and so many when some of them are large.
const CHUNK: usize = 1000;
const CHUNK_OF_LARGE: usize = 100;
/// A page ends early past so many bytes.
const PAGE_BYTES: usize = 32 << 20;
/// Largest store that a snapshot is made of: what a restore takes.
const SNAPSHOT_BYTES_MAX: usize = 1 << 30;

/// What is left of a range after some chunks of it.
struct Cursor {
    start: bytes::Bytes,
    end: bytes::Bytes,
    /// 0: the newest, which the first chunk makes the revision of all others.
    revision: i64,
    chunk: usize,
    more: bool,
}

impl Shared {
    pub(super) async fn range(
        &self,
        operation: &'static str,
        request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, Fault> {
        self.range_until(self.connections.deadline(), operation, request).await
    }

    pub(super) async fn range_until(
        &self,
        deadline: Instant,
        operation: &'static str,
        request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, Fault> {
        let answer = self
            .connections
            .call_until(deadline, operation, Kind::Read, |link| {
                let request = request.clone();
                let mut kv = if request.serializable { link.kv_of_any_copy() } else { link.kv() };
                async move { kv.range(request).await }
            })
            .await?;
        self.seen(answer.header.as_ref());
        Ok(answer)
    }

    pub(super) async fn txn(
        &self,
        operation: &'static str,
        kind: Kind,
        request: pb::TxnRequest,
    ) -> Result<pb::TxnResponse, Fault> {
        self.txn_until(self.connections.deadline(), operation, kind, request).await
    }

    pub(super) async fn txn_until(
        &self,
        deadline: Instant,
        operation: &'static str,
        kind: Kind,
        request: pb::TxnRequest,
    ) -> Result<pb::TxnResponse, Fault> {
        let send = |link: Link| {
            let request = request.clone();
            async move { link.kv().txn(request).await }
        };
        let answer = self.connections.call_until(deadline, operation, kind, send).await?;
        self.seen(answer.header.as_ref());
        Ok(answer)
    }

    /// The revision now.
    pub(super) async fn revision(&self, operation: &'static str) -> Result<Revision, StoreError> {
        let request = pb::RangeRequest { count_only: true, ..pb::RangeRequest::key(self.layout.meta()) };
        let answer = self.range(operation, request).await.map_err(|fault| fault.into_error(operation))?;
        Ok(self.seen(answer.header.as_ref()))
    }

    pub(super) async fn get(&self, key: &Key, stale: bool) -> Result<(Option<Record>, Revision), StoreError> {
        let request =
            pb::RangeRequest { serializable: stale, ..pb::RangeRequest::key(self.layout.record(key)) };
        let answer = self.range("read", request).await.map_err(|fault| fault.into_error("read"))?;
        let revision = self.seen(answer.header.as_ref());
        let record = answer.kvs.into_iter().next().map(|kv| self.layout.read_record(kv));
        Ok((record.transpose().map_err(fault::damaged)?.flatten(), revision))
    }

    pub(super) async fn scan(&self, scan: &Scan, stale: bool) -> Result<(Page, Revision), StoreError> {
        scan.check()?;
        let (start, end) = self.layout.range(&scan.prefix);
        let after = scan.after.as_ref().map(|key| self.layout.after(&scan.prefix, key));
        let start = after.map_or_else(|| start.clone(), |after| after.max(start.clone()));
        let mut cursor = Cursor { start, end, revision: 0, chunk: CHUNK, more: true };
        let mut records = Vec::new();
        let mut bytes = 0;
        while cursor.more && records.len() < scan.limit && bytes < PAGE_BYTES {
            let wanted = scan.limit - records.len();
            let next = self.chunk(&mut cursor, wanted, stale).await?;
            bytes += next.iter().map(|record| record.value.len()).sum::<usize>();
            records.extend(next);
        }
        Ok((Page { records, more: cursor.more }, layout::revision(cursor.revision)))
    }

    /// The next records of a range, at the revision of the first chunk.
    async fn chunk(
        &self,
        cursor: &mut Cursor,
        wanted: usize,
        stale: bool,
    ) -> Result<Vec<Record>, StoreError> {
        let answer = loop {
            let limit = i64::try_from(wanted.min(cursor.chunk)).unwrap_or(1);
            let request = pb::RangeRequest {
                serializable: stale,
                sort_order: pb::SortOrder::None.into(),
                ..pb::RangeRequest::between(cursor.start.clone(), cursor.end.clone(), limit)
                    .at(cursor.revision)
            };
            match self.range("scan", request).await {
                Ok(answer) => break answer,
                Err(Fault::TooLarge(_)) if cursor.chunk > CHUNK_OF_LARGE => cursor.chunk = CHUNK_OF_LARGE,
                Err(fault) => return Err(fault.into_error("scan")),
            }
        };
        if cursor.revision == 0 {
            cursor.revision = answer.header.unwrap_or_default().revision;
        }
        cursor.more = answer.more;
        if let Some(last) = answer.kvs.last() {
            let mut next = last.key.to_vec();
            next.push(0);
            cursor.start = next.into();
        }
        let records = answer.kvs.into_iter().filter_map(|kv| self.layout.read_record(kv).transpose());
        records.collect::<Result<_, _>>().map_err(fault::damaged)
    }

    pub(super) async fn session(&self, id: SessionId) -> Result<Option<Session>, StoreError> {
        let request = pb::RangeRequest::key(self.layout.session(id));
        let answer = self
            .range("read a session", request)
            .await
            .map_err(|fault| fault.into_error("read a session"))?;
        let session = answer.kvs.into_iter().next().map(|kv| Layout::read_session(id, kv));
        session.transpose().map_err(fault::damaged)
    }

    pub(super) async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        let meta = self.meta().await?;
        let mut records = Vec::new();
        let (mut revision, mut bytes) = (0, 0);
        for prefix in ["", "~"] {
            let prefix = Prefix::new(prefix)
                .map_err(|error| StoreError::Invalid { what: "snapshot", problem: error.to_string() })?;
            let (start, end) = self.layout.range(&prefix);
            let mut cursor = Cursor { start, end, revision, chunk: CHUNK, more: true };
            while cursor.more {
                let next = self.chunk(&mut cursor, CHUNK, false).await?;
                bytes += next.iter().map(|r| r.value.len() + r.key.as_str().len()).sum::<usize>();
                if bytes > SNAPSHOT_BYTES_MAX {
                    return Err(StoreError::Unsupported {
                        provider: "etcd",
                        operation: "make a snapshot of more than 1 GiB",
                        reason: "it could not be restored anywhere; use `etcdctl snapshot save`",
                    });
                }
                records.extend(next);
            }
            revision = cursor.revision;
        }
        let sessions = self.sessions_at(revision).await?;
        let sessions = sessions.into_iter().map(Into::into);
        let state = State::excerpt(meta.generation, layout::revision(revision), records, sessions);
        Ok(Box::pin(futures_util::stream::iter(SnapshotWriter::new(state).map(Ok))))
    }

    async fn sessions_at(&self, revision: i64) -> Result<Vec<Session>, StoreError> {
        let (mut start, end) = self.layout.sessions();
        let mut sessions = Vec::new();
        loop {
            let limit = i64::try_from(CHUNK).unwrap_or(1);
            let request = pb::RangeRequest::between(start.clone(), end.clone(), limit).at(revision);
            let answer = self.range("scan", request).await.map_err(|fault| fault.into_error("scan"))?;
            for kv in answer.kvs {
                start = [&*kv.key, &[0]].concat().into();
                if let Some(id) = layout::session_of(kv.lease) {
                    sessions.push(Layout::read_session(id, kv).map_err(fault::damaged)?);
                }
            }
            if !answer.more {
                return Ok(sessions);
            }
        }
    }

    pub(super) async fn status(&self) -> Result<StoreStatus, StoreError> {
        const OPERATION: &str = "read its status";
        let error = |fault: Fault| fault.into_error(OPERATION);
        let meta = self.meta().await?;
        let all = Prefix::all();
        let own = Prefix::new("~").unwrap_or_else(|_| Prefix::all());
        let counts = [self.layout.range(&all), self.layout.range(&own), self.layout.sessions()];
        let counts = counts.map(|(start, end)| pb::RangeRequest::count(start, end).op());
        let request = pb::TxnRequest { success: counts.into(), ..Default::default() };
        let answer = self.txn(OPERATION, Kind::Read, request).await.map_err(error)?;
        let revision = self.seen(answer.header.as_ref());
        let counts: Vec<u64> =
            answer.responses.into_iter().map(|r| u64::try_from(r.into_range().count).unwrap_or(0)).collect();
        let count = |index: usize| counts.get(index).copied().unwrap_or(0);
        let health = self
            .connections
            .call(OPERATION, Kind::Read, |link| async move {
                link.maintenance().status(pb::StatusRequest {}).await
            })
            .await
            .map_err(error)?;
        let full = health.errors.iter().any(|alarm| alarm.contains("NOSPACE"));
        Ok(StoreStatus {
            provider: "etcd",
            cluster: format!("{:016x}.{}", meta.cluster, meta.generation),
            revision,
            compacted: self.compacted_before(revision).await.map_err(error)?,
            generation: meta.generation,
            leader: None,
            read_only: full.then(|| fault::FULL.to_owned()),
            records: count(0) + count(1),
            sessions: count(2),
        })
    }

    /// Where etcd's history begins. It does not tell, so this looks for the first revision that can be
    /// read: from where it was last time, and by halves if it moved.
    async fn compacted_before(&self, newest: Revision) -> Result<Revision, Fault> {
        let mut gone = self.compacted.load(Ordering::Relaxed);
        if self.can_read(gone.max(1)).await? {
            return Ok(Revision(gone));
        }
        gone = gone.max(1);
        let mut there = newest.0;
        while there - gone > 1 {
            let middle = gone + (there - gone) / 2;
            if self.can_read(middle).await? {
                there = middle;
            } else {
                gone = middle;
            }
        }
        self.compacted.fetch_max(there, Ordering::Relaxed);
        Ok(Revision(there))
    }

    async fn can_read(&self, revision: u64) -> Result<bool, Fault> {
        let revision = i64::try_from(revision).unwrap_or(i64::MAX);
        let request = pb::RangeRequest { count_only: true, ..pb::RangeRequest::key(self.layout.meta()) };
        match self.range("read its status", request.at(revision)).await {
            Ok(_) => Ok(true),
            Err(Fault::Compacted) => Ok(false),
            Err(other) => Err(other),
        }
    }
}
