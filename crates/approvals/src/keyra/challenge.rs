//! A challenge: the request, the response, and whether the two are about the same payment. Pure.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::settings::{Action, Echo};
use bursar_core::approval::Question;
use bursar_core::challenge::json;
use bursar_core::money::Atoms;

/// KEYRA's id of a challenge (`chl_…`). It is used in paths, so only letters, digits, `_` and `-` are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeId(String);

impl ChallengeId {
    pub fn parse(text: &str) -> Option<Self> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        ((1..=128).contains(&text.len()) && text.bytes().all(is_word)).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChallengeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The request to create a challenge. Depends on the question only, so that it can be rebuilt for comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Order {
    action: String,
    user_id: String,
    payload: Map<String, Value>,
    /// Seconds.
    expires_in: u64,
}

impl Order {
    /// Our own bounds: KEYRA does not document any, and its example is 120 (approvals §6.2).
    const EXPIRES_IN: (u64, u64) = (30, 600);

    /// `None` for an intent whose numbers cannot be read, which bursar never makes.
    pub(super) fn of(question: &Question, action: &Action) -> Option<Self> {
        let intent = &question.intent;
        let text = |name| intent.member(name).map(str::to_owned);
        let (amount, amount_minor) = amounts(question)?;
        // All values are strings, because the unit and the number type of `amount` are not documented.
        let payload = [
            ("amount", amount),
            ("amount_minor", amount_minor),
            ("currency", text("currency")?),
            ("recipient", text("payee")?),
            ("host", text("host")?),
            ("intent_hash", alloy_primitives::hex::encode(intent.hash())),
            ("code", question.code.to_string()),
        ];
        let (shortest, longest) = Self::EXPIRES_IN;
        Some(Self {
            action: action.as_str().to_owned(),
            user_id: text("approver")?,
            payload: payload
                .into_iter()
                .map(|(name, text)| (name.to_owned(), Value::String(text)))
                .collect(),
            expires_in: question.ttl.as_secs().clamp(shortest, longest),
        })
    }

    pub(super) fn user_id(&self) -> &str {
        &self.user_id
    }

    pub(super) fn expires_in(&self) -> u64 {
        self.expires_in
    }

    pub(super) fn body(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What KEYRA echoes must equal what was sent; then the approver saw this payment.
    pub(super) fn compare(&self, answer: &ChallengeAnswer, echo: Echo) -> Result<(), Difference> {
        let text = |text: &str| Value::String(text.to_owned());
        let (action, user_id) = (text(&self.action), text(&self.user_id));
        let payload = Value::Object(self.payload.clone());
        for (member, sent, echoed) in [
            ("action", &action, &answer.action),
            ("userId", &user_id, &answer.user_id),
            ("payload", &payload, &answer.payload),
        ] {
            match echoed {
                Some(echoed) if echoed == sent => {}
                Some(_) => return Err(Difference::Other(member)),
                None if echo == Echo::Required => return Err(Difference::Missing(member)),
                None => {}
            }
        }
        Ok(())
    }
}

/// The amount in whole units, with at least two decimals, and in minor units of the same currency, rounded up.
fn amounts(question: &Question) -> Option<(String, String)> {
    let intent = &question.intent;
    let atoms = Atoms::parse(intent.member("amount")?).ok()?;
    let decimals: u8 = intent.member("decimals")?.parse().ok()?;
    // Fiat is counted in its minor unit already. A token's minor unit is taken to be one hundredth.
    let minor_decimals = match intent.member("network")?.split_once(':') {
        Some(("stripe", _)) => decimals,
        _ => 2,
    };
    let power = |decimals: u8| 10_u128.checked_pow(decimals.into());
    let minor = match decimals.checked_sub(minor_decimals) {
        Some(finer) => atoms.get().div_ceil(power(finer)?),
        None => atoms.get().checked_mul(power(minor_decimals - decimals)?)?,
    };
    let (short, full) = (atoms.decimal(decimals), atoms.fixed(decimals));
    let shown = match full.split_once('.') {
        Some((whole, _)) => full.get(..short.len().max(whole.len() + 3))?.to_owned(),
        None => full,
    };
    Some((shown, minor.to_string()))
}

/// The member in which KEYRA's echo differs from what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    Other(&'static str),
    /// Only with `require_echo`.
    Missing(&'static str),
}

/// The status of a challenge according to KEYRA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Pending,
    Approved,
    Rejected,
    Expired,
    /// The challenge is for single use, and was used.
    Used,
    /// An unknown status never approves.
    Unknown,
}

impl Status {
    pub(super) fn of(text: &str) -> Self {
        match text {
            "pending" => Self::Pending,
            "approved" => Self::Approved,
            "rejected" => Self::Rejected,
            "expired" => Self::Expired,
            "used" => Self::Used,
            _ => Self::Unknown,
        }
    }
}

/// What the approver's device signed. KEYRA verifies it; to bursar it is opaque.
#[derive(Clone, Debug, PartialEq)]
pub struct Attestation {
    pub attestation: Value,
    pub device_id: String,
}

impl Attestation {
    /// Needs both: one is of no use without the other.
    pub(super) fn of(attestation: Option<Value>, device_id: Option<String>) -> Option<Self> {
        Some(Self {
            attestation: attestation.filter(|value| !value.is_null())?,
            device_id: device_id?,
        })
    }
}

/// A challenge as KEYRA returns it. Members beyond its documentation are compared, not relied on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ChallengeAnswer {
    pub status: Status,
    pub id: Option<String>,
    pub expires_at: Option<Timestamp>,
    pub attestation: Option<Attestation>,
    action: Option<Value>,
    user_id: Option<Value>,
    payload: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerText {
    status: String,
    id: Option<String>,
    expires_at: Option<Timestamp>,
    attestation: Option<Value>,
    device_id: Option<String>,
    action: Option<Value>,
    user_id: Option<Value>,
    payload: Option<Value>,
}

impl ChallengeAnswer {
    /// Accepts a single JSON object without duplicate members: two readers must not see different answers.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let text: AnswerText = serde_json::from_str(json::checked(body).ok()?).ok()?;
        Some(Self {
            status: Status::of(&text.status),
            id: text.id,
            expires_at: text.expires_at,
            attestation: Attestation::of(text.attestation, text.device_id),
            action: text.action,
            user_id: text.user_id,
            payload: text.payload,
        })
    }

    /// Whether it is about this challenge. A response without an id passes.
    pub(super) fn is_about(&self, id: &ChallengeId) -> bool {
        self.id.as_deref().is_none_or(|named| named == id.as_str())
    }
}

#[cfg(test)]
mod tests;
