//! Which requests are accepted at all, and idempotent repeats.

use super::*;

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
    // Optional in the types; the sandbox always sends it.
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
    // The same key is new for another account, and on another day.
    assert_eq!(world.post_once(SELLER, "a", ISSUE, ORDER).status, 200);
    assert_eq!(world.stripe.counters().tokens_issued, 2);
    world.wait(24 * 3600);
    let later = ORDER.replace("1790000300", "1790090000");
    let next = world.post_once(AGENT, "a", ISSUE, &later);
    assert_ne!(next.json["id"], first.json["id"]);

    // A request that failed validation may be corrected; a decline is final.
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
