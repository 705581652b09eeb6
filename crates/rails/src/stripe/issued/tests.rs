use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn granted() -> Value {
    // As shown in Stripe's reference.
    json!({
        "id": "spt_1RgaZcFPC5QUO6ZCDVZuVA8q",
        "object": "shared_payment.granted_token",
        "created": 1_751_500_820,
        "deactivated_at": null,
        "deactivated_reason": null,
        "livemode": false,
        "shared_metadata": {},
        "usage_details": { "amount_captured": { "value": 0, "currency": "usd" } },
        "usage_limits": { "currency": "usd", "expires_at": 1_751_587_220, "max_amount": 1000 },
    })
}

fn issued() -> Value {
    let mut token = granted();
    token["object"] = json!("shared_payment.issued_token");
    token["status"] = json!("active");
    token
}

fn parse(token: &Value, endpoint: Endpoint) -> Option<Issued> {
    Issued::parse(token.to_string().as_bytes(), endpoint)
}

fn status(token: &Value) -> Option<Status> {
    parse(token, Endpoint::Issued).map(|issued| issued.status)
}

#[test]
fn each_endpoint_has_its_object() {
    assert_eq!(status(&issued()), Some(Status::Active));
    let token = parse(&granted(), Endpoint::TestHelper).unwrap();
    assert_eq!(token.status, Status::Active);
    assert_eq!(token.limits.max_amount, 1000);
    assert_eq!(token.limits.expires_at, Some(1_751_587_220));
    assert!(parse(&granted(), Endpoint::Issued).is_none());
    assert!(parse(&issued(), Endpoint::TestHelper).is_none());
    let mut revoked = granted();
    revoked["deactivated_reason"] = json!("revoked");
    let token = parse(&revoked, Endpoint::TestHelper).unwrap();
    assert_eq!(token.status, Status::Deactivated(DeactivationReason::Revoked));
}

#[test]
fn a_status_that_is_unknown_or_contradicted_is_none() {
    for (said, at, reason, wanted) in [
        ("active", json!(null), json!(null), Some(Status::Active)),
        ("active", json!(1), json!(null), None),
        ("active", json!(null), json!("consumed"), None),
        (
            "requires_action",
            json!(null),
            json!(null),
            Some(Status::RequiresAction { at: None }),
        ),
        ("requires_action", json!(1), json!("expired"), None),
        ("ACTIVE", json!(null), json!(null), None),
        ("pending", json!(null), json!(null), None),
        (
            "deactivated",
            json!(1),
            json!("consumed"),
            Some(Status::Deactivated(DeactivationReason::Consumed)),
        ),
        (
            "deactivated",
            json!(1),
            json!("expired"),
            Some(Status::Deactivated(DeactivationReason::Expired)),
        ),
        (
            "deactivated",
            json!(1),
            json!("resolved"),
            Some(Status::Deactivated(DeactivationReason::Resolved)),
        ),
        (
            "deactivated",
            json!(1),
            json!("revoked"),
            Some(Status::Deactivated(DeactivationReason::Revoked)),
        ),
        (
            "deactivated",
            json!(1),
            json!("moved"),
            Some(Status::Deactivated(DeactivationReason::Other)),
        ),
        (
            "deactivated",
            json!(1),
            json!(null),
            Some(Status::Deactivated(DeactivationReason::Other)),
        ),
    ] {
        let mut token = issued();
        token["status"] = json!(said);
        token["deactivated_at"] = at;
        token["deactivated_reason"] = reason;
        assert_eq!(status(&token), wanted, "{token}");
    }
}

#[test]
fn members_are_there_and_have_their_type() {
    for (pointer, bad) in [
        ("/id", json!("pi_1")),
        ("/id", json!("spt_a/../b")),
        ("/id", json!(1)),
        ("/object", json!("token")),
        ("/livemode", json!("false")),
        ("/status", json!(null)),
        ("/usage_limits", json!(null)),
        ("/usage_limits/currency", json!("USD")),
        ("/usage_limits/currency", json!("usdc")),
        ("/usage_limits/max_amount", json!("1000")),
        ("/usage_limits/max_amount", json!(-1)),
        ("/usage_limits/max_amount", json!(10.5)),
        ("/usage_limits/max_amount", json!(1e3)),
        ("/usage_limits/expires_at", json!("soon")),
        ("/usage_details/amount_captured/value", json!(-1)),
        ("/usage_details/amount_captured/currency", json!("")),
    ] {
        let mut token = issued();
        *token.pointer_mut(pointer).unwrap() = bad;
        assert!(status(&token).is_none(), "{token}");
    }
    for name in [
        "id",
        "object",
        "livemode",
        "status",
        "usage_limits",
        "deactivated_at",
        "deactivated_reason",
    ] {
        let mut token = issued();
        token.as_object_mut().unwrap().remove(name).unwrap();
        assert!(status(&token).is_none(), "without {name}");
    }
    let mut token = issued();
    token["usage_details"] = json!(null);
    assert_eq!(parse(&token, Endpoint::Issued).unwrap().captured, None);
}

