//! Who may see and charge a token, and for how much.

use super::*;

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

    // Where Stripe's newer documentation puts the token.
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
fn the_test_helper_grants_to_the_caller() {
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
    // Not to the seller that the form names.
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
