//! The certificate authority of one data directory: `ca.pem` and `ca.key`, P-256, valid for one year (R36).
//!
//! Its name and key identifier are derived from the key, so the key alone is enough to issue leaves; only the dates are
//! read from `ca.pem`. Every start verifies that the two files belong together.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::provider;
use super::validity::Validity;
use bursar_core::clock;
use bursar_core::host::Host;
use bursar_home::{self as home, Home, HomeError, Readers};

const DAY: Duration = Duration::from_secs(86_400);
const LIFE: Duration = Duration::from_secs(365 * 86_400);
/// Of a leaf: 7 days, counted from one day ago (R36).
const LEAF_LIFE: Duration = Duration::from_secs(7 * 86_400);
const WARNING: Duration = Duration::from_secs(30 * 86_400);

/// A key and a certificate that were verified to belong together.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    validity: Validity,
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{path} cannot be used: {why}; create a new pair with `bursar ca rotate`", path = path.display())]
    Unusable { path: PathBuf, why: String },
    #[error(
        "{path} does not match the ca.key beside it; restore the right file, \
         or create a new pair with `bursar ca rotate`",
        path = path.display()
    )]
    Mismatch { path: PathBuf },
    #[error("{path} expired on {not_after}; create a new pair with `bursar ca rotate`", path = path.display())]
    Expired { path: PathBuf, not_after: Timestamp },
    #[error("a certificate could not be created: {0}")]
    Making(#[from] rcgen::Error),
    #[error("the operating system gave no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Home(#[from] HomeError),
}

impl Authority {
    /// Creates `ca.key`, `ca.pem` and `bundle.pem`; fails if a key or certificate exists already.
    pub fn create(home: &Home, now: Timestamp) -> Result<Self, AuthorityError> {
        let fresh = Fresh::make(now)?;
        home::write_new(&home.ca_key(), fresh.key_pem.as_bytes(), Readers::Owner)?;
        home::write_new(
            &home.ca_certificate(),
            fresh.certificate_pem.as_bytes(),
            Readers::Everyone,
        )?;
        write_bundle(home, &fresh.certificate_pem)?;
        Self::load(home, now)
    }

    /// Reads the pair, and verifies a leaf signed with the key against the certificate, as an agent will.
    pub fn load(home: &Home, now: Timestamp) -> Result<Self, AuthorityError> {
        let (key_path, path) = (home.ca_key(), home.ca_certificate());
        let key = KeyPair::from_pem(&home::read_secret(&key_path)?).map_err(|why| unusable(&key_path, why))?;
        let pem = fs::read(&path).map_err(|source| home::failed("read", &path, source))?;
        let certificate = CertificateDer::from_pem_slice(&pem).map_err(|why| unusable(&path, why))?;
        let validity = Validity::of(&certificate).ok_or_else(|| unusable(&path, "it is not a certificate"))?;
        if validity.not_after <= now {
            return Err(AuthorityError::Expired {
                path,
                not_after: validity.not_after,
            });
        }
        let authority = Self {
            issuer: Issuer::new(parameters(&key), key),
            certificate,
            validity,
        };
        match authority.proves_itself(now) {
            Err(AuthorityError::Tls(_)) => Err(AuthorityError::Mismatch { path }),
            outcome => outcome.map(|()| authority),
        }
    }

    /// Replaces the pair and the bundle. The old files are kept as `ca-<time>.pem.old` and `ca-<time>.key.old`; they
    /// need not be readable. A running `serve` uses the old pair until it is restarted.
    pub fn rotate(home: &Home, now: Timestamp) -> Result<Self, AuthorityError> {
        let fresh = Fresh::make(now)?;
        let time = now.strftime("%Y%m%dT%H%M%SZ");
        for (path, kind) in [(home.ca_key(), "key"), (home.ca_certificate(), "pem")] {
            let backup = home.root().join(format!("ca-{time}.{kind}.old"));
            match fs::hard_link(&path, &backup) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => outcome.map_err(|source| home::failed("create", &backup, source))?,
            }
        }
        home::write_atomic(&home.ca_key(), fresh.key_pem.as_bytes(), Readers::Owner)?;
        home::write_atomic(
            &home.ca_certificate(),
            fresh.certificate_pem.as_bytes(),
            Readers::Everyone,
        )?;
        write_bundle(home, &fresh.certificate_pem)?;
        Self::load(home, now)
    }

    pub fn not_before(&self) -> Timestamp {
        self.validity.not_before
    }

    pub fn not_after(&self) -> Timestamp {
        self.validity.not_after
    }

    /// True in the last 30 days, in which every start warns (R36).
    pub fn expires_soon(&self, now: Timestamp) -> bool {
        now.saturating_add(WARNING)
            .is_ok_and(|then| then >= self.validity.not_after)
    }

    /// SHA-256 of the certificate as `AB:CD:…`, the form that browsers and `openssl x509 -fingerprint` show.
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(&self.certificate);
        digest
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect::<Vec<_>>()
            .join(":")
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    fn proves_itself(&self, now: Timestamp) -> Result<(), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let host = Host::from(std::net::Ipv4Addr::LOCALHOST);
        let (leaf, _) = mint(self, &key, &host, now)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let name = ServerName::from(std::net::IpAddr::from(std::net::Ipv4Addr::LOCALHOST));
        verifier.verify_server_cert(&leaf, &[], &name, &[], unix_time(now))?;
        Ok(())
    }
}

