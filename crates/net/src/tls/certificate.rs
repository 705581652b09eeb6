//! What a certificate says about itself, for the decision what a certificate in `extra_ca` may do.

use super::validity::{element, expect};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BOOLEAN: u8 = 0x01;
const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const EXPLICIT_VERSION: u8 = 0xa0;
const EXPLICIT_EXTENSIONS: u8 = 0xa3;
/// 2.5.29.19 (RFC 5280 §4.2.1.9).
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

/// RFC 5280 §4.1.2.1. Only version 3 has extensions, so older ones neither name hosts nor say whether they are a CA's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    BeforeExtensions,
    WithExtensions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Certificate<'a> {
    pub version: Version,
    /// The whole element `subjectPublicKeyInfo`.
    pub public_key: &'a [u8],
    is_authority: bool,
}

impl<'a> Certificate<'a> {
    /// `None` when the bytes are not a certificate.
    pub(super) fn of(certificate: &'a [u8]) -> Option<Self> {
        let (certificate, _) = expect(certificate, SEQUENCE)?;
        let (body, _) = expect(certificate, SEQUENCE)?;
        let (version, body) = match expect(body, EXPLICIT_VERSION) {
            Some((version, rest)) => (expect(version, INTEGER)?.0, rest),
            None => (&[][..], body),
        };
        let version = match version {
            [2] => Version::WithExtensions,
            _ => Version::BeforeExtensions,
        };
        let (_serial, body) = expect(body, INTEGER)?;
        let (_signature, body) = expect(body, SEQUENCE)?;
        let (_issuer, body) = expect(body, SEQUENCE)?;
        let (_validity, body) = expect(body, SEQUENCE)?;
        let (_subject, body) = expect(body, SEQUENCE)?;
        let (_, mut rest) = expect(body, SEQUENCE)?;
        let public_key = &body[..body.len() - rest.len()];
        let mut is_authority = version == Version::BeforeExtensions;
        // Two unique identifiers may stand before the extensions.
        while !rest.is_empty() {
            let (tag, content, after) = element(rest)?;
            if tag == EXPLICIT_EXTENSIONS {
                is_authority |= names_a_ca(expect(content, SEQUENCE)?.0)?;
            }
            rest = after;
        }
        Some(Self {
            version,
            public_key,
            is_authority,
        })
    }

    /// Whether it may sign others' certificates. One from before extensions cannot say, and old private CAs have such.
    pub(super) const fn is_authority(&self) -> bool {
        self.is_authority
    }
}

/// `extensions` is a list of (identifier, critical or not, value); CA means that `BasicConstraints` begins with TRUE.
fn names_a_ca(mut extensions: &[u8]) -> Option<bool> {
    while !extensions.is_empty() {
        let (extension, after) = expect(extensions, SEQUENCE)?;
        extensions = after;
        let (identifier, value) = expect(extension, OBJECT_IDENTIFIER)?;
        if identifier != BASIC_CONSTRAINTS {
            continue;
        }
        let value = expect(value, BOOLEAN).map_or(value, |(_critical, value)| value);
        let (constraints, _) = expect(expect(value, OCTET_STRING)?.0, SEQUENCE)?;
        return Some(matches!(expect(constraints, BOOLEAN), Some((&[0xff], _))));
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    fn made(is_ca: IsCa) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.is_ca = is_ca;
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_says_whether_it_is_a_cas() {
        for (is_ca, expected) in [
            (IsCa::NoCa, false),
            (IsCa::ExplicitNoCa, false),
            (IsCa::Ca(BasicConstraints::Unconstrained), true),
            (IsCa::Ca(BasicConstraints::Constrained(0)), true),
        ] {
            let der = made(is_ca);
            let certificate = Certificate::of(&der).unwrap();
            assert_eq!(certificate.is_authority(), expected, "{is_ca:?}");
            assert_eq!(certificate.version, Version::WithExtensions);
        }
    }

    #[test]
    fn the_public_key_is_the_one_that_webpki_finds() {
        let der = made(IsCa::NoCa).into();
        let parsed = webpki::EndEntityCert::try_from(&der).unwrap();
        let found = parsed.subject_public_key_info();
        assert_eq!(Certificate::of(&der).unwrap().public_key, found.as_ref());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Certificate::of(&bytes);
        }

        #[test]
        fn a_damaged_certificate_is_read_without_panic(at in 0usize..300, byte: u8, cut in 0usize..600) {
            let mut der = made(IsCa::Ca(BasicConstraints::Unconstrained));
            if let Some(hit) = der.get_mut(at) {
                *hit = byte;
            }
            der.truncate(cut);
            let _ = Certificate::of(&der);
        }
    }
}
