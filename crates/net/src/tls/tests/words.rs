//! No error shows the text that rustls makes for its developers.

use rustls::{AlertDescription, CertificateError, Error, OtherError, PeerIncompatible, PeerMisbehaved};

use super::super::upstream::{CertificateFault, HandshakeError};
use super::*;

/// Every error that a site can cause, more or less.
fn all() -> Vec<Error> {
    let alerts = (0..=u8::MAX).map(|number| Error::AlertReceived(AlertDescription::from(number)));
    let certificates = [
        CertificateError::BadEncoding,
        CertificateError::Expired,
        CertificateError::NotValidYet,
        CertificateError::Revoked,
        CertificateError::UnhandledCriticalExtension,
        CertificateError::UnknownIssuer,
        CertificateError::UnknownRevocationStatus,
        CertificateError::BadSignature,
        CertificateError::NotValidForName,
        CertificateError::InvalidPurpose,
        CertificateError::InvalidOcspResponse,
        CertificateError::ApplicationVerificationFailure,
        CertificateError::Other(OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity))),
        CertificateError::Other(OtherError(Arc::new(webpki::Error::PathLenConstraintViolated))),
    ];
    let others = [
        Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13),
        Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon),
        Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedCipherSuite),
        Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
        Error::DecryptError,
        Error::PeerSentOversizedRecord,
        Error::HandshakeNotComplete,
        Error::FailedToGetCurrentTime,
        Error::General("RustText".into()),
    ];
    alerts
        .chain(certificates.map(Error::InvalidCertificate))
        .chain(others)
        .collect()
}

#[test]
fn errors_are_sentences() {
    for error in all() {
        let shown = format!("{error:?}");
        for asked in [false, true] {
            let fault = HandshakeError::of(std::io::Error::other(error.clone()), asked);
            let text = format!("{fault} {}", fault.remedy().unwrap_or_default());
            // The names of Rust's variants: a capital letter in the midst of a word.
            let words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            let debug = words.filter(|word| {
                let inner = word.char_indices().skip(1).any(|(_, letter)| letter.is_uppercase());
                inner && word.chars().any(char::is_lowercase) && !["subjectAltName", "ChaCha20"].contains(word)
            });
            let debug: Vec<_> = debug.collect();
            assert!(debug.is_empty(), "{shown}: {text}: {debug:?}");
            assert!(!text.contains("Some(") && !text.contains("{ "), "{text}");
        }
    }
}

#[test]
fn a_cause_is_found_however_deep_it_is() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    let alert = Error::AlertReceived(AlertDescription::CertificateRequired);
    let found = HandshakeError::behind(&Outer(std::io::Error::other(alert)));
    assert!(matches!(found, Some(HandshakeError::ClientCertificate(_))), "{found:?}");
    assert!(HandshakeError::behind(&Outer(std::io::ErrorKind::BrokenPipe.into())).is_none());
}

#[test]
fn only_names_of_hosts_are_repeated_from_a_certificate() {
    let name = |presented: &[&str]| {
        let error = Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected: "a.example".try_into().unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        });
        match HandshakeError::of(std::io::Error::other(error), false) {
            HandshakeError::Certificate(fault) => fault,
            other => panic!("{other:?}"),
        }
    };
    let many = ["a", "b", "c", "d", "e", "f", "f"].map(|name| format!("DnsName(\"{name}.example\")"));
    let shown = name(&many.each_ref().map(String::as_str)).to_string();
    assert!(
        shown.ends_with(": a.example, b.example, c.example, d.example, e.example and others"),
        "{shown}"
    );
    assert_eq!(
        name(&[
            "DnsName(\"*.b.example\")",
            "IpAddress(192.0.2.1)",
            "DnsName(\"pay <a> now\")",
            "DirectoryName"
        ]),
        CertificateFault::WrongName(vec!["*.b.example".to_owned(), "192.0.2.1".to_owned()])
    );
    assert_eq!(name(&[]), CertificateFault::NoName);
}
