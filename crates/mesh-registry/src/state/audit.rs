//! Audit records do not stay for ever.

use mesh_core::{
    WallTime,
    store::{Change, DeleteCause, Key, Prefix, Scan},
};

use super::State;

/// Under which audit records are found: `~audit/<milliseconds, 13 digits>-<nonce>`.
pub const AUDIT_PREFIX: &str = "~audit/";
/// Most audit records that one command deletes, so that none takes long.
pub const TRIMMED_MAX: usize = 1000;

impl State {
    /// Deletes the oldest audit records from before a moment, at most [`TRIMMED_MAX`], at one revision.
    pub(super) fn trim_audit(&mut self, before: WallTime) -> usize {
        // Their keys are in the order of time.
        let bound = format!("{AUDIT_PREFIX}{:013}", before.0);
        let Ok(prefix) = Prefix::new(AUDIT_PREFIX) else { return 0 };
        let (oldest, _) = self.records.scan(&Scan { prefix, after: None, limit: TRIMMED_MAX });
        let due = oldest.into_iter().map(|record| record.key).take_while(|key| key.as_str() < bound.as_str());
        let due: Vec<Key> = due.collect();
        let count = due.len();
        let gone = |key| Change::Deleted { key, cause: DeleteCause::Written };
        let changes: Vec<Change> =
            due.into_iter().filter(|key| self.records.delete(key).is_some()).map(gone).collect();
        if !changes.is_empty() {
            self.commit(changes);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mesh_core::store::Txn;

    use super::*;
    use crate::state::{Command, Reply, TxnCommand};

    #[test]
    fn audit_records_go_by_age_a_bounded_number_at_a_time() {
        let mut state = State::default();
        for at in 0..TRIMMED_MAX as u64 + 7 {
            let key = Key::new(format!("{AUDIT_PREFIX}{:013}-{at:016x}", 1_000_000 + at)).expect("a key");
            let txn = Txn::new("n1".parse().expect("an id"));
            state.apply(&Command::Txn(TxnCommand { txn, audit: Some((key, Bytes::new())) }));
        }
        let before = state.revision();
        let mut trim = |until| match state.apply(&Command::TrimAudit(WallTime(until))) {
            Reply::Trimmed(count) => (count, state.revision().0 - before.0),
            other => panic!("{other:?}"),
        };
        assert_eq!(trim(1_000_000), (0, 0), "what is not from before stays, and nothing changed");
        assert_eq!(trim(1_001_003), (TRIMMED_MAX, 1));
        assert_eq!(trim(1_001_003), (3, 2));
        assert_eq!(trim(1_001_003), (0, 2));
        assert_eq!(state.records_len(), 4);
    }
}
