//! The seller's call to Stripe: one payment intent, confirmed with the token, under an idempotency key that is the same
//! for the same credential (MPP §6.1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, header};

use super::super::stripe::{SHOP_KEY, StripeSandbox};
use super::challenge::{CURRENCY, INTENT, Sale};
use super::problem::Problem;

/// The API version that mppx uses; released versions do not have shared payment tokens.
const API_VERSION: &str = "2026-07-29.preview";

/// Charges the token and returns the id of the succeeded payment intent.
pub(super) fn confirm(stripe: &StripeSandbox, sale: &Sale, challenge: &str, token: &str) -> Result<String, Problem> {
    let refused = |reason: String| Problem::Stripe { reason };
    let headers =
        headers(challenge, token).ok_or_else(|| refused("the request to Stripe could not be built".to_owned()))?;
    // All values consist of letters, digits, `-` and `_`, so nothing needs escaping.
    let form = format!(
        "amount={}&automatic_payment_methods%5Ballow_redirects%5D=never&automatic_payment_methods%5Benabled%5D=true\
         &confirm=true&currency={CURRENCY}&shared_payment_granted_token={token}&metadata%5Bmachine_payment%5D=true\
         &metadata%5Bmpp_intent%5D={INTENT}&metadata%5Bmpp_challenge_id%5D={challenge}",
        sale.cents
    );
    let answer = stripe.answer(&Method::POST, "/v1/payment_intents", &headers, form.as_bytes());
    if !answer.status.is_success() {
        let message = answer.json["error"]["message"]
            .as_str()
            .unwrap_or("Stripe gave no reason");
        return Err(refused(format!("Stripe PaymentIntent failed: {message}")));
    }
    // A replayed response belongs to a charge that has already bought something.
    if answer.headers.contains_key("idempotent-replayed") {
        return Err(Problem::Processed);
    }
    let intent = &answer.json;
    match (intent["id"].as_str(), intent["status"].as_str()) {
        (Some(id), Some("succeeded")) => Ok(id.to_owned()),
        (_, status) => Err(refused(format!(
            "Stripe PaymentIntent status: {}",
            status.unwrap_or("none")
        ))),
    }
}

fn headers(challenge: &str, token: &str) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let key = format!("Basic {}", STANDARD.encode(format!("{SHOP_KEY}:")));
    headers.insert(header::AUTHORIZATION, HeaderValue::try_from(key).ok()?);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    headers.insert("stripe-version", HeaderValue::from_static(API_VERSION));
    let once = HeaderValue::try_from(format!("mpp_{challenge}_{token}")).ok()?;
    headers.insert("idempotency-key", once);
    Some(headers)
}
