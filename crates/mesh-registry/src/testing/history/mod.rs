//! Histories of concurrent calls, and judges of them.
//!
//! A history is what clients saw: who called what and when, and which answer came when. [`check`] asks
//! whether there is an order of the calls, each at one moment between its call and its return, in
//! which a sequential [`Model`] gives the same answers: whether the history is *linearizable*. A call
//! whose outcome is unknown has no return: it may take effect at any time after it was made, or never.
//!
//! | judge | of |
//! |---|---|
//! | [`check`] with [`Registers`] | reads and transactions of records |
//! | [`check`] with [`Leases`] | grants: one holder for each token, tokens that only grow, no early expiry |
//! | [`check_revisions`] | revisions, which must grow as time goes on |
//! | [`check_watches`] | what watches delivered: in order, complete, once, resumable |
//!
//! Nothing here reads a clock or needs a runtime, so that a simulator can use it as well.

mod check;
mod done;
mod explain;
mod generate;
mod lease;
mod register;
mod revisions;
mod watches;

use std::fmt;

use mesh_core::Instant;

pub use check::{Budget, Model, Verdict, check};
pub use explain::Counterexample;
pub use generate::{Shape, registers};
pub use lease::{Hold, LeaseCall, LeaseReply, LeaseState, Leases, Tenure};
pub use register::{Expect, Found, Held, RegisterCall, RegisterReply, RegisterState, Registers};
pub use revisions::{RevisionFault, Stamped, check_revisions};
pub use watches::{Changed, Commit, WatchFault, Watched, check_watches};

/// When something was seen. Moments are ordered by their tick alone; the time is for people, and for
/// rules about durations.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Higher for what was seen later by the one who records.
    pub tick: u64,
    /// The time on the recorder's clock.
    pub at: Instant,
}

impl Moment {
    /// A hand-made moment: its tick is its time in nanoseconds.
    pub const fn at(nanos: u64) -> Self {
        Self { tick: nanos, at: Instant::from_nanos(nanos) }
    }
}

impl PartialEq for Moment {
    fn eq(&self, other: &Self) -> bool {
        self.tick == other.tick
    }
}

impl Eq for Moment {}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Moment {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.tick.cmp(&other.tick)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.at)
    }
}

/// An answer and when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<O> {
    /// When.
    pub at: Moment,
    /// What.
    pub output: O,
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation<I, O> {
    /// Who called; for people only.
    pub client: u64,
    /// When, taken before the call was made.
    pub call: Moment,
    /// What was asked.
    pub input: I,
    /// What came back; `None` if the outcome is unknown.
    pub answer: Option<Answer<O>>,
}

impl<I, O> Invocation<I, O> {
    /// A call that was answered.
    pub fn answered(client: u64, call: Moment, input: I, at: Moment, output: O) -> Self {
        Self { client, call, input, answer: Some(Answer { at, output }) }
    }

    /// A call whose outcome is unknown.
    pub fn open(client: u64, call: Moment, input: I) -> Self {
        Self { client, call, input, answer: None }
    }

    /// The answer's content.
    pub fn output(&self) -> Option<&O> {
        self.answer.as_ref().map(|answer| &answer.output)
    }

    /// The latest time at which it can have taken effect.
    pub fn latest(&self) -> Instant {
        self.answer.as_ref().map_or(Instant::from_nanos(u64::MAX), |answer| answer.at.at)
    }
}

#[cfg(test)]
mod tests;
