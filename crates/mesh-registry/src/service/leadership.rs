//! Who may change the records of leadership, which the crate `mesh-leader` keeps below `leader/`.
//!
//! Every node of the cluster may lead something, and so writes there. Nodes that keep the store are trusted with it, and
//! write there for the operators who ask them to. All others change what is their own, whatever token they can read
//! elsewhere:
//!
//! | key | changed by |
//! |---|---|
//! | `leader/candidate/<scope>/<node>` | that node |
//! | `leader/lease/<scope>` | granted to a session of the caller; changed by the owner of the session that holds it |
//! | `leader/scope/<scope>` | whoever is granted the lease, or grants it, with that; deleted by whoever finds nobody leading |
//! | `leader/ask/<scope>` | the holder of the lease; deleted with a change of the lease, or where there is none |

use mesh_core::{
    PeerIdentity,
    store::{Compare, Key, Operation, SessionId, StoreError, Txn},
};
use tonic::Status;

use super::{Shared, access};
use crate::wire::failures;

/// Who may do what an operator asks for.
const OPERATORS: &str = "operators and the role control";

/// What a key below `leader/` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place<'k> {
    Lease,
    Scope(&'k str),
    Ask(&'k str),
    Candidate { node: &'k str },
    Other,
}

impl<'k> Place<'k> {
    /// `None` if it is not about leadership.
    fn of(key: &'k Key) -> Option<Self> {
        let rest = key.as_str().strip_prefix("leader/")?;
        Some(match rest.split_once('/') {
            Some(("lease", _)) => Self::Lease,
            Some(("scope", scope)) => Self::Scope(scope),
            Some(("ask", scope)) => Self::Ask(scope),
            // Scopes have slashes, node ids have none.
            Some(("candidate", rest)) => match rest.rsplit_once('/') {
                Some((_, node)) => Self::Candidate { node },
                None => Self::Other,
            },
            _ => Self::Other,
        })
    }
}

fn lease_of(scope: &str) -> Option<Key> {
    Key::new(format!("leader/lease/{scope}")).ok()
}

fn session_of(operation: &Operation) -> Option<SessionId> {
    match operation {
        Operation::Put { session, .. } => *session,
        Operation::Grant { session, .. } => Some(*session),
        Operation::Delete { .. } => None,
    }
}

/// What comes of looking at an operation.
enum Looked {
    Allowed,
    /// The session that it names is gone, so that nothing can come of it.
    Gone(SessionId),
    /// Not by this caller; these may.
    Denied(&'static str),
}

/// The token that a transaction states for a key. Of several different ones the store refuses all.
fn stated<'t>(txn: &'t Txn, lease: &Key) -> Option<&'t mesh_core::FencingToken> {
    txn.compares.iter().find_map(|compare| match compare {
        Compare::Fence { key, token } if key == lease => Some(token),
        _ => None,
    })
}

impl Shared {
    /// Holds what a transaction would change of leadership against the rules. `Some` is the session that it names for
    /// itself and that is gone: the store need not be asked then.
    pub(super) async fn check_leadership(
        &self,
        peer: &PeerIdentity,
        txn: &Txn,
    ) -> Result<Option<SessionId>, Status> {
        if access::keeps(peer) {
            return Ok(None);
        }
        for operation in &txn.operations {
            let Some(place) = Place::of(operation.key()) else { continue };
            let looked = self.look_at(peer, txn, operation, place).await;
            match looked.map_err(|error| failures::of_store(&error))? {
                Looked::Allowed => {}
                Looked::Gone(session) => return Ok(Some(session)),
                Looked::Denied(who) => {
                    let what = format!("change {}", operation.key());
                    self.allow(Err(access::denied(peer, &what, who)), peer)?;
                }
            }
        }
        Ok(None)
    }

    async fn look_at(
        &self,
        peer: &PeerIdentity,
        txn: &Txn,
        operation: &Operation,
        place: Place<'_>,
    ) -> Result<Looked, StoreError> {
        const HOLDER: &str = "the holder of the lease, operators and the role control";
        let key = operation.key();
        let is_grant_of = |lease: &Key| {
            let grants = |other: &Operation| matches!(other, Operation::Grant { key, .. } if key == lease);
            txn.operations.iter().any(grants)
        };
        let changes = |lease: &Key| txn.operations.iter().any(|other| other.key() == lease);
        // What is left of a scope that nobody leads tells nothing that counts: tokens go on all the same.
        let nobody_leads = |lease: &Key| {
            let absent = |compare: &Compare| matches!(compare, Compare::Absent { key } if key == lease);
            txn.compares.iter().any(absent)
        };
        match place {
            Place::Candidate { node } if peer.node_id().as_str() == node => {
                self.look_at_session(peer, session_of(operation)).await
            }
            Place::Candidate { .. } => Ok(Looked::Denied("the candidate, operators and the role control")),
            Place::Lease => match (stated(txn, key), operation) {
                // Whoever states no token changes nothing that is granted: the store sees to that.
                (None, Operation::Grant { session, .. }) => self.look_at_session(peer, Some(*session)).await,
                (None, Operation::Delete { .. }) => Ok(Looked::Allowed),
                (None, Operation::Put { .. }) => Ok(Looked::Denied(HOLDER)),
                (Some(_), _) => self.look_at_holder(peer, txn, key, HOLDER).await,
            },
            Place::Scope(scope) => match (operation, lease_of(scope)) {
                (Operation::Put { .. }, Some(lease)) if is_grant_of(&lease) => Ok(Looked::Allowed),
                (Operation::Delete { .. }, Some(lease)) if nobody_leads(&lease) => Ok(Looked::Allowed),
                _ => Ok(Looked::Denied("the next holder of the lease, with its grant, and the role control")),
            },
            Place::Ask(scope) => match (operation, lease_of(scope)) {
                (Operation::Delete { .. }, Some(lease)) if changes(&lease) || nobody_leads(&lease) => {
                    Ok(Looked::Allowed)
                }
                // Why it does not do as it was asked.
                (Operation::Put { .. }, Some(lease)) if stated(txn, &lease).is_some() => {
                    self.look_at_holder(peer, txn, &lease, OPERATORS).await
                }
                _ => Ok(Looked::Denied(OPERATORS)),
            },
            Place::Other => Ok(Looked::Denied(OPERATORS)),
        }
    }

    /// A caller puts in its own sessions only.
    async fn look_at_session(
        &self,
        peer: &PeerIdentity,
        session: Option<SessionId>,
    ) -> Result<Looked, StoreError> {
        let Some(session) = session else { return Ok(Looked::Allowed) };
        Ok(match self.owner_of(session).await? {
            // Another may be given that number before the store looks.
            None => Looked::Gone(session),
            Some(owner) if owner == *peer.node_id() => Looked::Allowed,
            Some(_) => Looked::Denied("the owner of the session that it names"),
        })
    }

    /// Is the token that a transaction states for `lease` the caller's? What the store refuses anyway is let through, so
    /// that the caller hears of the newer token.
    ///
    /// A token stays with the session that it was granted to, so that what is read here holds when the store decides.
    async fn look_at_holder(
        &self,
        peer: &PeerIdentity,
        txn: &Txn,
        lease: &Key,
        who: &'static str,
    ) -> Result<Looked, StoreError> {
        let Some(token) = stated(txn, lease) else { return Ok(Looked::Denied(who)) };
        let read = self.store.get(lease).await?;
        let Some(record) = read.value.filter(|record| record.token == Some(*token)) else {
            // A guess at one that is still to come might hold by then.
            let is_past = token.counter <= read.revision.0;
            return Ok(if is_past { Looked::Allowed } else { Looked::Denied(who) });
        };
        let Some(session) = record.session else { return Ok(Looked::Denied(who)) };
        Ok(match self.owner_of(session).await? {
            Some(owner) if owner != *peer.node_id() => Looked::Denied(who),
            // If it is gone, the lease went with it.
            _ => Looked::Allowed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_leadership_says_what_it_is_about() {
        let place = |text: &str| Place::of(&Key::new(text).expect("a key")).map(|place| format!("{place:?}"));
        assert_eq!(place("leader/lease/shard/7").as_deref(), Some("Lease"));
        assert_eq!(place("leader/scope/shard/7").as_deref(), Some("Scope(\"shard/7\")"));
        assert_eq!(place("leader/ask/shard/7").as_deref(), Some("Ask(\"shard/7\")"));
        let candidate = "Candidate { node: \"n-1.eu\" }";
        assert_eq!(place("leader/candidate/shard/7/n-1.eu").as_deref(), Some(candidate));
        for other in ["leader/candidate/n-1", "leader/later/x", "leader/lease"] {
            assert_eq!(place(other).as_deref(), Some("Other"), "{other}");
        }
        assert_eq!(place("leaders/lease/x"), None);
    }
}
