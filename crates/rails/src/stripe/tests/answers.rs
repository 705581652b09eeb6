//! Against a service that gives one answer to everything: what is sent, and what each answer means.

use std::convert::Infallible;
use std::sync::Mutex;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, Response};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

/// A request as it arrived.
struct Seen {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// A service that gives one answer to everything and records what it was asked.
async fn scripted(
    status: u16,
    headers: &[(&'static str, &'static str)],
    body: String,
) -> (String, Arc<Mutex<Vec<Seen>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, headers) = (seen.clone(), headers.to_vec());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| {
                let (log, headers, body) = (log.clone(), headers.clone(), body.clone());
                async move {
                    let (head, sent) = request.into_parts();
                    let sent = sent.collect().await.unwrap().to_bytes();
                    log.lock().unwrap().push(Seen {
                        method: head.method,
                        path: head.uri.to_string(),
                        headers: head.headers,
                        body: sent,
                    });
                    let mut answer = Response::builder().status(status);
                    for (name, value) in headers {
                        answer = answer.header(name, value);
                    }
                    Ok::<_, Infallible>(answer.body(Full::new(Bytes::from(body))).unwrap())
                }
            });
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    });
    (base, seen)
}

/// An issued token as Stripe would describe it after `Purchase::order`.
fn described() -> Value {
    json!({
        "id": "spt_lab_0123456789abcdef",
        "object": "shared_payment.issued_token",
        "created": NOW,
        "deactivated_at": null,
        "deactivated_reason": null,
        "livemode": false,
        "next_action": null,
        "payment_method": "pm_1Abc",
        "seller_details": { "external_id": "", "network_business_profile": "profile_lab_seller" },
        "setup_future_usage": null,
        "shared_metadata": {},
        "status": "active",
        "usage_details": { "amount_captured": { "currency": "usd", "value": 0 } },
        "usage_limits": { "currency": "usd", "expires_at": EXPIRES, "max_amount": 100 },
        "use_stripe_sdk": null,
    })
}

