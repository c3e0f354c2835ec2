//! The loop: what happened goes into the core, what it wants done is done.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::StreamExt;
use mesh_core::{Clock, Instant, Machine, MemberEvents, Membership, store::VersionedStore};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
};

use super::{Ask, Confirmer, hints::Hints, shared::Shared, store};
use crate::{
    Answer, Command, Effect, Input, LeaderCore, LeadershipEvent, OpId, Reason, Refusal, RequestId, Scope,
    Transition,
};

/// Longest sleep: the timer of the runtime stands still while the machine is suspended, our clock does not.
const SLEEP_MAX: Duration = Duration::from_millis(250);
/// How often what callers read without asking the loop is brought up to date.
const REFRESH: Duration = Duration::from_millis(500);
/// Words of a watch that wait for the loop; the store keeps what is beyond.
const WATCHED_MAX: usize = 256;
/// Shortest wait for the beginning of a watch.
const PATIENCE_MIN: Duration = Duration::from_millis(500);
/// Longest time that the end of the last handle waits for the session to be closed.
const FAREWELL: Duration = Duration::from_secs(2);

pub(super) struct Loop {
    core: LeaderCore,
    store: Arc<dyn VersionedStore>,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Ask>,
    members: MemberEvents,
    hints: Hints,
    requests: JoinSet<(RequestId, Answer)>,
    watch: JoinSet<()>,
    heard: mpsc::Sender<store::Watched>,
    words: mpsc::Receiver<store::Watched>,
    waiting: BTreeMap<OpId, oneshot::Sender<Result<(), Refusal>>>,
    /// Who holds the handle of a campaign.
    owners: BTreeMap<Scope, u64>,
    confirmer: Confirmer,
    confirm: Arc<Notify>,
    /// Longest time until a watch begins: whoever waits for a vacancy must not wait for a dead server.
    patience: Duration,
    refreshed: Option<Instant>,
    trouble: Option<String>,
}

impl Loop {
    pub(super) fn new(
        mut core: LeaderCore,
        store: Arc<dyn VersionedStore>,
        membership: Arc<dyn Membership>,
        clock: Arc<dyn Clock>,
        shared: Arc<Shared>,
        inbox: mpsc::Receiver<Ask>,
    ) -> Self {
        let (snapshot, members) = membership.subscribe();
        let mut hints = Hints::default();
        let now = clock.now();
        for hint in hints.of_snapshot(&snapshot) {
            // A hint is never refused.
            let _ = core.handle(now, Input::Member(hint));
        }
        let patience = core.quiet_max().max(PATIENCE_MIN);
        let (heard, words) = mpsc::channel(WATCHED_MAX);
        let confirm = Arc::new(Notify::new());
        let confirmer = Confirmer { wanted: Arc::clone(&confirm), ended: shared.stop.subscribe() };
        Self {
            core,
            store,
            clock,
            shared,
            inbox,
            members,
            hints,
            requests: JoinSet::new(),
            watch: JoinSet::new(),
            heard,
            words,
            waiting: BTreeMap::new(),
            owners: BTreeMap::new(),
            confirmer,
            confirm,
            patience,
            refreshed: None,
            trouble: None,
        }
    }

    pub(super) async fn run(mut self) {
        let wake = Arc::clone(&self.shared.wake);
        let confirm = Arc::clone(&self.confirm);
        let mut members_end = false;
        let mut abandoned = None;
        loop {
            self.act();
            let now = self.clock.now();
            let over = abandoned.is_some_and(|until| now >= until || !self.has_session());
            if *self.shared.stop.borrow() || over {
                break;
            }
            let due = self.core.poll_timeout().map_or(SLEEP_MAX, |due| due.since(now)).min(SLEEP_MAX);
            tokio::select! {
                biased;
                Some(Ok((request, answer))) = self.requests.join_next() => {
                    self.input(Input::Answer { request, answer });
                }
                Some((watch, event)) = self.words.recv() => self.input(match event {
                    Some(event) => Input::Watch { watch, event },
                    None => Input::WatchEnded { watch },
                }),
                () = confirm.notified() => self.input(Input::Command(Command::Confirm)),
                event = self.members.next(), if !members_end => match event {
                    Some(event) => {
                        for hint in self.hints.of_event(&event) {
                            self.input(Input::Member(hint));
                        }
                    }
                    // Hints end; leases go on.
                    None => members_end = true,
                },
                () = wake.notified() => {}
                ask = self.inbox.recv(), if abandoned.is_none() => match ask {
                    Some(ask) => self.ask(ask),
                    None => {
                        // The last handle is gone: give everything back before the end.
                        self.input(Input::Command(Command::Close { op: OpId(u64::MAX) }));
                        abandoned = Some(now + FAREWELL);
                    }
                },
                () = tokio::time::sleep(due) => self.core.handle_timeout(self.clock.now()),
            }
        }
        let now = self.clock.now();
        self.shared.refresh(&self.core, now);
        self.shared.refresh_status(&self.core, now);
        self.shared.stop.send_replace(true);
        self.shared.end();
    }

