//! Reads a payment header and checks it as a strict facilitator does (x402 §2.3, §2.4, §4.1, §10).
//!
//! There are two steps: [`Presented::read`] compares what the payer echoed with what was advertised, and
//! [`Presented::verify`] checks the authorization itself. Settlement is up to the token.

use std::str::FromStr;

use alloy_primitives::{Address, B256, hex};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::authorization::{Authorization, SignatureBytes};
use super::catalog::{PAYMENT_IDENTIFIER, Version};
use super::token::{Token, TokenError};
use bursar_core::money::Atoms;

/// How long an authorization must still be valid, in seconds, so that there is time to settle it.
const SETTLEMENT_MARGIN: u64 = 6;

/// What the seller advertised for the article that is being paid for.
pub(crate) struct Advertised {
    pub version: Version,
    pub amount: Atoms,
    pub pay_to: Address,
    pub requirement: Value,
    pub resource: Value,
    pub extensions: Option<Value>,
}

/// A payment whose envelope matches what was advertised.
#[derive(Debug)]
pub(crate) struct Presented {
    pub authorization: Authorization,
    pub signature: SignatureBytes,
    /// The payer's `payment-identifier`, if it was offered and used.
    pub identifier: Option<String>,
}

/// Why a payment is rejected. All but [`Refusal::Malformed`] are answered with a fresh challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not a payment at all; the text says which part is wrong.
    Malformed(&'static str),
    Version,
    Scheme,
    Network,
    /// `accepted` differs from what was advertised.
    Terms,
    Resource,
    Extensions,
    Recipient,
    Value,
    Token(TokenError),
}

impl Refusal {
    /// 400 for a malformed payment, 402 for everything else (x402 §10).
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::PAYMENT_REQUIRED,
        }
    }

    /// The text of `error`, as reference servers and facilitators of this version write it.
    pub(crate) fn code(self, version: Version) -> &'static str {
        let v1 = version == Version::V1;
        match self {
            Self::Malformed(part) => part,
            Self::Version => "invalid_x402_version",
            Self::Scheme => "unsupported_scheme",
            Self::Network => "invalid_network",
            Self::Terms => "No matching payment requirements",
            Self::Resource => "resource_mismatch",
            Self::Extensions => "extension_echo_mismatch",
            Self::Recipient if v1 => "invalid_exact_evm_payload_recipient_mismatch",
            Self::Recipient => "invalid_exact_evm_recipient_mismatch",
            Self::Value if v1 => "invalid_exact_evm_payload_authorization_value",
            Self::Value => "invalid_exact_evm_payload_authorization_value_mismatch",
            Self::Token(TokenError::NotYetValid) => "invalid_exact_evm_payload_authorization_valid_after",
            Self::Token(TokenError::Expired) => "invalid_exact_evm_payload_authorization_valid_before",
            Self::Token(TokenError::WrongSigner) if v1 => "invalid_exact_evm_payload_signature",
            Self::Token(TokenError::WrongSigner) => "invalid_exact_evm_signature",
            Self::Token(TokenError::NonceUsed) => "invalid_exact_evm_nonce_already_used",
            Self::Token(TokenError::InsufficientBalance) if v1 => "insufficient_funds",
            Self::Token(TokenError::InsufficientBalance) => "invalid_exact_evm_insufficient_balance",
            Self::Token(TokenError::BalanceOverflow) => "invalid_exact_evm_transaction_failed",
        }
    }
}

