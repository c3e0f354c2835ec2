//! Plain records: writes, compare-and-set, reads.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_core::store::{Compare, Operation, VersionedStore};

use super::{Hand, PACE, REGISTERS};

/// The name of a register.
pub(super) fn name(number: usize) -> String {
    format!("register-{number}")
}

/// Writes, compares and reads until the round ends.
pub(super) async fn work(mut hand: Hand) {
    // What each register held when this task last looked: what it expects of it.
    let mut seen: BTreeMap<usize, Option<Bytes>> = BTreeMap::new();
    while !hand.stops() {
        let number = hand.rng.usize(..REGISTERS);
        let key = hand.key(&name(number));
        match hand.rng.u8(..10) {
            0..4 => {
                let value = hand.value();
                if hand.put(key, value.clone()).await {
                    seen.insert(number, Some(value));
                }
            }
            4..7 => {
                let expected = match seen.get(&number).cloned().flatten() {
                    Some(value) => Compare::Value { key: key.clone(), value },
                    None => Compare::Absent { key: key.clone() },
                };
                let value = hand.value();
                let put = Operation::Put { key, value: value.clone(), session: None };
                let txn = hand.txn().when(expected).then(put);
                match hand.call(hand.store.transact(txn)).await {
                    Some(Ok(_)) => drop(seen.insert(number, Some(value))),
                    _ => drop(seen.remove(&number)),
                }
            }
            _ => {
                if let Some(Ok(fresh)) = hand.call(hand.store.get(&key)).await {
                    seen.insert(number, fresh.value.map(|record| record.value));
                }
            }
        }
        hand.pause(PACE).await;
    }
}
