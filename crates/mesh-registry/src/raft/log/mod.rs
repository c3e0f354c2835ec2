//! The log on disk: entries, votes, and how far it is committed.
//!
//! It is a row of files, *segments*, that are only ever appended to; one thread writes them ([`writer`]).
//! Each write is a [`frame`] that is there whole or not at all. What the log holds is also in memory
//! ([`index`]), the newest entries with their contents. Opening it reads everything once ([`recover`]).

mod frame;
mod index;
mod recover;
mod segment;
mod stamps;
mod writer;

use std::{
    error::Error,
    fmt::Debug,
    io,
    ops::RangeBounds,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use futures_util::Stream;
use mesh_core::{Clock, fs::DirectoryLock};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::{oneshot, watch};

pub(super) use self::stamps::Stamps;
use self::{
    frame::Record,
    index::{Found, Index, Place},
    segment::{io_error, reserve, sync_folder, take_spare},
    writer::{Command, Files, Queue, Spares, Writer},
};
use super::{
    RaftError, codec,
    types::{Entry, LogId, Types, Vote},
};
use crate::planted::PlantedBug;

/// Bytes of entries that one message to a peer holds.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Entries that are applied in one go.
const APPLY_ENTRIES: u64 = 256;

/// What the writing thread and everybody else share.
pub(super) struct Shared {
    index: Mutex<Index>,
    queue: Queue,
    clock: Arc<dyn Clock>,
    /// Whether the index of what is committed is newer than on disk.
    noted: AtomicBool,
    /// Why nothing more is taken; `None` if all is well.
    full: Mutex<Option<String>>,
    is_full: AtomicBool,
    /// Why the log stopped.
    failure: watch::Sender<Option<Arc<RaftError>>>,
    /// Bytes that are written to on disk.
    disk_bytes: AtomicU64,
    planted: Mutex<Option<PlantedBug>>,
    /// Held as long as anybody may write.
    _lock: Option<Arc<DirectoryLock>>,
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        // Each change of the index is complete before anything that could panic.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_index<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        read(&self.index())
    }

    fn has_note(&self) -> bool {
        self.noted.load(Ordering::Relaxed)
    }

    fn take_note(&self) -> Option<LogId> {
        self.noted.swap(false, Ordering::Relaxed).then(|| self.index().committed).flatten()
    }

    fn placed(&self, places: impl Iterator<Item = (LogId, Place)>) {
        let mut index = self.index();
        for (id, place) in places {
            index.place(id, place);
        }
        index.shrink();
    }

    /// Tells whether the disk of `folder` is full.
    fn set_full(&self, folder: Option<&Path>) {
        let full = folder.map(|folder| {
            format!(
                "the disk of {} is full; free some space and writes are taken again by themselves",
                folder.display()
            )
        });
        let mut state = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*state, &full) {
            (None, Some(reason)) => tracing::warn!(%reason, "the registry takes no writes"),
            (Some(_), None) => tracing::info!("the registry takes writes again"),
            _ => {}
        }
        self.is_full.store(full.is_some(), Ordering::Relaxed);
        *state = full;
    }

    fn failed(&self, error: RaftError) {
        tracing::error!(error = %chain(&error), "the registry's log stopped");
        self.failure.send_replace(Some(Arc::new(error)));
    }

    fn has_bug(&self, bug: PlantedBug) -> bool {
        cfg!(feature = "planted-bugs")
            && *self.planted.lock().unwrap_or_else(PoisonError::into_inner) == Some(bug)
    }
}

/// Reads all of a log and changes nothing: one after the index of the last entry that was purged from it.
pub(super) fn look(folder: &Path) -> Result<u64, RaftError> {
    let recovered = recover::look(folder)?;
    Ok(recovered.index.purged.map_or(0, |id| id.index + 1))
}

/// The files of a log, in order.
pub(super) fn segments(folder: &Path) -> Vec<PathBuf> {
    let numbers = segment::list(folder).unwrap_or_default();
    numbers.into_iter().map(|number| segment::path(folder, number)).collect()
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The log. Clones share it; when the last one goes, the writing thread ends.
#[derive(Clone)]
pub(super) struct Log {
    shared: Arc<Shared>,
    stamps: Arc<Stamps>,
    threads: Arc<Threads>,
}

struct Threads {
    shared: Arc<Shared>,
    spares: Arc<Spares>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.queue.force(Command::Stop);
        self.spares.stop();
    }
}

