//! What must hold in every run.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_core::{
    FencingToken, Instant, NodeId,
    store::{IdempotencyKey, Session, SessionId},
};

use crate::Violation;

/// What was seen of one scope so far.
#[derive(Debug, Default)]
struct Seen {
    /// Who was given which token.
    granted: BTreeMap<FencingToken, NodeId>,
    /// The term that each token's reign has.
    terms: BTreeMap<FencingToken, u64>,
    /// The highest token with which a write took effect.
    admitted: Option<FencingToken>,
}

/// The rules of leadership, and what they need to remember.
#[derive(Debug, Default)]
pub(super) struct Rules {
    scopes: Vec<Seen>,
    /// Until when a session lives at least, by what its owner was told.
    promised: BTreeMap<SessionId, Instant>,
    /// Writes that may come twice, and that took effect.
    applied: BTreeSet<IdempotencyKey>,
    /// Before this, two nodes may both take themselves for the holder: the store was restored, which no
    /// holder can know. Their writes are told apart by their tokens.
    pub(super) excused_until: Instant,
    pub(super) writes: u64,
    pub(super) refused: u64,
    pub(super) grants: u64,
}

fn broken(at: Instant, rule: &'static str, detail: String) -> Violation {
    Violation { at, host: None, rule, detail }
}

impl Rules {
    pub(super) fn new(scopes: usize) -> Self {
        Self { scopes: (0..scopes).map(|_| Seen::default()).collect(), ..Self::default() }
    }

    /// A lease was granted.
    pub(super) fn granted(
        &mut self,
        now: Instant,
        scope: usize,
        token: FencingToken,
        holder: NodeId,
    ) -> Result<(), Violation> {
        self.grants += 1;
        let seen = &mut self.scopes[scope];
        if let Some((last, before)) = seen.granted.last_key_value()
            && *last >= token
        {
            let detail = format!("scope {scope}: {holder} got {token}, {before} had {last} before");
            return Err(broken(now, "tokens of a scope only grow", detail));
        }
        seen.granted.insert(token, holder);
        Ok(())
    }

    /// Whether it is known that this holder was given the token.
    pub(super) fn knows(&self, scope: usize, token: FencingToken, holder: &NodeId) -> bool {
        self.scopes[scope].granted.get(&token) == Some(holder)
    }

    /// A write that `writer` made under `token` took effect.
    pub(super) fn wrote(
        &mut self,
        now: Instant,
        scope: usize,
        token: FencingToken,
        writer: &NodeId,
    ) -> Result<(), Violation> {
        self.writes += 1;
        let seen = &mut self.scopes[scope];
        let newest = seen.granted.last_key_value().map(|(newest, _)| *newest);
        if newest.is_some_and(|newest| newest > token) || seen.admitted.is_some_and(|last| last > token) {
            let detail = format!("scope {scope}: {writer} wrote with {token}, the newest is {newest:?}");
            return Err(broken(now, "no write with an older token takes effect", detail));
        }
        if seen.granted.get(&token) != Some(writer) {
            let holder = seen.granted.get(&token);
            let detail = format!("scope {scope}: {writer} wrote with {token}, which {holder:?} has");
            return Err(broken(now, "a token has one holder", detail));
        }
        seen.admitted = Some(token);
        Ok(())
    }

    /// A node says that a reign has a term.
    pub(super) fn reigns(
        &mut self,
        now: Instant,
        scope: usize,
        token: FencingToken,
        term: u64,
    ) -> Result<(), Violation> {
        let terms = &mut self.scopes[scope].terms;
        if let Some(known) = terms.get(&token) {
            if *known == term {
                return Ok(());
            }
            let detail = format!("scope {scope}: {token} has terms {known} and {term}");
            return Err(broken(now, "a reign has one term", detail));
        }
        let before = terms.range(..token).next_back();
        let after = terms.range(token..).next();
        // A restore brings back an old count of terms; tokens of another generation say so.
        let lower = |other: (&FencingToken, &u64)| other.0.generation == token.generation && *other.1 >= term;
        let higher =
            |other: (&FencingToken, &u64)| other.0.generation == token.generation && *other.1 <= term;
        if before.is_some_and(lower) || after.is_some_and(higher) {
            let detail = format!("scope {scope}: {token} has term {term}, beside {before:?} and {after:?}");
            return Err(broken(now, "terms grow with tokens", detail));
        }
        terms.insert(token, term);
        Ok(())
    }

    /// Those who would act as the holder of a scope at this moment.
    pub(super) fn acting(
        &self,
        now: Instant,
        scope: usize,
        holders: &[(NodeId, FencingToken)],
    ) -> Result<(), Violation> {
        if holders.len() > 1 && now >= self.excused_until {
            let detail = format!("scope {scope}: {holders:?}");
            return Err(broken(now, "at most one node takes itself for the holder", detail));
        }
        Ok(())
    }

    /// The owner of a session is told that it lives, by an entry that the log took in at that time.
    pub(super) fn promised(&mut self, session: &Session, appended: Instant) {
        let until = self.promised.entry(session.id).or_default();
        *until = (*until).max(appended + session.ttl);
    }

    /// Sessions ended because their time had run out.
    pub(super) fn expired(&mut self, now: Instant, sessions: &[SessionId]) -> Result<(), Violation> {
        for session in sessions {
            if let Some(until) = self.promised.remove(session).filter(|until| now < *until) {
                let detail = format!("session {session} ends {:?} too early", until.since(now));
                return Err(broken(now, "a session lives as long as its owner was told", detail));
            }
        }
        Ok(())
    }

    /// A write that may come twice took effect.
    pub(super) fn applied(&mut self, now: Instant, key: IdempotencyKey) -> Result<(), Violation> {
        if self.applied.insert(key) {
            return Ok(());
        }
        let detail = format!("sequence {} of session {}", key.sequence, key.session);
        Err(broken(now, "a write that comes twice takes effect once", detail))
    }

    /// A restore happened; holders may be wrong about themselves for so long.
    pub(super) fn restored(&mut self, now: Instant, ttl: Duration) {
        self.excused_until = now + ttl + ttl / 100;
        self.promised.clear();
        self.applied.clear();
    }
}
