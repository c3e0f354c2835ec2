//! Watches: one reader of the history for all watches of a handle.
//!
//! The reader has a connection of its own, which listens for notifications and
//! reads what is new. Who watches from an earlier revision reads the history
//! at its own pace until it has caught up with that reader, and joins it then.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh_core::{
    Revision,
    store::{Applied, Prefix, StoreError, WatchEvent, WatchFrom, WatchOptions, WatchStream},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::{debug, info, warn};

use super::{
    PostgresStore, Shared,
    fault::{self, Fault},
    pool::Link,
    rows,
};
use crate::{
    hub::{Hub, gap_of_another_history},
    state::Revised,
};

const OPERATION: &str = "watch";
/// What follows a revision under a range of keys, with where the store stands.
const AFTER: &str = "SELECT m.revision AS now, m.compacted, h.key, h.value, h.revision, \
     h.created_revision, h.writer, h.session, h.token_generation, h.token_counter, h.cause \
     FROM meta m LEFT JOIN LATERAL (SELECT * FROM history WHERE revision > $1 AND key >= $2 \
     AND ($3::text IS NULL OR key < $3) AND ($4 OR key NOT LIKE '~%') \
     ORDER BY revision, key LIMIT $5) h ON true ORDER BY h.revision, h.key";
/// All of one revision.
const EXACTLY: &str = "SELECT key, value, revision, created_revision, writer, session, \
     token_generation, token_counter, cause FROM history WHERE revision = $1 AND key >= $2 \
     AND ($3::text IS NULL OR key < $3) AND ($4 OR key NOT LIKE '~%') ORDER BY key";
const STANDING: &str = "SELECT revision FROM meta";

/// Rows that one query reads.
const BATCH: i64 = 128;
/// Looks without being woken: a notification may get lost with its connection.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bookmarks while nothing happens.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a compaction waits for the watches of this handle.
const PASS_WAIT: Duration = Duration::from_secs(2);

/// The watches of one handle.
pub(super) struct Feed {
    hub: Arc<Hub>,
    /// Everything up to here was published. Publishing and joining happen under this lock.
    at: Mutex<Revision>,
    passed: watch::Sender<Revision>,
    wake: Arc<Notify>,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            hub: Arc::default(),
            at: Mutex::default(),
            passed: watch::Sender::new(Revision(0)),
            wake: Arc::default(),
        }
    }
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, Revision> {
        // It is one number.
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of each answer that the reader has.
    #[cfg(test)]
    pub(super) fn passed(&self) -> watch::Receiver<Revision> {
        self.passed.subscribe()
    }

    fn stand_at(&self, at: &mut MutexGuard<'_, Revision>, revision: Revision) {
        **at = revision.max(**at);
        self.passed.send_replace(**at);
    }
}

/// What one look at the history found.
struct Found {
    /// What the store has forgotten, and how far the look reaches.
    compacted: Revision,
    through: Revision,
    changes: Vec<Revised>,
}

/// Reads the next changes after a revision, whole revisions only.
async fn look(link: &Link, after: Revision, prefix: Option<&Prefix>) -> Result<Found, Fault> {
    // Without a prefix: everything, the store's own records included.
    let (start, end, reserved) = prefix.map_or((String::new(), None, true), rows::range);
    let from = rows::signed(after.0);
    let found = link.query(AFTER, &[&from, &start, &end, &reserved, &BATCH]).await?;
    let Some(first) = found.first() else { return Err(fault::damaged(&"meta has no row").into()) };
    let now = Revision(rows::unsigned(first.try_get("now")?));
    let compacted = Revision(rows::unsigned(first.try_get("compacted")?));
    let mut changes: Vec<(Revision, Vec<_>)> = Vec::new();
    if first.try_get::<_, Option<&str>>("key")?.is_some() {
        for row in &found {
            let revision = Revision(rows::unsigned(row.try_get("revision")?));
            match changes.last_mut() {
                Some((of, changes)) if *of == revision => changes.push(rows::change(row)?),
                _ => changes.push((revision, vec![rows::change(row)?])),
            }
        }
    }
    let mut through = now.max(after);
    if found.len() as i64 >= BATCH {
        // The last revision may go on behind the last row.
        let cut = if changes.len() > 1 { changes.pop() } else { None };
        match cut {
            Some((revision, _)) => through = Revision(revision.0 - 1),
            None => {
                if let Some((revision, changes)) = changes.first_mut() {
                    let of = rows::signed(revision.0);
                    let all = link.query(EXACTLY, &[&of, &start, &end, &reserved]).await?;
                    // It may have been compacted between the two; then it is a gap next time.
                    if !all.is_empty() {
                        *changes = all.iter().map(rows::change).collect::<Result<_, _>>()?;
                        through = *revision;
                    }
                }
            }
        }
    }
    let changes = changes
        .into_iter()
        .map(|(revision, changes)| Revised { revision, changes: changes.into() })
        .collect();
    Ok(Found { compacted, through, changes })
}

