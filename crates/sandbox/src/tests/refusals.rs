//! Payments that the sandbox rejects: each rejection has its code and a fresh challenge, and moves nothing.

use super::*;
use crate::authorization::Authorization;

/// Presents `payload` for `/v2/quote` and expects it refused with `code`.
async fn refused_v2(client: &mut Client, payload: &Value, code: &str) {
    let answer = client.pay("/v2/quote", payload).await;
    assert_eq!(answer.v2_challenge()["error"], code, "{payload}");
    assert_eq!(answer.json()["error"], code);
    assert!(answer.headers.get("payment-response").is_none());
}

#[tokio::test]
async fn a_replayed_nonce_is_refused() {
    let (sandbox, payer) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http2).await;
    let challenge = client.get("/v2/quote").await.v2_challenge();
    let authorization = payer.authorize(&challenge["accepts"][0], NOW, "one");
    let payload = payer.v2(&challenge, &authorization);
    assert_eq!(client.pay("/v2/quote", &payload).await.status, StatusCode::OK);
    refused_v2(&mut client, &payload, "invalid_exact_evm_nonce_already_used").await;

    // Signing the same nonce again with a later expiry does not make it a new nonce.
    let longer = Authorization {
        valid_before: authorization.valid_before + 1,
        ..authorization
    };
    let payload = payer.v2(&challenge, &longer);
    refused_v2(&mut client, &payload, "invalid_exact_evm_nonce_already_used").await;
    assert_paid(&sandbox, &payer, 10_000);
}

