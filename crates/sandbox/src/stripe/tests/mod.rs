//! The sandbox on its own: what it accepts, what it rejects, and with which code.

mod charging;
mod requests;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::*;
use bursar_core::clock::{Clock as _, ManualClock};

const NOW: i64 = 1_790_000_000;
const AGENT: &str = "sk_test_agent";
const SELLER: &str = "sk_test_seller";
const OTHER: &str = "sk_test_other";
const ISSUE: &str = "/v1/shared_payment/issued_tokens";
const GRANT: &str = "/v1/test_helpers/shared_payment/granted_tokens";
const CHARGE: &str = "/v1/payment_intents";
const ORDER: &str = "payment_method=pm_card_visa&usage_limits[currency]=usd&usage_limits[max_amount]=100\
                     &usage_limits[expires_at]=1790000300&seller_details[network_business_profile]=profile_lab_seller";

struct World {
    stripe: StripeSandbox,
    clock: Arc<ManualClock>,
}

fn world() -> World {
    let clock = Arc::new(ManualClock::at(Timestamp::from_second(NOW).unwrap()));
    let stripe = StripeSandbox::new(clock.clone(), AGENT)
        .with_seller(SELLER, "profile_lab_seller")
        .with_seller(OTHER, "profile_lab_other");
    World { stripe, clock }
}

fn fields(key: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, format!("Bearer {key}").parse().unwrap());
    headers.insert("stripe-version", HeaderValue::from_static("2026-07-29.preview"));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    headers
}

impl World {
    fn post(&self, key: &str, path: &str, form: &str) -> Answer {
        self.stripe.answer(&Method::POST, path, &fields(key), form.as_bytes())
    }

    fn post_once(&self, key: &str, idempotency_key: &str, path: &str, form: &str) -> Answer {
        let mut headers = fields(key);
        headers.insert("idempotency-key", idempotency_key.parse().unwrap());
        self.stripe.answer(&Method::POST, path, &headers, form.as_bytes())
    }

    fn look(&self, key: &str, path: &str) -> Answer {
        self.stripe.answer(&Method::GET, path, &fields(key), b"")
    }

    fn issue(&self) -> String {
        let answer = self.post(AGENT, ISSUE, ORDER);
        assert_eq!(answer.status, 200, "{}", answer.json);
        answer.json["id"].as_str().unwrap().to_owned()
    }

    fn wait(&self, seconds: i64) {
        let now = self.clock.now().as_second();
        self.clock.set(Timestamp::from_second(now + seconds).unwrap());
    }
}

fn sale(cents: u64, token: &str) -> String {
    format!(
        "amount={cents}&automatic_payment_methods[allow_redirects]=never&automatic_payment_methods[enabled]=true\
         &confirm=true&currency=usd&shared_payment_granted_token={token}&metadata[machine_payment]=true"
    )
}

/// Status, type, code and parameter of an error.
fn refusal(answer: &Answer) -> (u16, &str, &str, &str) {
    let text = |name: &str| answer.json["error"][name].as_str().unwrap_or("");
    (answer.status.as_u16(), text("type"), text("code"), text("param"))
}
