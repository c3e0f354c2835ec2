//! The model of records: what reads and transactions of plain keys answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_core::store::Key;

use super::{Invocation, Model};

/// A map of records with revisions. Grants are not in it; see [`Leases`](super::Leases).
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers;

/// What must hold for a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no record.
    Absent(Key),
    /// There is one.
    Present(Key),
    /// It has this value.
    Value(Key, Bytes),
    /// It was written at this revision.
    Revision(Key, u64),
}

impl Expect {
    fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Present(key) | Self::Value(key, _) | Self::Revision(key, _) => key,
        }
    }
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterCall {
    /// Reads these keys at one moment.
    Read(Vec<Key>),
    /// Writes or deletes (`None`) these keys at one moment if all expectations hold.
    Write {
        /// The expectations.
        expects: Vec<Expect>,
        /// The writes.
        writes: Vec<(Key, Option<Bytes>)>,
    },
}

impl RegisterCall {
    /// A read of one key.
    pub fn get(key: Key) -> Self {
        Self::Read(vec![key])
    }

    /// A write of one key.
    pub fn put(key: Key, value: impl Into<Bytes>) -> Self {
        Self::Write { expects: Vec::new(), writes: vec![(key, Some(value.into()))] }
    }

    /// A write of one key that expects a value.
    pub fn cas(key: Key, expected: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let expects = vec![Expect::Value(key.clone(), expected.into())];
        Self::Write { expects, writes: vec![(key, Some(value.into()))] }
    }
}

/// A record as a read returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its value.
    pub value: Bytes,
    /// Its revision, if the object tells.
    pub revision: Option<u64>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterReply {
    /// The records, in the order of the keys.
    Read {
        /// What is there; `None` for nothing.
        found: Vec<Option<Found>>,
        /// The revision of the whole object at that moment, if it tells.
        revision: Option<u64>,
    },
    /// All expectations held, and the writes are done.
    Done {
        /// Their revision, if the object tells.
        revision: Option<u64>,
    },
    /// An expectation did not hold; nothing was written.
    Refused {
        /// Which was the first that did not hold, if the object tells.
        index: Option<usize>,
        /// The revision of the whole object at that moment, if it tells.
        revision: Option<u64>,
    },
}

impl RegisterReply {
    /// The answer to a read of one key by an object without revisions.
    pub fn got(value: Option<&'static str>) -> Self {
        let found = value.map(|value| Found { value: value.into(), revision: None });
        Self::Read { found: vec![found], revision: None }
    }

    /// The answer to a write.
    pub fn done(revision: Option<u64>) -> Self {
        Self::Done { revision }
    }

    /// The answer to a write whose expectations did not hold, of an object that tells no more.
    pub fn refused() -> Self {
        Self::Refused { index: None, revision: None }
    }
}

/// A record in the model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    value: Bytes,
    /// Unknown if nobody was told yet.
    revision: Option<u64>,
}

/// All records, and the highest revision that anybody was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RegisterState {
    revision: u64,
    records: BTreeMap<Key, Held>,
}

/// Whether an expectation holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
    /// It depends on a revision that nobody was told.
    Perhaps,
}

impl RegisterState {
    fn holds(&self, expect: &Expect) -> Holds {
        let record = self.records.get(expect.key());
        let holds = match (expect, record) {
            (Expect::Absent(_), record) => record.is_none(),
            (Expect::Present(_), record) => record.is_some(),
            (Expect::Value(_, value), record) => record.is_some_and(|held| held.value == *value),
            (Expect::Revision(..), None) => false,
            (Expect::Revision(_, asked), Some(held)) => match held.revision {
                Some(revision) => revision == *asked,
                None => return Holds::Perhaps,
            },
        };
        if holds { Holds::Yes } else { Holds::No }
    }

    fn read(&self, keys: &[Key], found: &[Option<Found>], revision: Option<u64>) -> Option<Self> {
        let mut state = self.at(revision)?;
        for (key, found) in keys.iter().zip(found) {
            match (state.records.get_mut(key), found) {
                (None, None) => {}
                (Some(held), Some(found)) if held.value == found.value => {
                    match (held.revision, found.revision) {
                        (Some(ours), Some(theirs)) if ours != theirs => return None,
                        (None, theirs @ Some(_)) => held.revision = theirs,
                        _ => {}
                    }
                }
                _ => return None,
            }
        }
        Some(state)
    }

