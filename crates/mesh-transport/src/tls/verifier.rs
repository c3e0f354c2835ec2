//! The one verifier, for both ends of a handshake.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use mesh_core::PeerIdentity;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{
    PeerRole, Refusal, Rule,
    name::{Expected, expected},
    trust::Trust,
};
use crate::metrics::TransportMetrics;

/// Checks certificates against whatever [`Trust`] is in force at that moment.
pub(crate) struct MeshVerifier {
    pub(crate) trust: ArcSwap<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
    metrics: TransportMetrics,
}

impl MeshVerifier {
    pub(crate) fn new(
        trust: Trust,
        algorithms: WebPkiSupportedAlgorithms,
        metrics: TransportMetrics,
    ) -> Self {
        Self { trust: ArcSwap::from_pointee(trust), algorithms, metrics }
    }

    /// Checks a chain; a refusal is counted here and logged by whoever knows the address.
    pub(crate) fn check(
        &self,
        certificates: &[CertificateDer<'_>],
        role: PeerRole,
        expected: &Expected,
        now: UnixTime,
    ) -> Result<Arc<PeerIdentity>, Refusal> {
        self.trust
            .load()
            .check(certificates, role, expected, now, &self.algorithms)
            .inspect_err(|refusal| self.metrics.refused(refusal.rule))
    }
}

impl fmt::Debug for MeshVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshVerifier")
    }
}

fn chain<'a>(leaf: &CertificateDer<'a>, intermediates: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(intermediates).cloned().collect()
}

/// TLS 1.2 is compiled out and never offered.
fn no_tls12() -> Error {
    Error::General("TLS 1.2 is not spoken here".to_owned())
}

impl ServerCertVerifier for MeshVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(expected) = expected(server_name) else {
            let problem = format!("cannot be checked: {server_name:?} is not the server name of a node");
            return Err(Refusal::new(Rule::Peer, "(not read)", problem).into());
        };
        self.check(&chain(leaf, intermediates), PeerRole::Server, &expected, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for MeshVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Each node has one certificate; hints would only tell strangers about our roots.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(&chain(leaf, intermediates), PeerRole::Client, &Expected::Any, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
