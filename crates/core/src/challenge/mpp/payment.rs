//! One `Payment` challenge: its checked parameters, its decoded `request`, and the text that a credential repeats
//! (MPP §2, §4).

use std::sync::Arc;

use alloy_primitives::{B256, keccak256};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::super::credential::Echo;
use super::super::header::CredentialField;
use super::super::json::{self, Object};
use super::super::{Clause, Nonce, Offer, PaymentFlow, ResourceHost, Term, Why, rfc3339};
use super::digest::body_sha256;
use super::field::Parameters;
use super::{Intent, Method};
use crate::account::Account;
use crate::assets::Asset;
use crate::money::{Atoms, MicroUsd};

/// The most bytes of `request` as written in the header (R33).
const MAX_REQUEST: usize = 16 * 1024;

/// A well-formed challenge, whatever it asks for.
#[derive(Debug)]
pub(super) struct Payment {
    pub method: Method,
    pub intent: Intent,
    pub id: String,
    pub realm: String,
    /// In Unix seconds, rounded down: `validBefore` must not be later.
    pub expires: Option<u64>,
    pub body: Option<[u8; 32]>,
    pub field: CredentialField,
    /// The decoded `request`, known to be one strict JSON object.
    pub request: String,
    /// The JSON object that a credential contains as `challenge`: every known parameter, as received.
    pub echo: String,
}

/// What the `request` of a charge asks for, as its method reads it.
pub(super) struct Charge {
    pub asset: Asset,
    pub amount: Atoms,
    pub usd: Option<MicroUsd>,
    pub payee: Account,
    pub clause: Clause,
    pub nonce: B256,
}

impl Payment {
    pub(super) fn read(parameters: &Parameters) -> Result<Self, Why> {
        let required = |name: &str| {
            let value = parameters.get(name).filter(|value| !value.is_empty());
            value.map(String::as_str).ok_or(Why::MppParameterMissing)
        };
        let (id, realm) = (required("id")?, required("realm")?);
        let method = Method::parse(required("method")?).ok_or(Why::MppMethodMalformed)?;
        let intent = Intent::parse(required("intent")?).ok_or(Why::MppMethodMalformed)?;
        let request = decoded(required("request")?)?;
        let field = match parameters.get("header") {
            None => CredentialField::Authorization,
            Some(name) => CredentialField::parse(name).ok_or(Why::MppHeaderNotAllowed)?,
        };
        let expires = parameters.get("expires").map(|text| expiry(text)).transpose()?;
        let body = match parameters.get("digest") {
            None => None,
            Some(text) => Some(body_sha256(text).ok_or(Why::DigestUnsupported)?),
        };
        Ok(Self {
            method,
            intent,
            id: id.to_owned(),
            realm: realm.to_owned(),
            expires,
            body,
            field,
            request,
            echo: echo(parameters),
        })
    }

    /// The offer of a charge whose credential is made from `echo`.
    pub(super) fn offer(&self, position: usize, echo: Echo, charge: Charge) -> Result<Offer, Why> {
        if !echo.fits() {
            return Err(Why::CredentialTooLarge);
        }
        Ok(Offer {
            rail: echo.rail(),
            position,
            asset: charge.asset,
            amount: charge.amount,
            usd: charge.usd,
            payee: charge.payee,
            clause: charge.clause,
            term: self.expires.map_or(Term::Open, Term::Until),
            nonce: Nonce::Fixed(charge.nonce),
            flow: PaymentFlow::Authorization,
            // Some servers name a service in the realm instead; only a host can be compared (R71).
            resource: ResourceHost::of_realm(&self.realm),
            realm: Some(self.realm.as_str().into()),
            body: self.body,
            sha256: Sha256::digest(self.echo.as_bytes()).into(),
            echo: Arc::new(echo),
        })
    }

    /// R18: binds the signature to the challenge. A challenge has exactly one nonce, so it is answered at most once.
    pub(super) fn nonce(&self) -> B256 {
        keccak256([self.id.as_str(), self.realm.as_str()].concat())
    }
}

fn decoded(request: &str) -> Result<String, Why> {
    if request.len() > MAX_REQUEST {
        return Err(Why::MppRequestTooLarge);
    }
    let bytes = json::from_base64(request.as_bytes())?;
    let text = json::checked(&bytes)?;
    Object::read(text).ok_or(Why::NotObject)?;
    Ok(text.to_owned())
}

