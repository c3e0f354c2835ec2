//! Reads: one record, pages, and what the store says about itself.

use std::sync::Arc;

use mesh_core::{
    Revision,
    store::{Key, Page, Record, Scan, StoreError, StoreStatus},
};

use super::{
    Shared,
    fault::{self, Fault},
    pool::Link,
    rows,
};

const GET: &str = "SELECT m.revision AS now, r.key, r.value, r.revision, r.created_revision, r.writer, \
     r.session, r.token_generation, r.token_counter FROM meta m LEFT JOIN record r ON r.key = $1";

/// A page ends early past so many bytes ($6); `fetched` tells whether more follow.
pub(super) const SCAN: &str = "SELECT m.revision AS now, p.* FROM meta m LEFT JOIN LATERAL (\
     SELECT * FROM (SELECT page.*, sum(octet_length(value)::bigint) OVER (ORDER BY key) - \
     octet_length(value) AS before, count(*) OVER () AS fetched FROM (\
     SELECT * FROM record WHERE key >= $1 AND ($2::text IS NULL OR key > $2) \
     AND ($3::text IS NULL OR key < $3) AND ($4 OR key NOT LIKE '~%') ORDER BY key LIMIT $5\
     ) page) counted WHERE before <= $6::bigint) p ON true ORDER BY p.key";
/// Bytes of values after which a page ends.
pub(super) const PAGE_BYTES: i64 = 32 << 20;

const STATUS: &str = "SELECT current_database() || '.' || current_schema() AS place, revision, compacted, \
     generation, (SELECT count(*) FROM record) AS records, \
     (SELECT count(*) FROM session) AS sessions, \
     current_setting('default_transaction_read_only') = 'on' AS read_only FROM meta";

impl Shared {
    pub(super) async fn get(&self, key: &Key) -> Result<(Option<Record>, Revision), StoreError> {
        self.read("read", |link| async move {
            let found = link.query(GET, &[&key.as_str()]).await?;
            let Some(row) = found.first() else { return Err(fault::damaged(&"meta has no row").into()) };
            let there = row.try_get::<_, Option<&str>>("key")?.is_some();
            let record = there.then(|| rows::record(row)).transpose()?;
            Ok((record, Revision(rows::unsigned(row.try_get("now")?))))
        })
        .await
    }

    pub(super) async fn scan(&self, scan: &Scan) -> Result<(Page, Revision), StoreError> {
        scan.check()?;
        self.read("scan", |link| async move { page(link, scan).await }).await
    }

    pub(super) async fn status(&self) -> Result<StoreStatus, StoreError> {
        self.read("read its status", |link| async move {
            let rows = link.query(STATUS, &[]).await?;
            let Some(row) = rows.first() else { return Err(fault::damaged(&"meta has no row").into()) };
            let number = |column: &str| -> Result<u64, Fault> { Ok(rows::unsigned(row.try_get(column)?)) };
            let read_only = row.try_get::<_, bool>("read_only")?;
            Ok(StoreStatus {
                provider: "postgres",
                cluster: format!("{}.{}", row.try_get::<_, String>("place")?, number("generation")?),
                revision: Revision(number("revision")?),
                compacted: Revision(number("compacted")?),
                generation: number("generation")?,
                leader: None,
                read_only: read_only.then(|| "default_transaction_read_only is on".to_owned()),
                records: number("records")?,
                sessions: number("sessions")?,
            })
        })
        .await
    }
}

/// One page of records, all of one revision.
pub(super) async fn page(link: Arc<Link>, scan: &Scan) -> Result<(Page, Revision), Fault> {
    let (start, end, reserved) = rows::range(&scan.prefix);
    let after = scan.after.as_ref().map(Key::as_str);
    let limit = i64::try_from(scan.limit).unwrap_or(i64::MAX).saturating_add(1);
    let found = link.query(SCAN, &[&start, &after, &end, &reserved, &limit, &PAGE_BYTES]).await?;
    let Some(first) = found.first() else { return Err(fault::damaged(&"meta has no row").into()) };
    let now = Revision(rows::unsigned(first.try_get("now")?));
    if first.try_get::<_, Option<&str>>("key")?.is_none() {
        return Ok((Page::default(), now));
    }
    let fetched: i64 = first.try_get("fetched")?;
    let records = found.iter().take(scan.limit).map(rows::record).collect::<Result<Vec<_>, _>>()?;
    let more = rows::unsigned(fetched) > records.len() as u64;
    Ok((Page { records, more }, now))
}
