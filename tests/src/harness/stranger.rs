//! Somebody at the door who believes everything and shows any certificate, or none.
//!
//! A `mesh` process with a bad certificate checks its peer first, and may hang up
//! before its own certificate is looked at. A stranger does not, so that it is
//! always the node that decides.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use mesh_transport::ca::DevLeaf;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// Longest wait for each answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// The start of every HTTP/2 connection: the preface and an empty SETTINGS frame (RFC 9113, section 3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const HTTP1: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: mesh\r\n\r\n";

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Knock {
    /// The node answered on the protocol that was asked for.
    Welcome,
    /// The node closed the connection; in its words, if it had any.
    Refused(String),
}

/// Knocks over TCP and TLS with this certificate, and asks for an application protocol.
///
/// # Errors
///
/// Nobody listens there, or the node neither answers nor refuses.
pub fn knock(address: SocketAddr, leaf: Option<&DevLeaf>, protocol: &[u8]) -> Result<Knock> {
    let tcp = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from("mesh").context("the name is a valid one")?;
    let connection = ClientConnection::new(Arc::new(config(leaf, protocol)?), name)?;
    let mut stream = StreamOwned::new(connection, tcp);
    let words = if protocol.starts_with(b"http/1") { HTTP1 } else { HTTP2 };
    // In TLS 1.3 the client is done before its certificate is looked at: the answer tells.
    let answer = stream.write_all(words).and_then(|()| stream.read(&mut [0; 64]));
    match answer {
        Ok(1..) => Ok(Knock::Welcome),
        Ok(0) => Ok(Knock::Refused("closed".to_owned())),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
        {
            bail!("{address} neither answered nor refused within {PATIENCE:?}")
        }
        Err(error) => Ok(Knock::Refused(error.to_string())),
    }
}

fn config(leaf: Option<&DevLeaf>, protocol: &[u8]) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(provider)));
    let mut config = match leaf {
        Some(leaf) => {
            let material = &leaf.material;
            builder.with_client_auth_cert(material.certificates.clone(), material.key.clone_key())?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

/// Takes any server for what it says it is.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
