//! The `postgres` provider: a store in a schema of somebody's PostgreSQL, 13 or newer.
//!
//! Those who write take turns: each locks the table `writers`, takes the next
//! revision from the one row of `meta`, and commits before the next one
//! begins. So transactions commit in the order of their revisions, and
//! whoever reads a revision has all before it. What a transaction looks at is
//! judged by the rules that all providers share. Watches read the table
//! `history`; `NOTIFY` only wakes them.
//!
//! # Sessions
//!
//! The database's clock decides nothing. Every node that has the store open
//! looks at the renewal counters of all sessions, and ends a session whose
//! counter it saw unchanged for its whole time to live and the drift bound,
//! on its own monotonic clock, if the counter is the same still. After it
//! could not reach the database, it counts anew.
//!
//! # What it does not promise
//!
//! * A failover of PostgreSQL without synchronous replication (`synchronous_standby_names`) loses
//!   what was acknowledged last. Each write looks at the timeline before it does anything, and the store goes
//!   on from revisions, tokens and sessions that were never given out; watches get a gap. A database that was
//!   restored from a backup is the same.
//! * The history holds the newest 10,000 revisions, whatever their size.
//! * Sessions end only while a node has the store open; who is slow to be noticed is noticed later by
//!   up to `observe_interval`.
//! * Writers take turns, so the rate of transactions is that of single commits.
//! * A connection pooler in transaction mode, between the store and PostgreSQL, does not do: notifications
//!   and prepared statements belong to a connection.

mod config;
mod fault;
mod feed;
mod pool;
mod read;
mod restore;
mod rows;
mod schema;
mod session;
mod tls;
mod transact;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use mesh_core::{
    Clock, Revision, SystemClock, Validated, WallTime,
    store::{
        Applied, ByteStream, Fresh, Key, OpenSession, Page, Prefix, Record, Restored, Scan, Session,
        SessionError, SessionId, Stale, StoreError, StoreStatus, Txn, TxnError, TxnOutcome, VersionedStore,
        WatchFrom, WatchOptions, WatchStream,
    },
};
use tokio::{task::JoinHandle, time::Instant};

pub use config::{ConnectionUrl, PostgresConfig, PostgresTlsConfig};

use fault::Fault;
use feed::Feed;
use pool::{Link, Loan, Pool};

/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// A store in PostgreSQL. Clones share its connections.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use mesh_core::{Settings, store::VersionedStore};
/// use mesh_registry::postgres::{ConnectionUrl, PostgresConfig, PostgresStore};
/// let url = ConnectionUrl::new("postgres://mesh@db.example/mesh");
/// let config = PostgresConfig { url, ..PostgresConfig::default() };
/// let config = config.validate().map_err(|problems| problems[0].clone())?;
/// let store = PostgresStore::open(config).await?;
/// println!("{} records", store.status().await?.records);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresStore {
    shared: Arc<Shared>,
    /// End with the last clone.
    _tasks: Arc<Tasks>,
}

struct Shared {
    config: Validated<PostgresConfig>,
    pool: Pool,
    clock: Arc<dyn Clock>,
    feed: Feed,
    /// The channel of notifications.
    channel: String,
    nonce: AtomicU64,
    /// How often the sessions were looked at.
    looks: tokio::sync::watch::Sender<u64>,
}

struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl PostgresStore {
    /// Opens the store in the schema of the settings; makes it if there is none. Call it inside a tokio
    /// runtime: tasks follow the changes and the sessions.
    ///
    /// # Errors
    ///
    /// [`StoreError::Invalid`] for a file that can't be read or a database that does not fit,
    /// [`StoreError::Denied`] if PostgreSQL refuses the user, [`StoreError::Unavailable`] if it does not
    /// answer.
    pub async fn open(config: Validated<PostgresConfig>) -> Result<Self, StoreError> {
        Self::with_clock(config, Arc::new(SystemClock)).await
    }

    /// The same on another clock, by which sessions end and audit records have their time.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn with_clock(
        config: Validated<PostgresConfig>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let seed = (std::process::id(), clock.now().as_nanos(), clock.wall().0);
        let shared = Arc::new(Shared {
            pool: Pool::new(&config)?,
            feed: Feed::default(),
            channel: format!("mesh {}", config.schema),
            nonce: AtomicU64::new(xxhash_rust::xxh3::xxh3_64(format!("{seed:?}").as_bytes())),
            clock,
            config,
            looks: tokio::sync::watch::Sender::new(0),
        });
        let schema = shared.config.schema.clone();
        let prepare = |link: Arc<Link>| {
            let schema = schema.clone();
            async move { schema::prepare(&link, &schema).await }
        };
        shared.run("open the store", prepare).await?;
        shared.check_identity().await?;
        shared.start_feed().await?;
        let tasks = vec![
            tokio::spawn(feed::follow(Arc::clone(&shared))),
            tokio::spawn(session::observe(Arc::clone(&shared))),
        ];
        Ok(Self { shared, _tasks: Arc::new(Tasks(tasks)) })
    }
}