/// A new pair that is not on disk yet.
struct Fresh {
    key_pem: Zeroizing<String>,
    certificate_pem: String,
}

impl Fresh {
    fn make(now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = parameters(&key);
        parameters.serial_number = Some(random_serial()?);
        // One day of slack for clocks that are behind ours.
        let validity = Validity {
            not_before: now - DAY,
            not_after: now + LIFE,
        };
        set_dates(&mut parameters, validity);
        Ok(Self {
            certificate_pem: parameters.self_signed(&key)?.pem(),
            key_pem: Zeroizing::new(key.serialize_pem()),
        })
    }
}

/// Issues a server certificate for exactly one DNS name or address; for an IPv4 address in both its spellings, because a
/// client that asked for `::ffff:192.0.2.1` looks for that. It expires no later than the authority.
pub(super) fn mint(
    authority: &Authority,
    key: &KeyPair,
    host: &Host,
    now: Timestamp,
) -> Result<(CertificateDer<'static>, Validity), AuthorityError> {
    let validity = Validity {
        not_before: now - DAY,
        not_after: (now - DAY + LEAF_LIFE).min(authority.not_after()),
    };
    let mut parameters = CertificateParams::default();
    // Empty, so that the alternative name is marked critical (RFC 5280 §4.2.1.6).
    parameters.distinguished_name = DistinguishedName::new();
    parameters.subject_alt_names = match host.ip() {
        Some(IpAddr::V4(address)) => vec![
            SanType::IpAddress(address.into()),
            SanType::IpAddress(address.to_ipv6_mapped().into()),
        ],
        Some(address) => vec![SanType::IpAddress(address)],
        None => vec![SanType::DnsName(host.as_str().try_into()?)],
    };
    parameters.serial_number = Some(random_serial()?);
    set_dates(&mut parameters, validity);
    parameters.is_ca = IsCa::NoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Strict verifiers require it, Python 3.13 and later among them.
    parameters.use_authority_key_identifier_extension = true;
    let certificate = parameters.signed_by(key, &authority.issuer)?;
    Ok((certificate.der().clone(), validity))
}

/// The parameters that follow from the key alone. The key identifier is set explicitly so that the authority key
/// identifier of leaves equals the subject key identifier here byte for byte; strict verifiers compare them.
fn parameters(key: &KeyPair) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    let identifier = parameters.key_identifier(key);
    let short: String = identifier.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CommonName, format!("bursar CA {short}"));
    parameters.key_identifier_method = KeyIdMethod::PreSpecified(identifier);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    parameters
}

/// 16 bytes, positive and of fixed length: the first byte is 0x40 to 0x7f, so 126 bits are random. rcgen's default is a
/// hash of the key, and all leaves share one key, so their serial numbers would be equal.
fn random_serial() -> Result<SerialNumber, getrandom::Error> {
    let mut serial = clock::random::<16>()?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

/// rcgen's defaults are the years 1975 and 4096. Its date type comes from a crate that is not a dependency of ours.
fn set_dates(parameters: &mut CertificateParams, validity: Validity) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + unix_duration(validity.not_before);
    parameters.not_after = epoch + unix_duration(validity.not_after);
}

fn unix_duration(at: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0))
}

fn unix_time(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(unix_duration(at))
}

/// Our certificate first, then the public roots: most environment variables for trust replace a tool's own roots, and
/// hosts that bypass the proxy (`NO_PROXY`) must keep working.
fn write_bundle(home: &Home, certificate_pem: &str) -> Result<(), HomeError> {
    let mut bundle = certificate_pem.to_string();
    for root in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        bundle += "-----BEGIN CERTIFICATE-----\n";
        let encoded = STANDARD.encode(root);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, left) = rest.split_at(rest.len().min(64));
            bundle += line;
            bundle.push('\n');
            rest = left;
        }
        bundle += "-----END CERTIFICATE-----\n";
    }
    home::write_atomic(&home.bundle(), bundle.as_bytes(), Readers::Everyone)
}

fn unusable(path: &Path, why: impl ToString) -> AuthorityError {
    AuthorityError::Unusable {
        path: path.into(),
        why: why.to_string(),
    }
}
