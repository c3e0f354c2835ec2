//! Whom we trust at one moment, and the check of one certificate against it.

use std::{collections::BTreeSet, sync::Arc};

use aws_lc_rs::digest;
use mesh_core::{CertificateInfo, ClusterName, NodeId, PeerIdentity, SpiffeId, TrustDomain};
use rustls::{
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, TrustAnchor, UnixTime},
};
use webpki::{
    CertRevocationList, EndEntityCert, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::{PeerRole, Refusal, Rule, name::Expected};
use crate::{
    error::IdentityError,
    identity::{Material, der},
};

/// SHA-256 of a certificate authority's public key (its SubjectPublicKeyInfo).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuerPin(pub [u8; 32]);

impl IssuerPin {
    /// The pin of the authority that owns this certificate.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Material`] if it is not a certificate.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let anchor = anchor(certificate)?;
        Ok(Self::of_public_key(anchor.subject_public_key_info.as_ref()))
    }

    /// Of the value inside the SubjectPublicKeyInfo's outer SEQUENCE.
    fn of_public_key(value: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, &sequence(value));
        Self(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl std::str::FromStr for IssuerPin {
    type Err = String;

    /// Reads 64 hexadecimal digits; colons between them are skipped.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let form = || "must be the SHA-256 of the authority's public key, 64 hexadecimal digits".to_owned();
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(form());
        }
        let mut pin = [0; 32];
        for (at, byte) in pin.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).map_err(|_| form())?;
        }
        Ok(Self(pin))
    }
}

/// The DER of a SEQUENCE with this value.
fn sequence(value: &[u8]) -> Vec<u8> {
    let length = value.len();
    let mut der = vec![0x30];
    if let Ok(short @ 0..=0x7f) = u8::try_from(length) {
        der.push(short);
    } else {
        let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
        der.push(0x80 | bytes.len() as u8);
        der.extend(bytes);
    }
    der.extend_from_slice(value);
    der
}

fn anchor<'a>(certificate: &'a CertificateDer<'_>) -> Result<TrustAnchor<'a>, IdentityError> {
    webpki::anchor_from_trusted_cert(certificate)
        .map_err(|error| IdentityError::Material { what: "trust bundle", problem: error.to_string() })
}

/// Everything that decides whether a certificate is accepted.
pub(crate) struct Trust {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) cluster: ClusterName,
    pub(crate) denied: BTreeSet<NodeId>,
    pub(crate) pins: BTreeSet<IssuerPin>,
    anchors: Vec<TrustAnchor<'static>>,
    lists: Arc<[CertRevocationList<'static>]>,
    /// What the above was built from, to tell whether a reload changed anything.
    source: (Vec<Vec<u8>>, Vec<Vec<u8>>),
}

impl Trust {
    pub(crate) fn new(
        own: &SpiffeId,
        material: &Material,
        denied: BTreeSet<NodeId>,
        pins: BTreeSet<IssuerPin>,
    ) -> Result<Self, IdentityError> {
        let anchors = material
            .trust_bundle
            .iter()
            .map(|certificate| Ok(anchor(certificate)?.to_owned()))
            .collect::<Result<_, IdentityError>>()?;
        let lists = material
            .crls
            .iter()
            .map(|list| {
                OwnedCertRevocationList::from_der(list).map(CertRevocationList::from).map_err(|error| {
                    IdentityError::Material { what: "revocation list", problem: error.to_string() }
                })
            })
            .collect::<Result<Vec<_>, _>>()?
            .into();
        let source = (
            material.trust_bundle.iter().map(|c| c.as_ref().to_vec()).collect(),
            material.crls.iter().map(|c| c.as_ref().to_vec()).collect(),
        );
        Ok(Self {
            trust_domain: own.trust_domain.clone(),
            cluster: own.cluster.clone(),
            denied,
            pins,
            anchors,
            lists,
            source,
        })
    }

    /// The same rules with another deny list.
    pub(crate) fn with_denied(&self, denied: BTreeSet<NodeId>) -> Self {
        Self {
            trust_domain: self.trust_domain.clone(),
            cluster: self.cluster.clone(),
            denied,
            pins: self.pins.clone(),
            anchors: self.anchors.clone(),
            lists: Arc::clone(&self.lists),
            source: self.source.clone(),
        }
    }

