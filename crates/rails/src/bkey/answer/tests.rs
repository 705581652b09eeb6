use serde_json::json;

use super::*;

fn authorization() -> Value {
    json!({
        "signature": format!("0x{}", "1b".repeat(65)), "from": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "to": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C", "value": "10000", "validAfter": "0", "validBefore": 1_795_161_900_u64,
        "nonce": format!("0x{}", "ab".repeat(32)), "contractAddress": "0x833589fcd6edb6e08f4c7c32d4f71b54bda02913",
        "chainId": 8453, "authorizationId": "auth_1", "authorizationType": "TransferWithAuthorization",
    })
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn read(value: &Value) -> Result<Authorization, Unreadable> {
    Authorization::in_answer(&object(&json!({ "status": "authorized", "authorization": value })))
}

fn packed(value: &Value) -> Value {
    json!(base64::engine::general_purpose::STANDARD.encode(value.to_string()))
}

#[test]
fn an_authorization_reads_the_same_wherever_it_stands() {
    let plain = read(&authorization()).unwrap();
    assert_eq!(
        (plain.value, plain.valid_before, plain.chain_id),
        (10_000, 1_795_161_900, 8453)
    );
    assert_eq!((plain.signature, plain.id.as_deref()), ([0x1b; 65], Some("auth_1")));
    let mut inner = authorization();
    let signature = inner.as_object_mut().unwrap().remove("signature").unwrap();
    for payload in [
        authorization(),
        json!({ "authorization": inner, "signature": signature }),
    ] {
        let answer = object(&json!({ "status": "signed", "signedPayload": packed(&payload) }));
        assert_eq!(Authorization::in_answer(&answer), Ok(plain.clone()));
    }
    let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(authorization().to_string());
    let answer = object(&json!({ "signedPayload": url_safe }));
    assert_eq!(Authorization::in_answer(&answer), Ok(plain));
}

#[test]
fn what_is_missing_or_malformed_is_named() {
    for (member, wrong) in [
        ("from", json!("0x7099")),
        ("to", json!(7)),
        ("value", json!("1e4")),
        ("value", json!(10_000.0)),
        ("value", json!("-1")),
        ("value", json!("340282366920938463463374607431768211456")),
        ("validAfter", json!("")),
        ("validBefore", json!("18446744073709551616")),
        ("nonce", json!("ab".repeat(32))),
        ("nonce", json!(format!("0x{}", "ab".repeat(31)))),
        ("nonce", json!(format!("0x{}", "ab".repeat(33)))),
        ("contractAddress", json!("usdc")),
        ("chainId", json!("eip155:8453")),
        ("signature", json!(format!("0x{}", "1b".repeat(64)))),
        ("signature", json!(format!("0x{}", "1b".repeat(66)))),
        ("signature", Value::Null),
    ] {
        let mut lie = authorization();
        lie[member] = wrong;
        assert_eq!(read(&lie), Err(member), "{lie}");
        lie.as_object_mut().unwrap().remove(member);
        assert_eq!(read(&lie), Err(member), "{lie}");
    }
    for answer in [json!({}), json!({ "authorization": [1] })] {
        assert_eq!(Authorization::in_answer(&object(&answer)), Err("authorization"));
    }
    let answer = object(&json!({ "signedPayload": "!" }));
    assert_eq!(Authorization::in_answer(&answer), Err("signedPayload"));
}

/// An id ends up in a URL.
#[test]
fn an_id_has_no_room_for_a_path() {
    let long = "a".repeat(129);
    for bad in ["", "..", ".", "a/b", "a?b", "a b", "a%2f", "ä", &long] {
        assert_eq!(id(&json!(bad)), None, "{bad}");
    }
    assert_eq!(id(&json!("Auth-1_a.b")).as_deref(), Some("Auth-1_a.b"));
    let pending = created(
        StatusCode::OK,
        br#"{"status":"pending_approval","authorizationId":"../../oauth/token"}"#,
        Authorization::in_answer,
    );
    assert!(matches!(pending, Created::Unclear(_)));
}

fn made(status: u16, body: &Value) -> &'static str {
    let status = StatusCode::from_u16(status).unwrap();
    match created(status, body.to_string().as_bytes(), Authorization::in_answer) {
        Created::Made(Ok(_)) => "made",
        Created::Made(Err(_)) => "made, unreadable",
        Created::Pending(_) => "pending",
        Created::Refused(_) => "refused",
        Created::Unclear(_) => "unclear",
    }
}

#[test]
fn only_a_refusal_of_bkeys_own_says_that_nothing_was_made() {
    let code = json!({ "success": false, "error": { "code": "limit", "message": "m" } });
    let kind = json!({ "success": false, "error": { "type": "limit", "message": "m" } });
    let flat = json!({ "error": "invalid_request", "error_description": "d" });
    for error in [&code, &kind, &flat] {
        for (status, expected) in [
            (400, "refused"),
            (401, "refused"),
            (403, "refused"),
            (404, "refused"),
            (429, "refused"),
            (408, "unclear"),
            (409, "unclear"),
            (422, "unclear"),
            (500, "unclear"),
            (503, "unclear"),
            (302, "unclear"),
            (200, "unclear"),
        ] {
            assert_eq!(made(status, error), expected, "{status} {error}");
        }
    }
    for nothing in [
        json!({}),
        json!({ "error": null }),
        json!({ "error": { "code": 7 } }),
        json!([1]),
        json!("no"),
    ] {
        assert_eq!(made(403, &nothing), "unclear", "{nothing}");
        assert_eq!(made(200, &nothing), "unclear", "{nothing}");
    }
    let authorized = json!({ "status": "authorized", "authorization": authorization() });
    assert_eq!(made(200, &authorized), "made");
    assert_eq!(made(201, &authorized), "made");
    assert_eq!(made(200, &json!({ "status": "authorized" })), "made, unreadable");
    assert_eq!(made(500, &authorized), "unclear");
    assert_eq!(
        made(200, &json!({ "status": "pending_approval", "authorizationId": "a" })),
        "pending"
    );
}

