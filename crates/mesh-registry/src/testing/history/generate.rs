//! Random histories of a correct object, to try judges on.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_core::store::Key;

use super::{Expect, Found, Invocation, Moment, RegisterCall, RegisterReply};

/// How a random history looks.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Clients that call at the same time, each one call after the other.
    pub clients: usize,
    /// Keys that they use.
    pub keys: usize,
    /// Calls of all of them together.
    pub calls: usize,
    /// One call in so many touches two keys; 0 for none.
    pub pairs_one_in: u64,
    /// One call in so many has an unknown outcome; 0 for none.
    pub open_one_in: u64,
    /// Whether answers tell revisions.
    pub revisions: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self { clients: 4, keys: 3, calls: 100, pairs_one_in: 0, open_one_in: 0, revisions: false }
    }
}

/// Longest time between two steps of a client, in nanoseconds.
const PAUSE_MAX: u64 = 1000;

struct World<'d> {
    draw: &'d mut dyn FnMut(u64) -> u64,
    shape: Shape,
    keys: Vec<Key>,
    records: BTreeMap<Key, (Bytes, u64)>,
    revision: u64,
    writes: u64,
}

/// A linearizable history. `draw` yields a random number below its argument.
pub fn registers(
    shape: Shape,
    draw: &mut dyn FnMut(u64) -> u64,
) -> Vec<Invocation<RegisterCall, RegisterReply>> {
    let keys = (0..shape.keys.max(1)).filter_map(|n| Key::new(format!("k{n}")).ok()).collect();
    let mut world = World { draw, shape, keys, records: BTreeMap::new(), revision: 0, writes: 0 };
    let mut free_at = vec![0; shape.clients.max(1)];
    // Calls take effect in the order of their moments of effect, so draw those first.
    let mut plan = Vec::with_capacity(shape.calls);
    for n in 0..shape.calls {
        let client = n % free_at.len();
        let call = free_at[client] + 1 + (world.draw)(PAUSE_MAX);
        let effect = call + 1 + (world.draw)(PAUSE_MAX);
        let end = effect + 1 + (world.draw)(PAUSE_MAX);
        free_at[client] = end;
        plan.push((effect, client, call, end));
    }
    plan.sort_unstable();
    plan.into_iter().map(|(_, client, call, end)| world.call(client as u64, call, end)).collect()
}

impl World<'_> {
    fn one_in(&mut self, n: u64) -> bool {
        n > 0 && (self.draw)(n) == 0
    }

    fn key(&mut self) -> Key {
        let index = (self.draw)(self.keys.len() as u64);
        self.keys[usize::try_from(index).unwrap_or(0)].clone()
    }

    fn call(&mut self, client: u64, call: u64, end: u64) -> Invocation<RegisterCall, RegisterReply> {
        let input = self.input();
        let open = self.one_in(self.shape.open_one_in);
        let takes_effect = !open || (self.draw)(2) == 0;
        let output = takes_effect.then(|| self.apply(&input)).filter(|_| !open);
        match output {
            Some(output) => Invocation::answered(client, Moment::at(call), input, Moment::at(end), output),
            None => Invocation::open(client, Moment::at(call), input),
        }
    }

    fn input(&mut self) -> RegisterCall {
        let mut keys = vec![self.key()];
        if self.one_in(self.shape.pairs_one_in) {
            let other = self.key();
            if other != keys[0] {
                keys.push(other);
            }
        }
        let kind = (self.draw)(10);
        if kind < 5 {
            return RegisterCall::Read(keys);
        }
        self.writes += 1;
        let value = Bytes::from(self.writes.to_string());
        let expects = match kind {
            5 | 6 => vec![],
            7 => vec![Expect::Absent(keys[0].clone())],
            // A guess at the present value that holds about half of the time.
            _ => {
                let present = self.records.get(&keys[0]).map_or_else(Bytes::new, |(value, _)| value.clone());
                let guess = if (self.draw)(2) == 0 { present } else { Bytes::from_static(b"never") };
                vec![Expect::Value(keys[0].clone(), guess)]
            }
        };
        let delete = kind == 6 && (self.draw)(2) == 0;
        let value = (!delete).then_some(value);
        RegisterCall::Write { expects, writes: keys.into_iter().map(|key| (key, value.clone())).collect() }
    }

    fn apply(&mut self, input: &RegisterCall) -> RegisterReply {
        let tells = self.shape.revisions;
        match input {
            RegisterCall::Read(keys) => {
                let found = |key| {
                    let (value, revision) = self.records.get(key)?;
                    Some(Found { value: value.clone(), revision: tells.then_some(*revision) })
                };
                let found = keys.iter().map(found).collect();
                RegisterReply::Read { found, revision: tells.then_some(self.revision) }
            }
            RegisterCall::Write { expects, writes } => {
                let failed = expects.iter().position(|expect| !self.holds(expect));
                if failed.is_some() {
                    let revision = tells.then_some(self.revision);
                    return RegisterReply::Refused { index: failed, revision };
                }
                let changes =
                    |(key, value): &(Key, Option<Bytes>)| value.is_some() || self.records.contains_key(key);
                if writes.iter().any(changes) {
                    self.revision += 1;
                }
                for (key, value) in writes {
                    match value {
                        Some(value) => {
                            self.records.insert(key.clone(), (value.clone(), self.revision));
                        }
                        None => {
                            self.records.remove(key);
                        }
                    }
                }
                RegisterReply::Done { revision: tells.then_some(self.revision) }
            }
        }
    }

    fn holds(&self, expect: &Expect) -> bool {
        match expect {
            Expect::Absent(key) => !self.records.contains_key(key),
            Expect::Present(key) => self.records.contains_key(key),
            Expect::Value(key, value) => self.records.get(key).is_some_and(|(have, _)| have == value),
            Expect::Revision(key, revision) => {
                self.records.get(key).is_some_and(|(_, have)| have == revision)
            }
        }
    }
}
