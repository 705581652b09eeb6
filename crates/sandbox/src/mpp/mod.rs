//! Sales over MPP with the method `stripe` and the intent `charge`, as the reference server `mppx` 0.11 makes them (MPP
//! §2 to §6).
//!
//! Written independently of `bursar_core::challenge`, `bursar_rails::pay` and `bursar_rails::stripe`, and checked
//! against `mppx` and the crate `mpp`.
//!
//! * `challenge`: the challenge and the id that binds it.
//! * `credential`: what the payer sends back.
//! * `charge`: the call to Stripe.
//! * `problem`: the problem documents of a 402.

mod challenge;
mod charge;
mod credential;
mod problem;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tracing::info;

use super::replies::{Content, content};
use super::stripe::StripeSandbox;
use bursar_core::clock::{self, SharedClock};
pub(crate) use challenge::Sale;
use challenge::{Challenge, base64url};
pub(crate) use credential::Credential;
pub(crate) use problem::Problem;

/// How long a challenge is valid: mppx's default.
const LIFE: SignedDuration = SignedDuration::from_mins(5);
/// The response header that carries the receipt.
const RECEIPT: &str = "payment-receipt";

/// Checks and charges credentials.
pub(crate) struct Till {
    stripe: Arc<StripeSandbox>,
    clock: SharedClock,
    /// Binds a challenge to its contents (MPP §2.1).
    key: hmac::Key,
    /// Paid challenges with their expiry. Expired ones are rejected anyway and need not be remembered.
    used: Mutex<HashMap<String, Timestamp>>,
}

/// A valid, unexpired credential for this sale.
pub(crate) struct Verified {
    id: String,
    expires: Timestamp,
    token: String,
}

/// Members in the order in which mppx writes them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Receipt<'a> {
    method: &'a str,
    status: &'a str,
    timestamp: String,
    reference: &'a str,
    external_id: &'a str,
}

impl Till {
    /// Charges at `stripe`, which must have the shop's account.
    pub(crate) fn new(stripe: Arc<StripeSandbox>, clock: SharedClock) -> Result<Self, getrandom::Error> {
        Ok(Self::with_key(stripe, clock, &clock::random::<32>()?))
    }

    fn with_key(stripe: Arc<StripeSandbox>, clock: SharedClock, key: &[u8]) -> Self {
        Self {
            stripe,
            clock,
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            used: Mutex::default(),
        }
    }

    /// A fresh challenge, as a value for `WWW-Authenticate`.
    pub(crate) fn challenge(&self, sale: &Sale) -> HeaderValue {
        self.issue(sale).field()
    }

    /// A 402 with a fresh challenge and the reason for it.
    pub(crate) fn ask(&self, sale: &Sale, problem: &Problem) -> Response<Content> {
        let challenge = self.issue(sale);
        if !matches!(problem, Problem::Required { .. }) {
            info!(
                article = sale.article.path,
                reason = problem.code(),
                "MPP credential refused"
            );
        }
        let body = problem.json(&challenge.id).into();
        let mut response = content(StatusCode::PAYMENT_REQUIRED, "application/problem+json", body);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::WWW_AUTHENTICATE, challenge.field());
        response
    }

    fn issue(&self, sale: &Sale) -> Challenge {
        let expires = self.clock.now().checked_add(LIFE).unwrap_or(Timestamp::MAX);
        Challenge::new(&self.key, sale, &moment(expires))
    }

    /// Checks a credential without charging it. The order is mppx's: issued here, for this sale, unexpired,
    /// well-formed.
    pub(crate) fn verify(&self, sale: &Sale, credential: &Credential) -> Result<Verified, Problem> {
        let echo = &credential.challenge;
        let id = echo.id.clone();
        let invalid = |reason| Problem::InvalidChallenge { id: id.clone(), reason };
        if !echo.is_bound_by(&self.key) {
            return Err(invalid("challenge was not issued by this server"));
        }
        // Every article has its own `externalId`, so an equal request is for this article.
        let asked = (sale.realm.as_str(), sale.request());
        if (echo.realm.as_str(), &echo.request) != (asked.0, &asked.1) {
            return Err(invalid("credential does not match this route's requirements"));
        }
        if echo
            .description
            .as_ref()
            .is_some_and(|text| text != sale.article.description)
        {
            return Err(invalid("credential changes the description"));
        }
        let expires = echo.expires.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
        let expires = expires.ok_or_else(|| invalid("missing required expires field"))?;
        if expires <= self.clock.now() {
            return Err(Problem::Expired { at: moment(expires) });
        }
        let payload = credential.stripe()?;
        if payload.external_id.as_deref() != Some(sale.external_id().as_str()) {
            return Err(invalid("credential externalId does not match this route request"));
        }
        Ok(Verified {
            id,
            expires,
            token: payload.spt,
        })
    }

    /// Charges the token and writes the receipt. Charges run one after the other, so of many requests with the same
    /// challenge only one is charged.
    pub(crate) fn charge(&self, sale: &Sale, verified: &Verified) -> Result<HeaderValue, Problem> {
        let now = self.clock.now();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, expires| *expires > now);
        if used.contains_key(&verified.id) {
            return Err(Problem::Processed);
        }
        let intent = charge::confirm(&self.stripe, sale, &verified.id, &verified.token)?;
        used.insert(verified.id.clone(), verified.expires);
        drop(used);
        info!(article = sale.article.path, cents = sale.cents, %intent, "sold at the sandbox Stripe");
        let receipt = Receipt {
            method: challenge::METHOD,
            status: "success",
            timestamp: moment(now),
            reference: &intent,
            external_id: &sale.external_id(),
        };
        Ok(base64url(&receipt))
    }
}

/// Adds a receipt to a response, which makes the response private (MPP §5).
pub(crate) fn attach(receipt: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private"));
    headers.insert(RECEIPT, receipt);
}

/// In JavaScript's format: UTC, with milliseconds.
fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
