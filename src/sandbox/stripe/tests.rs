//! The sandbox by itself: what it takes, what it refuses and with which code.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::clock::{Clock as _, ManualClock};

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

/// Status, type, code and parameter of a refusal.
fn refusal(answer: &Answer) -> (u16, &str, &str, &str) {
    let text = |name: &str| answer.json["error"][name].as_str().unwrap_or("");
    (answer.status.as_u16(), text("type"), text("code"), text("param"))
}

#[test]
fn only_known_keys_get_in() {
    let world = world();
    for field in [
        None,
        Some("Bearer sk_test_stranger"),
        Some("Bearer "),
        Some("Basic !!"),
        Some("Basic c2tfdGVzdF9zdHJhbmdlcjo="),
        Some("Digest sk_test_agent"),
        Some("sk_test_agent"),
    ] {
        let mut headers = fields(AGENT);
        headers.remove(AUTHORIZATION);
        if let Some(field) = field {
            headers.insert(AUTHORIZATION, field.parse().unwrap());
        }
        let answer = world.stripe.answer(&Method::POST, ISSUE, &headers, ORDER.as_bytes());
        assert_eq!(refusal(&answer), (401, "invalid_request_error", "", ""), "{field:?}");
        assert_eq!(answer.headers["www-authenticate"], "Basic realm=\"Stripe\"");
        assert!(!answer.json.to_string().contains("sk_test"));
    }
    let basic = format!("Basic {}", STANDARD.encode(format!("{AGENT}:")));
    let mut headers = fields(AGENT);
    headers.insert(AUTHORIZATION, basic.parse().unwrap());
    let answer = world.stripe.answer(&Method::POST, ISSUE, &headers, ORDER.as_bytes());
    assert_eq!(answer.status, 200);
    assert!(answer.headers["request-id"].to_str().unwrap().starts_with("req_"));
}

#[test]
fn tokens_are_known_in_preview_versions_only() {
    let world = world();
    let token = world.issue();
    for version in [None, Some("2026-07-29"), Some("2026-07-29.dahlia"), Some("x.preview")] {
        let mut headers = fields(AGENT);
        headers.remove("stripe-version");
        if let Some(version) = version {
            headers.insert("stripe-version", version.parse().unwrap());
        }
        let answer = world.stripe.answer(&Method::POST, ISSUE, &headers, ORDER.as_bytes());
        assert_eq!(refusal(&answer), (404, "invalid_request_error", "", ""), "{version:?}");
        headers.insert(AUTHORIZATION, format!("Bearer {SELLER}").parse().unwrap());
        let form = sale(100, &token);
        let answer = world.stripe.answer(&Method::POST, CHARGE, &headers, form.as_bytes());
        let wanted = (
            400,
            "invalid_request_error",
            "parameter_unknown",
            "shared_payment_granted_token",
        );
        assert_eq!(refusal(&answer), wanted, "{version:?}");
    }
    for (method, path) in [
        (Method::GET, CHARGE),
        (Method::DELETE, ISSUE),
        (Method::GET, "/v1/shared_payment"),
        (Method::GET, "/v2/shared_payment/issued_tokens/spt_a"),
        (Method::POST, "/v1/shared_payment/granted_tokens"),
        (Method::GET, "/"),
    ] {
        let answer = world.stripe.answer(&method, path, &fields(AGENT), b"");
        assert_eq!(answer.status, 404, "{method} {path}");
    }
}

