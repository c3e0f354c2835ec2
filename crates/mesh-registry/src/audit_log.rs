//! Reads what was audited: who did what, when and why.

use mesh_core::{
    NodeId, Revision, WallTime,
    store::{Key, Prefix, Record, SCAN_LIMIT_MAX, Scan, StoreError, VersionedStore},
};

use crate::AUDIT_PREFIX;

/// Which audit records to read. The default: all, from the oldest, 100 at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only those after this one: the last key of the page before.
    pub after: Option<Key>,
    /// Only those from this moment or later.
    pub from: WallTime,
    /// Only those before this moment.
    pub until: WallTime,
    /// At most so many, 1 to 10,000.
    pub limit: usize,
}

impl Default for AuditQuery {
    fn default() -> Self {
        Self { after: None, from: WallTime(0), until: WallTime(u64::MAX), limit: 100 }
    }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its record.
    pub key: Key,
    /// The revision that the change and this entry share.
    pub revision: Revision,
    /// When, on the clock of the node that took it.
    pub at: WallTime,
    /// Who.
    pub writer: NodeId,
    /// What, as a verb and an object.
    pub action: String,
    /// Why.
    pub reason: String,
    /// As in the log lines of this action.
    pub correlation_id: u64,
    /// The records that changed; the first ones, if they were many.
    pub keys: Vec<String>,
    /// How many records changed.
    pub keys_total: u64,
}

/// Entries in the order of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditPage {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// Where the next page begins ([`AuditQuery::after`]); `None` if nothing follows.
    pub next: Option<Key>,
    /// Records that are no entries, such as those of a newer version.
    pub unreadable: usize,
}

/// A page of audit records.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use mesh_core::store::{AuditNote, Txn, VersionedStore};
/// use mesh_registry::{MemoryStore, audit_log};
/// let store = MemoryStore::new();
/// let note = AuditNote { action: "leader.step-down".into(), reason: "upgrade".into(), correlation_id: 7 };
/// store.transact(Txn::new("n1".parse()?).audited(note)).await?;
/// let page = audit_log::page(&store, &audit_log::AuditQuery::default()).await?;
/// assert_eq!(page.entries[0].action, "leader.step-down");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Those of the store; [`StoreError::Invalid`] for a limit outside its range.
pub async fn page(store: &dyn VersionedStore, query: &AuditQuery) -> Result<AuditPage, StoreError> {
    if !(1..=SCAN_LIMIT_MAX).contains(&query.limit) {
        let problem = format!("limit {} is outside 1 to {SCAN_LIMIT_MAX}", query.limit);
        return Err(StoreError::Invalid { what: "audit query", problem });
    }
    let invalid = |error: mesh_core::store::KeyError| StoreError::Invalid {
        what: "audit query",
        problem: error.to_string(),
    };
    // Keys are in the order of time, and nothing has the bare time as its key.
    let first = Key::new(bound(query.from)).map_err(invalid)?;
    let after = query.after.clone().map_or(first.clone(), |after| after.max(first));
    let scan =
        Scan { prefix: Prefix::new(AUDIT_PREFIX).map_err(invalid)?, after: Some(after), limit: query.limit };
    let found = store.scan(&scan).await?.value;
    let end = bound(query.until);
    let scanned = found.records.len();
    let within: Vec<Record> =
        found.records.into_iter().take_while(|record| record.key.as_str() < end.as_str()).collect();
    // If the page ends with the time that was asked for, nothing follows.
    let more = found.more && within.len() == scanned;
    let next = within.last().filter(|_| more).map(|last| last.key.clone());
    let total = within.len();
    let entries: Vec<AuditEntry> = within.iter().filter_map(entry).collect();
    Ok(AuditPage { unreadable: total - entries.len(), entries, next })
}

fn bound(at: WallTime) -> String {
    // Thirteen digits last until the year 2286.
    format!("{AUDIT_PREFIX}{:013}", at.0.min(9_999_999_999_999))
}

fn entry(record: &Record) -> Option<AuditEntry> {
    let value: serde_json::Value = serde_json::from_slice(&record.value).ok()?;
    let text = |field: &str| value.get(field)?.as_str().map(str::to_owned);
    let keys = value.get("keys")?.as_array()?.iter().filter_map(|key| key.as_str().map(str::to_owned));
    Some(AuditEntry {
        key: record.key.clone(),
        revision: record.revision,
        at: WallTime(value.get("at_ms")?.as_u64()?),
        writer: NodeId::new(text("writer")?).ok()?,
        action: text("action")?,
        reason: text("reason")?,
        correlation_id: u64::from_str_radix(&text("correlation_id")?, 16).ok()?,
        keys: keys.collect(),
        keys_total: value.get("keys_total")?.as_u64()?,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_core::{
        ManualClock,
        store::{AuditNote, Operation, Txn},
    };

    use super::*;
    use crate::MemoryStore;

    #[tokio::test]
    async fn entries_come_by_time_and_page_by_page() {
        let clock = ManualClock::default();
        let store = MemoryStore::with_clock(Arc::new(clock.clone()));
        for at in 1..=5_u64 {
            clock.set_wall(WallTime(1_700_000_000_000 + at));
            let note = AuditNote { action: format!("do-{at}"), reason: "so".to_owned(), correlation_id: at };
            let key = Key::new(format!("k/{at}")).expect("a key");
            let put = Operation::Put { key, value: "v".into(), session: None };
            store
                .transact(Txn::new("n1".parse().expect("an id")).then(put).audited(note))
                .await
                .expect("applied");
        }
        let actions =
            |page: &AuditPage| page.entries.iter().map(|entry| entry.action.clone()).collect::<Vec<_>>();
        let mut query = AuditQuery { limit: 2, ..AuditQuery::default() };
        let mut all = Vec::new();
        loop {
            let page = page(&store, &query).await.expect("a page");
            all.extend(actions(&page));
            match page.next {
                Some(next) => query.after = Some(next),
                None => break,
            }
        }
        assert_eq!(all, ["do-1", "do-2", "do-3", "do-4", "do-5"]);
        let at = |at: u64| WallTime(1_700_000_000_000 + at);
        let some = AuditQuery { from: at(2), until: at(4), ..AuditQuery::default() };
        let some = page(&store, &some).await.expect("a page");
        assert_eq!((actions(&some), some.next), (vec!["do-2".to_owned(), "do-3".to_owned()], None));
        assert_eq!(
            (some.entries[0].keys.as_slice(), some.entries[0].revision),
            (["k/2".to_owned()].as_slice(), Revision(2))
        );
        assert!(page(&store, &AuditQuery { limit: 0, ..AuditQuery::default() }).await.is_err());
    }
}