    /// This state when somebody is told that the object is at `revision`.
    fn at(&self, revision: Option<u64>) -> Option<Self> {
        let revision = revision.unwrap_or(self.revision);
        (revision >= self.revision).then(|| Self { revision, ..self.clone() })
    }

    /// The state after the writes, and whether they changed anything.
    fn write(&self, writes: &[(Key, Option<Bytes>)], revision: Option<u64>) -> (Self, bool) {
        let mut state = self.clone();
        let mut changed = false;
        for (key, value) in writes {
            match value {
                Some(value) => {
                    state.records.insert(key.clone(), Held { value: value.clone(), revision });
                    changed = true;
                }
                None => changed |= state.records.remove(key).is_some(),
            }
        }
        (state, changed)
    }

    fn done(&self, writes: &[(Key, Option<Bytes>)], revision: Option<u64>) -> Option<Self> {
        let (mut state, changed) = self.write(writes, revision);
        if let Some(revision) = revision {
            let grows = if changed { revision > self.revision } else { revision >= self.revision };
            if !grows {
                return None;
            }
            state.revision = revision;
        }
        Some(state)
    }

    fn refused(&self, expects: &[Expect], index: Option<usize>, revision: Option<u64>) -> Option<Self> {
        let possible = match index {
            Some(index) => {
                let (before, failed) = (expects.get(..index)?, expects.get(index)?);
                before.iter().all(|e| self.holds(e) != Holds::No) && self.holds(failed) != Holds::Yes
            }
            None => expects.iter().any(|expect| self.holds(expect) != Holds::Yes),
        };
        if possible { self.at(revision) } else { None }
    }
}

impl Model for Registers {
    type State = RegisterState;
    type Input = RegisterCall;
    type Output = RegisterReply;
    type Part = Key;

    fn initial(&self) -> RegisterState {
        RegisterState::default()
    }

    fn step(
        &self,
        state: &RegisterState,
        invocation: &Invocation<RegisterCall, RegisterReply>,
    ) -> Option<RegisterState> {
        match (&invocation.input, invocation.output()) {
            (RegisterCall::Read(keys), Some(RegisterReply::Read { found, revision })) => {
                state.read(keys, found, *revision)
            }
            (RegisterCall::Write { expects, writes }, Some(RegisterReply::Done { revision })) => {
                let refused = expects.iter().any(|expect| state.holds(expect) == Holds::No);
                if refused { None } else { state.done(writes, *revision) }
            }
            (RegisterCall::Write { expects, .. }, Some(RegisterReply::Refused { index, revision })) => {
                state.refused(expects, *index, *revision)
            }
            (RegisterCall::Write { expects, writes }, None) => {
                if expects.iter().any(|expect| state.holds(expect) == Holds::No) {
                    return None;
                }
                let (mut after, changed) = state.write(writes, None);
                // Its revision is unknown, but higher than all before.
                after.revision += 1;
                changed.then_some(after)
            }
            _ => None,
        }
    }

    fn parts(&self, input: &RegisterCall) -> Vec<Key> {
        match input {
            RegisterCall::Read(keys) => keys.clone(),
            RegisterCall::Write { expects, writes } => {
                let expected = expects.iter().map(|expect| expect.key().clone());
                expected.chain(writes.iter().map(|(key, _)| key.clone())).collect()
            }
        }
    }

    fn only_reads(&self, invocation: &Invocation<RegisterCall, RegisterReply>) -> bool {
        matches!(invocation.input, RegisterCall::Read(_))
            || matches!(invocation.output(), Some(RegisterReply::Refused { .. }))
    }

    /// The revision of what it did or saw; a read of a revision belongs after its write.
    fn hint(&self, invocation: &Invocation<RegisterCall, RegisterReply>) -> Option<u64> {
        match invocation.output()? {
            RegisterReply::Done { revision } => revision.map(|revision| 2 * revision),
            RegisterReply::Read { revision, .. } | RegisterReply::Refused { revision, .. } => {
                revision.map(|revision| 2 * revision + 1)
            }
        }
    }
}
