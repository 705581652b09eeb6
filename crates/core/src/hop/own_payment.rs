//! Payments that the agent wrote itself (R31). A request carries one if any reading of its fields finds one (R76):
//! servers differ in how they split a list, decode bytes outside ASCII, and spell a field's name.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

/// Each field that is a payment whatever its value is, as it is found in a map and as specifications spell it.
const FIELDS: [(&str, &str); 4] = [
    ("x-payment", "X-PAYMENT"),
    ("payment-signature", "PAYMENT-SIGNATURE"),
    ("payment-authorization", "Payment-Authorization"),
    ("x-payment-spt", "X-Payment-Spt"),
];

/// The payment field that the agent wrote itself, if any. Other `Authorization` schemes are left alone.
pub fn agent_payment(headers: &HeaderMap) -> Option<&'static str> {
    if !headers.keys().any(may_pay) {
        return None;
    }
    let field = |(field, spelled)| headers.keys().any(|name| reads_as(name, field)).then_some(spelled);
    FIELDS.into_iter().find_map(field).or_else(|| {
        headers
            .get_all(AUTHORIZATION)
            .iter()
            .any(|value| names_payment(value.as_bytes()))
            .then_some("Authorization: Payment")
    })
}

/// Whether a field could be one of them: most heads have none.
fn may_pay(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-pay")
        || name.starts_with("x_pay")
        || name.starts_with("payment")
        || name == AUTHORIZATION.as_str()
}

/// Gateways that hand fields on as variables (CGI, WSGI) cannot tell `_` from `-`.
pub(super) fn reads_as(name: &HeaderName, field: &str) -> bool {
    let name = name.as_str().bytes().map(|byte| if byte == b'_' { b'-' } else { byte });
    name.eq(field.bytes())
}

/// Whether a reader finds the scheme `Payment` in this value: as UTF-8 or as Latin-1, which is how Node reads it.
fn names_payment(value: &[u8]) -> bool {
    let latin_1 = || value.iter().copied().map(char::from).collect::<String>();
    begins_an_element(&String::from_utf8_lossy(value)) || (!value.is_ascii() && begins_an_element(&latin_1()))
}

/// Splits at every comma. A reader that minds quoted strings begins its elements at some of the same commas, so this
/// finds whatever that one does. Several lines are joined with commas, so each can be read by itself.
fn begins_an_element(text: &str) -> bool {
    const SCHEME: &str = "payment";
    text.split(',').any(|element| {
        // JavaScript also trims the byte order mark.
        let element = element.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        let scheme = element.get(..SCHEME.len());
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
            && element[SCHEME.len()..].chars().next().is_none_or(ends_scheme)
    })
}

/// Neither continues the scheme's name nor makes it a parameter of another scheme (RFC 9110 §5.6.2, §11.2).
fn ends_scheme(c: char) -> bool {
    !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~=".contains(c))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn found(lines: &[(&str, &[u8])]) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        agent_payment(&headers)
    }

    #[test]
    fn payments_by_the_agent() {
        for (name, value, field) in [
            ("X-Payment", "e30=", "X-PAYMENT"),
            ("x_payment", "e30=", "X-PAYMENT"),
            ("payment-SIGNATURE", "", "PAYMENT-SIGNATURE"),
            ("PAYMENT_SIGNATURE", "e30=", "PAYMENT-SIGNATURE"),
            ("Payment-Authorization", "x", "Payment-Authorization"),
            ("X-PAYMENT-SPT", "spt_1", "X-Payment-Spt"),
            ("X-Payment_Spt", "spt_1", "X-Payment-Spt"),
        ] {
            assert_eq!(found(&[(name, value.as_bytes())]), Some(field), "{name}: {value}");
        }
        for value in [
            "Payment eyJ9",
            "pAYMENT\teyJ9",
            "payment",
            "Payment,",
            "  Payment id=\"a\"",
            "Bearer t, Payment eyJ9",
            "Bearer \"x, Payment eyJ9\"",
            "Bearer \"x, Payment eyJ9",
            "Digest username=\"a, Payment b\"",
            "Digest username=\"a\\\", Payment b\"",
            "Payment\"eyJ9\"",
            "Payment;eyJ9",
            "\u{a0}Payment\u{a0}eyJ9",
            "Bearer t,\u{feff}Payment eyJ9",
            "Bearer t,\u{2003}Payment\u{3000}eyJ9",
        ] {
            let found = found(&[("authorization", value.as_bytes())]);
            assert_eq!(found, Some("Authorization: Payment"), "{value}");
        }
        let second: [(&str, &[u8]); 2] = [("authorization", b"Bearer t"), ("authorization", b"Payment eyJ9")];
        assert_eq!(found(&second), Some("Authorization: Payment"));
        let latin_1 = b"Bearer t,\xa0Payment\xa0eyJ9";
        assert_eq!(found(&[("authorization", latin_1)]), Some("Authorization: Payment"));
    }

    #[test]
    fn other_logins_are_no_payment() {
        for (name, value) in [
            ("authorization", "Bearer payment"),
            ("authorization", "Payments x"),
            ("authorization", "Payment-Plan x"),
            ("authorization", "Basic UGF5bWVudDogZXlKOQ=="),
            ("authorization", "Digest username=\"Payment b\", payment=\"x\""),
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host;payment, Signature=f",
            ),
            ("x-payment-response", "x"),
            ("x-payments", "x"),
            ("payment-required", "x"),
            ("accept-payment", "evm"),
        ] {
            assert_eq!(found(&[(name, value.as_bytes())]), None, "{name}: {value}");
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_before_a_comma_hides_nothing(before in "[ -~]{0,30}", blank in "[ \t]{0,3}", case in any::<u8>()) {
            let scheme: String = "payment"
                .chars()
                .enumerate()
                .map(|(n, c)| if case >> n & 1 == 1 { c.to_ascii_uppercase() } else { c })
                .collect();
            let value = format!("{before},{blank}{scheme} eyJ9");
            prop_assert_eq!(found(&[("authorization", value.as_bytes())]), Some("Authorization: Payment"));
        }
    }
}
