//! Against the sandbox.

use http::{HeaderMap, Method};
use serde_json::Value;

use super::*;
use bursar_core::clock::ManualClock;
use bursar_sandbox::stripe::{Listening, StripeSandbox};
use bursar_sandbox::{Options, Sandbox};

fn sandbox() -> (Arc<StripeSandbox>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_second(NOW).unwrap()));
    let sandbox = StripeSandbox::new(clock.clone(), KEY).with_seller(SELLER_KEY, "profile_lab_seller");
    (Arc::new(sandbox), clock)
}

async fn listening() -> (Arc<StripeSandbox>, Listening) {
    let (sandbox, _) = sandbox();
    let listening = sandbox.clone().listen().await.unwrap();
    (sandbox, listening)
}

/// Charges as a seller does, bypassing the client.
fn charge(sandbox: &StripeSandbox, key: &str, token: &TokenId, cents: u64) -> Value {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {key}")).unwrap());
    headers.insert("stripe-version", HeaderValue::from_static(ApiVersion::DEFAULT));
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    );
    let form = format!(
        "amount={cents}&currency=usd&confirm=true&shared_payment_granted_token={}",
        token.expose()
    );
    sandbox
        .answer(&Method::POST, "/v1/payment_intents", &headers, form.as_bytes())
        .json
}

#[tokio::test]
async fn a_token_is_issued_once_charged_and_then_found_consumed() {
    let (sandbox, listening) = listening().await;
    let client = client(&listening.base_url());
    let purchase = Purchase::with("pm_card_visa");
    let issued = client.issue(&purchase.order()).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(issued.status, Status::Active);
    assert_eq!(issued.captured.unwrap().value, 0);
    let token = issued.presentable().unwrap();

    // As after a crash: the same order under the same key is the same token.
    let again = client.issue(&purchase.order()).await.ok().unwrap();
    assert!(again.id == *token);
    assert_eq!(sandbox.counters().tokens_issued, 1);

    assert_eq!(charge(&sandbox, SELLER_KEY, token, 60)["status"], "succeeded");
    let seen = client.token(token).await.ok().unwrap();
    assert_eq!(seen.status, Status::Deactivated(DeactivationReason::Consumed));
    assert!(seen.presentable().is_none());
    let captured = Captured {
        currency: Currency::USD,
        value: 60,
    };
    assert_eq!(seen.captured, Some(captured));
    let error = client.revoke(token).await.err().unwrap();
    assert_eq!(error.effect(), Effect::None);
    assert!(matches!(error, StripeError::Refused { code, .. } if code.as_str() == "shared_payment_token_consumed"));
    assert_eq!(sandbox.counters().captured.get(token.expose()), Some(&60));
}

#[tokio::test]
async fn a_token_can_be_revoked_twice() {
    let (sandbox, listening) = listening().await;
    let client = client(&listening.base_url());
    let purchase = Purchase::with("pm_card_visa");
    let issued = client.issue(&purchase.order()).await.ok().unwrap();
    for _ in 0..2 {
        let revoked = client.revoke(&issued.id).await.ok().unwrap();
        assert_eq!(revoked.status, Status::Deactivated(DeactivationReason::Revoked));
    }
    assert_eq!(sandbox.counters().revocations, 1);
    let refused = charge(&sandbox, SELLER_KEY, &issued.id, 60);
    assert_eq!(refused["error"]["code"], "shared_payment_token_revoked");
}

#[tokio::test]
async fn a_token_that_ran_out_has_expired() {
    let (sandbox, clock) = sandbox();
    let listening = sandbox.clone().listen().await.unwrap();
    let client = client(&listening.base_url());
    let purchase = Purchase::with("pm_card_visa");
    let issued = client.issue(&purchase.order()).await.ok().unwrap();
    clock.set(Timestamp::from_second(EXPIRES.cast_signed()).unwrap());
    let seen = client.token(&issued.id).await.ok().unwrap();
    assert_eq!(seen.status, Status::Deactivated(DeactivationReason::Expired));
    assert_eq!(seen.captured.unwrap().value, 0);
}

