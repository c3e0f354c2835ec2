//! Roots that differ with nothing under way: the sets are compared, and each side gives what the other lacks.

use std::time::Duration;

use bytes::Bytes;
use mesh_core::{Instant, NodeId};

use super::{Message, Refusal, Replica, SyncEvent, peer::Peer};
use crate::{
    planted::PlantedBug,
    reconcile::{Arrival as Cursor, Nonce, Outcome, Root, Session, SessionError, SessionOptions},
};

/// The shortest pause between two comparisons with one peer.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// What lies at least between two comparisons that one peer begins. Honest ones pause for longer.
const ANSWER_PAUSE: Duration = Duration::from_millis(300);
/// Deferred entries that a comparison is told to leave out.
const UNWANTED_MAX: usize = 4096;

struct Running {
    id: u64,
    session: Session,
    sent: u64,
    received: u64,
    deadline: Instant,
    initiator: bool,
    /// Where our arrivals stood when it began.
    at: Cursor,
}

/// Comparisons with one peer.
pub(super) struct Settle {
    running: Option<Running>,
    /// Since when roots differ without a change.
    differ_since: Option<Instant>,
    /// Since when they differ at all.
    differ_first: Option<Instant>,
    not_before: Instant,
    backoff: Duration,
    /// Our root and the peer's when they were looked at last.
    seen: (Root, Root),
    /// Both roots when a comparison has ended; the next one is salted if they stay.
    ended: Option<(Root, Root)>,
    salted: bool,
    audited: Instant,
    /// When the peer began the last one that was answered.
    answered: Option<Instant>,
    /// How many ended by the peer's fault, since one that did not.
    faults: u32,
}

impl Settle {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            running: None,
            differ_since: None,
            differ_first: None,
            not_before: now,
            backoff: BACKOFF_MIN,
            seen: (Root::default(), Root::default()),
            ended: None,
            salted: false,
            audited: now,
            answered: None,
            faults: 0,
        }
    }

    /// The next comparison needs no pause.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.not_before = now;
        self.backoff = BACKOFF_MIN;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.deadline)
    }
}

impl Replica {
    pub(super) fn on_heartbeat(&mut self, peer: &NodeId, root: Root, followed: Option<Cursor>) {
        let ours = self.index.root();
        let same = ours.same_set(&root);
        let now = self.now.at;
        let Some(sender) = self.peers.get_mut(peer) else { return };
        sender.root = Some(root);
        sender.root_at = Some(now);
        sender.followed = followed;
        sender.note_root(&root, same);
        let was = std::mem::replace(&mut sender.in_sync, same);
        let begins = same && !was;
        let settle = &mut sender.settle;
        if same {
            settle.differ_since = None;
            settle.differ_first = None;
            settle.ended = None;
            settle.salted = false;
            settle.backoff = BACKOFF_MIN;
        } else {
            if settle.seen != (ours, root) || settle.differ_since.is_none() {
                settle.differ_since = Some(now);
            }
            let is_news = |ended: (Root, Root)| !ended.0.same_set(&ours) || !ended.1.same_set(&root);
            if settle.ended.is_some_and(is_news) {
                // What the last comparison was of no help for is not what there is now.
                settle.not_before = settle.not_before.min(now + BACKOFF_MIN);
                settle.ended = None;
            }
            settle.differ_first.get_or_insert(now);
        }
        settle.seen = (ours, root);
        if begins {
            self.out.events.push_back(SyncEvent::InSync { peer: peer.clone() });
        }
        let followed_all = self.follow_root(peer, root, same);
        self.look_at_lag(peer);
        // Following may be stuck at something that nobody gives.
        let first = self.peers.get(peer).and_then(|peer| peer.settle.differ_first);
        let long = first.is_some_and(|first| now.since(first) >= self.config.reconcile_at_latest);
        if same {
            self.audit(peer);
        } else if followed_all || long {
            self.compare(peer);
        }
    }

    /// Equal roots are compared under a fresh key now and then, against forged sums and rot.
    fn audit(&mut self, peer: &NodeId) {
        let now = self.now.at;
        let leads = self.local < *peer;
        let Some(sender) = self.peers.get_mut(peer) else { return };
        if leads && now.since(sender.settle.audited) >= self.config.audit_interval && self.has_session_room()
        {
            self.begin(peer, true);
        }
    }

