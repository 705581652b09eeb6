//! Certificates for the hosts that agents visit, issued on demand, and the server side of their TLS.
//!
//! There is one leaf key per process, never the authority's. Certificates are cached; server configurations need not
//! be, since three of them serve every host by SNI.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use quick_cache::sync::Cache;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};

use super::authority::{Authority, AuthorityError, mint};
use super::validity::Validity;
use super::{Alpn, agents_provider, provider};
use bursar_core::clock::SharedClock;
use bursar_core::host::Host;

const DAY: Duration = Duration::from_secs(86_400);
/// About 0.7 KiB each.
const CACHED: usize = 10_000;

/// The leaf certificates of this process.
pub struct Leaves {
    authority: Authority,
    key: KeyPair,
    signer: Arc<dyn SigningKey>,
    cache: Cache<Host, Leaf>,
    clock: SharedClock,
}

#[derive(Clone)]
struct Leaf {
    certified: Arc<CertifiedKey>,
    validity: Validity,
}

impl Leaves {
    pub fn new(authority: Authority, clock: SharedClock) -> Result<Self, AuthorityError> {
        Self::with_room_for(CACHED, authority, clock)
    }

    fn with_room_for(hosts: usize, authority: Authority, clock: SharedClock) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let encoded = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Self {
            signer: provider().key_provider.load_private_key(encoded)?,
            authority,
            key,
            cache: Cache::new(hosts),
            clock,
        })
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The certificate for `host`, issued now if there is none with more than a day left. Simultaneous first visits
    /// share one certificate.
    pub fn for_host(&self, host: &Host) -> Result<Arc<CertifiedKey>, AuthorityError> {
        let now = self.clock.now();
        if let Some(leaf) = self.cache.get(host) {
            if leaf.is_fresh(now) {
                return Ok(leaf.certified);
            }
            self.cache.remove_if(host, |leaf| !leaf.is_fresh(now));
        }
        let leaf = self.cache.get_or_insert_with(host, || {
            let (certificate, validity) = mint(&self.authority, &self.key, host, now)?;
            let certified = CertifiedKey::new(vec![certificate], self.signer.clone());
            Ok::<_, AuthorityError>(Leaf {
                certified: Arc::new(certified),
                validity,
            })
        })?;
        Ok(leaf.certified)
    }
}

impl Leaf {
    /// Also false before `not_before`: the clock was set back.
    fn is_fresh(&self, now: Timestamp) -> bool {
        self.validity.not_before <= now && now + DAY < self.validity.not_after
    }
}

/// Server configurations for intercepted tunnels, by what was negotiated with the origin.
pub struct ServerConfigs {
    leaves: Arc<Leaves>,
    absent: Arc<ServerConfig>,
    http1: Arc<ServerConfig>,
    http2: Arc<ServerConfig>,
}

impl ServerConfigs {
    pub fn new(leaves: Arc<Leaves>) -> Result<Self, AuthorityError> {
        let shared = |alpn| -> Result<_, AuthorityError> {
            let mut config = config(Arc::new(BySni(leaves.clone())), alpn)?;
            // Stateless, so memory does not grow with the agents' connections.
            config.ticketer = Ticketer::new()?;
            Ok(Arc::new(config))
        };
        Ok(Self {
            absent: shared(Alpn::Absent)?,
            http1: shared(Alpn::Http1)?,
            http2: shared(Alpn::Http2)?,
            leaves,
        })
    }

    /// For a ClientHello whose SNI equals the CONNECT host.
    pub fn by_sni(&self, alpn: Alpn) -> Arc<ServerConfig> {
        match alpn {
            Alpn::Absent => &self.absent,
            Alpn::Http1 => &self.http1,
            Alpn::Http2 => &self.http2,
        }
        .clone()
    }

    /// For a ClientHello without SNI, as with every IP address: the CONNECT host decides. Built per connection and
    /// without resumption, since a ticket would not be bound to the host.
    pub fn for_host(&self, host: &Host, alpn: Alpn) -> Result<Arc<ServerConfig>, AuthorityError> {
        let mut config = config(Arc::new(Fixed(self.leaves.for_host(host)?)), alpn)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// The TLS configuration of the proxy's own listener, for agents on other machines (R56). HTTP/1.1 only, which is
/// enough for CONNECT.
pub fn listener_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, ListenerTlsError> {
    let unusable = |path: &Path, why: String| ListenerTlsError::File {
        path: path.to_owned(),
        why,
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(certificate, error.to_string()))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(agents_provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, secret)?;
    config.alpn_protocols = Alpn::Http1.identifiers();
    config.ignore_client_order = true;
    Ok(Arc::new(config))
}

/// Why the listener's TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ListenerTlsError {
    #[error("{path} cannot be used: {why}", path = path.display())]
    File { path: PathBuf, why: String },
    #[error("the certificate and key cannot be used together: {0}")]
    Tls(#[from] rustls::Error),
}

fn config(resolver: Arc<dyn ResolvesServerCert>, alpn: Alpn) -> Result<ServerConfig, AuthorityError> {
    let mut config = ServerConfig::builder_with_provider(agents_provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = alpn.identifiers();
    // Our order is the cheapest one; many clients list the dearest suite first.
    config.ignore_client_order = true;
    // One serves for the agent's next connection, and brings another one.
    config.send_tls13_tickets = 1;
    Ok(config)
}

struct BySni(Arc<Leaves>);

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = Host::parse(hello.server_name()?).ok()?;
        match self.0.for_host(&host) {
            Ok(certified) => Some(certified),
            Err(error) => {
                tracing::error!(%host, %error, "issuing a certificate for this host failed");
                None
            }
        }
    }
}

struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

// rustls requires Debug; keys stay out of it.
impl fmt::Debug for BySni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BySni")
    }
}

impl fmt::Debug for Fixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fixed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bursar_core::clock::SystemClock;
    use bursar_home::Home;

    #[test]
    fn certificates_of_many_hosts_are_not_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        home.create().unwrap();
        let clock: SharedClock = Arc::new(SystemClock);
        let authority = Authority::create(&home, clock.now()).unwrap();
        let leaves = Leaves::with_room_for(16, authority, clock).unwrap();
        for number in 0..100 {
            let host = Host::parse(&format!("h{number}.example.com")).unwrap();
            leaves.for_host(&host).unwrap();
            assert!(leaves.cache.len() <= 16);
        }
        assert!(leaves.cache.len() > 1);
    }
}