impl Shared {
    /// The feed begins with what comes from now on.
    pub(super) async fn start_feed(&self) -> Result<(), StoreError> {
        let now = self.revision().await?;
        let mut at = self.feed.lock();
        self.feed.stand_at(&mut at, now);
        Ok(())
    }

    pub(super) async fn revision(&self) -> Result<Revision, StoreError> {
        self.read("read the revision", |link| async move {
            let rows = link.query(STANDING, &[]).await?;
            let row = rows.first().ok_or_else(|| fault::damaged(&"meta has no row"))?;
            Ok(Revision(rows::unsigned(row.try_get(0)?)))
        })
        .await
    }

    /// Waits until the watches have passed a revision, so that they don't lose what is forgotten.
    pub(super) async fn let_watches_pass(&self, revision: Revision) {
        self.feed.wake.notify_one();
        let mut passed = self.feed.passed.subscribe();
        let pass = passed.wait_for(|at| *at >= revision);
        // Who does not pass in time gets a gap instead.
        let _ = tokio::time::timeout(PASS_WAIT, pass).await;
        let at = self.feed.lock();
        self.feed.hub.bookmark(*at);
    }
}

/// Publishes what is new, as long as the store is open.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut lost_since: Option<Instant> = None;
    let mut pause = Duration::from_millis(10);
    loop {
        let mut heard = false;
        let fault = match shared.pool.connect(Some(Arc::clone(&shared.feed.wake))).await {
            Ok(link) => match shared.listen(&link, &mut heard).await {
                Ok(never) => match never {},
                Err(fault) => fault,
            },
            Err(fault) => fault,
        };
        if heard {
            (lost_since, pause) = (None, Duration::from_millis(10));
        }
        let since = *lost_since.get_or_insert_with(Instant::now);
        let error = fault.into_error(OPERATION);
        if since.elapsed() >= shared.config.watch_resume_for {
            let reason = error.to_string();
            shared.feed.hub.end(move || unavailable(&reason));
        }
        debug!(error = &error as &dyn std::error::Error, "the history is read by another connection");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        // The other database may be a standby that took over.
        if let Err(error) = shared.check_identity().await {
            debug!(error = &error as &dyn std::error::Error, "PostgreSQL can't be asked who it is");
        }
    }
}

