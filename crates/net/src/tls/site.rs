//! Sites that need something of their own: another CA, or a certificate of ours (`[[upstream.site]]`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;

use super::provider;
use super::upstream::{TrustError, read_certificates};
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
            unusable("its client_key is not a PEM file with an unencrypted private key (PKCS #8, PKCS #1 or SEC 1)".into())
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