    fn has_session_room(&self) -> bool {
        let running = self.peers.values().filter(|peer| peer.settle.running.is_some()).count();
        running < self.config.sessions_max
    }

    /// Begins a comparison if it is time for one.
    fn compare(&mut self, peer: &NodeId) {
        if self.planted.has(PlantedBug::NeverReconcile) || !self.has_session_room() {
            return;
        }
        let now = self.now.at;
        let Some(sender) = self.peers.get(peer) else { return };
        let settle = &sender.settle;
        if settle.running.is_some() || sender.give.has_plan(now) || now < settle.not_before {
            return;
        }
        // Of two that have never met, the one with the lower name begins at once. Two that have both read all of the
        // other's arrivals wait for nothing: what they lack comes by a comparison only.
        let wait = match sender.follow.cursor {
            Some(_) if self.has_read_all(sender) => self.config.heartbeat_interval / 2,
            Some(_) => self.config.reconcile_after,
            None if self.local < *peer => Duration::ZERO,
            None => self.config.heartbeat_interval * 2,
        };
        let still = settle.differ_since.is_some_and(|since| now.since(since) >= wait);
        let long =
            settle.differ_first.is_some_and(|first| now.since(first) >= self.config.reconcile_at_latest);
        if !(still && sender.is_idle(now) || long) {
            return;
        }
        let salted = settle.salted;
        self.begin(peer, salted);
    }

    /// Whether both cursors are at the end, or the peer has none, so that nothing on its way explains that the sets
    /// differ.
    fn has_read_all(&self, peer: &Peer) -> bool {
        let theirs = peer.root.map(|root| root.arrival);
        let ours = self.index.root().arrival;
        peer.follow.is_idle()
            && peer.follow.cursor == theirs
            && peer.followed.is_none_or(|followed| followed == ours)
    }

    fn session_options(&self, salted: bool) -> SessionOptions {
        let waiting = self.admission.waiting().take(UNWANTED_MAX);
        SessionOptions {
            salted,
            unwanted: waiting.map(|item| item.id).collect(),
            ..SessionOptions::default()
        }
    }

    fn begin(&mut self, peer: &NodeId, salted: bool) {
        let (id, nonce) = (self.dice.number(), self.nonce());
        let session = Session::initiate(&self.index, self.session_options(salted), nonce);
        let running = self.running(id, session, true);
        if let Some(with) = self.peers.get_mut(peer) {
            with.settle.audited = self.now.at;
            with.settle.running = Some(running);
        }
        self.speak(peer);
    }

    /// What this side brings into the key of a comparison. Whoever knew it before could prepare ids that collide, and
    /// what one comparison missed, the next one would miss too.
    fn nonce(&mut self) -> Nonce {
        if self.planted.has(PlantedBug::ReuseSeeds) { self.dice.first_nonce() } else { self.dice.nonce() }
    }

    fn running(&self, id: u64, session: Session, initiator: bool) -> Running {
        let deadline = self.now.at + self.config.session_timeout;
        Running { id, session, sent: 0, received: 0, deadline, initiator, at: self.index.root().arrival }
    }

    /// Sends what the session has to say, and ends it if it has an outcome.
    fn speak(&mut self, peer: &NodeId) {
        let Some(running) = self.peers.get_mut(peer).and_then(|with| with.settle.running.as_mut()) else {
            return;
        };
        let session = running.id;
        let mut messages = Vec::new();
        while let Some(frame) = running.session.poll_transmit() {
            let number = running.sent;
            running.sent += 1;
            messages.push(Message::Reconcile { session, number, frame: frame.into() });
        }
        let is_over = running.session.outcome().is_some();
        messages.into_iter().for_each(|message| self.send(peer, message));
        if is_over {
            self.conclude(peer);
        }
    }