#[tokio::test]
async fn an_authorization_must_be_exactly_what_was_asked_for() {
    let (sandbox, payer) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    let challenge = client.get("/v2/quote").await.v2_challenge();
    let asked = payer.authorize(&challenge["accepts"][0], NOW, "one");
    let value = "invalid_exact_evm_payload_authorization_value_mismatch";
    let before = "invalid_exact_evm_payload_authorization_valid_before";
    for (signed, code) in [
        (
            Authorization {
                value: Atoms::new(9_999),
                ..asked
            },
            value,
        ),
        (
            Authorization {
                value: Atoms::new(10_001),
                ..asked
            },
            value,
        ),
        (
            Authorization {
                to: payer.address(),
                ..asked
            },
            "invalid_exact_evm_recipient_mismatch",
        ),
        (
            Authorization {
                valid_before: NOW - 1,
                ..asked
            },
            before,
        ),
        // Five seconds are too short to settle.
        (
            Authorization {
                valid_before: NOW + 5,
                ..asked
            },
            before,
        ),
        (
            Authorization {
                valid_after: NOW + 1,
                ..asked
            },
            "invalid_exact_evm_payload_authorization_valid_after",
        ),
        (
            Authorization {
                from: sandbox.pay_to(),
                ..asked
            },
            "invalid_exact_evm_signature",
        ),
    ] {
        refused_v2(&mut client, &payer.v2(&challenge, &signed), code).await;
    }
    assert!(sandbox.token().transfers().is_empty());

    let enough = Authorization {
        valid_before: NOW + 6,
        ..asked
    };
    let answer = client.pay("/v2/quote", &payer.v2(&challenge, &enough)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

#[tokio::test]
async fn an_echo_must_be_what_was_advertised() {
    let (sandbox, payer) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    let challenge = client.get("/v2/quote").await.v2_challenge();
    let authorization = payer.authorize(&challenge["accepts"][0], NOW, "one");
    let good = payer.v2(&challenge, &authorization);
    let altered = |path: &str, value: Value| {
        let mut payload = good.clone();
        *payload.pointer_mut(path).unwrap() = value;
        payload
    };
    let no_match = "No matching payment requirements";
    for (payload, code) in [
        (altered("/x402Version", 1.into()), "invalid_x402_version"),
        (altered("/accepted/amount", "1".into()), no_match),
        (altered("/accepted/amount", 10_000.into()), no_match),
        (altered("/accepted/network", "eip155:8453".into()), no_match),
        (altered("/accepted/maxTimeoutSeconds", 61.into()), no_match),
        (altered("/accepted/extra/name", "USD Coin".into()), no_match),
        (altered("/accepted", Value::Null), no_match),
        (
            altered("/resource/url", "https://elsewhere.example/".into()),
            "resource_mismatch",
        ),
    ] {
        refused_v2(&mut client, &payload, code).await;
    }
    // Addresses in lower case are not a verbatim echo.
    let lower = good["accepted"]["payTo"].as_str().unwrap().to_lowercase();
    if lower != good["accepted"]["payTo"] {
        refused_v2(&mut client, &altered("/accepted/payTo", lower.into()), no_match).await;
    }
    assert!(sandbox.token().transfers().is_empty());

    // A missing resource, additions to `extra`, an unrequested extension: all are allowed.
    let mut payload = good.clone();
    payload.as_object_mut().unwrap().remove("resource");
    payload["accepted"]["extra"]["note"] = "mine".into();
    payload["extensions"] = json!({ "theirs": { "info": {} } });
    assert_eq!(client.pay("/v2/quote", &payload).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_changed_extension_is_refused_and_none_at_all_is_not() {
    let (sandbox, payer) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    let challenge = client.get("/v2/report").await.v2_challenge();
    let authorization = payer.authorize(&challenge["accepts"][0], NOW, "one");
    let mut payload = payer.v2(&challenge, &authorization);
    payload["extensions"]["payment-identifier"]["info"]["required"] = true.into();
    let answer = client.pay("/v2/report", &payload).await;
    assert_eq!(answer.v2_challenge()["error"], "extension_echo_mismatch");
    payload.as_object_mut().unwrap().remove("extensions");
    assert_eq!(client.pay("/v2/report", &payload).await.status, StatusCode::OK);
    assert_paid(&sandbox, &payer, 250_000);
}

#[tokio::test]
async fn v1_refusals_come_in_the_body() {
    let (sandbox, payer) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    let challenge = client.get("/v1/weather").await.v1_challenge();
    let asked = payer.authorize(&challenge["accepts"][0], NOW, "one");
    let mut elsewhere = payer.v1(&challenge, &asked);
    elsewhere["network"] = "base".into();
    let mut newer = payer.v1(&challenge, &asked);
    newer["x402Version"] = 2.into();
    let signed = |authorization| payer.v1(&challenge, &authorization);
    for (payload, code) in [
        (elsewhere, "invalid_network"),
        (newer, "invalid_x402_version"),
        (
            signed(Authorization {
                value: Atoms::new(5_001),
                ..asked
            }),
            "invalid_exact_evm_payload_authorization_value",
        ),
        (
            signed(Authorization {
                to: payer.address(),
                ..asked
            }),
            "invalid_exact_evm_payload_recipient_mismatch",
        ),
        (
            signed(Authorization {
                valid_before: NOW,
                ..asked
            }),
            "invalid_exact_evm_payload_authorization_valid_before",
        ),
        (
            signed(Authorization {
                from: sandbox.pay_to(),
                ..asked
            }),
            "invalid_exact_evm_payload_signature",
        ),
    ] {
        let refused = client.pay_v1("/v1/weather", &payload).await.v1_challenge();
        assert_eq!(refused["error"], code);
        assert_eq!(refused["accepts"], challenge["accepts"]);
    }
    assert!(sandbox.token().transfers().is_empty());
}

#[tokio::test]
async fn more_than_the_balance_is_refused() {
    let (sandbox, payer) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    let challenge = client.get("/v2/dataset").await.v2_challenge();
    let authorization = payer.authorize(&challenge["accepts"][0], NOW, "one");
    let answer = client.pay("/v2/dataset", &payer.v2(&challenge, &authorization)).await;
    assert_eq!(answer.v2_challenge()["error"], "invalid_exact_evm_insufficient_balance");
    assert_paid(&sandbox, &payer, 0);
}

#[tokio::test]
async fn what_is_no_payment_is_a_bad_request() {
    let (sandbox, payer) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    let challenge = client.get("/v2/quote").await.v2_challenge();
    let authorization = payer.authorize(&challenge["accepts"][0], NOW, "one");
    let good = payer.v2(&challenge, &authorization);
    let altered = |path: &str, value: &str| {
        let mut payload = good.clone();
        *payload.pointer_mut(path).unwrap() = value.into();
        encode(&payload)
    };
    for header in [
        "not base64".to_owned(),
        encode(&good).trim_end_matches('=').to_owned() + "=====",
        format!("{0},{0}", encode(&good)),
        altered("/payload/signature", "0x1234"),
        altered("/payload/authorization/value", "0x2710"),
        altered("/payload/authorization/validBefore", "soon"),
        altered("/payload/authorization/nonce", "0x00"),
        altered("/payload/authorization/to", "nobody"),
        altered("/payload", ""),
    ] {
        let payment = Some(("payment-signature", header.as_str()));
        let answer = client.send(Method::GET, "/v2/quote", payment, "").await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{header}");
    }
    assert!(sandbox.token().transfers().is_empty());
}
