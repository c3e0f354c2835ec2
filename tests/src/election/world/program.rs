//! What a leader's program writes: under its token, and sometimes twice, as one does whose answer was lost.

use std::time::Duration;

use bytes::Bytes;
use mesh_core::{
    FencingToken,
    store::{Compare, IdempotencyKey, Key, Operation, SessionId, Txn},
};
use mesh_leader::lease_key;
use mesh_registry::state::{Command, TxnCommand};

use super::{
    super::store::{Purpose, name},
    Happening, World,
};

/// The program's own session lives through every run.
const PROGRAM_TTL: Duration = Duration::from_secs(3600);

/// What a node's program keeps for its writes.
#[derive(Default)]
pub(super) struct Program {
    session: Option<SessionId>,
    asked: bool,
    sequence: u64,
}

impl Program {
    /// Its session is open, or is gone.
    pub(super) fn opened(&mut self, session: Option<SessionId>) {
        *self = Self { session, ..Self::default() };
    }

    fn next_key(&mut self) -> Option<IdempotencyKey> {
        let session = self.session?;
        self.sequence += 1;
        Some(IdempotencyKey { session, sequence: self.sequence })
    }
}

impl World<'_> {
    /// A leader's write reaches the store. One in four will come again.
    pub(super) fn guarded_arrives(&mut self, node: usize, scope: usize, token: FencingToken) {
        let (key, value) = (data_key(scope), Bytes::from(token.to_string()));
        let put = Operation::Put { key, value, session: None };
        let fence = Compare::Fence { key: lease_key(&self.scopes[scope]), token };
        let mut txn = Txn::new(name(node)).when(fence).then(put);
        let mut repeated = None;
        if self.program_rng.u8(0..4) == 0 {
            self.open_program(node);
            repeated = self.nodes[node].program.next_key();
        }
        if let Some(key) = repeated {
            txn = txn.once(key);
            let later = Duration::from_millis(self.program_rng.u64(1..2000));
            self.push(later, Happening::GuardedRepeats { txn: Box::new(txn.clone()), node, scope, token });
        }
        self.guarded(txn, node, scope, token);
        if let Some(found) = self.store.get(&data_key(scope)) {
            self.history.read(self.now, node, data_key(scope), found);
        }
    }

    /// A guarded write, for the first time or again.
    pub(super) fn guarded(&mut self, txn: Txn, node: usize, scope: usize, token: FencingToken) {
        let call = self.history.writes(self.now, node, &txn);
        let (key, compares) = (txn.idempotency, txn.compares.clone());
        let purpose = Purpose::Guarded { node, scope, token, key, call, compares };
        if !self.append(&Command::Txn(TxnCommand { txn, audit: None }), purpose) {
            self.history.wrote(self.now, call, None);
        }
    }

    fn open_program(&mut self, node: usize) {
        let program = &mut self.nodes[node].program;
        if program.session.is_none() && !std::mem::replace(&mut program.asked, true) {
            self.append(&Command::Open { owner: name(node), ttl: PROGRAM_TTL }, Purpose::Program { node });
        }
    }
}

fn data_key(scope: usize) -> Key {
    Key::new(format!("data/s{scope}")).expect("a key")
}