#[test]
fn every_parameter_is_checked() {
    let world = world();
    let with = |more: &str| format!("{ORDER}&{more}");
    let without = |name: &str| -> String {
        let pairs: Vec<&str> = ORDER.split('&').filter(|pair| !pair.starts_with(name)).collect();
        pairs.join("&")
    };
    let instead = |name: &str, value: &str| format!("{}&{name}={value}", without(name));
    let currency = "usage_limits[currency]";
    let amount = "usage_limits[max_amount]";
    let expires = "usage_limits[expires_at]";
    let seller = "seller_details[network_business_profile]";
    for (form, code, param) in [
        (with("metadata[a]=b"), "parameter_unknown", "metadata[a]"),
        (
            with("seller_details[network_id]=x"),
            "parameter_unknown",
            "seller_details[network_id]",
        ),
        (
            with("usage_limits[amount]=1"),
            "parameter_unknown",
            "usage_limits[amount]",
        ),
        (with("livemode=true"), "parameter_unknown", "livemode"),
        (without("payment_method"), "parameter_missing", "payment_method"),
        (without("usage_limits"), "parameter_missing", "usage_limits"),
        (without(currency), "parameter_missing", currency),
        (without(amount), "parameter_missing", amount),
        (without("seller_details"), "parameter_missing", "seller_details"),
        (String::new(), "parameter_missing", "payment_method"),
        (instead("payment_method", "pm_1"), "resource_missing", "payment_method"),
        (instead(currency, "USD"), "parameter_invalid_string", currency),
        (instead(currency, "zzz"), "parameter_invalid_string", currency),
        (instead(amount, "1.5"), "parameter_invalid_integer", amount),
        (instead(amount, "-1"), "parameter_invalid_integer", amount),
        (instead(amount, "%2B1"), "parameter_invalid_integer", amount),
        (instead(amount, "0"), "parameter_invalid_integer", amount),
        (instead(amount, ""), "parameter_invalid_integer", amount),
        (instead(amount, "100000000"), "amount_too_large", amount),
        (instead(expires, "1790000000"), "parameter_invalid_integer", expires),
        (instead(expires, "4070908800"), "parameter_invalid_integer", expires),
        (instead(expires, "soon"), "parameter_invalid_integer", expires),
        (instead(seller, "profile_nobody"), "resource_missing", seller),
        (
            with("setup_future_usage=off_session"),
            "parameter_invalid_string",
            "setup_future_usage",
        ),
        (with("return_url=javascript:1"), "url_invalid", "return_url"),
        (with("use_stripe_sdk=1"), "parameter_invalid_string", "use_stripe_sdk"),
    ] {
        let answer = world.post(AGENT, ISSUE, &form);
        assert_eq!(refusal(&answer), (400, "invalid_request_error", code, param), "{form}");
    }
    for form in [
        with("payment_method=pm_card_visa"),
        with("expand[]=payment_method"),
        with("a=%"),
    ] {
        assert_eq!(world.post(AGENT, ISSUE, &form).status, 400, "{form}");
    }
    assert_eq!(world.stripe.counters().tokens_issued, 0);
    let everything = with(
        "seller_details[external_id]=cart&return_url=https://a.example/&setup_future_usage=on_session\
         &shared_metadata[plan]=pro&use_stripe_sdk=false",
    );
    let answer = world.post(AGENT, ISSUE, &everything);
    assert_eq!(answer.json["shared_metadata"], json!({ "plan": "pro" }));
    // Optional in the types; ours always sends it.
    assert_eq!(world.post(AGENT, ISSUE, &without(expires)).status, 200);
}

#[test]
fn a_body_says_that_it_is_a_form() {
    let world = world();
    for kind in [
        None,
        Some("application/json"),
        Some("text/plain"),
        Some("multipart/form-data"),
    ] {
        let mut headers = fields(AGENT);
        headers.remove(CONTENT_TYPE);
        if let Some(kind) = kind {
            headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        }
        let answer = world.stripe.answer(&Method::POST, ISSUE, &headers, ORDER.as_bytes());
        assert_eq!(refusal(&answer), (400, "invalid_request_error", "", ""), "{kind:?}");
    }
}

#[test]
fn an_answer_is_repeated_under_its_key_for_a_day() {
    let world = world();
    let first = world.post_once(AGENT, "a", ISSUE, ORDER);
    assert!(!first.headers.contains_key("idempotent-replayed"));
    // The same parameters in another order.
    let mut pairs: Vec<&str> = ORDER.split('&').collect();
    pairs.reverse();
    let again = world.post_once(AGENT, "a", ISSUE, &pairs.join("&"));
    assert_eq!(again.json, first.json);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    let dearer = ORDER.replace("max_amount]=100", "max_amount]=101");
    let other = world.post_once(AGENT, "a", ISSUE, &dearer);
    assert_eq!(refusal(&other), (400, "idempotency_error", "", ""));
    // Another account's key is another key; so is another day's.
    assert_eq!(world.post_once(SELLER, "a", ISSUE, ORDER).status, 200);
    assert_eq!(world.stripe.counters().tokens_issued, 2);
    world.wait(24 * 3600);
    let later = ORDER.replace("1790000300", "1790090000");
    let next = world.post_once(AGENT, "a", ISSUE, &later);
    assert_ne!(next.json["id"], first.json["id"]);

    // What was not accepted may be corrected; a decline stands.
    assert_eq!(
        world.post_once(AGENT, "b", ISSUE, "payment_method=pm_card_visa").status,
        400
    );
    assert_eq!(world.post_once(AGENT, "b", ISSUE, &later).status, 200);
    let declined = later.replace("pm_card_visa", "pm_card_chargeDeclined");
    for _ in 0..2 {
        let answer = world.post_once(AGENT, "c", ISSUE, &declined);
        assert_eq!(refusal(&answer), (402, "card_error", "card_declined", ""));
        assert_eq!(answer.json["error"]["decline_code"], "generic_decline");
    }
    assert_eq!(
        refusal(&world.post_once(AGENT, "c", ISSUE, &later)).1,
        "idempotency_error"
    );
    assert_eq!(world.post_once(AGENT, &"k".repeat(256), ISSUE, &later).status, 400);
}

