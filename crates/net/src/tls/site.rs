//! Sites that need something of their own: another CA, or a certificate of ours (`[[upstream.site]]`).

use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, SignatureScheme};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::provider;
use super::trust::{TrustError, read_certificates};
use bursar_core::policy::HostPattern;

/// One section.
#[derive(Debug, Clone)]
pub struct SiteTrust {
    pub hosts: HostPattern,
    /// PEM file: what it contains is accepted for these sites, and nothing else.
    pub ca: Option<PathBuf>,
    pub identity: Option<Identity>,
}

/// The certificate and the key by which the site knows us. Its `Debug` shows neither.
#[derive(Clone)]
pub struct Identity(Arc<CertifiedKey>);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// A PEM file with the certificate, followed by its issuers' if there are any, and the text of a PEM file with its key.
    pub fn read(certificates: &Path, key: &str) -> Result<Self, TrustError> {
        let unusable = |why: String| TrustError::ClientCertificate {
            path: certificates.to_owned(),
            why,
        };
        let chain = read_certificates(certificates).map_err(unusable)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| {
            unusable(
                "its client_key is not a PEM file with an unencrypted private key (PKCS #8, PKCS #1 or SEC 1)".into(),
            )
        })?;
        let made = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
            unusable(match error {
                rustls::Error::InconsistentKeys(_) => "its client_key is the key of another certificate".into(),
                _ => "the certificate or its client_key is of a kind that bursar does not support".into(),
            })
        })?;
        Ok(Self(Arc::new(made)))
    }

    pub(super) fn presented(&self) -> Arc<dyn ResolvesClientCert> {
        Arc::new(Presented(self.0.clone()))
    }
}

#[derive(Debug)]
struct Presented(Arc<CertifiedKey>);

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

tokio::task_local! {
    /// Whether the site has asked for a certificate in the handshake that is polled.
    static ASKED: Arc<AtomicBool>;
}

/// Presents no certificate, and remembers that one was asked for. rustls resumes sessions only with the very same
/// resolver, so what it finds out cannot be kept in a resolver of each connection.
#[derive(Debug)]
pub(super) struct NoIdentity;

impl ResolvesClientCert for NoIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let _ = ASKED.try_with(|asked| asked.store(true, Ordering::Relaxed));
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Runs a handshake; says as well whether the site asked for a certificate that it did not get.
pub(super) async fn noticing<F: Future>(handshake: F) -> (F::Output, bool) {
    let asked = Arc::new(AtomicBool::new(false));
    let output = ASKED.scope(asked.clone(), handshake).await;
    (output, asked.load(Ordering::Relaxed))
}

/// Waits until a site that asked for a certificate and got none has shown what it makes of that. In TLS 1.3 it says so only
/// after the client's handshake, and by then a request may be on its way that would be lost without a reason.
pub(super) async fn settled<S>(stream: &mut TlsStream<S>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// A site that can do without one, and sends no ticket, says nothing until it is asked something.
    const SOON: Duration = Duration::from_secs(1);
    if stream.get_ref().1.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Ok(());
    }
    let settled = poll_fn(|cx| {
        let read = Pin::new(&mut *stream).poll_fill_buf(cx);
        match read.map_ok(<[u8]>::is_empty) {
            Poll::Ready(Ok(true)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(read) => Poll::Ready(read.map(|_| ())),
            // A ticket is for those that are welcome.
            Poll::Pending if stream.get_ref().1.tls13_tickets_received() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    });
    timeout(SOON, settled).await.unwrap_or(Ok(()))
}
