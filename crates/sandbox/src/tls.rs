//! A throw-away certificate authority and one leaf, made when the sandbox starts and gone with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;

use bursar_core::clock;

/// How long both certificates are good for. Clients refuse leaves above 398 days.
const VALIDITY_DAYS: i64 = 365;

/// What a listener needs, and what a client has to trust.
pub struct Identity {
    pub server: Arc<ServerConfig>,
    /// The authority's certificate, PEM.
    pub ca_pem: String,
}

/// Why no identity could be made: a name that cannot stand in a certificate, or a fault of this machine.
#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("could not make the sandbox's certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("could not use the sandbox's certificate: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the operating system gave no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

impl Identity {
    /// A leaf for `localhost`, the loopback addresses and `names`, offered for h2 and HTTP/1.1.
    ///
    /// Takes the system's time, not the sandbox's clock: clients judge certificates by theirs.
    pub fn generate(names: &[String]) -> Result<Self, IdentityError> {
        let now = Timestamp::now();
        let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.distinguished_name = common_name("bursar sandbox CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        date(&mut ca, now)?;
        let ca_certificate = ca.self_signed(&ca_key)?;
        let ca_pem = ca_certificate.pem();
        let ca_der = ca_certificate.der().clone();
        let issuer = Issuer::new(ca, ca_key);

        let mut subjects = vec![
            "localhost".to_owned(),
            IpAddr::from(Ipv4Addr::LOCALHOST).to_string(),
            IpAddr::from(Ipv6Addr::LOCALHOST).to_string(),
        ];
        subjects.extend(names.iter().filter(|name| *name != "localhost").cloned());
        let leaf_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut leaf = CertificateParams::new(subjects)?;
        leaf.distinguished_name = common_name("bursar sandbox");
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        date(&mut leaf, now)?;
        let leaf_der = leaf.signed_by(&leaf_key, &issuer)?.der().clone();

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf_der, ca_der], key)?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            server: Arc::new(server),
            ca_pem,
        })
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// Both dates and a random serial: rcgen's own serial is a hash of the key, and its dates span centuries.
fn date(params: &mut CertificateParams, now: Timestamp) -> Result<(), IdentityError> {
    let mut serial = clock::random::<16>()?;
    // Positive in DER, and never shorter than it looks.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let day = |offset: i64| {
        let at = now
            .saturating_add(SignedDuration::from_hours(24 * offset))
            .unwrap_or(now)
            .to_zoned(TimeZone::UTC);
        rcgen::date_time_ymd(i32::from(at.year()), at.month().unsigned_abs(), at.day().unsigned_abs())
    };
    // A day back, for clients whose clock is behind.
    params.not_before = day(-1);
    params.not_after = day(VALIDITY_DAYS);
    Ok(())
}
