//! Leases: taken, renewed, written under, and left in every way, the bad ones included.

use std::time::Duration;

use mesh_core::{
    FencingToken,
    store::{Compare, Key, OpenSession, Operation, SessionId, TxnError, VersionedStore},
};

use super::{Hand, PACE};

/// How long these leases outlive their holders: short, so that a round sees many.
const TTL: Duration = Duration::from_secs(1);
/// Writes under one lease.
const WRITES: usize = 12;

/// A lease is over, or nobody knows.
struct Over;

/// The name of the record that is written under a lease.
pub(super) fn guarded(scope: usize) -> String {
    format!("guarded-{scope}")
}

/// Fights for a scope until the round ends.
pub(super) async fn work(mut hand: Hand, scope: usize) {
    let lease = hand.key(&format!("lease-{scope}"));
    let guarded = hand.key(&guarded(scope));
    while !hand.stops() {
        let request = OpenSession { owner: hand.writer.clone(), ttl: TTL };
        let Some(Ok(session)) = hand.call(hand.store.open_session(request)).await else {
            hand.pause(PACE).await;
            continue;
        };
        // Renewed at every step, a session lasts until its holder stops.
        while !hand.stops() {
            if let Some(token) = hand.acquire(&lease, session.id).await {
                let reign = hand.reign(&lease, &guarded, session.id, token).await;
                if reign.is_err() {
                    break;
                }
                hand.abdicate(&lease, &guarded, session.id, token).await;
                break;
            }
            hand.pause(TTL / 8).await;
            if !matches!(hand.call(hand.store.keep_alive(session.id)).await, Some(Ok(_))) {
                break;
            }
        }
    }
}

impl Hand {
    async fn acquire(&self, lease: &Key, session: SessionId) -> Option<FencingToken> {
        let grant = Operation::Grant { key: lease.clone(), value: self.value(), session };
        let txn = self.txn().when(Compare::Absent { key: lease.clone() }).then(grant);
        let outcome = self.call(self.store.transact(txn)).await?.ok()?;
        outcome.grants.first().map(|grant| grant.token)
    }

    /// Writes under the lease; an error if it is lost.
    async fn reign(
        &self,
        lease: &Key,
        guarded: &Key,
        session: SessionId,
        token: FencingToken,
    ) -> Result<(), Over> {
        for write in 0..WRITES {
            if self.stops() {
                break;
            }
            self.guarded_write(lease, guarded, token).await?;
            if write % 4 == 3 {
                match self.call(self.store.keep_alive(session)).await {
                    Some(Ok(_)) => {}
                    _ => return Err(Over),
                }
            }
            self.pause(PACE * 2).await;
        }
        Ok(())
    }

    /// Leaves: politely, with its session, or as a process that is paused and wakes up too late.
    async fn abdicate(&mut self, lease: &Key, guarded: &Key, session: SessionId, token: FencingToken) {
        let fence = || Compare::Fence { key: lease.clone(), token };
        match self.rng.u8(..6) {
            0 => {
                let release = self.txn().when(fence()).then(Operation::Delete { key: lease.clone() });
                let _ = self.call(self.store.transact(release)).await;
            }
            1 => drop(self.call(self.store.close_session(session)).await),
            _ => {
                self.pause(TTL * 5 / 4).await;
                for _ in 0..2 {
                    // What it sends now must be refused, unless it still holds the lease after all.
                    let _ = self.guarded_write(lease, guarded, token).await;
                }
            }
        }
    }

    async fn guarded_write(&self, lease: &Key, guarded: &Key, token: FencingToken) -> Result<(), Over> {
        let put = Operation::Put { key: guarded.clone(), value: self.value(), session: None };
        let txn = self.txn().when(Compare::Fence { key: lease.clone(), token }).then(put);
        match self.call(self.store.transact(txn)).await {
            Some(Err(TxnError::Fenced { .. })) => Err(Over),
            _ => Ok(()),
        }
    }
}
