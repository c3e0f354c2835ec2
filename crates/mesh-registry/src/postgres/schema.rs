//! The tables, and what makes and changes them.
//!
//! `meta` has one row: the version of the tables, the newest revision, up to
//! where the history is forgotten, the generation of fencing tokens, and which
//! database this is. `writers` has no rows: whoever writes locks it first, so
//! that its snapshot is of after the transactions before it, which commit in
//! the order of their revisions. `history` holds every change until it is
//! compacted; watches read it.

use mesh_core::{Revision, store::StoreError};
use tracing::warn;

use super::{
    fault::{self, Fault},
    pool::Link,
    rows,
};

/// The version of the tables.
pub(super) const FORMAT: i32 = 1;

/// Columns of a record, in the order in which `rows` reads them.
const RECORD: &str = "key text COLLATE \"C\" NOT NULL, value bytea, revision bigint NOT NULL, \
     created_revision bigint, writer text, session bigint, token_generation bigint, token_counter bigint";

/// Takes its turn among those who write. The lock comes before the first query, and so before the snapshot.
pub(super) const BEGIN_WRITE: &str =
    "BEGIN ISOLATION LEVEL SERIALIZABLE; LOCK TABLE writers IN SHARE ROW EXCLUSIVE MODE";

/// Which database this is: each cluster has an identifier, each promotion of a standby and each
/// point-in-time recovery a new timeline.
const IDENTITY: &str = "SELECT (SELECT system_identifier FROM pg_control_system()) AS system, \
     substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS timeline";

/// Where the store stands, for who writes: asked in the transaction that goes on from there. A connection
/// may have been made anew since somebody last looked, and lead to a standby that has just taken over.
pub(super) const STANDING: &str = "SELECT revision, generation, \
     system = (SELECT system_identifier FROM pg_control_system()) \
     AND timeline = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS same FROM meta";

/// How far revisions and ids jump when the database lost its newest transactions: further than it can have
/// lost.
const JUMP: i64 = 1_000_000;

fn tables() -> String {
    format!(
        "CREATE TABLE meta (one boolean PRIMARY KEY DEFAULT true CHECK (one), format integer NOT NULL, \
           revision bigint NOT NULL, compacted bigint NOT NULL, generation bigint NOT NULL, \
           system bigint NOT NULL, timeline text NOT NULL);\
         CREATE TABLE writers (nothing integer);\
         CREATE TABLE record ({RECORD}, PRIMARY KEY (key));\
         CREATE INDEX record_session ON record (session) WHERE session IS NOT NULL;\
         CREATE TABLE history ({RECORD}, cause smallint, PRIMARY KEY (revision, key));\
         CREATE SEQUENCE session_id;\
         CREATE TABLE session (id bigint PRIMARY KEY, owner text NOT NULL, ttl_ms bigint NOT NULL, \
           renewals bigint NOT NULL, forgotten bigint);\
         CREATE TABLE outcome (session bigint NOT NULL REFERENCES session ON DELETE CASCADE, \
           sequence bigint NOT NULL, outcome bytea NOT NULL, PRIMARY KEY (session, sequence));"
    )
}