    /// Whether a request to close the session may still be under way.
    fn has_session(&self) -> bool {
        !self.requests.is_empty()
    }

    fn input(&mut self, input: Input) {
        // Only commands are refused, and those with an answer go another way.
        let _ = self.core.handle(self.clock.now(), input);
    }

    fn ask(&mut self, ask: Ask) {
        if ask.taken.is_closed() && ask.campaign.is_some() {
            // Whoever wanted the campaign is gone.
            return;
        }
        let began = match (&ask.command, ask.campaign) {
            (Command::Campaign { scope, .. }, Some(id)) => Some((scope.clone(), id)),
            _ => None,
        };
        let done = self.core.handle(self.clock.now(), Input::Command(ask.command));
        if done.is_ok() {
            if let Some((scope, id)) = began {
                self.owners.insert(scope, id);
            }
            if let Some((op, outcome)) = ask.outcome {
                self.waiting.insert(op, outcome);
            }
        }
        // The caller may have gone away.
        let _ = ask.taken.send(done);
    }

    fn act(&mut self) {
        for (scope, id) in self.shared.take_dropped() {
            if self.owners.get(&scope) == Some(&id) {
                self.owners.remove(&scope);
                self.input(Input::Command(Command::Withdraw { scope }));
            }
        }
        let mut leaders = Vec::new();
        let mut events = Vec::new();
        let mut finished = Vec::new();
        let mut changed = false;
        while let Some(effect) = self.core.poll_effect() {
            changed = true;
            match effect {
                Effect::Request { id, request, timeout } => {
                    let store = Arc::clone(&self.store);
                    self.requests.spawn(async move { (id, store::ask(&*store, request, timeout).await) });
                }
                Effect::Watch { id, after } => {
                    self.watch.abort_all();
                    let (store, heard) = (Arc::clone(&self.store), self.heard.clone());
                    self.watch.spawn(store::watch(store, id, after, self.patience, heard));
                }
                Effect::Validity { session, valid_until } => self.shared.validity(session, valid_until),
                Effect::Lease(signal) => {
                    // Who hears of its own lease shall read that it leads.
                    self.shared.board.publish(std::mem::take(&mut leaders), std::mem::take(&mut events));
                    self.shared.signal(signal, &self.confirmer);
                }
                Effect::Leader(view) => leaders.push(view),
                Effect::Forgotten(scope) => {
                    self.shared.board.publish(std::mem::take(&mut leaders), std::mem::take(&mut events));
                    self.shared.board.forget(&scope);
                }
                Effect::Event(event) => {
                    log(self.core.node_id(), &event);
                    events.push(event);
                }
                Effect::Done { op, outcome } => {
                    finished.extend(self.waiting.remove(&op).map(|waiting| (waiting, outcome)));
                }
                Effect::Ttl(Some(refusal)) => tracing::warn!(node_id = %self.core.node_id(), "{refusal}"),
                Effect::Ttl(None) => {
                    tracing::debug!(node_id = %self.core.node_id(), "leader.ttl can be kept")
                }
            }
        }
        while self.watch.try_join_next().is_some() {}
        self.shared.board.publish(leaders, events);
        // Whoever waited shall read what came of it.
        for (waiting, outcome) in finished {
            // The caller may have gone away.
            let _ = waiting.send(outcome);
        }
        let now = self.clock.now();
        // Only now, that every word about validity is entered.
        self.shared.beat(self.core.ran_at());
        let due = self.refreshed.is_none_or(|at| now.since(at) >= REFRESH);
        if changed || due {
            self.shared.refresh_status(&self.core, now);
            self.complain();
        }
        if due {
            self.refreshed = Some(now);
            self.core.read_wall(&*self.clock);
            self.shared.refresh(&self.core, now);
        }
    }
}

impl Loop {
    /// Says what the store has against us, once for each new trouble.
    fn complain(&mut self) {
        let status = self.shared.status.borrow();
        if status.trouble != self.trouble {
            self.trouble.clone_from(&status.trouble);
            match &self.trouble {
                Some(trouble) => {
                    tracing::warn!(node_id = %self.core.node_id(), "{trouble}; it is tried again")
                }
                None => tracing::info!(node_id = %self.core.node_id(), "the store takes our requests again"),
            }
        }
    }
}

/// One line for each transition.
fn log(node_id: &mesh_core::NodeId, event: &LeadershipEvent) {
    let correlation_id = format_args!("{:016x}", event.correlation_id);
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                %node_id,
                scope = %event.scope,
                leader = %event.leader,
                fencing_token = %event.token,
                term = event.term,
                transition = event.transition.as_str(),
                reason = event.reason.as_str(),
                %correlation_id,
                "leadership"
            )
        };
    }
    match event.transition {
        // Not a transition of who leads; every third of the time to live.
        Transition::Renewed => line!(trace),
        Transition::Fenced => line!(warn),
        Transition::Lost if event.reason != Reason::Stopped => line!(warn),
        _ => line!(info),
    }
}
