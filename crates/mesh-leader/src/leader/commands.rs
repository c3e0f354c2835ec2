//! What a node's owner asks for.

use mesh_core::Instant;

use super::{
    LeaderCore,
    requests::Asker,
    seat::{Plan, Seat},
};
use crate::{
    Reason, Refusal, Scope, Transition,
    config::SPREAD_BYTES_MAX,
    event::{CampaignOptions, Command, Effect, OpId, Request},
};

/// Callers that wait for one drain to end.
const DRAINERS_MAX: usize = 64;

impl LeaderCore {
    pub(super) fn campaign(&mut self, scope: Scope, options: CampaignOptions) -> Result<(), Refusal> {
        if self.stopped {
            return Err(Refusal::Stopped);
        }
        if let Some(refused) = self.measure.refused() {
            return Err(Refusal::Ttl(refused.clone()));
        }
        if let Some(spread) = &options.spread
            && (spread.is_empty() || spread.len() > SPREAD_BYTES_MAX)
        {
            let problem = format!("spread {spread:?} must have 1 to {SPREAD_BYTES_MAX} bytes");
            return Err(Refusal::Options { scope, problem });
        }
        if self.seats.get(&scope).is_some_and(|seat| seat.campaign.is_some()) {
            return Err(Refusal::Campaigning { scope });
        }
        let campaigns = self.seats.values().filter(|seat| seat.campaign.is_some()).count();
        if campaigns >= self.config.campaigns_max {
            return Err(Refusal::CampaignsMax { limit: self.config.campaigns_max });
        }
        self.view.own(&scope);
        let seat = self.seats.entry(scope.clone()).or_default();
        seat.campaign = Some(options);
        // It asks to lead: an earlier stepping down is over.
        seat.pause_until = Instant::ZERO;
        self.registrar.touch(&scope);
        self.dirty.insert(scope);
        Ok(())
    }

    fn withdraw(&mut self, now: Instant, scope: &Scope) -> Result<(), Refusal> {
        let seat = self.seats.get_mut(scope).filter(|seat| seat.campaign.is_some());
        let Some(seat) = seat else { return Err(Refusal::NotCampaigning { scope: scope.clone() }) };
        seat.campaign = None;
        self.registrar.touch(scope);
        self.give_up(now, scope, Reason::Withdrawn);
        self.dirty.insert(scope.clone());
        Ok(())
    }

    /// Hands a lease over, to whoever is best, or gives it back.
    pub(super) fn give_up(&mut self, now: Instant, scope: &Scope, why: Reason) {
        if self.seats.get(scope).is_some_and(Seat::is_leading) {
            let plan = Plan { to: None, why, note: None, ops: Vec::new(), asked: false };
            // A leader can always give up what it has.
            let _ = self.begin_handover(now, scope, plan);
        }
    }

    fn drain(&mut self, now: Instant, op: OpId) -> Result<(), Refusal> {
        if let Some(ops) = &mut self.draining {
            if ops.len() >= DRAINERS_MAX {
                return Err(Refusal::Busy { limit: DRAINERS_MAX });
            }
            ops.push(op);
        } else {
            self.draining = Some(vec![op]);
        }
        let scopes: Vec<Scope> = self.seats.keys().cloned().collect();
        for scope in scopes {
            self.registrar.touch(&scope);
            self.give_up(now, &scope, Reason::Draining);
        }
        Ok(())
    }

    fn undrain(&mut self) {
        let Some(ops) = self.draining.take() else { return };
        for op in ops {
            self.out.push(Effect::Done { op, outcome: Ok(()) });
        }
        let scopes: Vec<Scope> = self.seats.keys().cloned().collect();
        for scope in scopes {
            if let Some(seat) = self.seats.get_mut(&scope) {
                seat.pause_until = Instant::ZERO;
            }
            self.registrar.touch(&scope);
            self.dirty.insert(scope);
        }
    }

    fn close(&mut self, now: Instant, op: OpId) {
        self.stopped = true;
        let scopes: Vec<Scope> = self.seats.keys().cloned().collect();
        for scope in scopes {
            self.drop_tenure(now, &scope, Transition::SteppedDown, Reason::Stopped);
        }
        for (waiting, ask) in std::mem::take(&mut self.asks) {
            drop(ask);
            self.out.push(Effect::Done { op: waiting, outcome: Err(Refusal::Stopped) });
        }
        for waiting in self.draining.take().unwrap_or_default() {
            self.out.push(Effect::Done { op: waiting, outcome: Ok(()) });
        }
        self.sync.stop();
        self.measure.stop();
        match self.keeper.stop(&mut self.out) {
            Some(session) => {
                let timeout = self.keeper.request_timeout();
                let request = Request::CloseSession(session);
                self.out.ask(now, Asker::Close(op), None, request, timeout);
            }
            None => self.out.push(Effect::Done { op, outcome: Ok(()) }),
        }
    }

    pub(super) fn command(&mut self, now: Instant, command: Command) -> Result<(), Refusal> {
        match command {
            Command::Close { op } => {
                self.close(now, op);
                Ok(())
            }
            _ if self.stopped => Err(Refusal::Stopped),
            Command::Campaign { scope, options } => self.campaign(scope, options),
            Command::Withdraw { scope } => self.withdraw(now, &scope),
            Command::HandOver { op, scope, to, order } => self.order_handover(now, op, &scope, to, order),
            Command::Drain { op } => self.drain(now, op),
            Command::Undrain => {
                self.undrain();
                Ok(())
            }
            Command::Confirm => {
                self.keeper.renew_now(now);
                Ok(())
            }
            Command::Reread => {
                self.sync.rescan();
                Ok(())
            }
        }
    }
}