impl Shared {
    /// Makes a request on some connection, again as long as it certainly had no effect.
    async fn run<T, F>(
        &self,
        operation: &'static str,
        request: impl Fn(Arc<Link>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let after = self.config.request_timeout;
        self.run_until(Instant::now() + after, after, operation, request).await
    }

    /// The same with a deadline of its own, which is `after` the beginning.
    async fn run_until<T, F>(
        &self,
        deadline: Instant,
        after: Duration,
        operation: &'static str,
        request: impl Fn(Arc<Link>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut pause = Duration::from_millis(5);
        loop {
            let fault = match self.pool.borrow(operation, deadline).await {
                Err(fault) => fault,
                Ok(loan) => match tokio::time::timeout_at(deadline, request(loan.link())).await {
                    Ok(Ok(answer)) => {
                        loan.give_back();
                        return Ok(answer);
                    }
                    Ok(Err(fault)) => {
                        let moved = matches!(fault, Fault::Moved);
                        self.clean_up(loan, moved, deadline).await.err().unwrap_or(fault)
                    }
                    Err(_) => return Err(fault::timeout(operation, after, Applied::Unknown)),
                },
            };
            let may_go_on = matches!(fault, Fault::NotNow(_) | Fault::Moved);
            if !may_go_on || Instant::now() + pause >= deadline {
                return Err(fault.into_error(operation));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The same for a request that only reads: however it fails, nothing was applied.
    async fn read<T, F>(
        &self,
        operation: &'static str,
        request: impl Fn(Arc<Link>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.run(operation, request).await.map_err(fault::without_effect)
    }

    /// Notices a failover, after which revisions and tokens must go on from higher ones.
    async fn check_identity(&self) -> Result<(), StoreError> {
        self.run("open the store", |link| async move {
            if schema::has_moved(&link).await? { Err(Fault::Moved) } else { Ok(()) }
        })
        .await
    }

    /// Ends what a fault left half done; if the database has moved, settles that.
    async fn clean_up(&self, loan: Loan<'_>, moved: bool, deadline: Instant) -> Result<(), Fault> {
        if !moved {
            loan.clean_up(deadline).await;
            return Ok(());
        }
        let link = loan.link();
        let wall = i64::try_from(self.clock.wall().0 / 1000).unwrap_or(0);
        let settle = async {
            link.batch("ROLLBACK").await?;
            schema::settle_after_move(&link, wall).await
        };
        match tokio::time::timeout_at(deadline, settle).await {
            Ok(Ok(())) => loan.give_back(),
            Ok(Err(fault)) => {
                loan.clean_up(deadline).await;
                // Whether it was settled or not shows in the next try.
                return match fault {
                    Fault::Unknown(reason) => Err(Fault::NotNow(reason)),
                    other => Err(other),
                };
            }
            // The connection is given up.
            Err(_) => {}
        }
        Ok(())
    }

    fn nonce(&self) -> u64 {
        self.nonce.fetch_add(1, Ordering::Relaxed)
    }
}

#[async_trait]
impl VersionedStore for PostgresStore {
    async fn get(&self, key: &Key) -> Result<Fresh<Option<Record>>, StoreError> {
        let (value, revision) = self.shared.get(key).await?;
        Ok(Fresh { value, revision })
    }

    async fn get_stale(&self, key: &Key) -> Result<Stale<Option<Record>>, StoreError> {
        let (value, revision) = self.shared.get(key).await?;
        Ok(Stale { value, revision })
    }

    async fn scan(&self, scan: &Scan) -> Result<Fresh<Page>, StoreError> {
        let (value, revision) = self.shared.scan(scan).await?;
        Ok(Fresh { value, revision })
    }

    async fn scan_stale(&self, scan: &Scan) -> Result<Stale<Page>, StoreError> {
        let (value, revision) = self.shared.scan(scan).await?;
        Ok(Stale { value, revision })
    }

    async fn transact(&self, txn: Txn) -> Result<TxnOutcome, TxnError> {
        self.shared.transact(txn).await
    }

    async fn watch(
        &self,
        prefix: &Prefix,
        from: WatchFrom,
        options: WatchOptions,
    ) -> Result<WatchStream, StoreError> {
        feed::begin(self, prefix, from, options).await
    }

    async fn open_session(&self, request: OpenSession) -> Result<Session, SessionError> {
        self.shared.open_session(request).await
    }

    async fn keep_alive(&self, session: SessionId) -> Result<Session, SessionError> {
        self.shared.keep_alive(session).await
    }

    async fn close_session(&self, session: SessionId) -> Result<Revision, SessionError> {
        self.shared.close_session(session).await
    }

    async fn session(&self, session: SessionId) -> Result<Option<Session>, StoreError> {
        self.shared.session(session).await
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.shared.compact(through).await
    }

    async fn trim_audit(&self, before: WallTime) -> Result<u64, StoreError> {
        self.shared.trim_audit(before).await
    }

    async fn snapshot(&self) -> Result<ByteStream, StoreError> {
        self.shared.snapshot().await
    }

    async fn restore(&self, snapshot: ByteStream) -> Result<Restored, StoreError> {
        self.shared.restore(snapshot).await
    }

    async fn status(&self) -> Result<StoreStatus, StoreError> {
        self.shared.status().await
    }
}

#[cfg(test)]
impl PostgresStore {
    /// Waits until a look at the sessions has begun and ended.
    async fn seen_by_observer(&self) {
        let mut looks = self.shared.looks.subscribe();
        // One that is under way may have begun before.
        let enough = *looks.borrow() + 2;
        looks.wait_for(|looks| *looks >= enough).await.expect("the store is open");
    }
}

#[cfg(test)]
mod tests;