impl Presented {
    /// Reads the payment header of the advertised version. `None` if the request carries no payment.
    pub(crate) fn read(headers: &HeaderMap, advertised: &Advertised) -> Option<Result<Self, Refusal>> {
        let mut values = headers.get_all(advertised.version.payment_header()).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return Some(Err(Refusal::Malformed("the payment header appears more than once")));
        }
        Some(decode(value.as_bytes()).and_then(|payload| Self::from_payload(&payload, advertised)))
    }

    fn from_payload(payload: &Value, advertised: &Advertised) -> Result<Self, Refusal> {
        if payload["x402Version"] != advertised.version.number() {
            return Err(Refusal::Version);
        }
        let identifier = match advertised.version {
            Version::V1 => {
                if payload["scheme"] != advertised.requirement["scheme"] {
                    return Err(Refusal::Scheme);
                }
                if payload["network"] != advertised.requirement["network"] {
                    return Err(Refusal::Network);
                }
                None
            }
            Version::V2 => {
                if !echoes_terms(&payload["accepted"], &advertised.requirement) {
                    return Err(Refusal::Terms);
                }
                if !payload["resource"].is_null() && payload["resource"] != advertised.resource {
                    return Err(Refusal::Resource);
                }
                echoed_identifier(&payload["extensions"], advertised.extensions.as_ref())?
            }
        };
        let wire = WireExact::deserialize(&payload["payload"])
            .map_err(|_| Refusal::Malformed("payload does not match the scheme exact"))?;
        Ok(Self {
            authorization: wire.authorization.parse()?,
            signature: digits(&wire.signature)
                .and_then(|digits| hex::decode_to_array(digits).ok())
                .ok_or(Refusal::Malformed("signature is not 65 bytes of 0x hex"))?,
            identifier,
        })
    }

    /// Checks the authorization: recipient, value, times, signer, nonce, balance. Moves nothing.
    pub(crate) fn verify(&self, advertised: &Advertised, token: &Token, now: Timestamp) -> Result<(), Refusal> {
        let authorization = &self.authorization;
        if authorization.to != advertised.pay_to {
            return Err(Refusal::Recipient);
        }
        if authorization.value != advertised.amount {
            return Err(Refusal::Value);
        }
        let second = u64::try_from(now.as_second()).unwrap_or(0);
        if authorization.valid_before < second.saturating_add(SETTLEMENT_MARGIN) {
            return Err(Refusal::Token(TokenError::Expired));
        }
        token.judge(authorization, &self.signature, now).map_err(Refusal::Token)
    }
}

