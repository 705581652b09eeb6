//! KEYRA's webhooks: authenticating and reading them. Pure.
//!
//! An event decides nothing. It triggers a poll, and only KEYRA's response to the poll counts (approvals §6.2).

use std::fmt;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use subtle::ConstantTimeEq;
use thiserror::Error;

use super::challenge::{Attestation, ChallengeId};
use super::settings::SettingsError;
use bursar_core::challenge::json;

pub(super) const HEADER: &str = "keyra-signature";
/// How far `t` may differ from our clock, in either direction.
const TOLERANCE_S: u64 = 300;
const PREFIX: &str = "sha256=";

/// How the signature is encoded. KEYRA documents only HMAC-SHA256 over the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignatureFormat {
    #[default]
    Hex,
    /// `sha256=` and hex.
    Prefixed,
    Base64,
    /// `t=…,v1=…`, where the signature covers `t`, a dot and the body.
    Timestamped,
}

impl SignatureFormat {
    /// Parses the name used in bursar.toml.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "hex" => Some(Self::Hex),
            "prefixed" => Some(Self::Prefixed),
            "base64" => Some(Self::Base64),
            "timestamped" => Some(Self::Timestamped),
            _ => None,
        }
    }
}

/// The webhook key and signature format. No `Debug`, so that the key cannot be logged.
pub struct Webhooks {
    key: hmac::Key,
    format: SignatureFormat,
}

/// Why a webhook was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    #[error("webhooks are not configured")]
    NotConfigured,
    #[error("the webhook signature is missing or invalid")]
    Signature,
    #[error("the webhook is signed, but it is not a valid event")]
    NotAnEvent,
}

/// An authentic webhook's event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub kind: EventKind,
    pub challenge: Option<ChallengeId>,
    pub attestation: Option<Attestation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// `challenge.approved`. The poll finds out whether it is.
    Approved,
    /// `challenge.rejected` or `.expired`. The poll finds out which.
    Ended,
    /// `device.paired`, and events that KEYRA may add.
    Other,
}

impl Webhooks {
    /// The key is the UTF-8 bytes of `secret` as written. An empty secret is rejected: with it, anyone could sign.
    pub fn new(secret: &str, format: SignatureFormat) -> Result<Self, SettingsError> {
        match secret.is_empty() {
            true => Err(SettingsError::EmptySecret),
            false => Ok(Self {
                key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
                format,
            }),
        }
    }

    /// Checks the signature, then reads the event. `body` must be exactly the bytes received.
    pub fn event(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<Event, Refused> {
        let mut fields = headers.get_all(HEADER).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else {
            return Err(Refused::Signature);
        };
        let field = field.to_str().map_err(|_| Refused::Signature)?;
        match self.is_signed(field, body, now) {
            true => Event::parse(body).ok_or(Refused::NotAnEvent),
            false => Err(Refused::Signature),
        }
    }

    fn is_signed(&self, field: &str, body: &[u8], now: Timestamp) -> bool {
        let signature = match self.format {
            SignatureFormat::Hex => from_hex(field),
            SignatureFormat::Prefixed => field.strip_prefix(PREFIX).and_then(from_hex),
            SignatureFormat::Base64 => from_base64(field),
            SignatureFormat::Timestamped => return self.is_signed_and_timely(field, body, now),
        };
        signature.is_some_and(|signature| self.is_tag(&signature, &hmac::sign(&self.key, body)))
    }

    fn is_signed_and_timely(&self, field: &str, body: &[u8], now: Timestamp) -> bool {
        let Some(Timestamped { t, seconds, signatures }) = Timestamped::parse(field) else {
            return false;
        };
        if seconds.abs_diff(now.as_second()) > TOLERANCE_S {
            return false;
        }
        let mut context = hmac::Context::with_key(&self.key);
        context.update(t.as_bytes());
        context.update(b".");
        context.update(body);
        let tag = context.sign();
        // While a secret is being rotated, there are two signatures.
        signatures.iter().any(|signature| self.is_tag(signature, &tag))
    }

    fn is_tag(&self, signature: &[u8; 32], tag: &hmac::Tag) -> bool {
        signature.as_slice().ct_eq(tag.as_ref()).into()
    }
}

impl fmt::Display for SignatureFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hex => "hex",
            Self::Prefixed => "prefixed",
            Self::Base64 => "base64",
            Self::Timestamped => "timestamped",
        })
    }
}

struct Timestamped<'a> {
    /// As written, because the signature covers that text.
    t: &'a str,
    seconds: i64,
    signatures: Vec<[u8; 32]>,
}

impl<'a> Timestamped<'a> {
    /// Expects one `t` and any number of `v1`; other members are ignored.
    fn parse(field: &'a str) -> Option<Self> {
        let (mut t, mut signatures) = (None, Vec::new());
        for member in field.split(',') {
            match member.split_once('=')? {
                ("t", value) if t.is_none() => t = Some(value),
                ("t", _) => return None,
                ("v1", value) => signatures.extend(from_hex(value)),
                _ => {}
            }
        }
        let t = t.filter(|t| t.bytes().all(|byte| byte.is_ascii_digit()))?;
        Some(Self {
            t,
            seconds: t.parse().ok()?,
            signatures,
        })
    }
}

/// Exactly 64 hex digits, upper or lower case.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let is_plain = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_plain && alloy_primitives::hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

fn from_base64(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[derive(Deserialize)]
struct EventText {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    data: Option<DataText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DataText {
    challenge_id: Option<String>,
    attestation: Option<Value>,
    device_id: Option<String>,
}

impl Event {
    fn parse(body: &[u8]) -> Option<Self> {
        let EventText { kind, id, data } = serde_json::from_str(json::checked(body).ok()?).ok()?;
        let kind = match kind.as_str() {
            "challenge.approved" => EventKind::Approved,
            "challenge.rejected" | "challenge.expired" => EventKind::Ended,
            _ => EventKind::Other,
        };
        let (challenge, attestation) = match data {
            Some(data) => (
                data.challenge_id.as_deref().and_then(ChallengeId::parse),
                Attestation::of(data.attestation, data.device_id),
            ),
            None => (None, None),
        };
        Some(Self {
            id,
            kind,
            challenge,
            attestation,
        })
    }
}

#[cfg(test)]
mod tests;