/// Makes the tables if there are none, and checks those that are there.
pub(super) async fn prepare(link: &Link, schema: &str) -> Result<(), Fault> {
    let settings = link
        .query(
            "SELECT current_setting('server_encoding') AS encoding, \
             current_setting('server_version_num')::integer AS version, \
             current_setting('fsync') AS fsync",
            &[],
        )
        .await?;
    if let Some(row) = settings.first() {
        let (encoding, version): (String, i32) = (row.try_get("encoding")?, row.try_get("version")?);
        if encoding != "UTF8" {
            return Err(invalid(format!("the database has encoding {encoding}; make one with UTF8")));
        }
        if version < 130_000 {
            return Err(invalid(format!("PostgreSQL {} is older than 13; upgrade it", version / 10_000)));
        }
        if row.try_get::<_, String>("fsync")? == "off" {
            warn!("PostgreSQL runs with fsync = off: what it acknowledges does not survive a power cut");
        }
    }
    // Two nodes that open the store for the first time at once.
    link.batch("BEGIN").await?;
    link.execute("SELECT pg_advisory_xact_lock(hashtext($1))", &[&format!("mesh registry {schema}")]).await?;
    let there = link.query("SELECT to_regnamespace($1) IS NOT NULL AS there", &[&schema]).await?;
    if !first::<bool>(&there, "there")?.unwrap_or(false) {
        link.batch(&format!("CREATE SCHEMA \"{schema}\"")).await?;
    }
    let meta = link.query("SELECT to_regclass('meta') IS NOT NULL AS there", &[]).await?;
    if !first::<bool>(&meta, "there")?.unwrap_or(false) {
        link.batch(&tables()).await?;
        let identity = link.query(IDENTITY, &[]).await?;
        let (system, timeline) = identity_of(&identity)?;
        link.execute(
            "INSERT INTO meta (format, revision, compacted, generation, system, timeline) \
             VALUES ($1, 0, 0, 1, $2, $3)",
            &[&FORMAT, &system, &timeline],
        )
        .await?;
    }
    let format = link.query("SELECT format FROM meta", &[]).await?;
    match first::<i32>(&format, "format")? {
        Some(FORMAT) => {}
        found => {
            return Err(invalid(format!(
                "schema {schema} has version {}, this program knows {FORMAT}; upgrade this node",
                found.unwrap_or_default()
            )));
        }
    }
    link.batch("COMMIT").await.map_err(Fault::of_commit)
}

/// Whether this is another database than the store knows, or the same after a failover.
pub(super) async fn has_moved(link: &Link) -> Result<bool, Fault> {
    let (system, timeline) = identity_of(&link.query(IDENTITY, &[]).await?)?;
    let known =
        link.query("SELECT system = $1 AND timeline = $2 AS same FROM meta", &[&system, &timeline]).await?;
    Ok(!first::<bool>(&known, "same")?.unwrap_or(true))
}

/// After a failover or a recovery the newest transactions may be lost: revisions, ids and tokens that were
/// given out must not be given out again, and nobody can resume from a revision of before.
pub(super) async fn settle_after_move(link: &Link, wall_seconds: i64) -> Result<(), Fault> {
    link.batch(BEGIN_WRITE).await?;
    if has_moved(link).await? {
        let (system, timeline) = identity_of(&link.query(IDENTITY, &[]).await?)?;
        warn!(
            timeline,
            "PostgreSQL failed over or was restored: revisions and tokens go on from higher ones"
        );
        link.execute("DELETE FROM history", &[]).await?;
        link.query("SELECT setval('session_id', nextval('session_id') + $1)", &[&JUMP]).await?;
        link.execute(
            "UPDATE meta SET revision = revision + $1, compacted = revision + $1, \
             generation = greatest(generation + 1, $2), system = $3, timeline = $4",
            &[&JUMP, &wall_seconds, &system, &timeline],
        )
        .await?;
    }
    link.batch("COMMIT").await.map_err(Fault::of_commit)
}

/// What [`STANDING`] found: the newest revision, and the generation of fencing tokens.
pub(super) fn standing(rows: &[tokio_postgres::Row]) -> Result<(Revision, u64), Fault> {
    let row = rows.first().ok_or_else(|| fault::damaged(&"meta has no row"))?;
    if !row.try_get::<_, bool>("same")? {
        return Err(Fault::Moved);
    }
    Ok((Revision(rows::unsigned(row.try_get("revision")?)), rows::unsigned(row.try_get("generation")?)))
}

/// Takes its turn among those who write, and looks where the store stands.
pub(super) async fn begin_write(link: &Link) -> Result<(Revision, u64), Fault> {
    let ((), found) = tokio::try_join!(biased; link.batch(BEGIN_WRITE), link.query(STANDING, &[]))?;
    standing(&found)
}

fn identity_of(rows: &[tokio_postgres::Row]) -> Result<(i64, String), Fault> {
    Ok((first(rows, "system")?.unwrap_or_default(), first(rows, "timeline")?.unwrap_or_default()))
}

fn first<T>(rows: &[tokio_postgres::Row], column: &str) -> Result<Option<T>, Fault>
where
    T: for<'r> tokio_postgres::types::FromSql<'r>,
{
    Ok(rows.first().map(|row| row.try_get(column)).transpose()?)
}

fn invalid(problem: String) -> Fault {
    StoreError::Invalid { what: "database of registry.postgres", problem }.into()
}