/// In Unix seconds; a time before 1970 has expired as well.
fn expiry(text: &str) -> Result<u64, Why> {
    let second = rfc3339::unix_second(text).ok_or(Why::ExpiresMalformed)?;
    Ok(u64::try_from(second).unwrap_or(0))
}

/// Servers compare with what they sent byte for byte, so `request` and `opaque` are returned undecoded.
fn echo(parameters: &Parameters) -> String {
    const ECHOED: [&str; 10] = [
        "id",
        "realm",
        "method",
        "intent",
        "request",
        "description",
        "digest",
        "expires",
        "header",
        "opaque",
    ];
    let known = ECHOED.iter().filter_map(|name| Some((*name, parameters.get(*name)?)));
    let members: Vec<String> = known
        .map(|(name, value)| format!("\"{name}\":{}", serde_json::Value::from(value.as_str())))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// A JSON integer without sign, exponent or fraction.
pub(super) fn integer(raw: &RawValue) -> Option<u64> {
    let text = raw.get();
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(changes: &[(&str, Option<&str>)]) -> Parameters {
        let mut parameters: Parameters = [
            ("id", "a"),
            ("realm", "api.example.com"),
            ("method", "evm"),
            ("intent", "charge"),
            ("request", "e30"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        for (name, value) in changes {
            match value {
                Some(value) => parameters.insert((*name).to_owned(), (*value).to_owned()),
                None => parameters.remove(*name),
            };
        }
        parameters
    }

    fn verdict(name: &str, value: Option<&str>) -> Result<Payment, Why> {
        Payment::read(&parameters(&[(name, value)]))
    }

    #[test]
    fn each_parameter_is_read_strictly() {
        for name in ["id", "realm", "method", "intent", "request"] {
            assert_eq!(verdict(name, None).err(), Some(Why::MppParameterMissing), "{name}");
            assert_eq!(verdict(name, Some("")).err(), Some(Why::MppParameterMissing), "{name}");
        }
        let long = "A".repeat(MAX_REQUEST + 1);
        for (name, value, why) in [
            ("method", "EVM", Why::MppMethodMalformed),
            ("method", "1evm", Why::MppMethodMalformed),
            ("method", "e vm", Why::MppMethodMalformed),
            ("intent", "char ge", Why::MppMethodMalformed),
            ("request", "!!!", Why::NotBase64),
            ("request", "W10", Why::NotObject),
            ("request", "eyJhIjo", Why::NotJson),
            ("request", "eyJhIjoxLCJhIjoxfQ", Why::DuplicateKey),
            ("request", &long, Why::MppRequestTooLarge),
            ("header", "Cookie", Why::MppHeaderNotAllowed),
            ("header", "Host", Why::MppHeaderNotAllowed),
            ("header", "", Why::MppHeaderNotAllowed),
            ("header", "Proxy-Authorization", Why::MppHeaderNotAllowed),
            ("digest", "sha-512=YQ==", Why::DigestUnsupported),
        ] {
            assert_eq!(verdict(name, Some(value)).err(), Some(why), "{name}={value}");
        }
        for (value, field) in [
            ("payment-authorization", CredentialField::PaymentAuthorization),
            ("AUTHORIZATION", CredentialField::Authorization),
        ] {
            assert_eq!(verdict("header", Some(value)).unwrap().field, field);
        }
    }

    #[test]
    fn expires_is_a_second_rounded_down_and_never_negative() {
        for (text, second) in [("2099-01-01T00:00:00.999Z", 4_070_908_800), ("1969-12-31T23:59:59Z", 0)] {
            assert_eq!(verdict("expires", Some(text)).unwrap().expires, Some(second), "{text}");
        }
        for bad in ["", "tomorrow", "4070908800", "2099-01-01T00:00:00"] {
            assert_eq!(
                verdict("expires", Some(bad)).err(),
                Some(Why::ExpiresMalformed),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_echo_repeats_what_came_and_nothing_unknown() {
        let parameters = parameters(&[
            ("description", Some("\u{2014} \"q\" \\")),
            ("opaque", Some("not base64!")),
            ("foo", Some("bar")),
        ]);
        let echo = Payment::read(&parameters).unwrap().echo;
        let echo: serde_json::Value = serde_json::from_str(&echo).unwrap();
        assert_eq!(
            echo,
            serde_json::json!({
                "id": "a", "realm": "api.example.com", "method": "evm", "intent": "charge", "request": "e30",
                "description": "\u{2014} \"q\" \\", "opaque": "not base64!"
            })
        );
    }
}
