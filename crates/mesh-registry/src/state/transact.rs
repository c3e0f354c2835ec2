//! Transactions: compares, then effects at one revision.

use bytes::Bytes;
use mesh_core::{
    FencingToken, Revision,
    store::{Change, Compare, DeleteCause, Grant, Key, Operation, Record, SessionId, Txn, TxnOutcome},
};

use super::{Refusal, State, TxnCommand, sessions::Recalled};
use crate::planted::PlantedBug;

impl State {
    pub(super) fn transact(&mut self, command: &TxnCommand) -> Result<TxnOutcome, Refusal> {
        let Some(key) = command.txn.idempotency else {
            return self.attempt(command);
        };
        match self.recall(key) {
            Recalled::Known(outcome) => {
                return outcome.map_err(|refusal| self.refresh(refusal, &command.txn));
            }
            Recalled::Lost(refusal) => return Err(refusal),
            Recalled::New => {}
        }
        let outcome = self.attempt(command);
        // A refusal is final as well. Otherwise a first try that was delayed on its way could still take
        // effect after its retry was told that it did not.
        if let Some(session) = self.sessions.get_mut(&key.session) {
            session.remember(key.sequence, outcome.clone().map_err(Refusal::without_record));
        }
        outcome
    }

    fn attempt(&mut self, command: &TxnCommand) -> Result<TxnOutcome, Refusal> {
        let txn = &command.txn;
        self.check_fences(txn)?;
        self.check_compares(txn)?;
        for operation in &txn.operations {
            self.check_operation(txn, operation)?;
        }
        let mut work = Work::new(self, txn);
        for operation in &txn.operations {
            work.carry_out(operation);
        }
        if let Some((key, value)) = &command.audit {
            work.put(key, value, None, None);
        }
        let Work { changes, grants, .. } = work;
        let revision = if changes.is_empty() { self.revision } else { self.commit(changes) };
        Ok(TxnOutcome { revision, grants })
    }

    /// An old holder learns first that it is one.
    fn check_fences(&self, txn: &Txn) -> Result<(), Refusal> {
        if self.has_bug(PlantedBug::SkipFence) {
            return Ok(());
        }
        for compare in &txn.compares {
            if let Compare::Fence { key, token } = compare {
                let current = self.records.get(key).and_then(|record| record.token);
                if current != Some(*token) {
                    return Err(Refusal::Fenced { key: key.clone(), stated: *token, current });
                }
            }
        }
        Ok(())
    }

    fn check_compares(&self, txn: &Txn) -> Result<(), Refusal> {
        for (index, compare) in txn.compares.iter().enumerate() {
            let found = self.records.get(compare.key());
            let holds = match compare {
                Compare::Revision { revision, .. } => {
                    found.is_some_and(|record| record.revision == *revision)
                }
                Compare::Absent { .. } => found.is_none() || self.has_bug(PlantedBug::GrantTwice),
                Compare::Present { .. } => found.is_some(),
                Compare::Value { value, .. } => found.is_some_and(|record| record.value == *value),
                Compare::Fence { .. } => true,
            };
            if !holds {
                let found = found.cloned().map(Box::new);
                return Err(Refusal::Conflict { index, found, revision: self.revision });
            }
        }
        Ok(())
    }

    /// Sessions must be open, and a grant is changed only by who states its token.
    fn check_operation(&self, txn: &Txn, operation: &Operation) -> Result<(), Refusal> {
        let session = match operation {
            Operation::Put { session, .. } => *session,
            Operation::Grant { session, .. } => Some(*session),
            Operation::Delete { .. } => None,
        };
        if let Some(session) = session
            && !self.sessions.contains_key(&session)
        {
            return Err(Refusal::SessionGone(session));
        }
        let key = operation.key();
        let Some(record) = self.records.get(key) else { return Ok(()) };
        let Some(current) = record.token else { return Ok(()) };
        let fenced = txn.compares.iter().any(|c| matches!(c, Compare::Fence { key: k, .. } if k == key));
        if !fenced && !self.has_bug(PlantedBug::GrantTwice) {
            return Err(Refusal::Unfenced { key: key.clone(), current });
        }
        match operation {
            Operation::Put { session: Some(other), .. } if Some(*other) != record.session => {
                Err(Refusal::Invalid(format!(
                    "{key:?} is granted to session {}, a put can't move it to session {other}; hand it over with a grant",
                    record.session.unwrap_or_default()
                )))
            }
            _ => Ok(()),
        }
    }

    /// A remembered conflict has no record in it: what is there now is as good to decide anew.
    fn refresh(&self, refusal: Refusal, txn: &Txn) -> Refusal {
        match refusal {
            Refusal::Conflict { index, .. } => {
                let found = txn.compares.get(index).and_then(|compare| self.records.get(compare.key()));
                Refusal::Conflict { index, found: found.cloned().map(Box::new), revision: self.revision }
            }
            other => other,
        }
    }
}

/// The effects of one transaction while they are made.
struct Work<'s> {
    state: &'s mut State,
    txn: &'s Txn,
    revision: Revision,
    changes: Vec<Change>,
    grants: Vec<Grant>,
}

impl<'s> Work<'s> {
    fn new(state: &'s mut State, txn: &'s Txn) -> Self {
        let revision = Revision(state.revision.0 + 1);
        Self { state, txn, revision, changes: Vec::new(), grants: Vec::new() }
    }

    fn carry_out(&mut self, operation: &Operation) {
        match operation {
            Operation::Put { key, value, session } => {
                // A grant keeps its token and its session under a new value.
                let granted = self.state.records.get(key).filter(|record| record.token.is_some());
                let (session, token) = match granted {
                    Some(record) => (record.session, record.token),
                    None => (*session, None),
                };
                self.put(key, value, session, token);
            }
            Operation::Delete { key } => self.delete(key),
            Operation::Grant { key, value, session } => {
                let counter = if self.state.has_bug(PlantedBug::ReuseToken) {
                    self.state.records.get(key).map_or(1, |record| record.created_revision.0)
                } else {
                    self.revision.0
                };
                let token = FencingToken { generation: self.state.generation, counter };
                self.grants.push(Grant { key: key.clone(), token });
                self.put(key, value, Some(*session), Some(token));
            }
        }
    }

    fn put(&mut self, key: &Key, value: &Bytes, session: Option<SessionId>, token: Option<FencingToken>) {
        let old = self.state.records.get(key);
        let created_revision = old.map_or(self.revision, |record| record.created_revision);
        let before = old.and_then(|record| record.session);
        let record = Record {
            key: key.clone(),
            value: value.clone(),
            revision: self.revision,
            created_revision,
            last_writer: self.txn.writer.clone(),
            session,
            token,
        };
        self.attach(key, before, session);
        self.state.records.put(record.clone());
        self.changes.push(Change::Put(record));
    }

    fn delete(&mut self, key: &Key) {
        if let Some(old) = self.state.records.delete(key) {
            self.attach(key, old.session, None);
            self.changes.push(Change::Deleted { key: key.clone(), cause: DeleteCause::Written });
        }
    }

    fn attach(&mut self, key: &Key, before: Option<SessionId>, after: Option<SessionId>) {
        if before == after {
            return;
        }
        if let Some(session) = before.and_then(|id| self.state.sessions.get_mut(&id)) {
            session.keys.remove(key);
        }
        if let Some(session) = after.and_then(|id| self.state.sessions.get_mut(&id)) {
            session.keys.insert(key.clone());
        }
    }
}
