//! The modelled log in a run: what reaches it, what commits, who leads it, and who hears of it.

use std::time::Duration;

use mesh_core::{
    Revision,
    store::{Applied, Prefix, SessionError, SessionId, WatchEvent},
};
use mesh_leader::{Answer, Input, Request, WatchId, lease_key};
use mesh_registry::state::{Command, Refusal, Reply};

use super::{
    super::store::{self, Caller, Committed, Purpose, StoreBug, VOTERS, name},
    Happening, NOTICED, PREFIX, World,
};
use crate::Violation;

impl World<'_> {
    pub(super) fn arrives(&mut self, caller: Caller, request: Request) {
        self.trace.line(self.now, || format!("n{} asks: {request:?}", caller.node));
        let leads =
            self.store.leader.filter(|at| self.store.voters[*at].up && !self.store.voters[*at].paused);
        if leads.is_none() {
            let refused = store::refused(&request, Applied::No);
            return self.answer(&caller, refused);
        }
        if let Request::KeepAlive(session) = request {
            match self.held.get_mut(&caller.node) {
                Some(held) => held.push((session, caller)),
                None => self.store.queue_renewal(session, caller),
            }
            return;
        }
        match store::command_of(&request) {
            Some(command) => {
                self.append(&command, Purpose::Call(caller));
            }
            None => {
                if let Some(answer) = self.store.read(&request) {
                    self.answer(&caller, answer);
                }
            }
        }
    }

    /// Whether somebody took it.
    pub(super) fn append(&mut self, command: &Command, purpose: Purpose) -> bool {
        let taken = self.store.append(self.now, command, purpose);
        if taken {
            self.schedule_commit();
        }
        taken
    }

    pub(super) fn schedule_commit(&mut self) {
        let (delay, epoch) = (self.delay(), self.store.epoch);
        self.push(delay, Happening::Commit { epoch });
    }

    pub(super) fn committed(&mut self, all: Vec<Committed>) -> Result<(), Violation> {
        for committed in all {
            self.learn(&committed)?;
            let Committed { purpose, reply, changes, appended, .. } = committed;
            self.trace.record(self.now, b'c', [self.store.state.revision().0, changes.len() as u64, 0], &[]);
            match &purpose {
                Purpose::Call(caller) => {
                    if let Some(answer) = store::answer_of(caller, &reply, None) {
                        self.answer(caller, answer);
                    }
                }
                Purpose::Renewals(callers) => {
                    if let Reply::Renewed(sessions) = &reply {
                        for ((id, caller), session) in callers.iter().zip(sessions) {
                            if let Some(session) = session {
                                self.rules.promised(session, appended);
                            }
                            let gone = SessionError::Gone { session: *id };
                            self.answer(caller, Answer::Session(session.clone().ok_or(gone)));
                        }
                    }
                }
                Purpose::Program { node } => {
                    let opened = if let Reply::Opened(session) = &reply { Some(session.id) } else { None };
                    self.nodes[*node].program.opened(opened);
                }
                Purpose::Guarded { .. } | Purpose::Own => {}
            }
            if let Reply::Restored(Ok(restored)) = &reply {
                self.rules.restored(self.now, self.config.ttl);
                self.history.ends();
                let gap = WatchEvent::Gap { from: Revision(1), to: restored.revision };
                self.publish(|_| Some(gap.clone()));
            } else {
                for revised in &changes {
                    self.publish(|subscription| subscription.told(revised));
                }
            }
        }
        Ok(())
    }

    /// Keeps the rules in step with what took effect.
    pub(super) fn learn(&mut self, committed: &Committed) -> Result<(), Violation> {
        for (key, token, owner) in &committed.granted {
            let scope = self.scopes.iter().position(|scope| lease_key(scope) == *key);
            if let Some(scope) = scope.filter(|scope| !self.rules.knows(*scope, *token, owner)) {
                self.rules.granted(self.now, scope, *token, owner.clone())?;
            }
        }
        if let Reply::Expired(sessions) = &committed.reply {
            self.rules.expired(self.now, sessions)?;
        }
        let (Purpose::Guarded { node, scope, token, key, call, compares }, Reply::Txn(outcome)) =
            (&committed.purpose, &committed.reply)
        else {
            return Ok(());
        };
        let told = outcome.clone().map_err(|refusal| refusal.into_error(compares));
        self.history.wrote(self.now, *call, Some(&told));
        match outcome {
            // The outcome of the first time, told again.
            Ok(_) if committed.changes.is_empty() => {}
            Ok(_) => {
                self.rules.wrote(self.now, *scope, *token, &name(*node))?;
                if let Some(key) = key {
                    self.rules.applied(self.now, *key)?;
                }
            }
            Err(Refusal::SessionGone(_) | Refusal::Forgotten(_)) => self.nodes[*node].program.opened(None),
            Err(_) => self.rules.refused += 1,
        }
        Ok(())
    }

    pub(super) fn publish(&mut self, told: impl Fn(&store::Subscription) -> Option<WatchEvent>) {
        let keys: Vec<_> = self.store.watches.keys().copied().collect();
        for key in keys {
            let delay = self.delay();
            let cut = self.nodes[key.0].cut;
            let Some(subscription) = self.store.watches.get_mut(&key) else { continue };
            let Some(event) = told(subscription) else { continue };
            let (node, run, id) = (subscription.node, subscription.run, subscription.id);
            if cut {
                self.store.watches.remove(&key);
                let input = Input::WatchEnded { watch: id };
                self.push(NOTICED, Happening::Input { node, run, input });
                continue;
            }
            let at = (self.now + delay).max(subscription.last);
            subscription.last = at;
            let input = || Input::Watch { watch: id, event: event.clone() };
            self.queue.push(at, Happening::Input { node, run, input: input() });
            if self.store.bug == Some(StoreBug::RepeatEvent)
                && self.store.state.revision().0.is_multiple_of(16)
            {
                self.queue.push(at, Happening::Input { node, run, input: input() });
            }
        }
    }

    /// One entry for the renewals that have gathered. A leader that is doomed dies with it.
    pub(super) fn gather_renewals(&mut self) {
        let doomed = self.doomed.iter().copied().find(|node| self.store.has_renewal_of(*node));
        let others_have = self.store.log_len();
        for (caller, answer) in self.store.batch_renewals(self.now) {
            if let Answer::Session(Ok(session)) = &answer {
                self.rules.promised(session, self.now);
            }
            self.answer(&caller, answer);
        }
        let Some(node) = doomed else { return self.schedule_commit() };
        self.doomed.remove(&node);
        self.nodes[node].cut = true;
        if let Some(leader) = self.store.leader {
            self.store.voters[leader].up = false;
            let kept = self.rng.usize(0..=others_have);
            self.lose_store_leader(kept);
        }
    }

    /// Renewals that were under way for long arrive just before the entry that ends their session.
    pub(super) fn release_held(&mut self, expire: &Command) {
        let Command::Expire(due) = expire else { return };
        let ends = |held: &(SessionId, Caller)| due.iter().any(|expiry| expiry.session == held.0);
        let nodes: Vec<_> =
            self.held.iter().filter(|(_, held)| held.iter().any(ends)).map(|(n, _)| *n).collect();
        for node in nodes {
            self.arrive_at_last(node);
            self.gather_renewals();
        }
    }

    /// What was under way for long arrives.
    pub(super) fn arrive_at_last(&mut self, node: usize) {
        for (session, caller) in self.held.remove(&node).unwrap_or_default() {
            self.store.queue_renewal(session, caller);
        }
    }

    /// The leader is gone, and the others have the first `kept` of the entries that were not committed.
    pub(super) fn lose_store_leader(&mut self, kept: usize) {
        self.store.lose_leader(kept);
        let watches = std::mem::take(&mut self.store.watches);
        for subscription in watches.into_values() {
            let input = Input::WatchEnded { watch: subscription.id };
            let delay = self.delay();
            self.push(delay, Happening::Input { node: subscription.node, run: subscription.run, input });
        }
        let wait = Duration::from_millis(self.rng.u64(300..900));
        let epoch = self.store.epoch;
        self.push(wait, Happening::Elect { epoch });
    }

    pub(super) fn begin_watch(&mut self, node: usize, run: u32, id: WatchId, after: Revision) {
        if self.store.leader.is_none() || self.nodes[node].cut {
            let input = Input::WatchEnded { watch: id };
            return self.push(NOTICED, Happening::Input { node, run, input });
        }
        let prefix = Prefix::new(PREFIX).expect("a prefix");
        let first = self.store.watch(self.now, (node, run), id, prefix, after);
        self.history.watches(self.now, (node, run), id, after);
        for event in first {
            let delay = self.delay();
            let Some(subscription) = self.store.watches.get_mut(&(node, run)) else { return };
            let at = (self.now + delay).max(subscription.last);
            subscription.last = at;
            self.queue.push(at, Happening::Input { node, run, input: Input::Watch { watch: id, event } });
        }
    }

    pub(super) fn elect(&mut self, epoch: u64) -> Result<(), Violation> {
        if epoch != self.store.epoch || self.store.leader.is_some() {
            return Ok(());
        }
        let voter = self.rng.usize(0..VOTERS);
        match self.store.elect(self.now, voter) {
            Some(committed) => {
                self.trace.line(self.now, || format!("voter {voter} leads the store"));
                self.committed(committed)
            }
            None => {
                self.push(Duration::from_millis(200), Happening::Elect { epoch });
                Ok(())
            }
        }
    }
}
