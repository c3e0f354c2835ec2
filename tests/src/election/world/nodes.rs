//! The nodes of a run: what they send, when they run, and what their programs do.

use std::time::Duration;

use mesh_core::Machine;
use mesh_leader::{
    Answer, CampaignOptions, Command as LeaderCommand, Effect, Input, LeaderCore, MemberHint, Request,
    RequestId, Scope, Transition,
};

use super::{
    super::store::{Caller, name},
    DECLARED, EFFECTS_MAX, Happening, NOTICED, WORK, World,
};
use crate::Violation;

impl World<'_> {
    pub(super) fn delay(&mut self) -> Duration {
        let least = self.options.delay_us;
        Duration::from_micros(self.rng.u64(least..=4 * least))
    }

    pub(super) fn lost(&mut self, node: usize) -> bool {
        let one_in = self.options.lost_one_in;
        self.nodes[node].cut || (self.faulty && one_in > 0 && self.rng.u32(0..one_in) == 0)
    }

    pub(super) fn push(&mut self, after: Duration, happening: Happening) {
        self.queue.push(self.now + after, happening);
    }

    /// Sends a request to the store.
    pub(super) fn send(&mut self, node: usize, id: RequestId, request: Request) {
        let renewal = matches!(request, Request::KeepAlive(_));
        self.history.asks(self.now, (node, self.nodes[node].run), id, &request);
        if self.lost(node) || (renewal && self.lose_renewal_of.remove(&node)) {
            return;
        }
        let late = self.options.late_one_in;
        let mut delay = self.delay();
        if self.faulty && late > 0 && self.rng.u32(0..late) == 0 {
            delay += Duration::from_millis(self.rng.u64(0..6000));
        }
        let txn = match &request {
            Request::Transact(txn) => Some(Box::new(txn.clone())),
            _ => None,
        };
        let caller = Caller { node, run: self.nodes[node].run, request: id, txn };
        self.push(delay, Happening::Arrives { caller, request });
    }

    pub(super) fn answer(&mut self, caller: &Caller, answer: Answer) {
        self.trace.line(self.now, || format!("to n{}: {answer:?}", caller.node));
        if self.lost(caller.node) {
            return;
        }
        let delay = self.delay();
        let input = Input::Answer { request: caller.request, answer };
        self.push(delay, Happening::Input { node: caller.node, run: caller.run, input });
    }

    // Nodes.

    pub(super) fn start(&mut self, node: usize) -> Result<(), Violation> {
        let now = self.local(node);
        let seed = self.rng.u64(..);
        let mut core = LeaderCore::new(self.config.clone(), name(node), seed, now);
        if let Some(plant) = &self.planted.leader {
            plant(&mut core);
        }
        let started = &mut self.nodes[node];
        started.run += 1;
        started.timer_at = None;
        started.paused = false;
        started.waiting.clear();
        for scope in &self.scopes {
            let options = CampaignOptions::default();
            let command = LeaderCommand::Campaign { scope: scope.clone(), options };
            core.handle(now, Input::Command(command)).map_err(|refusal| Violation {
                at: self.now,
                host: None,
                rule: "a campaign is taken",
                detail: refusal.to_string(),
            })?;
        }
        started.core = Some(core);
        self.push(WORK, Happening::Work { node });
        self.push(DECLARED, Happening::Hint { about: node, gone: false });
        self.drain(node)
    }

    pub(super) fn kill(&mut self, node: usize) {
        if self.nodes[node].core.take().is_some() {
            let run = self.nodes[node].run;
            self.store.watches.remove(&(node, run));
            self.push(DECLARED, Happening::Hint { about: node, gone: true });
        }
    }

    /// Feeds a node, unless it stands still or is another run.
    pub(super) fn step(&mut self, node: usize, run: u32, feed: Option<Input>) -> Result<(), Violation> {
        let now = self.local(node);
        let target = &mut self.nodes[node];
        if target.run != run {
            return Ok(());
        }
        if target.paused {
            let happening = match feed {
                Some(input) => Happening::Input { node, run, input },
                None => Happening::Timer { node, run },
            };
            target.waiting.push_back(happening);
            return Ok(());
        }
        let Some(core) = &mut target.core else { return Ok(()) };
        match &feed {
            Some(Input::Answer { request, answer }) => {
                self.history.is_told(self.now, (node, run), *request, answer);
            }
            Some(Input::Watch { watch, event }) => {
                self.history.delivers(self.now, (node, run), *watch, event);
            }
            _ => {}
        }
        match feed {
            // What an operator asks may be refused; nothing else is.
            Some(input) => drop(core.handle(now, input)),
            None => {
                target.timer_at = None;
                core.handle_timeout(now);
            }
        }
        self.drain(node)
    }

    /// Carries out what a core wants, and sets its timer.
    pub(super) fn drain(&mut self, node: usize) -> Result<(), Violation> {
        let run = self.nodes[node].run;
        for count in 0.. {
            let Some(core) = &mut self.nodes[node].core else { return Ok(()) };
            let Some(effect) = core.poll_effect() else { break };
            if count > EFFECTS_MAX {
                return Err(self.violation("work of a step is bounded", format!("n{node} does not end")));
            }
            self.carry_out(node, run, effect)?;
        }
        let timer = &self.nodes[node];
        if let Some(due) = timer.core.as_ref().and_then(Machine::poll_timeout) {
            let at = timer.clock.run(due).max(self.now);
            if timer.timer_at.is_none_or(|set| at < set) {
                self.nodes[node].timer_at = Some(at);
                self.queue.push(at, Happening::Timer { node, run });
            }
        }
        self.check_acting()
    }

    pub(super) fn carry_out(&mut self, node: usize, run: u32, effect: Effect) -> Result<(), Violation> {
        match effect {
            Effect::Request { id, request, .. } => self.send(node, id, request),
            Effect::Watch { id, after } => {
                if self.lost(node) {
                    let ended = Input::WatchEnded { watch: id };
                    self.push(NOTICED, Happening::Input { node, run, input: ended });
                } else {
                    let delay = self.delay();
                    self.push(delay, Happening::WatchArrives { node, run, id, after });
                }
            }
            Effect::Event(event) => {
                self.trace.record(self.now, b'e', [node as u64, event.token.counter, event.term], &[]);
                self.trace.line(self.now, || {
                    format!(
                        "n{node}: {} {} {} {} term {} {}",
                        event.scope,
                        event.transition.as_str(),
                        event.leader,
                        event.token,
                        event.term,
                        event.reason.as_str()
                    )
                });
                let scope = self.scopes.iter().position(|scope| *scope == event.scope);
                if let (Some(scope), Transition::Elected | Transition::Observed) = (scope, event.transition) {
                    self.rules.reigns(self.now, scope, event.token, event.term)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What a leader's program does: checks its lease, then writes under its token.
    pub(super) fn work(&mut self, node: usize) -> Result<(), Violation> {
        if self.nodes[node].paused {
            return Ok(());
        }
        let now = self.local(node);
        let Some(core) = &self.nodes[node].core else { return Ok(()) };
        let held = |scope: &Scope| core.check(scope, now).and_then(Result::ok);
        let tokens: Vec<_> = self.scopes.iter().map(held).collect();
        for (scope, token) in tokens.into_iter().enumerate() {
            let Some(token) = token else { continue };
            if self.lost(node) {
                continue;
            }
            let mut delay = self.delay();
            if self.rng.u8(0..10) == 0 {
                // Such a write is what fencing is for: by the time it arrives another may lead.
                delay += Duration::from_millis(self.rng.u64(0..8000));
            }
            self.push(delay, Happening::GuardedArrives { node, scope, token });
        }
        self.check_acting()
    }

    pub(super) fn check_acting(&self) -> Result<(), Violation> {
        for (at, scope) in self.scopes.iter().enumerate() {
            let acting = |node: usize| {
                let one = &self.nodes[node];
                let core = one.core.as_ref().filter(|_| !one.paused)?;
                let token = core.check(scope, one.clock.local(self.now))?.ok()?;
                Some((name(node), token))
            };
            let holders: Vec<_> = (0..self.nodes.len()).filter_map(acting).collect();
            self.rules.acting(self.now, at, &holders)?;
        }
        Ok(())
    }

    pub(super) fn hint(&mut self, about: usize, gone: bool) -> Result<(), Violation> {
        for node in (0..self.nodes.len()).filter(|node| *node != about) {
            let hint = MemberHint { node_id: name(about), gone, shy: false, zone: None };
            self.step(node, self.nodes[node].run, Some(Input::Member(hint)))?;
        }
        Ok(())
    }

    pub(super) fn command(&mut self, node: usize, command: LeaderCommand) -> Result<(), Violation> {
        self.step(node, self.nodes[node].run, Some(Input::Command(command)))
    }
}