/// The scheme's part of the payload. All numbers are decimal strings.
#[derive(Deserialize)]
struct WireExact {
    authorization: WireAuthorization,
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireAuthorization {
    from: String,
    to: String,
    value: String,
    valid_after: String,
    valid_before: String,
    nonce: String,
}

impl WireAuthorization {
    fn parse(&self) -> Result<Authorization, Refusal> {
        Ok(Authorization {
            from: wire_address(&self.from).ok_or(Refusal::Malformed("authorization.from is not an address"))?,
            to: wire_address(&self.to).ok_or(Refusal::Malformed("authorization.to is not an address"))?,
            value: Atoms::parse(&self.value).map_err(|_| Refusal::Malformed("authorization.value is not an amount"))?,
            valid_after: unix_seconds(&self.valid_after)
                .ok_or(Refusal::Malformed("authorization.validAfter is not a time"))?,
            valid_before: unix_seconds(&self.valid_before)
                .ok_or(Refusal::Malformed("authorization.validBefore is not a time"))?,
            nonce: digits(&self.nonce)
                .and_then(|digits| hex::decode_to_array(digits).ok())
                .map(B256::new)
                .ok_or(Refusal::Malformed("authorization.nonce is not 32 bytes of 0x hex"))?,
        })
    }
}

/// As strict as the reference decoder: standard alphabet, padded, nothing around it (x402 §1.1).
fn decode(header: &[u8]) -> Result<Value, Refusal> {
    let json = STANDARD
        .decode(header)
        .map_err(|_| Refusal::Malformed("the payment header is not base64"))?;
    serde_json::from_slice(&json).map_err(|_| Refusal::Malformed("the payment header does not contain JSON"))
}

/// Equal except for `extra`, which may contain more than was advertised.
fn echoes_terms(accepted: &Value, requirement: &Value) -> bool {
    let (Some(accepted), Some(requirement)) = (accepted.as_object(), requirement.as_object()) else {
        return false;
    };
    accepted.len() == requirement.len()
        && requirement.iter().all(|(name, value)| match accepted.get(name) {
            Some(echo) if name == "extra" => contains(echo, value),
            Some(echo) => echo == value,
            None => false,
        })
}

/// Checks the echo of the extensions and returns the payer's identifier. A missing echo is accepted even if extensions
/// were advertised (x402 §2.3).
fn echoed_identifier(echo: &Value, advertised: Option<&Value>) -> Result<Option<String>, Refusal> {
    let (false, Some(advertised)) = (echo.is_null(), advertised) else {
        return Ok(None);
    };
    if !contains(echo, advertised) {
        return Err(Refusal::Extensions);
    }
    match &echo[PAYMENT_IDENTIFIER]["info"]["id"] {
        Value::Null => Ok(None),
        Value::String(id) if is_identifier(id) => Ok(Some(id.clone())),
        _ => Err(Refusal::Malformed(
            "payment-identifier: id must be 16 to 128 characters of [A-Za-z0-9_-]",
        )),
    }
}

fn is_identifier(id: &str) -> bool {
    (16..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Whether every member of `less` is in `more`, at any depth, with the same value.
fn contains(more: &Value, less: &Value) -> bool {
    match (more, less) {
        (Value::Object(more), Value::Object(less)) => less
            .iter()
            .all(|(name, value)| more.get(name).is_some_and(|found| contains(found, value))),
        _ => more == less,
    }
}

/// The text after exactly one `0x`. The hex decoder would skip a second one.
fn digits(text: &str) -> Option<&str> {
    text.strip_prefix("0x").filter(|rest| !rest.starts_with("0x"))
}

/// An address in a single case, or in mixed case with a valid EIP-55 checksum.
fn wire_address(text: &str) -> Option<Address> {
    let digits = digits(text)?;
    let one_case = !digits.bytes().any(|b| b.is_ascii_uppercase()) || !digits.bytes().any(|b| b.is_ascii_lowercase());
    if one_case {
        Address::from_str(text).ok()
    } else {
        Address::parse_checksummed(text, None).ok()
    }
}

fn unix_seconds(text: &str) -> Option<u64> {
    u64::try_from(Atoms::parse(text).ok()?.get()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_echo_may_add_to_extra_and_to_nothing_else() {
        let requirement = json!({ "amount": "1", "extra": { "name": "USDC", "version": "2" } });
        let echoes = |accepted: Value| echoes_terms(&accepted, &requirement);
        assert!(echoes(
            json!({ "extra": { "version": "2", "name": "USDC" }, "amount": "1" })
        ));
        assert!(echoes(
            json!({ "amount": "1", "extra": { "name": "USDC", "version": "2", "more": 1 } })
        ));
        assert!(!echoes(json!({ "amount": "1", "extra": { "name": "USDC" } })));
        assert!(!echoes(
            json!({ "amount": 1, "extra": { "name": "USDC", "version": "2" } })
        ));
        assert!(!echoes(json!({ "extra": { "name": "USDC", "version": "2" } })));
        assert!(!echoes(
            json!({ "amount": "1", "extra": { "name": "USDC", "version": "2" }, "more": 1 })
        ));
        assert!(!echoes(Value::Null));
    }

    #[test]
    fn extensions_come_back_whole_or_not_at_all() {
        let offered = json!({ PAYMENT_IDENTIFIER: { "info": { "required": false }, "schema": {} } });
        let echo = |info: Value, schema: bool| {
            let mut echo = json!({ PAYMENT_IDENTIFIER: { "info": info } });
            if schema {
                echo[PAYMENT_IDENTIFIER]["schema"] = json!({});
            }
            echoed_identifier(&echo, Some(&offered))
        };
        let id = "pay_0123456789abcdef";
        assert_eq!(
            echo(json!({ "required": false, "id": id }), true),
            Ok(Some(id.to_owned()))
        );
        assert_eq!(echo(json!({ "required": false }), true), Ok(None));
        assert_eq!(
            echo(json!({ "required": true, "id": id }), true),
            Err(Refusal::Extensions)
        );
        assert_eq!(
            echo(json!({ "required": false, "id": id }), false),
            Err(Refusal::Extensions)
        );
        assert!(matches!(
            echo(json!({ "required": false, "id": "short" }), true),
            Err(Refusal::Malformed(_))
        ));
        assert_eq!(echoed_identifier(&Value::Null, Some(&offered)), Ok(None));
        assert_eq!(echoed_identifier(&json!({ "theirs": {} }), None), Ok(None));
    }

    #[test]
    fn addresses_are_0x_with_a_right_checksum_or_none() {
        let good = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
        assert!(wire_address(good).is_some());
        assert!(wire_address(&good.to_lowercase()).is_some());
        assert!(wire_address("0x209693bc6afc0C5328bA36FaF03C514EF312287C").is_none());
        assert!(wire_address(good.trim_start_matches("0x")).is_none());
        assert!(wire_address("0x209693").is_none());
    }

    #[test]
    fn the_header_is_padded_standard_base64_of_json() {
        assert_eq!(decode(b"eyJhIjoxfQ=="), Ok(json!({ "a": 1 })));
        for refused in [
            "eyJhIjoxfQ",
            " eyJhIjoxfQ==",
            "eyJhIjoxfQ==,eyJhIjoxfQ==",
            "_-_-",
            "e30x",
        ] {
            assert!(
                matches!(decode(refused.as_bytes()), Err(Refusal::Malformed(_))),
                "{refused}"
            );
        }
    }
}
