//! Who may do what with the store.

use mesh_core::{
    NodeId, PeerIdentity, Role, SettingError, Settings,
    store::{Key, Prefix, SessionId, StoreError, Txn},
};

/// Who may use the store over the network. What is not listed is denied; an operator may do everything.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct AccessConfig {
    /// Roles, by certificate, whose nodes may read and watch, hold sessions and change records. Default: ["control", "worker"].
    pub roles: Vec<String>,
    /// Beginnings of keys that operators alone may change. Default: ["operator/"].
    pub operator_prefixes: Vec<String>,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            roles: vec![Role::CONTROL.to_owned(), "worker".to_owned()],
            operator_prefixes: vec!["operator/".to_owned()],
        }
    }
}

/// Most roles, and most prefixes.
const ENTRIES_MAX: usize = 64;

impl Settings for AccessConfig {
    fn problems(&self) -> Vec<SettingError> {
        let mut problems = Vec::new();
        let mut problem = |setting: &str, value: &dyn std::fmt::Display, rule: &str| {
            problems.push(SettingError::new(format!("registry.service.access.{setting}"), value, rule));
        };
        for (setting, entries) in [("roles", &self.roles), ("operator_prefixes", &self.operator_prefixes)] {
            if entries.len() > ENTRIES_MAX {
                problem(setting, &format!("{} of them", entries.len()), "must be at most 64");
            }
        }
        for role in self.roles.iter().filter(|role| Role::new(role).is_err()) {
            problem("roles", role, "must be roles as certificates name them: a-z 0-9 - .");
        }
        for prefix in &self.operator_prefixes {
            if prefix.is_empty() || Prefix::new(prefix).is_err() {
                problem("operator_prefixes", prefix, "must be 1 to 512 bytes without control characters");
            }
        }
        problems
    }
}

/// The rules, ready to hold requests against.
pub(super) struct Access {
    roles: Vec<String>,
    operator_prefixes: Vec<String>,
}

fn is_operator(peer: &PeerIdentity) -> bool {
    peer.role().as_str() == Role::OPERATOR
}

/// Does `peer` have the whole store in its hands anyway? Operators do, and nodes that may vote: they keep it.
pub(super) fn keeps(peer: &PeerIdentity) -> bool {
    is_operator(peer) || peer.role().as_str() == Role::CONTROL
}

pub(super) fn denied(peer: &PeerIdentity, what: &str, who: &str) -> StoreError {
    let (node, role) = (peer.node_id(), peer.role());
    StoreError::Denied { reason: format!("{node} with the role {role} may not {what}; {who} may") }
}

impl Access {
    pub(super) fn new(config: &AccessConfig) -> Self {
        Self { roles: config.roles.clone(), operator_prefixes: config.operator_prefixes.clone() }
    }

    /// May `peer` use the store at all?
    pub(super) fn user(&self, peer: &PeerIdentity) -> Result<(), StoreError> {
        if is_operator(peer) || self.roles.iter().any(|role| role == peer.role().as_str()) {
            return Ok(());
        }
        let roles = self.roles.join(", ");
        let who = format!("the roles {roles} and operator (registry.service.access.roles)");
        Err(denied(peer, "use the store", &who))
    }

    /// May `peer`, who may use the store, do these operations?
    pub(super) fn write(&self, peer: &PeerIdentity, txn: &Txn) -> Result<(), StoreError> {
        if is_operator(peer) {
            return Ok(());
        }
        let reserved =
            |key: &&Key| self.operator_prefixes.iter().any(|p| key.as_str().starts_with(p.as_str()));
        match txn.operations.iter().map(|operation| operation.key()).find(reserved) {
            None => Ok(()),
            Some(key) => {
                let who = "operators (registry.service.access.operator_prefixes)";
                Err(denied(peer, &format!("change {key}"), who))
            }
        }
    }

    /// May `peer` do what only operators may?
    pub(super) fn operator(peer: &PeerIdentity, what: &str) -> Result<(), StoreError> {
        if is_operator(peer) { Ok(()) } else { Err(denied(peer, what, "operators")) }
    }

    /// May `peer` have or replace the whole store?
    pub(super) fn keeper(peer: &PeerIdentity, what: &str) -> Result<(), StoreError> {
        if keeps(peer) { Ok(()) } else { Err(denied(peer, what, "operators and the role control")) }
    }

    /// May `peer` act for a session of `owner`?
    pub(super) fn owner(
        session: SessionId,
        owner: &NodeId,
        peer: &PeerIdentity,
        action: &str,
    ) -> Result<(), StoreError> {
        if peer.node_id() == owner {
            return Ok(());
        }
        let what = format!("act for session {session} ({action})");
        Err(denied(peer, &what, &format!("its owner {owner}")))
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::{CertificateInfo, store::Operation};

    use super::*;

    fn peer(role: &str) -> PeerIdentity {
        let id = format!("spiffe://example.org/mesh/c/{role}/n-1").parse().expect("an id");
        let certificate = CertificateInfo { serial: "01".into(), not_before_s: 0, not_after_s: 1 };
        PeerIdentity { id, certificate }
    }

    #[test]
    fn a_role_that_is_not_listed_is_told_who_may() {
        let access = Access::new(&AccessConfig::default());
        for role in ["control", "worker", "operator"] {
            access.user(&peer(role)).expect("is listed");
        }
        let denied = access.user(&peer("guest")).expect_err("is not").to_string();
        assert_eq!(
            denied,
            "not allowed: n-1 with the role guest may not use the store; the roles control, worker and operator \
             (registry.service.access.roles) may"
        );
    }

    #[test]
    fn operators_alone_change_what_is_theirs() {
        let access = Access::new(&AccessConfig::default());
        let delete = |key: &str| {
            let key = Key::new(key).expect("a key");
            Txn::new("n-1".parse().expect("an id")).then(Operation::Delete { key })
        };
        access.write(&peer("control"), &delete("leases/a")).expect("anybody's");
        access.write(&peer("operator"), &delete("operator/a")).expect("an operator");
        let denied = access.write(&peer("control"), &delete("operator/a")).expect_err("no operator");
        assert!(denied.to_string().contains("may not change operator/a; operators"), "{denied}");
    }

    #[test]
    fn settings_that_name_no_role_are_refused() {
        let config = AccessConfig { roles: vec!["Worker!".into()], operator_prefixes: vec![String::new()] };
        let problems: Vec<String> = config.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "registry.service.access.roles (Worker!) must be roles as certificates name them: a-z 0-9 - .",
                "registry.service.access.operator_prefixes () must be 1 to 512 bytes without control characters",
            ]
        );
    }
}