#[tokio::test]
async fn cards_decide_what_comes_of_an_order() {
    let (sandbox, listening) = listening().await;
    let client = client(&listening.base_url());
    let purchase = Purchase::with("pm_card_authenticationRequired");
    let waiting = client.issue(&purchase.order()).await.ok().unwrap();
    let Status::RequiresAction { at: Some(host) } = &waiting.status else {
        panic!("{:?}", waiting.status)
    };
    assert_eq!(host.as_str(), "hooks.stripe.com");
    assert!(waiting.presentable().is_none());
    assert!(sandbox.authenticate(waiting.id.expose()));
    assert!(client.token(&waiting.id).await.ok().unwrap().presentable().is_some());

    let mut purchase = Purchase::with("pm_card_chargeDeclined");
    purchase.payment = PaymentId::new(Timestamp::from_second(NOW).unwrap(), [8; 10]);
    // The refusal is remembered under the key, as Stripe does.
    for _ in 0..2 {
        let error = client.issue(&purchase.order()).await.err().unwrap();
        assert!(matches!(&error, StripeError::Declined { code } if code.as_str() == "generic_decline"));
        assert_eq!((error.fault(), error.effect()), (Fault::Card, Effect::None));
    }

    let mut purchase = Purchase::with("pm_card_nobody");
    purchase.payment = PaymentId::new(Timestamp::from_second(NOW).unwrap(), [9; 10]);
    let error = client.issue(&purchase.order()).await.err().unwrap();
    assert_eq!((error.fault(), error.effect()), (Fault::Setup, Effect::None));

    let mut purchase = Purchase::with("pm_card_visa");
    purchase.seller = Profile::parse("profile_of_nobody").unwrap();
    purchase.payment = PaymentId::new(Timestamp::from_second(NOW).unwrap(), [10; 10]);
    let error = client.issue(&purchase.order()).await.err().unwrap();
    assert!(matches!(&error, StripeError::Refused { code, .. } if code.as_str() == "resource_missing"));
    assert_eq!((error.fault(), error.effect()), (Fault::Offer, Effect::None));
}

#[tokio::test]
async fn one_key_stands_for_one_order() {
    let (_sandbox, listening) = listening().await;
    let client = client(&listening.base_url());
    let purchase = Purchase::with("pm_card_visa");
    client.issue(&purchase.order()).await.ok().unwrap();
    let dearer = Order {
        max_amount: 101,
        ..purchase.order()
    };
    let error = client.issue(&dearer).await.err().unwrap();
    assert!(matches!(error, StripeError::IdempotencyConflict));
    assert_eq!(error.effect(), Effect::Unknown);
}

#[tokio::test]
async fn keys_and_tokens_of_others_are_refused() {
    let (_sandbox, listening) = listening().await;
    let purchase = Purchase::with("pm_card_visa");
    let stranger = client_with("sk_test_stranger", &listening.base_url(), Endpoint::Issued);
    let error = stranger.issue(&purchase.order()).await.err().unwrap();
    assert!(matches!(error, StripeError::Unauthorized), "{error}");
    let unknown = TokenId::parse("spt_unknown").ok().unwrap();
    let error = client(&listening.base_url()).token(&unknown).await.err().unwrap();
    assert!(matches!(error, StripeError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn the_test_helper_grants_to_the_account_of_the_key() {
    let clock = Arc::new(ManualClock::at(Timestamp::from_second(NOW).unwrap()));
    let sandbox = Arc::new(StripeSandbox::new(clock, KEY).with_seller(KEY, "profile_lab_seller"));
    let listening = sandbox.clone().listen().await.unwrap();
    let client = client_with(KEY, &listening.base_url(), Endpoint::TestHelper);
    let purchase = Purchase::with("pm_card_visa");
    let granted = client.issue(&purchase.order()).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(granted.status, Status::Active);
    assert_eq!(charge(&sandbox, KEY, &granted.id, 100)["status"], "succeeded");
    let seen = client.token(&granted.id).await.ok().unwrap();
    assert_eq!(seen.status, Status::Deactivated(DeactivationReason::Consumed));

    let mut purchase = Purchase::with("pm_card_visa");
    purchase.payment = PaymentId::new(Timestamp::from_second(NOW).unwrap(), [8; 10]);
    let granted = client.issue(&purchase.order()).await.ok().unwrap();
    let revoked = client.revoke(&granted.id).await.ok().unwrap();
    assert_eq!(revoked.status, Status::Deactivated(DeactivationReason::Revoked));

    let settings = Settings {
        endpoint: Endpoint::TestHelper,
        ..Settings::default()
    };
    let live = SecretKey::parse("sk_live_a").ok().unwrap();
    assert!(matches!(
        Stripe::new(live, settings, tls()),
        Err(KeyError::LiveInTestHelper)
    ));
}

#[tokio::test]
async fn the_sandbox_is_reached_over_verified_tls_beside_the_shop() {
    let (stripe, _) = sandbox();
    let options = Options {
        stripe: Some(stripe.clone()),
        ..Options::default()
    };
    let shop = Sandbox::start("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    let purchase = Purchase::with("pm_card_visa");
    // Its certificate authority is not trusted, so nothing is sent.
    let error = client(&shop.base_url()).issue(&purchase.order()).await.err().unwrap();
    assert!(matches!(error, StripeError::Unsent(Silence::Connection)), "{error}");
    assert_eq!(stripe.counters().tokens_issued, 0);

    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, shop.ca_pem()).unwrap();
    let trust = Trust {
        extra_ca: vec![ca],
        ..Trust::default()
    };
    let settings = Settings {
        base: ApiBase::parse(&shop.base_url()).unwrap(),
        ..Settings::default()
    };
    let tls = Arc::new(UpstreamTls::new(&trust, Duration::from_secs(10)).unwrap());
    let client = Stripe::new(SecretKey::parse(KEY).ok().unwrap(), settings, tls)
        .ok()
        .unwrap();
    client.issue(&purchase.order()).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(stripe.counters().tokens_issued, 1);
}
