//! Verified TLS to origins and services. No setting turns verification off (threat 2.11).

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub use super::fault::{CertificateFault, ClientCertificate, HandshakeError};
use super::site::{self, NoIdentity, SiteTrust};
use super::trust::accepted_for_a_site;
pub use super::trust::{PublicRoots, Trust, TrustError, roots, roots_in};
pub use super::verifier::Accepted;
use super::{Alpn, AlpnOffer, provider};
use crate::corporate::CorporateProxy;
use bursar_core::host::Host;
use bursar_core::policy::HostPattern;

const REMEMBERED_SESSIONS: usize = 1024;
/// Of the sites of one section.
const REMEMBERED_OF_A_SITE: usize = 32;

/// How sites are verified, and what they are shown. Sessions are resumed by the holder of the same value: one agent, or
/// bursar itself towards its services (R36).
pub struct UpstreamTls {
    usual: Offers,
    /// The most exact pattern first.
    sites: Vec<(HostPattern, Offers)>,
    patience: Duration,
    /// Bursar's own services are reached through it.
    proxy: Option<Arc<CorporateProxy>>,
}

/// Client configurations, one per ALPN offer, so that the origin sees the agent's own list.
struct Offers([Arc<ClientConfig>; AlpnOffer::ALL.len()]);

impl UpstreamTls {
    /// `patience` limits one handshake (`[timeouts] tls_s`).
    pub fn new(trust: &Trust, patience: Duration) -> Result<Self, TrustError> {
        Ok(Self {
            usual: Offers::of(&client_config(roots(trust)?)?, REMEMBERED_SESSIONS),
            sites: Vec::new(),
            patience,
            proxy: None,
        })
    }

    /// The same, but for some sites. If several sections name a host, the most exact one counts.
    pub fn with_sites(&self, trust: &Trust, sections: &[SiteTrust]) -> Result<Self, TrustError> {
        let mut sites = Vec::with_capacity(sections.len());
        for section in sections {
            let accepted = match &section.ca {
                Some(path) => accepted_for_a_site(path)?,
                None => roots(trust)?,
            };
            let mut config = client_config(accepted)?;
            if let Some(identity) = &section.identity {
                config.client_auth_cert_resolver = identity.presented();
            }
            sites.push((section.hosts.clone(), Offers::of(&config, REMEMBERED_OF_A_SITE)));
        }
        // Stable: two sections of equal exactness cannot both match.
        sites.sort_by_key(|(hosts, _)| match hosts {
            HostPattern::Exact(_) => (0, 0),
            HostPattern::Below(apex) => (1, usize::MAX - apex.as_str().len()),
        });
        Ok(Self { sites, ..self.apart() })
    }

    /// The same trust, without a session in common. A site that sees a session resumed takes both connections for one
    /// client, and may remember what the first one logged in as.
    pub fn apart(&self) -> Self {
        Self {
            usual: self.usual.apart(REMEMBERED_SESSIONS),
            sites: self
                .sites
                .iter()
                .map(|(hosts, offers)| (hosts.clone(), offers.apart(REMEMBERED_OF_A_SITE)))
                .collect(),
            patience: self.patience,
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
                .map_err(|_| HandshakeError::Certificate(CertificateFault::WrongName(Vec::new())))?,
        };
        let handshake = TlsConnector::from(self.offers_for(host).config(offer)).connect(name, stream);
        match tokio::time::timeout(self.patience, site::noticing(handshake)).await {
            Err(_) => Err(HandshakeError::Timeout),
            Ok((Err(error), asked)) => Err(HandshakeError::of(error, asked)),
            Ok((Ok(mut stream), asked)) => {
                if asked {
                    let settled = site::settled(&mut stream).await;
                    settled.map_err(|error| HandshakeError::of(error, asked))?;
                }
                let alpn = Alpn::negotiated(stream.get_ref().1.alpn_protocol());
                Ok((stream, alpn))
            }
        }
    }

    /// For services that the operator has configured, for which no section counts.
    pub fn config(&self, offer: AlpnOffer) -> Arc<ClientConfig> {
        self.usual.config(offer)
    }

    fn offers_for(&self, host: &Host) -> &Offers {
        let own = self.sites.iter().find(|(hosts, _)| hosts.matches(host.as_str()));
        own.map_or(&self.usual, |(_, offers)| offers)
    }
}

impl Offers {
    /// All of them share the sessions; if an offer does not fit a session's protocol, the origin negotiates anew.
    fn of(config: &ClientConfig, remembered: usize) -> Self {
        let sessions = Resumption::in_memory_sessions(remembered);
        Self(AlpnOffer::ALL.map(|offer| {
            let mut config = config.clone();
            config.resumption = sessions.clone();
            config.alpn_protocols = offer.identifiers();
            Arc::new(config)
        }))
    }

    fn apart(&self, remembered: usize) -> Self {
        let Self([config, ..]) = self;
        Self::of(config, remembered)
    }

    fn config(&self, offer: AlpnOffer) -> Arc<ClientConfig> {
        self.0[offer as usize].clone()
    }
}

/// A client configuration that accepts these certificates and presents none of its own.
pub fn client_config(accepted: Accepted) -> Result<ClientConfig, TrustError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(accepted.verifier()?)
        .with_no_client_auth();
    config.client_auth_cert_resolver = Arc::new(NoIdentity);
    Ok(config)
}
