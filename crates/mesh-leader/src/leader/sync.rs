//! Reading all records of leadership once, and following their changes from there.

use std::{collections::BTreeSet, time::Duration};

use mesh_core::{
    Instant, Revision,
    store::{Change, DeleteCause, Fresh, Key, Page, Record, Scan, StoreError, WatchEvent},
};

use super::{LeaderCore, requests::Asker, session::backoff};
use crate::{
    event::{Effect, Request, WatchId},
    records::{self, Name},
};

/// Records of one page.
const PAGE: usize = 5000;
/// A watch that says nothing for less is not begun anew.
const SILENCE_MIN: Duration = Duration::from_secs(2);
/// Watches that end without a word before everything is read again.
const WATCHES_IN_VAIN_MAX: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Sync {
    state: State,
    /// What the watch delivered.
    revision: Revision,
    watch: WatchId,
    /// When the watch last said anything, or began.
    heard_at: Instant,
    failures: u32,
    /// All records were read at least once.
    pub(super) synced: bool,
    /// Records are being entered from a scan, not from the watch.
    pub(super) entering: bool,
    wanted: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Off,
    Begin(Instant),
    Scanning {
        /// The revision of the first page: what came after it is the watch's to tell.
        from: Option<Revision>,
        records: Vec<Record>,
    },
    Watching,
    WatchAgain(Instant),
}

impl Sync {
    pub(super) fn start(&mut self, now: Instant) {
        self.state = State::Begin(now);
    }

    pub(super) fn stop(&mut self) {
        self.state = State::Off;
    }

    /// Reads everything again: the copy and the store were found to differ.
    pub(super) fn rescan(&mut self) {
        self.wanted = true;
    }

    pub(super) fn poll_timeout(&self, silence_max: Duration) -> Option<Instant> {
        match self.state {
            State::Begin(at) | State::WatchAgain(at) => Some(at),
            State::Watching => Some(self.heard_at + silence_max),
            State::Off | State::Scanning { .. } => None,
        }
    }
}

impl LeaderCore {
    pub(super) fn drive_sync(&mut self, now: Instant) {
        if std::mem::take(&mut self.sync.wanted)
            && matches!(self.sync.state, State::Watching | State::WatchAgain(_))
        {
            self.sync.state = State::Begin(now);
        }
        match self.sync.state {
            State::Begin(at) if at <= now => {
                self.counters.scans += 1;
                self.sync.state = State::Scanning { from: None, records: Vec::new() };
                self.ask_page(now, None);
            }
            State::WatchAgain(at) if at <= now => self.begin_watch(now),
            // It may be dead at the other end. Resuming costs little and misses nothing.
            State::Watching if self.sync.heard_at + self.silence_max() <= now => self.begin_watch(now),
            _ => {}
        }
    }

    fn ask_page(&mut self, now: Instant, after: Option<Key>) {
        let scan = Scan { prefix: records::prefix(), after, limit: PAGE };
        let timeout = self.keeper.request_timeout() * 4;
        self.out.ask(now, Asker::Sync, None, Request::Scan(scan), timeout);
    }

    /// Longest silence of a watch before it is begun anew.
    pub(super) fn silence_max(&self) -> Duration {
        (self.config.ttl * 2).max(SILENCE_MIN)
    }

    fn begin_watch(&mut self, now: Instant) {
        self.sync.heard_at = now;
        self.sync.watch = WatchId(self.sync.watch.0 + 1);
        self.sync.state = State::Watching;
        self.out.push(Effect::Watch { id: self.sync.watch, after: self.sync.revision });
    }

    pub(super) fn page_answered(&mut self, now: Instant, answer: Result<Fresh<Page>, StoreError>) {
        let followed = self.sync.revision;
        let State::Scanning { from, records } = &mut self.sync.state else { return };
        let page = match answer {
            Ok(page) => page,
            Err(_) => {
                self.sync.failures += 1;
                let wait = self.sync_backoff();
                self.sync.state = State::Begin(now + wait);
                return;
            }
        };
        let begins = from.is_none();
        let from = *from.get_or_insert(page.revision);
        if begins && from < followed {
            // What the watch had told is not there any more.
            self.view.forget_floors();
        }
        records.extend(page.value.records);
        if page.value.more
            && let Some(last) = records.last()
        {
            let after = last.key.clone();
            self.ask_page(now, Some(after));
            return;
        }
        let records = std::mem::take(records);
        self.sync.failures = 0;
        self.sync.revision = from;
        self.enter_all(now, records, from);
        self.sync.synced = true;
        self.begin_watch(now);
        // Whoever waited for the records may act now.
        self.dirty.extend(self.seats.keys().cloned());
    }

    fn enter_all(&mut self, now: Instant, records: Vec<Record>, revision: Revision) {
        self.sync.entering = true;
        let there: BTreeSet<Key> = records.iter().map(|record| record.key.clone()).collect();
        for name in self.view.names() {
            let key = name.key();
            if !there.contains(&key) {
                self.enter(now, &Change::Deleted { key, cause: DeleteCause::Unknown }, revision);
            }
        }
        for record in records {
            let revision = record.revision;
            self.enter(now, &Change::Put(record), revision);
        }
        self.sync.entering = false;
    }

    fn enter(&mut self, now: Instant, change: &Change, revision: Revision) {
        if let Change::Deleted { key, .. } = change
            && let Some(Name::Candidate(scope, node_id)) = Name::of(key)
            && node_id == self.node_id
            && let Some(seat) = self.seats.get_mut(&scope)
            && seat.registered.as_ref().is_some_and(|(_, _, since)| *since < revision)
        {
            // Somebody took our candidacy away; it is entered again if it is still wanted.
            seat.registered = None;
            self.registrar.touch(&scope);
        }
        let seats = &self.seats;
        if let Some(step) = self.view.apply(change, revision, |scope| seats.contains_key(scope)) {
            self.on_step(now, step);
        }
    }

    pub(super) fn watched(&mut self, now: Instant, watch: WatchId, event: WatchEvent) {
        if watch != self.sync.watch || !matches!(self.sync.state, State::Watching) {
            return;
        }
        self.sync.failures = 0;
        self.sync.heard_at = now;
        match event {
            WatchEvent::Changes { revision, changes } => {
                self.sync.revision = self.sync.revision.max(revision);
                for change in &changes {
                    self.enter(now, change, revision);
                }
            }
            WatchEvent::Bookmark { revision } => self.sync.revision = self.sync.revision.max(revision),
            WatchEvent::Gap { .. } => self.sync.rescan(),
        }
    }

    pub(super) fn watch_ended(&mut self, now: Instant, watch: WatchId) {
        if watch != self.sync.watch || !matches!(self.sync.state, State::Watching) {
            return;
        }
        self.sync.failures += 1;
        let at = now + self.sync_backoff();
        self.sync.state =
            if self.sync.failures > WATCHES_IN_VAIN_MAX { State::Begin(at) } else { State::WatchAgain(at) };
    }

    fn sync_backoff(&mut self) -> Duration {
        // Whoever does not see that a lease is gone does not try for it: be quick.
        let max = self.config.backoff_max.min(self.config.ttl / 4).max(self.config.backoff_min);
        backoff(self.sync.failures, self.config.backoff_min, max, &mut self.rng)
    }
}