    /// Whether both accept the same certificates.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.source == other.source
            && self.denied == other.denied
            && self.pins == other.pins
            && self.trust_domain == other.trust_domain
            && self.cluster == other.cluster
    }

    /// Checks a chain, its owner's certificate first. Cheap rules come before signatures.
    pub(crate) fn check(
        &self,
        certificates: &[CertificateDer<'_>],
        role: PeerRole,
        expected: &Expected,
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<Arc<PeerIdentity>, Refusal> {
        let Some((leaf, intermediates)) = certificates.split_first() else {
            return Err(Refusal::new(Rule::Malformed, "(none)", "was not sent"));
        };
        let fields = der::fields(leaf).unwrap_or_default();
        let parsed = EndEntityCert::try_from(leaf)
            .map_err(|e| Refusal::new(Rule::Malformed, &fields.subject, format!("cannot be read: {e}")))?;
        let refuse = |rule, problem: String| Err(Refusal::new(rule, &fields.subject, problem));

        self.verify_chain(&parsed, &fields.subject, intermediates, role, now, algorithms)?;
        let id = spiffe_id(&parsed, &fields.subject)?;
        if id.trust_domain != self.trust_domain {
            let (theirs, ours) = (&id.trust_domain, &self.trust_domain);
            return refuse(
                Rule::TrustDomain,
                format!("is of trust domain {theirs}, only {ours} is accepted"),
            );
        }
        if id.cluster != self.cluster {
            let (theirs, ours) = (&id.cluster, &self.cluster);
            return refuse(Rule::Cluster, format!("is of cluster {theirs}, only {ours} is accepted"));
        }
        if let Expected::Node(expected) = expected
            && *expected != id.node_id
        {
            return refuse(Rule::Peer, format!("is of node {}, we called {expected}", id.node_id));
        }
        if self.denied.contains(&id.node_id) {
            return refuse(Rule::Denied, format!("is of node {}, which is on the deny list", id.node_id));
        }
        let certificate = CertificateInfo {
            serial: fields.serial,
            not_before_s: fields.not_before_s,
            not_after_s: fields.not_after_s,
        };
        Ok(Arc::new(PeerIdentity { id, certificate }))
    }

    fn verify_chain(
        &self,
        leaf: &EndEntityCert<'_>,
        subject: &str,
        intermediates: &[CertificateDer<'_>],
        role: PeerRole,
        now: UnixTime,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), Refusal> {
        let usage = match role {
            PeerRole::Client => KeyUsage::client_auth(),
            PeerRole::Server => KeyUsage::server_auth(),
        };
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
        // A list that does not cover an issuer says nothing about it; a stale list is better than none.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .build()
        });
        let path = leaf
            .verify_for_usage(algorithms.all, &self.anchors, intermediates, now, usage, revocation, None)
            .map_err(|error| {
                let rule = match error {
                    webpki::Error::CertExpired { .. } => Rule::Expired,
                    webpki::Error::CertNotValidYet { .. } => Rule::NotYetValid,
                    webpki::Error::CertRevoked => Rule::Revoked,
                    _ => Rule::Chain,
                };
                Refusal::new(rule, subject, format!("does not verify: {error}"))
            })?;
        if self.pins.is_empty() {
            return Ok(());
        }
        let issuer = match path.intermediate_certificates().next() {
            Some(certificate) => {
                let hash = digest::digest(&digest::SHA256, &certificate.subject_public_key_info());
                IssuerPin(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
            }
            None => IssuerPin::of_public_key(path.anchor().subject_public_key_info.as_ref()),
        };
        if self.pins.contains(&issuer) {
            return Ok(());
        }
        let problem = "was issued by an authority that is not in transport.tls.pinned_issuers";
        Err(Refusal::new(Rule::PinnedIssuer, subject, problem))
    }
}

/// The identity in a certificate's only URI name.
pub(crate) fn spiffe_id(leaf: &EndEntityCert<'_>, subject: &str) -> Result<SpiffeId, Refusal> {
    let mut names = leaf.valid_uri_names();
    let (Some(name), None) = (names.next(), names.next()) else {
        let found = leaf.valid_uri_names().count();
        return Err(Refusal::new(
            Rule::UriNames,
            subject,
            format!("has {found} URI names, exactly one is needed"),
        ));
    };
    name.parse().map_err(|error| Refusal::new(Rule::Name, subject, format!("names no node: {error}")))
}
