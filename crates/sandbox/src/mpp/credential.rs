//! The payer's credential (MPP §4, §6).

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::Value;

use super::challenge::{INTENT, METHOD, bound};
use super::problem::Problem;

/// The longest accepted shared payment token, so that the idempotency key that contains it stays within Stripe's 255
/// characters.
const LONGEST_TOKEN: usize = 200;

/// Parsed but not checked. It can be charged, so it has no `Debug`.
#[derive(Deserialize)]
pub(crate) struct Credential {
    pub challenge: Echo,
    payload: Value,
}

/// The challenge as the payer repeats it.
#[derive(Deserialize)]
pub(crate) struct Echo {
    pub id: String,
    pub realm: String,
    method: String,
    intent: String,
    pub request: String,
    pub expires: Option<String>,
    digest: Option<String>,
    opaque: Option<String>,
    header: Option<String>,
    pub description: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StripePayload {
    /// The shared payment token.
    pub spt: String,
    pub external_id: Option<String>,
}

impl Credential {
    /// Reads `Authorization: Payment …`, which may share a field with other schemes, as mppx does. `None` if the
    /// request carries no payment.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Result<Self, Problem>> {
        let fields = headers.get_all(header::AUTHORIZATION).iter();
        let mut found = fields
            .filter_map(|field| field.to_str().ok())
            .flat_map(|field| field.split(','))
            .filter_map(|part| part.trim().split_once([' ', '\t']))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("payment"))
            .map(|(_, token)| token.trim());
        let token = found.next()?;
        if found.next().is_some() {
            return Some(Err(Problem::Malformed("more than one credential")));
        }
        let json = URL_SAFE_NO_PAD.decode(token).ok();
        let credential = json.and_then(|json| serde_json::from_slice(&json).ok());
        Some(credential.ok_or(Problem::Malformed("Invalid base64url or JSON")))
    }

    /// The payload of the method `stripe`.
    pub(crate) fn stripe(&self) -> Result<StripePayload, Problem> {
        let payload = StripePayload::deserialize(&self.payload).map_err(|_| Problem::InvalidPayload)?;
        let is_token = payload.spt.len() <= LONGEST_TOKEN
            && payload.spt.strip_prefix("spt_").is_some_and(|rest| {
                !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            });
        match is_token {
            true => Ok(payload),
            false => Err(Problem::InvalidPayload),
        }
    }
}

impl Echo {
    /// Whether exactly this challenge was issued with `key`.
    pub(crate) fn is_bound_by(&self, key: &hmac::Key) -> bool {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (expires, digest, opaque) = (text(&self.expires), text(&self.digest), text(&self.opaque));
        let slots = [
            self.realm.as_str(),
            &self.method,
            &self.intent,
            &self.request,
            &expires,
            &digest,
        ];
        // A value that contains the separator could pass for two.
        let ours = (self.method.as_str(), self.intent.as_str()) == (METHOD, INTENT);
        let whole = slots.iter().all(|slot| !slot.contains('|'));
        let bound = bound(slots, self.header.as_deref(), &opaque);
        URL_SAFE_NO_PAD
            .decode(&self.id)
            .is_ok_and(|tag| ours && whole && hmac::verify(key, bound.as_bytes(), &tag).is_ok())
    }
}
