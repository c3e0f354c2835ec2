//! TLS to PostgreSQL, by rustls.

use std::{
    future::Future,
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use mesh_core::store::StoreError;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{
    CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName,
    pem::{self, PemObject},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::TlsConnector;

use super::config::PostgresTlsConfig;

/// Makes TLS connections whose server is checked.
#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

impl Tls {
    /// Reads the files; `None` if the settings name no roots.
    pub(super) fn new(config: &PostgresTlsConfig) -> Result<Option<Self>, StoreError> {
        let Some(roots) = &config.trust_bundle else { return Ok(None) };
        let mut store = RootCertStore::empty();
        for root in certificates("trust_bundle", roots)? {
            store.add(root).map_err(|error| invalid("trust_bundle", roots, &error))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid("trust_bundle", roots, &error))?
            .with_root_certificates(store);
        let client = match (&config.certificate, &config.key) {
            (Some(certificate), Some(path)) => {
                let key = PrivateKeyDer::from_pem_file(path).map_err(|error| invalid("key", path, &error))?;
                builder
                    .with_client_auth_cert(certificates("certificate", certificate)?, key)
                    .map_err(|error| invalid("certificate", certificate, &error))?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Some(Self(TlsConnector::from(Arc::new(client)))))
    }
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, pem::Error>>);
    let read = read.map_err(|error| invalid(setting, path, &error))?;
    if read.is_empty() { Err(invalid(setting, path, &"it has no certificate")) } else { Ok(read) }
}

fn invalid(setting: &str, path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Invalid {
        what: "setting of registry.postgres.tls",
        problem: format!("{setting}: {}: {error}", path.display()),
    }
}

/// What connects to one server.
pub(super) struct Connect {
    connector: TlsConnector,
    server: ServerName<'static>,
}

impl<S> MakeTlsConnect<S> for Tls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type TlsConnect = Connect;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Connect, InvalidDnsNameError> {
        let server = ServerName::try_from(domain)?.to_owned();
        Ok(Connect { connector: self.0.clone(), server })
    }
}

impl<S> TlsConnect<S> for Connect
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { self.connector.connect(self.server, stream).await.map(Stream) })
    }
}

/// A connection inside TLS.
pub(super) struct Stream<S>(tokio_rustls::client::TlsStream<S>);

impl<S> tokio_postgres::tls::TlsStream for Stream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn channel_binding(&self) -> ChannelBinding {
        // The server is checked by its certificate.
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