#[test]
fn a_token_is_its_issuers_and_its_sellers() {
    let world = world();
    let token = world.issue();
    let issued = format!("{ISSUE}/{token}");
    let granted = format!("/v1/shared_payment/granted_tokens/{token}");
    assert_eq!(world.look(AGENT, &issued).json["status"], "active");
    assert_eq!(world.look(SELLER, &granted).json["id"], token.as_str());
    for (key, path) in [
        (SELLER, &issued),
        (OTHER, &issued),
        (AGENT, &granted),
        (OTHER, &granted),
    ] {
        assert_eq!(refusal(&world.look(key, path)).2, "resource_missing", "{key} {path}");
        assert_eq!(world.look(key, path).status, 404);
    }
    assert_eq!(
        world.look(AGENT, &format!("{issued}?expand[]=payment_method")).status,
        400
    );
    assert_eq!(world.post(SELLER, &format!("{issued}/revoke"), "").status, 404);
    // Only the seller it was issued to may charge it.
    for key in [OTHER, AGENT] {
        let answer = world.post(key, CHARGE, &sale(100, &token));
        let wanted = (
            400,
            "invalid_request_error",
            "resource_missing",
            "shared_payment_granted_token",
        );
        assert_eq!(refusal(&answer), wanted, "{key}");
    }
    assert_eq!(world.stripe.counters().intents_succeeded, 0);
}

#[test]
fn a_token_is_charged_once_and_within_its_limits() {
    let world = world();
    let token = world.issue();
    let refused = |form: &str| {
        let answer = world.post(SELLER, CHARGE, form);
        assert_eq!(answer.status, 400, "{form}");
        refusal(&answer).2.to_owned()
    };
    assert_eq!(refused(&sale(101, &token)), "shared_payment_token_amount_exceeded");
    assert_eq!(
        refused(&sale(100, &token).replace("usd", "eur")),
        "shared_payment_token_currency_mismatch"
    );
    assert_eq!(refused(&sale(49, &token)), "amount_too_small");
    assert_eq!(refused(&sale(100, "spt_nobody")), "resource_missing");
    assert_eq!(
        refused(&format!("{}&hooks[x]=1", sale(100, &token))),
        "parameter_unknown"
    );
    assert_eq!(refused("amount=100&currency=usd&confirm=true"), "parameter_missing");
    assert_eq!(
        refused(&sale(100, &token).replace("confirm=true", "confirm=false")),
        "parameter_invalid_string"
    );

    // Where newer pages put the token.
    let nested = sale(70, &token)
        .replace("shared_payment", "payment_method_data[shared_payment")
        .replace(&format!("granted_token={token}"), &format!("granted_token]={token}"));
    let sold = world.post_once(SELLER, "mpp_a", CHARGE, &nested);
    assert_eq!(sold.json["status"], "succeeded", "{}", sold.json);
    assert_eq!(sold.json["amount_received"], 70);
    assert!(sold.json["id"].as_str().unwrap().starts_with("pi_"));
    let again = world.post_once(SELLER, "mpp_a", CHARGE, &nested);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.json["id"], sold.json["id"]);
    assert_eq!(refused(&sale(70, &token)), "shared_payment_token_consumed");

    let seen = world.look(AGENT, &format!("{ISSUE}/{token}")).json;
    assert_eq!(seen["status"], "deactivated");
    assert_eq!(seen["deactivated_reason"], "consumed");
    assert_eq!(
        seen["usage_details"]["amount_captured"],
        json!({ "currency": "usd", "value": 70 })
    );
    let revoked = world.post(AGENT, &format!("{ISSUE}/{token}/revoke"), "");
    assert_eq!(revoked.status, 400);
    let wanted = Counters {
        tokens_issued: 1,
        intents_succeeded: 1,
        revocations: 0,
        captured: BTreeMap::from([(token, 70)]),
    };
    assert_eq!(world.stripe.counters(), wanted);
}

