//! BKey's answers (approvals §4.5, §4.6), read strictly wherever a lenient reading could cost money. Pure.
//!
//! It is not documented which of two dialects BKey uses, so both are read: `status` in a 200, and OAuth's `error`.

use bursar_ledger::Reason;
use std::time::Duration;

use alloy_primitives::{Address, B256, hex};
use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::stripe::TokenId;
use bursar_net::oauth::form;

/// How long the person has, where the answer does not say (approvals §4.6).
const USUAL_LIFE: Duration = Duration::from_secs(300);
const USUAL_INTERVAL: Duration = Duration::from_secs(2);
const LONGEST_INTERVAL: Duration = Duration::from_secs(30);
/// An id ends up in a URL, a log and a ledger entry.
const LONGEST_ID: usize = 128;

/// The answer to `GET /v1/x402/wallet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletAnswer {
    pub address: Address,
    pub chain_id: u64,
    pub contract: Address,
}

/// An authorization as it was received: no member is trusted yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    pub from: Address,
    pub to: Address,
    pub value: u128,
    pub valid_after: u64,
    pub valid_before: u64,
    pub nonce: B256,
    pub contract: Address,
    pub chain_id: u64,
    /// r, s, v.
    pub signature: [u8; 65],
    pub id: Option<String>,
}

/// A Shared Payment Token as it was received, with whatever the answer says about it.
pub struct Token {
    pub token: TokenId,
    /// Unix second.
    pub expires_at: Option<u64>,
    pub cents: Option<u64>,
    pub currency: Option<String>,
    pub payment_method: Option<String>,
}

/// An order that a person must confirm on the phone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    id: String,
    interval: Duration,
    /// Counted from the order.
    life: Duration,
}

/// The name of a member that is missing or malformed.
pub type Unreadable = &'static str;

/// The outcome of an order.
pub enum Created<T> {
    Made(Result<T, Unreadable>),
    Pending(Pending),
    /// BKey says that it did not accept the order: nothing was made.
    Refused(StatusCode),
    /// The credential may have been made.
    Unclear(StatusCode),
}

/// What polling a pending order returned.
pub enum Looked<T> {
    Made(Result<T, Unreadable>),
    /// Poll again, after this long if the answer says so.
    Wait(Option<Duration>),
    /// BKey says that the order has ended without a credential. The reason is one of bursar's own codes.
    Over(Reason),
}

/// Reads the credential out of an answer.
pub(super) type Read<T> = fn(&Map<String, Value>) -> Result<T, Unreadable>;

impl Pending {
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn interval(&self) -> Duration {
        self.interval
    }

    pub fn life(&self) -> Duration {
        self.life
    }

    fn of(object: &Map<String, Value>) -> Option<Self> {
        let seconds = |name: &str| object.get(name).and_then(integer).map(Duration::from_secs);
        Some(Self {
            id: id(object.get("authorizationId").or_else(|| object.get("id"))?)?,
            interval: seconds("interval")
                .unwrap_or(USUAL_INTERVAL)
                .clamp(Duration::from_secs(1), LONGEST_INTERVAL),
            life: seconds("expiresIn").unwrap_or(USUAL_LIFE).min(2 * USUAL_LIFE),
        })
    }
}

impl Authorization {
    /// From `authorization`, or from `signedPayload`, which holds the same in base64.
    pub(crate) fn in_answer(object: &Map<String, Value>) -> Result<Self, Unreadable> {
        if let Some(Value::Object(authorization)) = object.get("authorization") {
            return Self::of(authorization, object);
        }
        let payload = object.get("signedPayload").ok_or("authorization")?;
        let payload = unpacked(payload).ok_or("signedPayload")?;
        match payload.get("authorization") {
            Some(Value::Object(authorization)) => Self::of(authorization, &payload),
            _ => Self::of(&payload, &payload),
        }
    }

    /// The signature and the id may be in the object or beside it.
    fn of(object: &Map<String, Value>, around: &Map<String, Value>) -> Result<Self, Unreadable> {
        let text = |name: &'static str| object.get(name).and_then(Value::as_str).ok_or(name);
        let address = |name: &'static str| text(name)?.parse().map_err(|_| name);
        let number = |name: &'static str| object.get(name).and_then(integer).ok_or(name);
        let beside = |name: &str| object.get(name).or_else(|| around.get(name));
        Ok(Self {
            from: address("from")?,
            to: address("to")?,
            value: object.get("value").and_then(integer).ok_or("value")?,
            valid_after: number("validAfter")?,
            valid_before: number("validBefore")?,
            nonce: bytes(text("nonce")?).map(B256::from).ok_or("nonce")?,
            contract: address("contractAddress")?,
            chain_id: number("chainId")?,
            signature: beside("signature")
                .and_then(Value::as_str)
                .and_then(bytes)
                .ok_or("signature")?,
            id: beside("authorizationId").and_then(id),
        })
    }
}

