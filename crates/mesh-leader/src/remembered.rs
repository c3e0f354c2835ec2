//! What a node should remember of the store's records of leadership, in a form that can be compared.

use bytes::Bytes;
use mesh_core::{
    NodeId,
    store::{Key, Prefix, Record},
};

use crate::{
    LeaderView,
    records::{self, LeaseValue, Name, candidate_key, lease_key},
};

/// Where the records of leadership are.
pub fn records_prefix() -> Prefix {
    records::prefix()
}

/// How a record of leadership should look in what a node remembers: who leads with which token, or that
/// somebody would. `None` for records that [`remembered`] does not tell of.
pub fn expected(record: &Record) -> Option<Bytes> {
    match Name::of(&record.key)? {
        Name::Lease(_) => {
            let holder = LeaseValue::decode(&record.value, &record.last_writer).holder;
            Some(reign(&holder, &record.token.unwrap_or_default().to_string()))
        }
        Name::Candidate(..) => Some(candidacy()),
        Name::Scope(_) | Name::Ask(_) => None,
    }
}

/// What a node remembers of one scope, by the keys of the store.
///
/// ```
/// # fn f(leadership: &mesh_leader::Leadership) {
/// for view in leadership.leaders() {
///     for (key, value) in mesh_leader::remembered(&view) {
///         println!("{key}: {value:?}");
///     }
/// }
/// # }
/// ```
pub fn remembered(view: &LeaderView) -> Vec<(Key, Bytes)> {
    let reign = view
        .leader
        .as_ref()
        .map(|holder| (lease_key(&view.scope), reign(holder, &view.token.unwrap_or_default().to_string())));
    let candidates = view.candidates.iter().map(|node| (candidate_key(&view.scope, node), candidacy()));
    reign.into_iter().chain(candidates).collect()
}

fn reign(holder: &NodeId, token: &str) -> Bytes {
    format!("{holder} leads with token {token}").into()
}

fn candidacy() -> Bytes {
    Bytes::from_static(b"a candidate")
}

#[cfg(test)]
mod tests {
    use mesh_core::{FencingToken, Revision, WallTime};

    use super::*;
    use crate::Scope;

    fn record(key: Key, value: Bytes, token: Option<FencingToken>) -> Record {
        Record {
            key,
            value,
            revision: Revision(9),
            created_revision: Revision(9),
            last_writer: "n-1".parse().expect("an id"),
            session: None,
            token,
        }
    }

    #[test]
    fn a_view_that_follows_the_store_looks_as_its_records_do() {
        let scope = Scope::new("jobs/nightly").expect("a scope");
        let (leader, other): (NodeId, NodeId) =
            ("n-1".parse().expect("an id"), "n-2".parse().expect("an id"));
        let token = FencingToken { generation: 2, counter: 9 };
        let value = LeaseValue {
            holder: leader.clone(),
            term: 3,
            acquired: WallTime(1),
            correlation_id: 4,
            zone: None,
            spread: None,
        };
        let view = LeaderView {
            scope: scope.clone(),
            leader: Some(leader),
            token: Some(token),
            term: 3,
            since: WallTime(1),
            correlation_id: 4,
            revision: Revision(9),
            candidates: vec![other.clone()],
        };
        let records = [
            record(lease_key(&scope), value.encode(), Some(token)),
            record(candidate_key(&scope, &other), Bytes::new(), None),
            record(records::scope_key(&scope), Bytes::new(), None),
        ];
        let stored: Vec<_> = records.iter().filter_map(|r| Some((r.key.clone(), expected(r)?))).collect();
        assert_eq!(remembered(&view), stored);
        assert_eq!(stored[0].1, "n-1 leads with token 2.9");
    }
}