#[tokio::test]
async fn fields_are_those_of_the_vectors() {
    let (base, seen) = scripted(200, &[], described().to_string()).await;
    let client = client(&base);
    let purchase = Purchase::with("pm_card_visa");
    let id = client.issue(&purchase.order()).await.ok().unwrap().id;
    client.token(&id).await.ok().unwrap();
    client.revoke(&id).await.ok().unwrap();

    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    for asked in &mut seen {
        let basic = format!("Basic {}", base64_of(&format!("{KEY}:")));
        assert_eq!(asked.headers.remove(AUTHORIZATION).unwrap(), basic);
        assert_eq!(asked.headers.remove("stripe-version").unwrap(), "2026-07-29.preview");
        assert_eq!(
            asked.headers.remove("host").unwrap(),
            base.strip_prefix("http://").unwrap()
        );
        asked.headers.remove("content-length");
    }
    let [issue, token, revoke] = seen.as_mut_slice() else {
        panic!("{} requests", seen.len())
    };
    assert_eq!(
        (issue.method.as_str(), issue.path.as_str()),
        ("POST", "/v1/shared_payment/issued_tokens")
    );
    let form = "application/x-www-form-urlencoded";
    assert_eq!(issue.headers.remove(CONTENT_TYPE).unwrap(), form);
    assert_eq!(
        issue.headers.remove("idempotency-key").unwrap(),
        purchase.payment.to_string()
    );
    let wanted = "payment_method=pm_card_visa&usage_limits%5Bcurrency%5D=usd&usage_limits%5Bmax_amount%5D=100\
                  &usage_limits%5Bexpires_at%5D=1790000300&seller_details%5Bnetwork_business_profile%5D=profile_lab_seller";
    assert_eq!(issue.body, wanted);
    assert!(issue.headers.is_empty(), "{:?}", issue.headers);

    let path = "/v1/shared_payment/issued_tokens/spt_lab_0123456789abcdef";
    assert_eq!((token.method.as_str(), token.path.as_str()), ("GET", path));
    assert!(token.headers.is_empty() && token.body.is_empty(), "{:?}", token.headers);

    assert_eq!(
        (revoke.method.as_str(), revoke.path.clone()),
        ("POST", format!("{path}/revoke"))
    );
    assert_eq!(revoke.headers.remove(CONTENT_TYPE).unwrap(), form);
    assert!(
        revoke.headers.is_empty() && revoke.body.is_empty(),
        "{:?}",
        revoke.headers
    );
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn every_refusal_has_its_meaning() {
    let error = |kind: &str, code: &str, param: &str| {
        json!({ "error": {
            "type": kind, "code": code, "param": param,
            "message": format!("No such thing as {KEY} and spt_lab_0123456789abcdef"),
        } })
        .to_string()
    };
    let invalid = |code: &str, param: &str| error("invalid_request_error", code, param);
    let seller = "seller_details[network_business_profile]";
    let none = String::new;
    for (status, body, code, fault, effect) in [
        (
            402,
            error("card_error", "card_declined", ""),
            "stripe-declined",
            Fault::Card,
            Effect::None,
        ),
        (
            400,
            error("card_error", "expired_card", ""),
            "stripe-declined",
            Fault::Card,
            Effect::None,
        ),
        (
            400,
            invalid("resource_missing", seller),
            "stripe-refused",
            Fault::Offer,
            Effect::None,
        ),
        (
            400,
            invalid("amount_too_large", "usage_limits[max_amount]"),
            "stripe-refused",
            Fault::Offer,
            Effect::None,
        ),
        (
            404,
            invalid("resource_missing", "payment_method"),
            "stripe-refused",
            Fault::Setup,
            Effect::None,
        ),
        (
            400,
            error("idempotency_error", "x", ""),
            "stripe-idempotency-conflict",
            Fault::Setup,
            Effect::Unknown,
        ),
        (
            409,
            none(),
            "stripe-idempotency-conflict",
            Fault::Setup,
            Effect::Unknown,
        ),
        (401, none(), "stripe-unauthorized", Fault::Setup, Effect::None),
        (403, invalid("x", ""), "stripe-unauthorized", Fault::Setup, Effect::None),
        (429, none(), "stripe-rate-limited", Fault::Stripe, Effect::None),
        (
            500,
            invalid("x", ""),
            "stripe-unavailable",
            Fault::Stripe,
            Effect::Unknown,
        ),
        (503, none(), "stripe-unavailable", Fault::Stripe, Effect::Unknown),
        (400, none(), "stripe-unreadable", Fault::Stripe, Effect::Unknown),
        (
            402,
            "<html>".to_owned(),
            "stripe-unreadable",
            Fault::Stripe,
            Effect::Unknown,
        ),
        (
            400,
            error("Odd Type", "x", ""),
            "stripe-unreadable",
            Fault::Stripe,
            Effect::Unknown,
        ),
        (301, none(), "stripe-unreadable", Fault::Stripe, Effect::Unknown),
        (204, none(), "stripe-unreadable", Fault::Stripe, Effect::Unknown),
        (200, none(), "stripe-unreadable", Fault::Stripe, Effect::Unknown),
        (
            200,
            error("card_error", "card_declined", ""),
            "stripe-unreadable",
            Fault::Stripe,
            Effect::Unknown,
        ),
        (
            200,
            " ".repeat(ANSWER_CAP + 1),
            "stripe-unreadable",
            Fault::Stripe,
            Effect::Unknown,
        ),
    ] {
        let (base, _) = scripted(status, &[("location", "https://evil.example/")], body.clone()).await;
        let error = client(&base)
            .issue(&Purchase::with("pm_card_visa").order())
            .await
            .err()
            .unwrap();
        assert_eq!(
            (error.reason().as_str(), error.fault(), error.effect()),
            (code, fault, effect),
            "{status} {body:.80}"
        );
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(
                !text.contains("sk_") && !text.contains("spt_") && !text.contains("No such"),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn only_machine_codes_are_taken_over() {
    for (code, decline, shown) in [
        (
            json!("card_declined"),
            json!("insufficient_funds"),
            "insufficient_funds",
        ),
        (json!("card_declined"), Value::Null, "card_declined"),
        (json!("sk_live_51"), json!("Your key is bad"), "card_error"),
        (json!("x".repeat(65)), Value::Null, "card_error"),
        (Value::Null, Value::Null, "card_error"),
    ] {
        let body = json!({ "error": { "type": "card_error", "code": code, "decline_code": decline } });
        let (base, _) = scripted(402, &[], body.to_string()).await;
        let error = client(&base)
            .issue(&Purchase::with("pm_card_visa").order())
            .await
            .err()
            .unwrap();
        assert!(
            matches!(&error, StripeError::Declined { code } if code.as_str() == shown),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_wait_is_read_in_seconds_and_bounded() {
    for (field, wait) in [("7", Some(7)), ("999999", Some(3600)), ("soon", None)] {
        let (base, _) = scripted(429, &[(RETRY_AFTER.as_str(), field)], String::new()).await;
        let error = client(&base)
            .issue(&Purchase::with("pm_card_visa").order())
            .await
            .err()
            .unwrap();
        let StripeError::RateLimited { retry_after } = error else {
            panic!("{error}")
        };
        assert_eq!(retry_after, wait.map(Duration::from_secs), "{field}");
    }
}

#[tokio::test]
async fn a_token_that_was_not_ordered_is_recognized_and_can_be_revoked() {
    let changed = |pointer: &str, value: Value| {
        let mut token = described();
        *token.pointer_mut(pointer).unwrap() = value;
        token.to_string()
    };
    for (body, what) in [
        (changed("/livemode", json!(true)), Difference::Mode),
        (changed("/usage_limits/currency", json!("eur")), Difference::Currency),
        (changed("/usage_limits/max_amount", json!(101)), Difference::MaxAmount),
        (changed("/usage_limits/max_amount", json!(99)), Difference::MaxAmount),
        (
            changed("/usage_limits/expires_at", json!(EXPIRES + 1)),
            Difference::ExpiresAt,
        ),
        (changed("/usage_limits/expires_at", Value::Null), Difference::ExpiresAt),
        (
            changed("/seller_details/network_business_profile", json!("profile_other")),
            Difference::Seller,
        ),
    ] {
        let (base, _) = scripted(200, &[], body).await;
        let error = client(&base)
            .issue(&Purchase::with("pm_card_visa").order())
            .await
            .err()
            .unwrap();
        assert_eq!(error.effect(), Effect::Whole);
        assert!(!format!("{error:?}{error}").contains("spt_"));
        let StripeError::Differs { what: said, token } = error else {
            panic!("{error}")
        };
        assert_eq!(said, what);
        assert_eq!(token.expose(), "spt_lab_0123456789abcdef");
    }
    // A token other than the one asked for.
    let (base, _) = scripted(200, &[], described().to_string()).await;
    let asked = TokenId::parse("spt_lab_other").ok().unwrap();
    for answer in [client(&base).token(&asked).await, client(&base).revoke(&asked).await] {
        assert!(matches!(
            answer,
            Err(StripeError::Differs {
                what: Difference::Token,
                ..
            })
        ));
    }
}
