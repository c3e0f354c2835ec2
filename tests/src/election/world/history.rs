//! What the clients of a run asked and were told, for the judges of histories.
//!
//! The cores are clients with their requests and their watches; the programs with their guarded writes, and
//! with reads of what they write. A restore brings back a state that nothing before it explains, so that the
//! recording ends there.

use std::{collections::BTreeMap, sync::Arc};

use mesh_core::{
    Clock, Instant, ManualClock, Revision,
    store::{Fresh, Key, Overflow, Prefix, Record, Txn, TxnError, TxnOutcome, WatchEvent, WatchFrom},
};
use mesh_leader::{Answer, Request, RequestId, WatchId};
use mesh_registry::testing::{Call, Recorder, Reply, history::Budget};

use super::{PREFIX, World};
use crate::Violation;

/// The rule of the judges.
pub const EXPLAINED: &str = "what clients were told can be explained";

/// Steps of a search; thousands are the rule.
const STEPS_MAX: u64 = 2_000_000;
/// States that a search remembers.
const STATES_MAX: usize = 200_000;

pub(super) struct History {
    clock: ManualClock,
    recorder: Recorder,
    asked: BTreeMap<(usize, u32, RequestId), Option<usize>>,
    watches: BTreeMap<(usize, u32, WatchId), Option<usize>>,
    is_over: bool,
}

impl History {
    pub(super) fn new() -> Self {
        let clock = ManualClock::default();
        Self {
            recorder: Recorder::new(Arc::new(clock.clone())),
            clock,
            asked: BTreeMap::new(),
            watches: BTreeMap::new(),
            is_over: false,
        }
    }

    /// The recorder, at this time; `None` once the recording is over.
    fn at(&self, now: Instant) -> Option<&Recorder> {
        self.clock.advance(now.since(self.clock.now()));
        (!self.is_over).then_some(&self.recorder)
    }

    fn begin(&self, now: Instant, node: usize, call: Call) -> Option<usize> {
        self.at(now)?.begin(node as u64, call)
    }

    fn end(&self, now: Instant, call: Option<usize>, reply: Reply) {
        if let Some(recorder) = self.at(now) {
            recorder.end(call, reply);
        }
    }

    /// A core asks.
    pub(super) fn asks(&mut self, now: Instant, (node, run): (usize, u32), id: RequestId, request: &Request) {
        let call = match request {
            Request::Probe => return,
            Request::OpenSession(_) => Call::Open,
            Request::KeepAlive(session) => Call::KeepAlive(*session),
            Request::CloseSession(session) => Call::Close(*session),
            Request::Scan(scan) => Call::Scan(scan.clone()),
            Request::Transact(txn) => Call::Transact(txn.clone()),
        };
        let call = self.begin(now, node, call);
        self.asked.insert((node, run, id), call);
    }

    /// A core is told.
    pub(super) fn is_told(
        &mut self,
        now: Instant,
        (node, run): (usize, u32),
        id: RequestId,
        answer: &Answer,
    ) {
        let Some(call) = self.asked.remove(&(node, run, id)) else { return };
        let reply = match answer {
            Answer::Probe(_) => return,
            Answer::Session(result) => Reply::of_session(result, Reply::Session),
            Answer::Closed(result) => Reply::of_session(result, Reply::Closed),
            Answer::Page(result) => Reply::of_read(result, Reply::Scanned),
            Answer::Txn(result) => Reply::from(result),
        };
        self.end(now, call, reply);
    }

    /// A core's watch stands.
    pub(super) fn watches(&mut self, now: Instant, (node, run): (usize, u32), id: WatchId, after: Revision) {
        let prefix = Prefix::new(PREFIX).expect("a prefix");
        let from = WatchFrom::After(after);
        let watch =
            self.at(now).and_then(|to| to.begin_watch(node as u64, prefix, from, Overflow::default()));
        self.watches.insert((node, run, id), watch);
    }

    /// A core's watch delivers.
    pub(super) fn delivers(&self, now: Instant, (node, run): (usize, u32), id: WatchId, event: &WatchEvent) {
        if let (Some(watch), Some(recorder)) = (self.watches.get(&(node, run, id)), self.at(now)) {
            recorder.event(*watch, event);
        }
    }

    /// A program's write reaches the store.
    pub(super) fn writes(&self, now: Instant, node: usize, txn: &Txn) -> Option<usize> {
        self.begin(now, node, Call::Transact(txn.clone()))
    }

    /// What came of it; `None`: nobody took it.
    pub(super) fn wrote(
        &self,
        now: Instant,
        call: Option<usize>,
        outcome: Option<&Result<TxnOutcome, TxnError>>,
    ) {
        self.end(now, call, outcome.map_or(Reply::Nothing, Reply::from));
    }

    /// A program has read a record.
    pub(super) fn read(&self, now: Instant, node: usize, key: Key, found: Fresh<Option<Record>>) {
        let call = self.begin(now, node, Call::Get(key));
        self.end(now, call, Reply::Got(found));
    }

    /// The store is another one from here on.
    pub(super) fn ends(&mut self) {
        self.is_over = true;
    }
}

impl World<'_> {
    /// Lets the judges look at what clients were told.
    pub(super) fn judge(&self) -> Result<(), Violation> {
        let budget = Budget { steps_max: STEPS_MAX, states_max: STATES_MAX, ..Budget::default() };
        let verdict = self.history.recorder.recording().judge(&budget);
        verdict.map_err(|problem| self.violation(EXPLAINED, problem))
    }
}