    fn conclude(&mut self, peer: &NodeId) {
        let ours = self.index.root();
        let now = self.now.at;
        let backoff_max = self.config.reconcile_backoff_max;
        let fresh_until = now + self.config.ack_timeout * 2;
        let Some(with) = self.peers.get_mut(peer) else { return };
        let Some(running) = with.settle.running.take() else { return };
        let at = running.at;
        let Some(Outcome { method, give, bulk, need, partial, .. }) = running.session.into_outcome() else {
            return;
        };
        let settle = &mut with.settle;
        settle.faults = 0;
        let roots = (ours, with.root.unwrap_or_default());
        // The same roots as after the last one: it has brought nothing.
        let in_vain =
            settle.ended.is_some_and(|ended| ended.0.same_set(&roots.0) && ended.1.same_set(&roots.1));
        settle.backoff = if in_vain { (settle.backoff * 2).min(backoff_max) } else { BACKOFF_MIN };
        settle.salted = in_vain || (give.is_empty() && bulk.is_empty() && need == 0);
        settle.ended = Some(roots);
        settle.not_before = now + settle.backoff;
        settle.differ_since = None;
        settle.differ_first = None;
        let event = SyncEvent::Reconciled { peer: peer.clone(), method, give: give.len(), need };
        if !with.give.has_plan(now) {
            with.give.plan(fresh_until, give, bulk, (!partial).then_some(at));
        }
        self.out.events.push_back(event);
    }

    pub(super) fn on_reconcile(&mut self, peer: &NodeId, id: u64, number: u64, frame: &Bytes) {
        let leads = self.local < *peer;
        let Some(with) = self.peers.get(peer) else { return };
        let is_running = with.settle.running.as_ref().is_some_and(|running| running.id == id);
        if !is_running {
            if number != 0 {
                // Of one that is over here; the peer's own deadline ends it there.
                return;
            }
            let ours_goes_on = leads && with.settle.running.as_ref().is_some_and(|running| running.initiator);
            let is_known = with.settle.running.is_some();
            let now = self.now.at;
            let too_soon = with.settle.answered.is_some_and(|last| now.since(last) < ANSWER_PAUSE);
            if too_soon
                || ours_goes_on
                || with.give.has_plan(self.now.at)
                || (!is_known && !self.has_session_room())
            {
                self.send(peer, Message::Refuse(Refusal::Busy));
                return;
            }
            let nonce = self.nonce();
            let session = Session::respond(self.session_options(false), nonce);
            let running = self.running(id, session, false);
            if let Some(with) = self.peers.get_mut(peer) {
                with.settle.running = Some(running);
                with.settle.answered = Some(now);
            }
        }
        let deadline = self.now.at + self.config.session_timeout;
        let Some(running) = self.peers.get_mut(peer).and_then(|with| with.settle.running.as_mut()) else {
            return;
        };
        if running.received != number {
            self.send(peer, Message::Refuse(Refusal::Session));
            self.end_session(peer, None);
            return;
        }
        running.received += 1;
        running.deadline = deadline;
        let result = running.session.handle_frame(&self.index, frame);
        self.speak(peer);
        if let Err(error) = result {
            self.end_session(peer, Some(error));
        }
    }

    /// The peer has something else to do first, perhaps what the last comparison found out. That is no failure. Where
    /// both have begun at once and ours has made way, it is not about the one that goes on.
    pub(super) fn postpone_session(&mut self, peer: &NodeId) {
        let pause = BACKOFF_MIN.mul_f64(0.5 + self.dice.unit());
        let Some(with) = self.peers.get_mut(peer) else { return };
        if with.settle.running.take_if(|running| running.initiator).is_some() {
            with.settle.not_before = self.now.at + pause.min(self.config.reconcile_backoff_max);
        }
    }

    /// A comparison ends without an outcome. The next one begins after a pause.
    pub(super) fn end_session(&mut self, peer: &NodeId, error: Option<SessionError>) {
        let now = self.now.at;
        let pause = BACKOFF_MIN.mul_f64(0.5 + self.dice.unit());
        let pause_max = self.config.reconcile_backoff_max;
        let Some(with) = self.peers.get_mut(peer) else { return };
        if with.settle.running.take().is_some() {
            // What was lost may come through the next time. Who breaks the rules is asked ever less often.
            let is_its_fault = matches!(error, Some(error) if !matches!(error, SessionError::Refused(_)));
            with.settle.faults = if is_its_fault { with.settle.faults + 1 } else { with.settle.faults };
            let pause = pause * (1 << with.settle.faults.saturating_sub(1).min(16));
            with.settle.not_before = now + pause.min(pause_max);
            self.out.events.push_back(SyncEvent::ReconcileFailed { peer: peer.clone(), error });
        }
    }

    pub(super) fn expire_sessions(&mut self) {
        for peer in self.connected() {
            let deadline = self.peers.get(&peer).and_then(|with| with.settle.deadline());
            if deadline.is_some_and(|deadline| deadline <= self.now.at) {
                self.end_session(&peer, None);
            }
        }
    }
}
