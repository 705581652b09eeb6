//! Reads the dates of a certificate from its first few DER elements (RFC 5280 §4.1).
//!
//! The dates, the key and the kind (`certificate`) are all that this crate ever reads from a certificate; webpki does path
//! building and names. A parser crate would bring in many dependencies for this.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// `notBefore` and `notAfter`, whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const EXPLICIT_VERSION: u8 = 0xa0;

impl Validity {
    /// `None` when the bytes are not a certificate.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (certificate, _) = expect(certificate, SEQUENCE)?;
        let (body, _) = expect(certificate, SEQUENCE)?;
        let body = expect(body, EXPLICIT_VERSION).map_or(body, |(_, rest)| rest);
        let (_serial, body) = expect(body, INTEGER)?;
        let (_signature, body) = expect(body, SEQUENCE)?;
        let (_issuer, body) = expect(body, SEQUENCE)?;
        let (dates, _) = expect(body, SEQUENCE)?;
        let (not_before, dates) = time(dates)?;
        let (not_after, _) = time(dates)?;
        Some(Self { not_before, not_after })
    }
}

pub(super) fn expect(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(input)?;
    (found == tag).then_some((content, rest))
}

/// One DER element: tag, content, and the bytes after it. Lengths of more than four bytes do not occur.
pub(super) fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, input) = input.split_first()?;
    let (&first, input) = input.split_first()?;
    let (length, input) = match first {
        0..=0x7f => (usize::from(first), input),
        0x81..=0x84 => {
            let (bytes, input) = input.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes.iter().fold(0u32, |length, byte| length << 8 | u32::from(*byte));
            (usize::try_from(length).ok()?, input)
        }
        _ => return None,
    };
    let (content, rest) = input.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ` (a year of 50 or above is 19YY) or `YYYYMMDDHHMMSSZ`.
fn time(input: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (tag, text, rest) = element(input)?;
    let digits = text
        .strip_suffix(b"Z")
        .filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let two = |digits: &[u8]| {
        digits
            .iter()
            .fold(0i8, |value, digit| value * 10 + (digit - b'0').cast_signed())
    };
    let (year, digits) = match (tag, digits.len()) {
        (UTC_TIME, 12) => match i16::from(two(&digits[..2])) {
            year @ 50.. => (1900 + year, &digits[2..]),
            year => (2000 + year, &digits[2..]),
        },
        (GENERALIZED_TIME, 14) => {
            let year = i16::from(two(&digits[..2])) * 100 + i16::from(two(&digits[2..4]));
            (year, &digits[4..])
        }
        _ => return None,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| two(&digits[at..at + 2]));
    let civil = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    Some((TimeZone::UTC.to_timestamp(civil).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of_time(tag: u8, text: &str) -> Option<String> {
        let mut encoded = vec![tag, u8::try_from(text.len()).unwrap()];
        encoded.extend(text.as_bytes());
        time(&encoded).map(|(timestamp, _)| timestamp.to_string())
    }

    #[test]
    fn both_time_formats() {
        assert_eq!(
            of_time(UTC_TIME, "261120104500Z").as_deref(),
            Some("2026-11-20T10:45:00Z")
        );
        assert_eq!(
            of_time(UTC_TIME, "491231235959Z").as_deref(),
            Some("2049-12-31T23:59:59Z")
        );
        assert_eq!(
            of_time(UTC_TIME, "500101000000Z").as_deref(),
            Some("1950-01-01T00:00:00Z")
        );
        assert_eq!(
            of_time(GENERALIZED_TIME, "20510101000000Z").as_deref(),
            Some("2051-01-01T00:00:00Z")
        );
        for (tag, text) in [
            (UTC_TIME, "2611201045Z"),
            (UTC_TIME, "261120104500+0100"),
            (UTC_TIME, "261320104500Z"),
            (UTC_TIME, "26112010450xZ"),
            (GENERALIZED_TIME, "261120104500Z"),
            (INTEGER, "261120104500Z"),
        ] {
            assert_eq!(of_time(tag, text), None, "{text}");
        }
    }

    #[test]
    fn every_public_root_has_dates() {
        for root in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
            let validity = Validity::of(root).unwrap();
            assert!(validity.not_before < validity.not_after);
        }
    }

    proptest! {
        #[test]
        fn damaged_certificates_never_panic(at in 0usize..300, value: u8, cut in 0usize..400) {
            let mut damaged = webpki_root_certs::TLS_SERVER_ROOT_CERTS[0].to_vec();
            damaged[at] = value;
            damaged.truncate(cut);
            let _ = Validity::of(&damaged);
        }
    }
}