#[test]
fn no_member_appears_twice() {
    let twice = issued().to_string().replacen('{', r#"{"status":"deactivated","#, 1);
    assert!(Issued::parse(twice.as_bytes(), Endpoint::Issued).is_none());
    let twice = issued()
        .to_string()
        .replace(r#""max_amount":"#, r#""max_amount":1,"max_amount":"#);
    assert!(Issued::parse(twice.as_bytes(), Endpoint::Issued).is_none());
}

#[test]
fn only_the_host_of_a_sane_page_is_taken() {
    for (url, host) in [
        (
            "https://hooks.stripe.com/redirect/authenticate/src_1?client_secret=x",
            Some("hooks.stripe.com"),
        ),
        ("http://hooks.stripe.com/", None),
        ("https://user@hooks.stripe.com/", None),
        ("javascript:alert(1)", None),
        ("https://", None),
        ("", None),
    ] {
        let mut token = issued();
        token["status"] = json!("requires_action");
        token["next_action"] =
            json!({ "type": "redirect_to_url", "redirect_to_url": { "url": url, "return_url": "" } });
        let Some(Status::RequiresAction { at }) = status(&token) else {
            panic!("{token}")
        };
        assert_eq!(at.as_ref().map(Host::as_str), host, "{url}");
    }
}

/// Values of the right and the wrong kind for any member.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop_oneof![
            Just("active"),
            Just("deactivated"),
            Just("requires_action"),
            Just("usd"),
            Just("spt_a"),
            Just("consumed"),
            Just("shared_payment.issued_token"),
            Just("shared_payment.granted_token"),
        ]
        .prop_map(Value::from),
        Just(json!({})),
        Just(json!([])),
        Just(json!({ "currency": "usd", "expires_at": 1, "max_amount": 1 })),
    ]
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_active_token(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        for endpoint in [Endpoint::Issued, Endpoint::TestHelper] {
            prop_assert!(Issued::parse(&bytes, endpoint).is_none());
        }
    }

    /// A real answer with changed or missing members is active only while every member that says so still does.
    #[test]
    fn damage_makes_no_token_active(
        changes in proptest::collection::vec((0usize..9, proptest::option::of(value())), 0..6),
        helper in any::<bool>(),
    ) {
        const NAMES: [&str; 9] = ["id", "object", "livemode", "status", "deactivated_at", "deactivated_reason",
            "usage_limits", "usage_details", "next_action"];
        let endpoint = if helper { Endpoint::TestHelper } else { Endpoint::Issued };
        let mut token = if helper { granted() } else { issued() };
        for (at, change) in changes {
            match change {
                Some(value) => token[NAMES[at]] = value,
                None => { token.as_object_mut().unwrap().remove(NAMES[at]); }
            }
        }
        let active = parse(&token, endpoint).is_some_and(|issued| issued.presentable().is_some());
        let object = if helper { "shared_payment.granted_token" } else { "shared_payment.issued_token" };
        let null = Some(&Value::Null);
        let wanted = token["object"] == object
            && (helper || token["status"] == "active")
            && token.get("deactivated_at") == null
            && token.get("deactivated_reason") == null
            && token["livemode"].is_boolean()
            && token["id"].as_str().is_some_and(|id| id.starts_with("spt_"))
            && token["usage_limits"]["max_amount"].is_u64();
        prop_assert!(!active || wanted, "{}", token);
    }

    /// One byte of a real answer flipped never makes an inactive token active.
    #[test]
    fn one_wrong_byte_activates_nothing(at in any::<prop::sample::Index>(), flip in 1u8..=255) {
        let mut token = issued();
        token["status"] = json!("deactivated");
        token["deactivated_at"] = json!(1);
        token["deactivated_reason"] = json!("revoked");
        let mut bytes = token.to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let active = Issued::parse(&bytes, Endpoint::Issued).is_some_and(|issued| issued.presentable().is_some());
        prop_assert!(!active);
    }
}