impl Token {
    /// From `sptId`, or from `sptCredential`, base64 of JSON that contains it.
    pub(crate) fn in_answer(object: &Map<String, Value>) -> Result<Self, Unreadable> {
        let credential = match object.get("sptCredential") {
            None => None,
            Some(packed) => Some(unpacked(packed).ok_or("sptCredential")?),
        };
        let member = |name: &str| {
            let inside = credential.as_ref().and_then(|credential| credential.get(name));
            object.get(name).or(inside)
        };
        let text = |name: &'static str| match member(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(name),
        };
        let token = text("sptId")?.ok_or("sptId")?;
        // If it is given twice, both must agree.
        let inside = credential.as_ref().and_then(|credential| credential.get("sptId"));
        if inside.is_some_and(|inside| inside.as_str() != Some(&token)) {
            return Err("sptCredential");
        }
        Ok(Self {
            token: TokenId::parse(&token).map_err(|_| "sptId")?,
            expires_at: match member("expiresAt") {
                None | Some(Value::Null) => None,
                Some(at) => Some(moment(at).ok_or("expiresAt")?),
            },
            cents: match member("amountCents") {
                None | Some(Value::Null) => None,
                Some(cents) => Some(integer(cents).ok_or("amountCents")?),
            },
            currency: text("currency")?,
            payment_method: text("paymentMethodId")?,
        })
    }
}

/// Reads the answer about the wallet. The error is the member that is missing or malformed.
pub(super) fn wallet(body: &[u8]) -> Result<WalletAnswer, Unreadable> {
    let object = object(body).ok_or("JSON")?;
    let address = |name: &'static str| {
        let text = object.get(name).and_then(Value::as_str).ok_or(name)?;
        text.parse().map_err(|_| name)
    };
    Ok(WalletAnswer {
        address: address("address")?,
        chain_id: object.get("chainId").and_then(integer).ok_or("chainId")?,
        contract: address("usdcContract")?,
    })
}

/// Reads the answer to an order.
pub(super) fn created<T>(status: StatusCode, body: &[u8], read: Read<T>) -> Created<T> {
    let Some(object) = object(body) else {
        return Created::Unclear(status);
    };
    if status.is_success() {
        return match object.get("status").and_then(Value::as_str) {
            Some("authorized") => Created::Made(read(&object)),
            Some("pending_approval") => Pending::of(&object).map_or(Created::Unclear(status), Created::Pending),
            _ => Created::Unclear(status),
        };
    }
    // These statuses refuse an order. A 409 may conflict with an order that was accepted, and an answer without BKey's
    // own error body may come from something in between.
    let refuses = matches!(status.as_u16(), 400 | 401 | 403 | 404 | 429);
    match refuses && error(&object).is_some() {
        true => Created::Refused(status),
        false => Created::Unclear(status),
    }
}

/// Reads the answer to a poll. An answer that cannot be understood decides nothing.
pub(super) fn looked<T>(status: StatusCode, body: &[u8], wait: Option<Duration>, read: Read<T>) -> Looked<T> {
    let Some(object) = object(body) else {
        return Looked::Wait(wait);
    };
    match object.get("status").and_then(Value::as_str) {
        Some("signed" | "authorized") if status == StatusCode::OK => return Looked::Made(read(&object)),
        Some("settled") => return Looked::Over(Reason::SignerSaysSettled),
        Some("expired") => return Looked::Over(Reason::SignerSaysExpired),
        Some("failed" | "denied" | "rejected") => return Looked::Over(Reason::SignerSaysFailed),
        _ => {}
    }
    match error(&object) {
        Some("expired_token") => Looked::Over(Reason::SignerSaysExpired),
        Some("access_denied") => Looked::Over(Reason::SignerSaysFailed),
        _ => Looked::Wait(wait),
    }
}

/// The error code, in either of the API's two shapes or in OAuth's.
fn error(object: &Map<String, Value>) -> Option<&str> {
    match object.get("error")? {
        Value::String(code) => Some(code),
        Value::Object(error) => error.get("code").or_else(|| error.get("type"))?.as_str(),
        _ => None,
    }
}

fn object(body: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_str(form::object(body)?).ok()
}

fn id(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    // Dots alone would change the path of the URL.
    let named = text.bytes().any(|b| b.is_ascii_alphanumeric());
    (named && text.len() <= LONGEST_ID && text.bytes().all(plain)).then(|| text.to_owned())
}

/// A JSON integer, or a string of its digits.
fn integer<T: std::str::FromStr>(value: &Value) -> Option<T> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

/// Unix seconds, given as such or in RFC 3339.
fn moment(value: &Value) -> Option<u64> {
    if let Some(seconds) = integer(value) {
        return Some(seconds);
    }
    let at: Timestamp = value.as_str()?.parse().ok()?;
    u64::try_from(at.as_second()).ok()
}

/// `0x` and exactly `N` bytes.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text.strip_prefix("0x")?, &mut bytes).ok()?;
    Some(bytes)
}

fn unpacked(value: &Value) -> Option<Map<String, Value>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text = value.as_str()?;
    let alphabet = match text.contains(['-', '_']) {
        true => &URL_SAFE,
        false => &STANDARD,
    };
    object(&GeneralPurpose::new(alphabet, config).decode(text).ok()?)
}

#[cfg(test)]
mod tests;
