//! What must be so once faults have ended.

use std::time::Duration;

use mesh_core::FencingToken;
use mesh_leader::Scope;

use super::{super::store::name, HEAL, LOOK, SETTLE, World};
use crate::Violation;

impl World<'_> {
    /// Who leads each scope, if all agree and the leader itself knows.
    pub(super) fn agreed(&self) -> Result<Vec<FencingToken>, String> {
        let leader_of = |scope: &Scope| {
            let mut seen = Vec::new();
            for node in &self.nodes {
                let view = node.core.as_ref().and_then(|core| core.leader(scope));
                seen.push(view.and_then(|view| Some((view.leader?, view.token?))));
            }
            let Some(Some((leader, token))) = seen.first().cloned() else {
                return Err(format!("{scope}: n0 knows of no leader"));
            };
            if let Some(at) = seen.iter().position(|s| s.as_ref() != Some(&(leader.clone(), token))) {
                return Err(format!("{scope}: n0 sees {leader} with {token}, n{at} sees {:?}", seen[at]));
            }
            let holds = (0..self.nodes.len()).any(|at| {
                let core = self.nodes[at].core.as_ref().filter(|_| name(at) == leader);
                core.is_some_and(
                    |core| matches!(core.check(scope, self.local(at)), Some(Ok(t)) if t == token),
                )
            });
            if holds { Ok(token) } else { Err(format!("{scope}: {leader} does not know that it leads")) }
        };
        self.scopes.iter().map(leader_of).collect()
    }

    pub(super) fn heal(&mut self) -> Result<Duration, Violation> {
        let start = self.now;
        loop {
            self.run_to(self.now + LOOK)?;
            let waited = self.now.since(start);
            match self.agreed() {
                Ok(_) => return Ok(waited),
                Err(detail) if waited > HEAL + self.config.ttl * 2 => {
                    return Err(self.violation("every scope has a leader in the end", detail));
                }
                Err(_) => {}
            }
        }
    }

    /// Nothing changes while nothing is wrong, not even if each node loses one renewal.
    pub(super) fn calm(&mut self) -> Result<(), Violation> {
        // Messages that faults had delayed have arrived by then, and what they asked for is over.
        self.run_to(self.now + self.config.ttl + SETTLE)?;
        let before = self.agreed().map_err(|detail| self.violation("leaders stay in calm", detail))?;
        self.lose_renewal_of = (0..self.nodes.len()).collect();
        let writes = self.rules.writes;
        for _ in 0..20 {
            self.run_to(self.now + self.config.ttl / 5)?;
            match self.agreed() {
                Ok(now) if now == before => {}
                Ok(now) => {
                    let detail = format!("{before:?} became {now:?}");
                    return Err(self.violation("leaders stay in calm", detail));
                }
                Err(detail) => return Err(self.violation("leaders stay in calm", detail)),
            }
        }
        if self.rules.writes == writes {
            return Err(self.violation("leaders get work done in calm", "no write took effect".into()));
        }
        Ok(())
    }
}
