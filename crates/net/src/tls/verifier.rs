//! Whose certificates are accepted: those that a trusted CA vouches for, and exactly those that the operator has named.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, ProtocolVersion, RootCertStore, SignatureScheme,
};
use std::sync::Arc;

use super::certificate::{Certificate, Version};
use super::provider;
use super::validity::Validity;

/// CAs, and single certificates of sites.
#[derive(Debug)]
pub struct Accepted {
    authorities: RootCertStore,
    /// Certificates from the operator's own files. Besides what they sign as a CA, each is accepted as the certificate of
    /// a site.
    pinned: Vec<CertificateDer<'static>>,
    /// A pinned certificate may name no host: it is for one site only.
    names_may_be_missing: bool,
}

impl Accepted {
    pub(super) const fn only(authorities: RootCertStore) -> Self {
        Self {
            authorities,
            pinned: Vec::new(),
            names_may_be_missing: false,
        }
    }

    /// Only for certificates that nothing but the site of a section is checked against.
    pub(super) const fn for_one_site(mut self) -> Self {
        self.names_may_be_missing = true;
        self
    }

    /// A certificate that the operator has named. One that says that it is not a CA's is trusted for itself alone: who
    /// has a site's key must not be able to sign for other sites.
    pub(super) fn add(&mut self, certificate: CertificateDer<'static>) -> Result<(), String> {
        let Some(read) = Certificate::of(&certificate) else {
            return Err("it is not an X.509 certificate".into());
        };
        if read.is_authority() {
            self.authorities
                .add(certificate.clone())
                .map_err(|_| "it is not a certificate that a CA can have".to_owned())?;
        }
        self.pinned.push(certificate);
        Ok(())
    }

    /// Verifies as webpki does, and in addition accepts the pinned certificates.
    pub(super) fn verifier(self) -> Result<Arc<dyn ServerCertVerifier>, Error> {
        let authorities = match self.authorities.is_empty() {
            true => None,
            false => Some(
                WebPkiServerVerifier::builder_with_provider(self.authorities.into(), provider())
                    .build()
                    .map_err(|error| Error::General(error.to_string()))?,
            ),
        };
        Ok(Arc::new(SiteVerifier {
            authorities,
            pinned: self.pinned,
            names_may_be_missing: self.names_may_be_missing,
            algorithms: provider().signature_verification_algorithms,
        }))
    }
}

#[derive(Debug)]
struct SiteVerifier {
    /// `None` if only single certificates are accepted.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    pinned: Vec<CertificateDer<'static>>,
    names_may_be_missing: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SiteVerifier {
    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        self.pinned.iter().any(|pinned| pinned == certificate)
    }

    /// A certificate from before extensions, which webpki does not read at all.
    fn old_key<'a>(&self, certificate: &'a CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'a>> {
        let read = Certificate::of(certificate)?;
        let is_old = read.version == Version::BeforeExtensions && self.is_pinned(certificate);
        is_old.then(|| SubjectPublicKeyInfoDer::from(read.public_key))
    }
}

impl ServerCertVerifier for SiteVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.is_pinned(end_entity) {
            return check_pinned(end_entity, server_name, now, self.names_may_be_missing)
                .map(|()| ServerCertVerified::assertion());
        }
        match &self.authorities {
            Some(authorities) => {
                authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.old_key(cert) {
            Some(key) => verify_by_key(message, &key, dss, &self.algorithms, ProtocolVersion::TLSv1_2),
            None => verify_tls12_signature(message, cert, dss, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.old_key(cert) {
            Some(key) => verify_by_key(message, &key, dss, &self.algorithms, ProtocolVersion::TLSv1_3),
            None => verify_tls13_signature(message, cert, dss, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The operator has vouched for this certificate, so nobody else needs to. It still has its time and its names. One from
/// before names were kept in `subjectAltName` is for the site of its section; without a section its key could stand for
/// every site.
fn check_pinned(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
    names_may_be_missing: bool,
) -> Result<(), Error> {
    let (Some(read), Some(validity)) = (Certificate::of(certificate), Validity::of(certificate)) else {
        return Err(CertificateError::BadEncoding.into());
    };
    let second = |at: jiff::Timestamp| u64::try_from(at.as_second()).unwrap_or_default();
    let (not_before, not_after) = (second(validity.not_before), second(validity.not_after));
    if now.as_secs() < not_before {
        let not_before = UnixTime::since_unix_epoch(std::time::Duration::from_secs(not_before));
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now.as_secs() > not_after {
        let not_after = UnixTime::since_unix_epoch(std::time::Duration::from_secs(not_after));
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    if read.version == Version::BeforeExtensions {
        return match names_may_be_missing {
            true => Ok(()),
            false => Err(CertificateError::NotValidForNameContext {
                expected: name.to_owned(),
                presented: Vec::new(),
            }
            .into()),
        };
    }
    let parsed = ParsedCertificate::try_from(certificate)?;
    match rustls::client::verify_server_name(&parsed, name) {
        Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }))
            if presented.is_empty() && names_may_be_missing =>
        {
            Ok(())
        }
        verified => verified,
    }
}

/// What rustls does with the key that it finds in a certificate.
fn verify_by_key(
    message: &[u8],
    key: &SubjectPublicKeyInfoDer<'_>,
    dss: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
    version: ProtocolVersion,
) -> Result<HandshakeSignatureValid, Error> {
    if version == ProtocolVersion::TLSv1_3 {
        return rustls::crypto::verify_tls13_signature_with_raw_key(message, key, dss, algorithms);
    }
    let unadvertised = || Error::from(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme);
    let (_, possible) = algorithms
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == dss.scheme)
        .ok_or_else(unadvertised)?;
    let key = webpki::RawPublicKeyEntity::try_from(key).map_err(|_| Error::from(CertificateError::BadEncoding))?;
    // Several, because in TLS 1.2 a scheme does not name the curve.
    match possible
        .iter()
        .any(|algorithm| key.verify_signature(*algorithm, message, dss.signature()).is_ok())
    {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(CertificateError::BadSignature.into()),
    }
}