impl Shared {
    /// Publishes what is new until the connection breaks; `heard` tells whether it had an answer before.
    async fn listen(&self, link: &Link, heard: &mut bool) -> Result<std::convert::Infallible, Fault> {
        link.batch(&format!("LISTEN \"{}\"", self.channel)).await?;
        let mut told = Instant::now();
        let mut compacted = Revision(0);
        loop {
            let after = *self.feed.lock();
            let found = tokio::time::timeout(self.config.request_timeout, look(link, after, None)).await;
            let found = found.map_err(|_| Fault::NotNow("PostgreSQL does not answer".to_owned()))??;
            *heard = true;
            let is_behind = found.changes.len() > 1 || found.through > after;
            {
                let mut at = self.feed.lock();
                if found.compacted > after {
                    info!(revision = found.compacted.0, "the history was compacted before it was read");
                    self.feed.hub.gap(found.compacted);
                    self.feed.stand_at(&mut at, found.compacted);
                }
                for revised in &found.changes {
                    self.feed.hub.publish(revised);
                }
                self.feed.stand_at(&mut at, found.through);
                let idle = told.elapsed() >= BOOKMARK_EVERY;
                // The history loses its oldest revision with every new one; that alone is no reason.
                let forgot = found.compacted > compacted && told.elapsed() >= LOOK_EVERY;
                if idle || (forgot && found.compacted <= after) {
                    self.feed.hub.bookmark(*at);
                    told = Instant::now();
                    compacted = found.compacted.max(compacted);
                }
            }
            if !is_behind {
                // Elapsing is as good as being woken.
                let _ = tokio::time::timeout(LOOK_EVERY, self.feed.wake.notified()).await;
                if link.is_closed() {
                    return Err(Fault::NotNow("the connection broke".to_owned()));
                }
            }
        }
    }
}

/// Begins a watch.
pub(super) async fn begin(
    store: &PostgresStore,
    prefix: &Prefix,
    from: WatchFrom,
    options: WatchOptions,
) -> Result<WatchStream, StoreError> {
    let now = store.shared.revision().await?;
    let at = match from {
        WatchFrom::Now => now,
        WatchFrom::After(revision) => revision.min(now),
    };
    let is_ahead = matches!(from, WatchFrom::After(revision) if revision > now);
    let mut reader = Reader {
        store: store.clone(),
        prefix: prefix.clone(),
        options,
        at,
        ready: is_ahead.then(|| gap_of_another_history(now)).into_iter().collect(),
        joined: None,
        ended: false,
    };
    // Who is up to date already must not lose what a compaction takes before it is first polled.
    if at >= now {
        reader.catch_up().await?;
    }
    Ok(Box::pin(futures_util::stream::unfold(reader, |mut reader| async {
        let event = reader.next().await?;
        Some((event, reader))
    })))
}

/// One watch: on its own until it has caught up, then one of the hub's.
struct Reader {
    /// Keeps the feed going.
    store: PostgresStore,
    prefix: Prefix,
    options: WatchOptions,
    at: Revision,
    ready: VecDeque<WatchEvent>,
    joined: Option<WatchStream>,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<WatchEvent, StoreError>> {
        use futures_util::StreamExt;
        let mut lost_since: Option<Instant> = None;
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            if let Some(stream) = &mut self.joined {
                return stream.next().await;
            }
            if let Err(error) = self.catch_up().await {
                let since = *lost_since.get_or_insert_with(Instant::now);
                if !error.is_transient() || since.elapsed() >= self.store.shared.config.watch_resume_for {
                    self.ended = true;
                    return Some(Err(error));
                }
                warn!(error = &error as &dyn std::error::Error, "a watch waits for PostgreSQL");
            }
        }
    }

    /// Reads on, or joins the hub if nothing is left to read.
    async fn catch_up(&mut self) -> Result<(), StoreError> {
        loop {
            {
                let at = self.store.shared.feed.lock();
                if self.at >= *at {
                    let hub = &self.store.shared.feed.hub;
                    self.joined = Some(hub.watch(self.prefix.clone(), self.options, self.at, []));
                    return Ok(());
                }
            }
            let (after, prefix) = (self.at, &self.prefix);
            let found = self
                .store
                .shared
                .read(OPERATION, |link| async move { look(&link, after, Some(prefix)).await })
                .await?;
            if found.compacted > after {
                let from = Revision(after.0 + 1);
                self.ready.push_back(WatchEvent::Gap { from, to: found.compacted });
            }
            let changes = found.changes.into_iter().filter_map(|revised| revised.under(&self.prefix));
            self.ready.extend(changes.map(|revised| WatchEvent::Changes {
                revision: revised.revision,
                changes: revised.changes.to_vec(),
            }));
            self.at = found.through.max(found.compacted);
            if !self.ready.is_empty() {
                return Ok(());
            }
        }
    }
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable {
        operation: OPERATION,
        reason: reason.to_owned(),
        applied: Applied::No,
        source: None,
    }
}