#[test]
fn what_was_revoked_expired_or_not_confirmed_is_not_charged() {
    let world = world();
    let charge = |token: &str| refusal(&world.post(SELLER, CHARGE, &sale(100, token))).2.to_owned();
    let revoked = world.issue();
    for _ in 0..2 {
        let answer = world.post(AGENT, &format!("{ISSUE}/{revoked}/revoke"), "");
        assert_eq!(answer.json["deactivated_reason"], "revoked");
    }
    assert_eq!(world.stripe.counters().revocations, 1);
    assert_eq!(charge(&revoked), "shared_payment_token_revoked");

    let form = ORDER.replace("pm_card_visa", "pm_card_authenticationRequired");
    let waiting = world.post(AGENT, ISSUE, &form).json;
    assert_eq!(waiting["status"], "requires_action");
    assert_eq!(waiting["next_action"]["type"], "redirect_to_url");
    let waiting = waiting["id"].as_str().unwrap();
    assert_eq!(charge(waiting), "shared_payment_token_requires_action");
    assert!(world.stripe.authenticate(waiting));
    assert!(!world.stripe.authenticate(waiting));
    assert_eq!(
        world.post(SELLER, CHARGE, &sale(100, waiting)).json["status"],
        "succeeded"
    );

    let form = ORDER.replace("pm_card_visa", "pm_card_chargeCustomerFail");
    let unlucky = world.post(AGENT, ISSUE, &form).json["id"].as_str().unwrap().to_owned();
    let answer = world.post(SELLER, CHARGE, &sale(100, &unlucky));
    assert_eq!(refusal(&answer), (402, "card_error", "card_declined", ""));
    assert_eq!(
        answer.json["error"]["payment_intent"]["status"],
        "requires_payment_method"
    );

    let late = world.issue();
    world.wait(300);
    assert_eq!(charge(&late), "shared_payment_token_expired");
    let seen = world.look(AGENT, &format!("{ISSUE}/{late}")).json;
    assert_eq!(
        (&seen["deactivated_reason"], &seen["deactivated_at"]),
        (&json!("expired"), &json!(1_790_000_300))
    );
}

#[test]
fn the_test_helper_grants_to_whoever_asks() {
    let world = world();
    let form = "payment_method=pm_card_visa&usage_limits[currency]=usd&usage_limits[max_amount]=100\
                &usage_limits[expires_at]=1790000300&seller_details[network_id]=profile_lab_other";
    let granted = world.post(SELLER, GRANT, form);
    assert_eq!(granted.json["object"], "shared_payment.granted_token");
    assert!(granted.json.get("status").is_none());
    let token = granted.json["id"].as_str().unwrap();
    assert_eq!(
        world
            .look(SELLER, &format!("/v1/shared_payment/granted_tokens/{token}"))
            .status,
        200
    );
    assert_eq!(world.look(SELLER, &format!("{ISSUE}/{token}")).status, 404);
    // Not to the one whom the form names.
    assert_eq!(world.post(OTHER, CHARGE, &sale(100, token)).status, 400);
    assert_eq!(
        world.post(SELLER, &format!("{GRANT}/{token}/revoke"), "").json["deactivated_reason"],
        "revoked"
    );
    let unknown = world.post(
        SELLER,
        GRANT,
        &format!("{form}&seller_details[network_business_profile]=x"),
    );
    assert_eq!(refusal(&unknown).2, "parameter_unknown");
}

#[test]
fn its_paths_are_not_the_shops() {
    for ours in [ISSUE, GRANT, CHARGE, "/v1/shared_payment/granted_tokens/spt_a"] {
        assert!(takes(ours), "{ours}");
    }
    for other in [
        "/",
        "/v1/joke",
        "/v1/weather",
        "/v2/quote",
        "/v1/payment_intents_x",
        "/rpc",
    ] {
        assert!(!takes(other), "{other}");
    }
}
