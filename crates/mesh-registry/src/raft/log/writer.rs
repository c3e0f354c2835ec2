//! The one thread that writes the log.
//!
//! Everything that waits is written and synced together; what it is answered for is answered after the
//! sync. A write that fails for want of space waits for space; a sync that fails is never tried again,
//! since nobody knows what it left on the disk: the log stops.

use std::{
    collections::VecDeque,
    fs, io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use openraft::storage::IOFlushed;
use tokio::sync::{Notify, oneshot};

use super::{
    Shared,
    frame::{FrameBuilder, Record, Span},
    index::Place,
    recover::opening,
    segment::{SEGMENT_BYTES, Segment, reserve, sync_folder, take_spare},
};
use crate::{
    planted::PlantedBug,
    raft::{
        RaftError, codec,
        types::{Entry, LogId, Types},
    },
};

/// Most bytes in one frame, about.
const FRAME_BYTES_MAX: usize = (SEGMENT_BYTES / 4) as usize;
/// Commands that wait; whoever has more waits with it.
const QUEUE_MAX: usize = 1024;
/// How long after the last write the index of what is committed is written by itself.
const IDLE: Duration = Duration::from_millis(100);
/// Between two looks whether a full disk has space again.
const SPACE_CHECK: Duration = Duration::from_millis(500);

/// What the thread is asked to do.
pub(super) enum Command {
    Append {
        entries: Vec<Entry>,
        done: IOFlushed<Types>,
    },
    Vote {
        record: Record,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Rides on the next frame.
    Note(Record),
    Stop,
}

/// The commands that wait.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<Command>>,
    wake: Condvar,
    room: Notify,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Command>> {
        // Pushing and popping leave the queue whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn push(&self, command: Command) {
        let mut command = Some(command);
        loop {
            let room = self.room.notified();
            {
                let mut waiting = self.lock();
                if waiting.len() < QUEUE_MAX {
                    waiting.extend(command.take());
                    self.wake.notify_one();
                    return;
                }
            }
            room.await;
        }
    }

    /// Puts a command in whether or not there is room. For the last one.
    pub(super) fn force(&self, command: Command) {
        self.lock().push_back(command);
        self.wake.notify_one();
    }

    /// Waits until there is one, at most so long.
    fn wait(&self, limit: Option<Duration>) -> bool {
        let waiting = self.lock();
        let waiting = match limit {
            Some(limit) => {
                let empty = |waiting: &mut VecDeque<Command>| waiting.is_empty();
                self.wake.wait_timeout_while(waiting, limit, empty).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self
                .wake
                .wait_while(waiting, |waiting| waiting.is_empty())
                .unwrap_or_else(PoisonError::into_inner),
        };
        !waiting.is_empty()
    }

    fn pop(&self) -> Option<Command> {
        let command = self.lock().pop_front();
        self.room.notify_waiters();
        command
    }
}

/// The segment that is written to, and what is before it.
pub(super) struct Files {
    pub(super) folder: PathBuf,
    /// Older segments with the highest index of an entry in each.
    pub(super) closed: VecDeque<(Arc<Segment>, Option<u64>)>,
    pub(super) open: Arc<Segment>,
    pub(super) end: u64,
    pub(super) highest: Option<u64>,
    pub(super) sequence: u64,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) files: Files,
    /// The last frame that is on disk for certain.
    pub(super) synced: u64,
    pub(super) spares: Arc<Spares>,
    /// The buffer of the frame before, to be used again.
    pub(super) buffer: Vec<u8>,
}

/// Who waits for a frame.
enum Waiting {
    Append(IOFlushed<Types>),
    Vote(oneshot::Sender<io::Result<()>>),
}

impl Waiting {
    fn done(self, result: &Result<(), Arc<io::Error>>) {
        let result =
            result.as_ref().copied().map_err(|error| io::Error::new(error.kind(), Arc::clone(error)));
        match self {
            Self::Append(done) => done.io_completed(result),
            Self::Vote(done) => {
                // Whoever asked may be gone.
                let _ = done.send(result);
            }
        }
    }
}

impl Writer {
    /// Writes until it is told to stop, or can't go on.
    pub(super) fn run(mut self) {
        loop {
            let limit = self.shared.has_note().then_some(IDLE);
            if self.shared.queue.wait(limit) {
                if self.round() {
                    return;
                }
            } else if let Err(error) = self.write_note() {
                self.fail(error, Vec::new());
                return;
            }
        }
    }

    /// Writes what waits, as one frame. True if that was the end.
    fn round(&mut self) -> bool {
        let mut frame = FrameBuilder::new(std::mem::take(&mut self.buffer));
        let mut entries: Vec<(LogId, Span)> = Vec::new();
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut purged = None;
        let mut stop = false;
        while frame.len() < FRAME_BYTES_MAX {
            match self.shared.queue.pop() {
                Some(Command::Append { entries: new, done }) => {
                    for entry in &new {
                        entries.push((entry.log_id, frame.push(&Record::Entry(codec::entry_to(entry)))));
                    }
                    waiting.push(Waiting::Append(done));
                }
                Some(Command::Vote { record, done }) => {
                    frame.push(&record);
                    waiting.push(Waiting::Vote(done));
                }
                Some(Command::Note(record)) => {
                    frame.push(&record);
                    if let Record::Purged(id) = record {
                        purged = Some(id.index);
                    }
                }
                Some(Command::Stop) => stop = true,
                None => break,
            }
            if stop {
                break;
            }
        }
        if self.shared.has_bug(PlantedBug::AckBeforeSync) {
            for waiting in waiting.drain(..) {
                waiting.done(&Ok(()));
            }
            // What is acknowledged is in memory alone for a while: kill the process to see it lost.
            self.spares.pause();
        }
        if let Some(committed) = self.shared.take_note() {
            frame.push(&Record::Committed(codec::log_id_to(committed)));
        }
        if !frame.is_empty()
            && let Err(error) = self.write(frame, &entries, true)
        {
            self.fail(error, waiting);
            return true;
        }
        for waiting in waiting {
            waiting.done(&Ok(()));
        }
        if let Some(purged) = purged
            && let Err(error) = self.drop_segments(purged)
        {
            // What should be gone is in the way of nobody; a later purge tries again.
            tracing::warn!(%error, "an old part of the registry's log can't be removed");
        }
        stop
    }

    /// Writes down what is committed while nothing else is to be written. It may be lost, so it is not synced.
    fn write_note(&mut self) -> Result<(), RaftError> {
        let Some(committed) = self.shared.take_note() else { return Ok(()) };
        let mut frame = FrameBuilder::new(std::mem::take(&mut self.buffer));
        frame.push(&Record::Committed(codec::log_id_to(committed)));
        self.write(frame, &[], false)
    }

    fn write(&mut self, frame: FrameBuilder, entries: &[(LogId, Span)], sync: bool) -> Result<(), RaftError> {
        if self.files.end + frame.finished_len() as u64 > SEGMENT_BYTES {
            self.rotate()?;
        }
        let offset = self.files.end;
        let frame = frame.finish(self.files.sequence + 1, self.synced);
        self.put(&frame, offset)?;
        self.files.sequence += 1;
        self.files.end += frame.len() as u64;
        if sync {
            self.sync()?;
        }
        if let Some((last, _)) = entries.last() {
            self.files.highest = self.files.highest.max(Some(last.index));
        }
        self.shared.placed(entries.iter().map(|(id, span)| {
            let span = Span { offset: offset + span.offset, bytes: span.bytes };
            (*id, Place { segment: Arc::clone(&self.files.open), span })
        }));
        self.buffer = frame;
        Ok(())
    }

    /// Writes bytes, waiting for space where the disk is full.
    fn put(&self, bytes: &[u8], offset: u64) -> Result<(), RaftError> {
        loop {
            match self.files.open.file.write_all_at(bytes, offset) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    self.shared.set_full(Some(&self.files.folder));
                    self.spares.pause();
                }
                Err(source) => {
                    return Err(RaftError::Io { verb: "write", path: self.files.open.path.clone(), source });
                }
            }
        }
    }

    fn sync(&mut self) -> Result<(), RaftError> {
        let open = &self.files.open;
        open.file.sync_data().map_err(|source| RaftError::Io {
            verb: "sync",
            path: open.path.clone(),
            source,
        })?;
        self.synced = self.files.sequence;
        let closed = self.files.closed.len() as u64 * SEGMENT_BYTES;
        self.shared.disk_bytes.store(closed + self.files.end, Ordering::Relaxed);
        Ok(())
    }

    /// Goes on in a new segment.
    fn rotate(&mut self) -> Result<(), RaftError> {
        self.sync()?;
        let number = self.files.open.number + 1;
        self.spares.wait();
        let next = Arc::new(take_spare(&self.files.folder, number)?);
        self.spares.order();
        let before = std::mem::replace(&mut self.files.open, next);
        self.files.closed.push_back((before, self.files.highest.take()));
        self.files.end = 0;
        self.begin_segment()
    }

    /// Repeats at the beginning of a segment what those before it say, so that they can go.
    pub(super) fn begin_segment(&mut self) -> Result<(), RaftError> {
        let records = self.shared.with_index(opening);
        let mut frame = FrameBuilder::new(Vec::new());
        for record in &records {
            frame.push(record);
        }
        if !frame.is_empty() {
            self.files.sequence += 1;
            let frame = frame.finish(self.files.sequence, self.synced);
            self.put(&frame, 0)?;
            self.files.end = frame.len() as u64;
        }
        Ok(())
    }

    /// Removes segments that hold nothing but entries up to this one, the oldest first.
    fn drop_segments(&mut self, purged: u64) -> io::Result<()> {
        let mut removed = false;
        while let Some((segment, highest)) = self.files.closed.front() {
            if highest.is_some_and(|highest| highest > purged) {
                break;
            }
            fs::remove_file(&segment.path)?;
            removed = true;
            self.files.closed.pop_front();
        }
        if removed { sync_folder(&self.files.folder) } else { Ok(()) }
    }

    /// The end: tells everybody who waits, now and later.
    fn fail(&mut self, error: RaftError, waiting: Vec<Waiting>) {
        let text = Arc::new(io::Error::other(super::chain(&error)));
        self.shared.failed(error);
        for waiting in waiting {
            waiting.done(&Err(Arc::clone(&text)));
        }
        loop {
            self.shared.queue.wait(None);
            while let Some(command) = self.shared.queue.pop() {
                match command {
                    Command::Append { done, .. } => Waiting::Append(done).done(&Err(Arc::clone(&text))),
                    Command::Vote { done, .. } => Waiting::Vote(done).done(&Err(Arc::clone(&text))),
                    Command::Note(_) => {}
                    Command::Stop => return,
                }
            }
        }
    }
}

