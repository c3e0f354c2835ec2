//! A few connections, made when needed and used one request at a time.

use std::{
    collections::BTreeMap,
    fs,
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use mesh_core::store::{Applied, StoreError};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::Instant,
};
use tokio_postgres::{
    AsyncMessage, Client, Connection, NoTls, Row, Statement,
    config::{SslMode, TargetSessionAttrs},
    tls::TlsStream,
    types::ToSql,
};
use tracing::{debug, warn};

use super::{
    config::PostgresConfig,
    fault::{self, Fault},
    tls::Tls,
};

/// Requests that wait for a connection; more are refused.
const WAITING_MAX: usize = 1024;

/// Values of a statement.
pub(super) type Parameters<'p> = &'p [&'p (dyn ToSql + Sync)];

/// The connections of one store.
pub(super) struct Pool {
    target: tokio_postgres::Config,
    tls: Option<Tls>,
    /// What each connection is told first.
    greeting: String,
    idle: Mutex<Vec<Arc<Link>>>,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A connection.
pub(super) struct Link {
    client: Client,
    driver: JoinHandle<()>,
    statements: tokio::sync::Mutex<BTreeMap<&'static str, Statement>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Without this a connection would live on until its server has answered what was asked last.
        self.driver.abort();
    }
}

/// A connection in use. It goes back only when it was said to be clean: not after an error, nor when
/// the request was dropped half-way.
pub(super) struct Loan<'p> {
    pool: &'p Pool,
    link: Arc<Link>,
    _permit: OwnedSemaphorePermit,
}

impl Loan<'_> {
    pub(super) fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }

    /// Nothing is under way on it.
    pub(super) fn give_back(self) {
        if !self.link.is_closed() {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.link);
        }
    }

    /// Ends what an error left half done, so that the connection can go on.
    pub(super) async fn clean_up(self, deadline: Instant) {
        let rollback = tokio::time::timeout_at(deadline, self.link.batch("ROLLBACK")).await;
        if matches!(rollback, Ok(Ok(()))) {
            self.give_back();
        }
    }
}

impl Pool {
    /// Reads the files that the settings name; connects to nothing yet.
    pub(super) fn new(config: &PostgresConfig) -> Result<Self, StoreError> {
        let invalid = |problem: String| StoreError::Invalid { what: "setting of registry.postgres", problem };
        let mut target = config.url.parse().map_err(|_| invalid("url can't be read".to_owned()))?;
        if let Some(path) = &config.password_file {
            let password = fs::read_to_string(path)
                .map_err(|error| invalid(format!("password_file: can't read {}: {error}", path.display())))?;
            target.password(password.trim_end_matches(['\r', '\n']));
        }
        let tls = Tls::new(&config.tls)?;
        target.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        target.connect_timeout(config.connect_timeout);
        target.application_name(format!("mesh registry {}", config.schema));
        // A standby can't take writes, and its copy may be old.
        target.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let limit = config.request_timeout.as_millis();
        let greeting = format!(
            "SET search_path = \"{}\"; SET statement_timeout = {limit}; SET lock_timeout = {limit}; \
             SET idle_in_transaction_session_timeout = {limit}; SET client_min_messages = error; \
             SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') \
             THEN set_config('synchronous_commit', 'on', false) END;",
            config.schema
        );
        Ok(Self {
            target,
            tls,
            greeting,
            idle: Mutex::default(),
            permits: Arc::new(Semaphore::new(config.connections_max)),
            waiting: AtomicUsize::new(0),
        })
    }

    /// A connection, an idle one if there is one.
    pub(super) async fn borrow(&self, operation: &'static str, deadline: Instant) -> Result<Loan<'_>, Fault> {
        struct Waiting<'w>(&'w AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(StoreError::Busy { limit: WAITING_MAX }.into());
        }
        let waiting = Waiting(&self.waiting);
        let acquired = tokio::time::timeout_at(deadline, Arc::clone(&self.permits).acquire_owned()).await;
        drop(waiting);
        let after = deadline.saturating_duration_since(Instant::now());
        let Ok(Ok(permit)) = acquired else {
            return Err(fault::timeout(operation, after, Applied::No).into());
        };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let link = match idle {
            Some(link) if !link.is_closed() => link,
            _ => tokio::time::timeout_at(deadline, self.connect(None))
                .await
                .map_err(|_| Fault::NotNow("PostgreSQL does not answer".to_owned()))??,
        };
        Ok(Loan { pool: self, link, _permit: permit })
    }

    /// A connection outside the pool; `woken` hears of notifications.
    pub(super) async fn connect(&self, woken: Option<Arc<Notify>>) -> Result<Arc<Link>, Fault> {
        let (client, driver) = match &self.tls {
            Some(tls) => {
                let (client, connection) = self.target.connect(tls.clone()).await?;
                (client, tokio::spawn(drive(connection, woken)))
            }
            None => {
                let (client, connection) = self.target.connect(NoTls).await?;
                (client, tokio::spawn(drive(connection, woken)))
            }
        };
        let link = Link { client, driver, statements: tokio::sync::Mutex::default() };
        link.batch(&self.greeting).await?;
        Ok(Arc::new(link))
    }
}

/// Moves bytes until the connection ends.
async fn drive<S, T>(mut connection: Connection<S, T>, woken: Option<Arc<Notify>>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: TlsStream + Unpin,
{
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(_))) => {
                if let Some(woken) = &woken {
                    woken.notify_one();
                }
            }
            Some(Ok(AsyncMessage::Notice(notice))) => warn!(notice = notice.message(), "PostgreSQL says"),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                debug!(%error, "a connection to PostgreSQL broke");
                break;
            }
            None => break,
        }
    }
    // Whoever waits for notifications must notice.
    if let Some(woken) = &woken {
        woken.notify_one();
    }
}

impl Link {
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Statements without values.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(sql).await
    }

    /// Has the server parse statements, so that later they take one message each.
    pub(super) async fn prepare(&self, sql: &'static str) -> Result<Statement, tokio_postgres::Error> {
        let mut statements = self.statements.lock().await;
        if let Some(statement) = statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        statements.insert(sql, statement.clone());
        Ok(statement)
    }

    /// Sends a prepared statement when first polled, if `wanted`.
    pub(super) async fn send(
        &self,
        wanted: bool,
        statement: &Statement,
        parameters: Parameters<'_>,
    ) -> Result<u64, tokio_postgres::Error> {
        if wanted { self.client.execute(statement, parameters).await } else { Ok(0) }
    }

    pub(super) async fn query(
        &self,
        sql: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let statement = self.prepare(sql).await?;
        self.client.query(&statement, parameters).await
    }

    pub(super) async fn execute(
        &self,
        sql: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<u64, tokio_postgres::Error> {
        let statement = self.prepare(sql).await?;
        self.client.execute(&statement, parameters).await
    }
}
