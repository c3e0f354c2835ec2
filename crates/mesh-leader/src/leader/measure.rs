//! Before the first session: measures whether the time to live can be kept here.

use std::time::Duration;

use mesh_core::Instant;

use super::{LeaderCore, requests::Asker};
use crate::{
    TtlRefusal,
    event::{Effect, Request},
};

/// Between two probes: how late the timer is counts as a pause.
const APART: Duration = Duration::from_millis(5);
/// After a refusal it is measured anew: what was wrong may pass.
const AGAIN: Duration = Duration::from_secs(10);
/// Longest wait for the answer to a probe. A store that takes longer is not there yet.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Measure {
    state: State,
    probes: u32,
    /// The last word about the time to live, while it runs.
    unsupported: bool,
}

#[derive(Debug)]
enum State {
    Probing { left: u32, next_at: Option<Instant> },
    Refused { refusal: TtlRefusal, again_at: Instant },
    Admitted,
}

impl Measure {
    pub(super) fn new(probes: u32, now: Instant) -> Self {
        let state = State::Probing { left: probes, next_at: Some(now) };
        Self { state, probes, unsupported: false }
    }

    pub(super) fn stop(&mut self) {
        self.state = State::Admitted;
    }

    pub(super) fn refused(&self) -> Option<&TtlRefusal> {
        match &self.state {
            State::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Probing { next_at, .. } => *next_at,
            State::Refused { again_at, .. } => Some(*again_at),
            State::Admitted => None,
        }
    }
}

impl LeaderCore {
    pub(super) fn drive_measure(&mut self, now: Instant) {
        if let State::Refused { again_at, .. } = &self.measure.state
            && *again_at <= now
        {
            self.admission = crate::TtlAdmission::default();
            self.measure.state = State::Probing { left: self.measure.probes, next_at: Some(now) };
        }
        let State::Probing { left, next_at } = &mut self.measure.state else { return };
        if *left == 0 {
            self.admit(now);
        } else if next_at.is_some_and(|at| at <= now) {
            *next_at = None;
            self.out.ask(now, Asker::Measure, None, Request::Probe, PATIENCE);
        }
    }

    /// A probe was answered, or not.
    pub(super) fn probed(&mut self, now: Instant, well: bool) {
        let State::Probing { left, next_at } = &mut self.measure.state else { return };
        if well {
            *left = left.saturating_sub(1);
            *next_at = Some(now + APART);
        } else {
            // The store is not there yet: that says nothing about how fast it will be.
            self.admission = crate::TtlAdmission::default();
            *left = self.measure.probes;
            *next_at = Some(now + Duration::from_millis(100));
        }
    }

    fn admit(&mut self, now: Instant) {
        match self.admission.check(self.config.ttl, self.config.drift_ppm) {
            Ok(()) => {
                self.measure.state = State::Admitted;
                self.keeper.start(now);
                self.out.push(Effect::Ttl(None));
            }
            Err(refusal) => {
                self.out.push(Effect::Ttl(Some(refusal.clone())));
                self.measure.state = State::Refused { refusal, again_at: now + AGAIN };
            }
        }
    }

    /// While leases are held, a time to live that can't be kept any more is said, not enforced.
    pub(super) fn review_ttl(&mut self) {
        if self.measure.probes == 0 {
            return;
        }
        let verdict = self.admission.check(self.config.ttl, self.config.drift_ppm).err();
        if verdict.is_some() != self.measure.unsupported {
            self.measure.unsupported = verdict.is_some();
            self.out.push(Effect::Ttl(verdict));
        }
    }
}