/// Whether a spare segment is there, and who makes it.
pub(super) struct Spares {
    shared: Arc<Shared>,
    folder: PathBuf,
    state: Mutex<Spare>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Spare {
    Wanted,
    Ready,
    Stopped,
}

impl Spares {
    pub(super) fn new(shared: Arc<Shared>, folder: PathBuf) -> Self {
        Self { shared, folder, state: Mutex::new(Spare::Wanted), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Spare> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a spare is there, or until the log ends.
    fn wait(&self) {
        let wanted = |state: &mut Spare| *state == Spare::Wanted;
        drop(self.changed.wait_while(self.lock(), wanted).unwrap_or_else(PoisonError::into_inner));
    }

    /// The spare was taken: make another, unless the log ends by now. A thread that missed the end would keep
    /// the directory locked for ever.
    pub(super) fn order(&self) {
        let mut state = self.lock();
        if *state != Spare::Stopped {
            *state = Spare::Wanted;
            self.changed.notify_all();
        }
    }

    pub(super) fn stop(&self) {
        *self.lock() = Spare::Stopped;
        self.changed.notify_all();
    }

    fn pause(&self) {
        let running = |state: &mut Spare| *state != Spare::Stopped;
        drop(
            self.changed
                .wait_timeout_while(self.lock(), SPACE_CHECK, running)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Makes spares as they are wanted. While there is no space for one, the log takes no more than what
    /// it has begun with: votes, and what was let in before.
    pub(super) fn run(&self) {
        loop {
            {
                let ready = |state: &mut Spare| *state == Spare::Ready;
                let state =
                    self.changed.wait_while(self.lock(), ready).unwrap_or_else(PoisonError::into_inner);
                if *state == Spare::Stopped {
                    return;
                }
            }
            match reserve(&self.folder) {
                Ok(()) => {
                    self.shared.set_full(None);
                    let mut state = self.lock();
                    if *state == Spare::Stopped {
                        return;
                    }
                    *state = Spare::Ready;
                    self.changed.notify_all();
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::StorageFull {
                        tracing::warn!(
                            folder = %self.folder.display(), %error,
                            "no space can be reserved for the registry's log"
                        );
                    }
                    self.shared.set_full(Some(&self.folder));
                    self.pause();
                }
            }
        }
    }
}