#[test]
fn waiting_times_are_bounded() {
    let of = |answer: Value| {
        let pending = Pending::of(&object(&answer)).unwrap();
        (pending.interval().as_secs(), pending.life().as_secs())
    };
    assert_eq!(of(json!({ "authorizationId": "a" })), (2, 300));
    assert_eq!(of(json!({ "id": "a", "interval": 0, "expiresIn": 60 })), (1, 60));
    assert_eq!(
        of(json!({ "authorizationId": "a", "interval": 9000, "expiresIn": 1_000_000 })),
        (30, 600)
    );
}

#[test]
fn a_look_reads_both_dialects_and_what_it_does_not_know_says_nothing() {
    let look = |status: u16, answer: Value| {
        let status = StatusCode::from_u16(status).unwrap();
        match looked(status, answer.to_string().as_bytes(), None, Authorization::in_answer) {
            Looked::Made(Ok(_)) => "made",
            Looked::Made(Err(_)) => "unreadable",
            Looked::Wait(_) => "wait",
            Looked::Over(why) => why.as_str(),
        }
    };
    for status in ["signed", "authorized"] {
        let answer = json!({ "id": "a", "status": status, "signedPayload": packed(&authorization()) });
        assert_eq!(look(200, answer.clone()), "made");
        assert_eq!(look(500, answer), "wait");
        assert_eq!(look(200, json!({ "status": status })), "unreadable");
    }
    for (status, answer, expected) in [
        (200, json!({ "status": "pending" }), "wait"),
        (
            200,
            json!({ "status": "pending", "error": "authorization_pending" }),
            "wait",
        ),
        (400, json!({ "error": "authorization_pending" }), "wait"),
        (400, json!({ "error": "slow_down" }), "wait"),
        (404, json!({ "error": { "code": "not_found" } }), "wait"),
        (200, json!({ "status": "new word" }), "wait"),
        (200, json!({ "status": "settled" }), "signer-says-settled"),
        (200, json!({ "status": "expired" }), "signer-says-expired"),
        (200, json!({ "status": "failed" }), "signer-says-failed"),
        (400, json!({ "error": "expired_token" }), "signer-says-expired"),
        (400, json!({ "error": "access_denied" }), "signer-says-failed"),
        (
            400,
            json!({ "error": { "type": "access_denied" } }),
            "signer-says-failed",
        ),
    ] {
        assert_eq!(look(status, answer.clone()), expected, "{status} {answer}");
    }
    // A signature counts, whatever the answer says beside it.
    let both = json!({ "status": "signed", "error": "access_denied", "authorization": authorization() });
    assert_eq!(look(200, both), "made");
}

#[test]
fn a_token_is_said_once_or_twice_the_same() {
    let read = |answer: Value| {
        Token::in_answer(&object(&answer)).map(|token| (token.token.expose().to_owned(), token.expires_at))
    };
    let inside = |spt: &str| packed(&json!({ "sptId": spt, "expiresAt": 7 }));
    assert_eq!(read(json!({ "sptId": "spt_a" })), Ok(("spt_a".to_owned(), None)));
    assert_eq!(
        read(json!({ "sptCredential": inside("spt_a") })),
        Ok(("spt_a".to_owned(), Some(7)))
    );
    assert_eq!(
        read(json!({ "sptId": "spt_a", "sptCredential": inside("spt_a"), "expiresAt": "1970-01-01T00:00:09Z" })),
        Ok(("spt_a".to_owned(), Some(9)))
    );
    assert_eq!(
        read(json!({ "sptId": "spt_a", "sptCredential": inside("spt_b") })),
        Err("sptCredential")
    );
    for (answer, member) in [
        (json!({}), "sptId"),
        (json!({ "sptId": "pi_a" }), "sptId"),
        (json!({ "sptId": 7 }), "sptId"),
        (json!({ "sptCredential": "{}" }), "sptCredential"),
        (json!({ "sptId": "spt_a", "expiresAt": "soon" }), "expiresAt"),
        (json!({ "sptId": "spt_a", "amountCents": -1 }), "amountCents"),
        (json!({ "sptId": "spt_a", "currency": 7 }), "currency"),
    ] {
        assert_eq!(read(answer.clone()), Err(member), "{answer}");
    }
}

#[test]
fn a_wallet_needs_address_chain_and_contract() {
    let whole = json!({
        "address": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "chainId": 8453, "network": "base", "asset": "USDC",
        "usdcContract": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
    });
    let expected = wallet(whole.to_string().as_bytes()).unwrap();
    assert_eq!(expected.chain_id, 8453);
    for member in ["address", "chainId", "usdcContract"] {
        let mut less = whole.clone();
        less.as_object_mut().unwrap().remove(member);
        assert_eq!(wallet(less.to_string().as_bytes()), Err(member));
    }
    assert_eq!(wallet(b"\xff{}"), Err("JSON"));
}
