//! Who the other end of a connection is, as its certificate says.

use std::{fmt, str::FromStr};

use crate::{ClusterName, IdError, NodeId, Role, TrustDomain};

/// The identity in a node's certificate:
/// `spiffe://<trust-domain>/mesh/<cluster>/<role>/<node-id>`.
///
/// ```
/// use mesh_core::SpiffeId;
/// let id: SpiffeId = "spiffe://example.org/mesh/prod/worker/w-1".parse()?;
/// assert_eq!(id.node_id.as_str(), "w-1");
/// assert_eq!(id.to_string(), "spiffe://example.org/mesh/prod/worker/w-1");
/// # Ok::<(), mesh_core::SpiffeIdError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    /// Who issued it.
    pub trust_domain: TrustDomain,
    /// The cluster that it is valid in.
    pub cluster: ClusterName,
    /// What the node may be.
    pub role: Role,
    /// The node.
    pub node_id: NodeId,
}

/// Why a URI is not the identity of a Mesh node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// It has another form.
    #[error("{uri:?} is not of the form spiffe://<trust-domain>/mesh/<cluster>/<role>/<node-id>")]
    Form {
        /// What was found, cut to a readable length.
        uri: String,
    },
    /// One of its parts is not a valid id.
    #[error("a part of the identity is not valid")]
    Part(#[from] IdError),
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(uri: &str) -> Result<Self, SpiffeIdError> {
        let form = || SpiffeIdError::Form { uri: uri.chars().take(120).collect() };
        let rest = uri.strip_prefix("spiffe://").ok_or_else(form)?;
        let parts: Vec<&str> = rest.splitn(6, '/').collect();
        let [trust_domain, "mesh", cluster, role, node_id] = parts[..] else {
            return Err(form());
        };
        Ok(Self {
            trust_domain: trust_domain.parse()?,
            cluster: cluster.parse()?,
            role: role.parse()?,
            node_id: node_id.parse()?,
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust_domain, cluster, role, node_id } = self;
        write!(f, "spiffe://{trust_domain}/mesh/{cluster}/{role}/{node_id}")
    }
}

/// What matters of a certificate after it was verified.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CertificateInfo {
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// Start of validity, seconds since the Unix epoch.
    pub not_before_s: u64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after_s: u64,
}

impl fmt::Debug for CertificateInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate {} ({}..{})", self.serial, self.not_before_s, self.not_after_s)
    }
}

/// The verified other end of a connection. Every message is attributed to this,
/// never to a field that the sender wrote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    /// The identity in its certificate.
    pub id: SpiffeId,
    /// The certificate.
    pub certificate: CertificateInfo,
}

impl PeerIdentity {
    /// The node at the other end.
    pub fn node_id(&self) -> &NodeId {
        &self.id.node_id
    }

    /// The role that its certificate grants.
    pub fn role(&self) -> &Role {
        &self.id.role
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_forms_are_refused() {
        for uri in [
            "",
            "https://example.org/mesh/c/r/n",
            "spiffe://example.org/mesh/c/r",
            "spiffe://example.org/mesh/c/r/n/x",
            "spiffe://example.org/other/c/r/n",
        ] {
            assert!(matches!(uri.parse::<SpiffeId>(), Err(SpiffeIdError::Form { .. })), "{uri}");
        }
        assert!(matches!(
            "spiffe://example.org/mesh/c/r/UPPER".parse::<SpiffeId>(),
            Err(SpiffeIdError::Part(_))
        ));
    }
}
