//! Why a peer's certificate was not accepted.

use std::fmt;

use rustls::{CertificateError, OtherError};

/// The rule that a refused certificate broke. A closed set, fit for a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// It is no certificate at all.
    Malformed,
    /// No root that we trust stands behind it.
    Chain,
    /// Its time has not come.
    NotYetValid,
    /// Its time is over.
    Expired,
    /// A revocation list names it.
    Revoked,
    /// Its node id is on the deny list.
    Denied,
    /// It does not have exactly one URI name.
    UriNames,
    /// Its URI name is not that of a Mesh node.
    Name,
    /// Another trust domain issued it.
    TrustDomain,
    /// It belongs to another cluster.
    Cluster,
    /// It belongs to another node than the one that we called.
    Peer,
    /// The authority that issued it is not among the pinned ones.
    PinnedIssuer,
}

impl Rule {
    /// The word that people and programs see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Chain => "chain",
            Self::NotYetValid => "not-yet-valid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Denied => "denied",
            Self::UriNames => "uri-names",
            Self::Name => "name",
            Self::TrustDomain => "trust-domain",
            Self::Cluster => "cluster",
            Self::Peer => "peer",
            Self::PinnedIssuer => "pinned-issuer",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A certificate that was not accepted: whose it is, which rule it broke, and how.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused by rule {rule}: certificate of {subject} {problem}")]
pub struct Refusal {
    /// The rule.
    pub rule: Rule,
    /// The subject of the certificate, as far as it can be read, cut to a readable length.
    pub subject: String,
    /// What is wrong, with the value found and the one that is allowed.
    pub problem: String,
}

/// The same as its text: TLS libraries pass errors on by their `Debug` form.
impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Refusal {
    pub(crate) fn new(rule: Rule, subject: &str, problem: impl Into<String>) -> Self {
        Self { rule, subject: subject.to_owned(), problem: problem.into() }
    }

    /// The refusal inside an error of a TLS stream, if that is what stopped it.
    #[cfg(feature = "quic")]
    pub(crate) fn find(error: &std::io::Error) -> Option<Self> {
        let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = tls else {
            return None;
        };
        inner.downcast_ref::<Self>().cloned()
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(std::sync::Arc::new(refusal))))
    }
}
