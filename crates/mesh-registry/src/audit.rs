//! The record that says who changed what and why, at the same revision as the change.

use bytes::Bytes;
use mesh_core::{
    WallTime,
    store::{Key, Txn},
};

pub(crate) use crate::state::AUDIT_PREFIX;
use crate::state::TxnCommand;

/// Keys named in one audit record; the count of all of them is there as well.
const KEYS_NAMED_MAX: usize = 32;

/// The command for a transaction, with its audit record if it has a note. `nonce` tells two records of
/// one millisecond apart.
pub(crate) fn command(txn: Txn, wall: WallTime, nonce: u64) -> TxnCommand {
    let audit = txn.audit.as_ref().and_then(|note| {
        let keys: Vec<&str> = txn.operations.iter().map(|o| o.key().as_str()).take(KEYS_NAMED_MAX).collect();
        let value = serde_json::json!({
            "at_ms": wall.0,
            "writer": txn.writer.as_str(),
            "action": note.action,
            "reason": note.reason,
            "correlation_id": format!("{:016x}", note.correlation_id),
            "keys": keys,
            "keys_total": txn.operations.len(),
        });
        let key = Key::new(format!("{AUDIT_PREFIX}{:013}-{nonce:016x}", wall.0)).ok()?;
        Some((key, Bytes::from(value.to_string())))
    });
    TxnCommand { txn, audit }
}
