//! Verified TLS to origins and services. No setting turns verification off (threat 2.11).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Alpn, AlpnOffer, provider};
use crate::corporate::CorporateProxy;
use bursar_core::host::Host;

const REMEMBERED_SESSIONS: usize = 1024;

/// Whose certificates are accepted.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// `upstream.extra_ca`: PEM files, added to the public roots.
    pub extra_ca: Vec<PathBuf>,
    pub roots: PublicRoots,
}

/// Which public roots are accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PublicRoots {
    /// Mozilla's, built into the program, because a minimal container image has none.
    #[default]
    Bundled,
    /// The machine's own and no others, so that a root its operator removed stays removed.
    Machine,
}

#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("upstream.extra_ca: {path} cannot be used: {why}", path = path.display())]
    ExtraCa { path: PathBuf, why: String },
    #[error("ca: {path} cannot be used: {why}", path = path.display())]
    StoreCa { path: PathBuf, why: String },
    #[error("the system's root certificates cannot be read: {0}")]
    System(String),
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Client configurations, one per ALPN offer, so that the origin sees the agent's own list. Sessions are resumed by
/// the holder of the same value: one agent, or bursar itself towards its services (R36).
pub struct UpstreamTls {
    configs: [Arc<ClientConfig>; AlpnOffer::ALL.len()],
    patience: Duration,
    /// Bursar's own services are reached through it.
    proxy: Option<Arc<CorporateProxy>>,
}

impl UpstreamTls {
    /// `patience` limits one handshake (`[timeouts] tls_s`).
    pub fn new(trust: &Trust, patience: Duration) -> Result<Self, TrustError> {
        Ok(Self::with_no_sessions(&client_config(roots(trust)?)?, patience))
    }

    /// The same trust, without a session in common. A site that sees a session resumed takes both connections for one
    /// client, and may remember what the first one logged in as.
    pub fn apart(&self) -> Self {
        let [config, ..] = &self.configs;
        Self::with_no_sessions(config, self.patience)
    }

    fn with_no_sessions(config: &ClientConfig, patience: Duration) -> Self {
        let sessions = Resumption::in_memory_sessions(REMEMBERED_SESSIONS);
        Self {
            // All offers share them; if an offer does not fit a session's protocol, the origin negotiates anew.
            configs: AlpnOffer::ALL.map(|offer| {
                let mut config = config.clone();
                config.resumption = sessions.clone();
                config.alpn_protocols = offer.identifiers();
                Arc::new(config)
            }),
            patience,
            proxy: None,
        }
    }

    /// Bursar's own services (nodes, Stripe, identity servers, webhooks) are reached through this proxy.
    pub fn through(self, proxy: Option<Arc<CorporateProxy>>) -> Self {
        Self { proxy, ..self }
    }

    pub const fn proxy(&self) -> Option<&Arc<CorporateProxy>> {
        self.proxy.as_ref()
    }

    /// Performs the handshake as a client of `host`; the certificate must be valid for that name or address.
    pub async fn connect<S>(
        &self,
        stream: S,
        host: &Host,
        offer: AlpnOffer,
    ) -> Result<(TlsStream<S>, Alpn), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match host.ip() {
            Some(address) => ServerName::from(address),
            None => ServerName::try_from(host.as_str().to_string())
                .map_err(|_| HandshakeError::Certificate(CertificateFault::WrongName))?,
        };
        let handshake = TlsConnector::from(self.config(offer)).connect(name, stream);
        match tokio::time::timeout(self.patience, handshake).await {
            Err(_) => Err(HandshakeError::Timeout),
            Ok(Err(error)) => Err(HandshakeError::of(error)),
            Ok(Ok(stream)) => {
                let alpn = Alpn::negotiated(stream.get_ref().1.alpn_protocol());
                Ok((stream, alpn))
            }
        }
    }

    pub fn config(&self, offer: AlpnOffer) -> Arc<ClientConfig> {
        self.configs[offer as usize].clone()
    }
}

/// A client configuration that trusts `roots` and presents no certificate of its own.
pub fn client_config(roots: RootCertStore) -> Result<ClientConfig, TrustError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Only the certificates in a PEM file.
pub fn roots_in(path: &Path) -> Result<RootCertStore, TrustError> {
    let unusable = |why: String| TrustError::StoreCa {
        path: path.to_owned(),
        why,
    };
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path).map_err(unusable)? {
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    Ok(roots)
}

/// The roots that `trust` selects: the public ones and those in `extra_ca`.
pub fn roots(trust: &Trust) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    match trust.roots {
        PublicRoots::Bundled => {
            roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        }
        PublicRoots::Machine => add_machine_roots(&mut roots)?,
    }
    for path in &trust.extra_ca {
        let unusable = |why: String| TrustError::ExtraCa {
            path: path.clone(),
            why,
        };
        for certificate in read_certificates(path).map_err(unusable)? {
            roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
        }
    }
    Ok(roots)
}

fn add_machine_roots(roots: &mut RootCertStore) -> Result<(), TrustError> {
    let found = rustls_native_certs::load_native_certs();
    // Single unreadable files are normal there; with no certificate at all, nothing would be trusted.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(());
    }
    let why = found
        .errors
        .first()
        .map_or("none were found".into(), ToString::to_string);
    Err(TrustError::System(why))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| error.to_string())?;
    match certificates.is_empty() {
        true => Err("it contains no PEM certificate".into()),
        false => Ok(certificates),
    }
}

/// Why TLS with an origin failed. The text appears in the agent's 502 response.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the origin's certificate was not accepted: {0}")]
    Certificate(CertificateFault),
    #[error("the TLS handshake with the origin failed: {0}")]
    Protocol(rustls::Error),
    #[error("the connection to the origin failed during the TLS handshake: {0}")]
    Io(io::Error),
    #[error("the TLS handshake with the origin took too long")]
    Timeout,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateFault {
    Expired,
    NotYetValid,
    WrongName,
    UnknownIssuer,
    Revoked,
    /// Anything else, in rustls's words, which contain no text from the certificate.
    Other(String),
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "certificate expired",
            Self::NotYetValid => "certificate not valid yet",
            Self::WrongName => "not valid for name",
            Self::UnknownIssuer => "unknown issuer",
            Self::Revoked => "certificate revoked",
            Self::Other(text) => text,
        })
    }
}

impl HandshakeError {
    /// tokio-rustls wraps rustls's errors in I/O errors.
    fn of(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(rustls::Error::InvalidCertificate(error)) => Self::Certificate(CertificateFault::of(&error)),
            Ok(rustls::Error::NoCertificatesPresented) => {
                Self::Certificate(CertificateFault::Other("the origin presented no certificate".into()))
            }
            Ok(error) => Self::Protocol(error),
            Err(error) => Self::Io(error),
        }
    }
}

impl CertificateFault {
    fn of(error: &CertificateError) -> Self {
        use CertificateError::*;
        match error {
            Expired | ExpiredContext { .. } => Self::Expired,
            NotValidYet | NotValidYetContext { .. } => Self::NotYetValid,
            NotValidForName | NotValidForNameContext { .. } => Self::WrongName,
            UnknownIssuer => Self::UnknownIssuer,
            Revoked => Self::Revoked,
            BadEncoding => Self::Other("certificate malformed".into()),
            BadSignature => Self::Other("certificate signature invalid".into()),
            InvalidPurpose | InvalidPurposeContext { .. } => Self::Other("certificate not valid for a server".into()),
            other => Self::Other(other.to_string()),
        }
    }
}
