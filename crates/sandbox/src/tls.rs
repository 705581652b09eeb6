//! A certificate authority and one leaf, made for one sandbox. The authority's key is never stored.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use zeroize::Zeroizing;

use bursar_core::clock;

/// How long both certificates are valid. Clients reject leaves valid for more than 398 days.
const VALIDITY_DAYS: i64 = 365;

/// The seller's certificate with its key, and the authority that clients have to trust.
pub struct Identity {
    /// Leaf, authority and the leaf's key, in this order. Whoever has it can pass for the sandbox, and for nothing else.
    pem: Zeroizing<String>,
    /// The authority's certificate, as PEM.
    ca_pem: String,
}

/// Why no identity could be created: a name that is not valid in a certificate, or a failure of this machine.
#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("could not create the sandbox's certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("could not use the sandbox's certificate: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the file with the sandbox's certificate is damaged; delete it, and a new one is made")]
    Damaged,
    #[error("the operating system gave no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

impl Identity {
    /// Creates a leaf for `localhost`, the loopback addresses and `names`, for h2 and HTTP/1.1.
    ///
    /// Uses the system's time, not the sandbox's clock, because clients check certificates against their own.
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
        let leaf_pem = leaf.signed_by(&leaf_key, &issuer)?.pem();
        let key_pem = Zeroizing::new(leaf_key.serialize_pem());
        let pem = Zeroizing::new(format!("{leaf_pem}{ca_pem}{}", *key_pem));
        Ok(Self { pem, ca_pem })
    }

    /// Reads what [`Identity::pem`] gave, so that a sandbox that starts again has the same authority.
    pub fn read(pem: &str) -> Result<Self, IdentityError> {
        let end = "-----END CERTIFICATE-----\n";
        let ca_pem = pem
            .split_inclusive(end)
            .nth(1)
            .ok_or(IdentityError::Damaged)?
            .to_owned();
        let read = Self {
            pem: Zeroizing::new(pem.to_owned()),
            ca_pem,
        };
        read.server()?;
        Ok(read)
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The listener's TLS configuration, for h2 and HTTP/1.1.
    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.pem.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(self.pem.as_bytes());
        let (Ok(chain), Ok(key)) = (chain, key) else {
            return Err(IdentityError::Damaged);
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(server))
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// Sets both dates and a random serial: rcgen's default serial is a hash of the key, and its default dates span
/// centuries.
fn date(params: &mut CertificateParams, now: Timestamp) -> Result<(), IdentityError> {
    let mut serial = clock::random::<16>()?;
    // Positive in DER, and always 16 bytes long.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let day = |offset: i64| {
        let at = now
            .saturating_add(SignedDuration::from_hours(24 * offset))
            .unwrap_or(now)
            .to_zoned(TimeZone::UTC);
        rcgen::date_time_ymd(i32::from(at.year()), at.month().unsigned_abs(), at.day().unsigned_abs())
    };
    // One day back, for clients whose clock is behind.
    params.not_before = day(-1);
    params.not_after = day(VALIDITY_DAYS);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_that_was_stored_is_the_same_one() {
        let made = Identity::generate(&["shop".to_owned()]).unwrap();
        let read = Identity::read(made.pem()).unwrap();
        assert_eq!((read.pem(), read.ca_pem()), (made.pem(), made.ca_pem()));
        assert!(CertificateDer::from_pem_slice(made.ca_pem().as_bytes()).is_ok());
    }

    #[test]
    fn a_damaged_one_is_not_taken() {
        let made = Identity::generate(&[]).unwrap();
        for damaged in ["", made.ca_pem(), &made.pem().replace("PRIVATE KEY", "PUBLIC KEY")] {
            assert!(
                matches!(Identity::read(damaged), Err(IdentityError::Damaged)),
                "{damaged}"
            );
        }
    }
}