impl Log {
    /// Opens the log in a folder, or begins one.
    ///
    /// # Errors
    ///
    /// [`RaftError::Damaged`] names the file and the place.
    pub(super) fn open(
        folder: PathBuf,
        clock: Arc<dyn Clock>,
        lock: Option<Arc<DirectoryLock>>,
    ) -> Result<Self, RaftError> {
        let recovered = recover::recover(&folder)?;
        let stamps = Arc::new(Stamps::default());
        let last = recovered.segments.last().map(|(segment, _)| segment.number);
        let shared = Arc::new(Shared {
            index: Mutex::new(recovered.index),
            queue: Queue::default(),
            clock,
            noted: AtomicBool::new(false),
            full: Mutex::new(None),
            is_full: AtomicBool::new(false),
            failure: watch::Sender::new(None),
            disk_bytes: AtomicU64::new(0),
            planted: Mutex::new(None),
            _lock: lock,
        });
        let mut closed: std::collections::VecDeque<_> = recovered.segments.into();
        let (open, end, highest) = match (recovered.end, closed.pop_back()) {
            (Some(end), Some((segment, highest))) => (segment, end, highest),
            (_, before) => {
                closed.extend(before);
                reserve(&folder).map_err(io_error("reserve space in", &folder))?;
                let segment = take_spare(&folder, last.map_or(1, |last| last + 1))?;
                (Arc::new(segment), 0, None)
            }
        };
        sync_folder(&folder).map_err(io_error("sync the folder", &folder))?;
        let sequence = recovered.sequence - 1;
        let files = Files { folder: folder.clone(), closed, open, end, highest, sequence };
        let spares = Arc::new(Spares::new(Arc::clone(&shared), folder));
        let (done, ended) = oneshot::channel();
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            files,
            // All that was read is on the disk.
            synced: sequence,
            spares: Arc::clone(&spares),
            buffer: Vec::new(),
        };
        if end == 0 {
            writer.begin_segment()?;
        }
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(run)
                .map_err(|source| RaftError::Stopped(source.into()))
        };
        spawn(
            "mesh-log",
            Box::new(move || {
                writer.run();
                let _ = done.send(());
            }),
        )?;
        let run = Arc::clone(&spares);
        spawn("mesh-log-space", Box::new(move || run.run()))?;
        let threads = Threads { shared: Arc::clone(&shared), spares, ended: Mutex::new(Some(ended)) };
        Ok(Self { shared, stamps, threads: Arc::new(threads) })
    }

    /// Why writes can't be taken; `None` if they can.
    pub(super) fn full(&self) -> Option<String> {
        if !self.shared.is_full.load(Ordering::Relaxed) {
            return None;
        }
        self.shared.full.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Turns into the reason once the log has stopped by itself.
    pub(super) fn failure(&self) -> watch::Receiver<Option<Arc<RaftError>>> {
        self.shared.failure.subscribe()
    }

    /// When entries were appended here.
    pub(super) fn stamps(&self) -> Arc<Stamps> {
        Arc::clone(&self.stamps)
    }

    /// The newest ballot that this voter keeps to.
    pub(super) fn promise(&self) -> Option<Vote> {
        self.shared.index().promised
    }

    /// Bytes of all entries that are not in a snapshot, or kept beside it.
    #[allow(dead_code, reason = "figures of the log, for metrics")]
    pub(super) fn bytes(&self) -> u64 {
        self.shared.index().bytes()
    }

    /// Bytes that are written to on disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.shared.disk_bytes.load(Ordering::Relaxed)
    }

    #[cfg(feature = "planted-bugs")]
    pub(super) fn plant(&self, bug: PlantedBug) {
        *self.shared.planted.lock().unwrap_or_else(PoisonError::into_inner) = Some(bug);
    }

    /// Writes what waits and ends the threads.
    pub(super) async fn close(&self) {
        self.shared.queue.force(Command::Stop);
        self.threads.spares.stop();
        let ended = self.threads.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            let _ = ended.await;
        }
    }

    async fn read(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let found = self.shared.index().range(range, bytes_max);
        let mut entries = Vec::with_capacity(found.len());
        for found in found {
            entries.push(match found {
                Found::Here(entry) => entry,
                // Reads are small and of what was written not long ago.
                Found::OnDisk(place) => {
                    read_from_disk(&place).map_err(|error| io::Error::other(chain(&error)))?
                }
            });
        }
        Ok(entries)
    }
}

fn read_from_disk(place: &Place) -> Result<Entry, RaftError> {
    let Place { segment, span } = place;
    match segment.read(*span)? {
        Record::Entry(entry) => {
            codec::entry_from(entry).map_err(|error| segment.damaged(span.offset, error.to_string()))
        }
        other => Err(segment.damaged(span.offset, format!("an entry is due, {other:?} was found"))),
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(range, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, MESSAGE_BYTES_MAX).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        use std::ops::Bound;
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let log = self.clone();
        let pieces = futures_util::stream::unfold(Some(start), move |next| {
            let log = log.clone();
            async move {
                let start = next.filter(|start| *start < end)?;
                let piece = log.read(start..end.min(start.saturating_add(APPLY_ENTRIES)), usize::MAX).await;
                let next = match &piece {
                    Ok(entries) => entries.last().map(|entry| entry.log_id.index + 1),
                    Err(_) => None,
                };
                let items: Vec<_> = match piece {
                    Ok(entries) => entries.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                };
                Some((futures_util::stream::iter(items), next))
            }
        });
        Box::pin(futures_util::StreamExt::flatten(pieces))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.index().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let index = self.shared.index();
        Ok(LogState { last_purged_log_id: index.purged, last_log_id: index.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        // Before anything else: whoever asks from now on is told.
        self.shared.index().promised = Some(*vote);
        let (done, saved) = oneshot::channel();
        let record = Record::Vote(codec::ballot_to(vote));
        self.shared.queue.push(Command::Vote { record, done }).await;
        saved.await.map_err(|_| io::Error::other("the registry's log has ended"))??;
        self.shared.index().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.index().committed = committed;
        self.shared.noted.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        // Where a torn last write took entries with it, what was committed of them is with the others.
        let index = self.shared.index();
        Ok(index.committed.min(index.last()))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let now = self.shared.clock.now();
        {
            let mut index = self.shared.index();
            for entry in &entries {
                index.append(entry.clone(), None).map_err(io::Error::other)?;
                self.stamps.appended(entry, now);
            }
        }
        self.shared.queue.push(Command::Append { entries, done: callback }).await;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.shared.index().truncate(last_log_id);
        self.stamps.void_after(last_log_id.map(|id| id.index));
        let record = Record::Truncated(last_log_id.map(codec::log_id_to));
        self.shared.queue.push(Command::Note(record)).await;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.shared.index().purge(log_id);
        self.shared.queue.push(Command::Note(Record::Purged(codec::log_id_to(log_id)))).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
