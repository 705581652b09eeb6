//! Buying over MPP with a Stripe token, over real TLS. The crate `mpp` reads challenges and receipts and writes
//! credentials.

use ::mpp::protocol::core::{
    PaymentChallenge, PaymentCredential, format_authorization, parse_receipt, parse_www_authenticate,
};

use super::client::Answer;
use super::*;
use crate::stripe::{AGENT_KEY, SHOP_PROFILE};

impl Answer {
    fn mpp_challenge(&self) -> PaymentChallenge {
        assert_eq!(self.status, StatusCode::PAYMENT_REQUIRED, "{self:?}");
        assert_eq!(self.headers["cache-control"], "no-store");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let challenge = parse_www_authenticate(self.headers["www-authenticate"].to_str().unwrap()).unwrap();
        assert_eq!(self.json()["challengeId"], challenge.id);
        challenge
    }

    fn problem(&self) -> String {
        let kind = self.json()["type"].as_str().unwrap().to_owned();
        kind.strip_prefix("https://paymentauth.org/problems/")
            .unwrap()
            .to_owned()
    }
}

/// A token for the shop, from the Stripe next to it.
async fn token(client: &mut Client, cents: u64) -> String {
    let form = format!(
        "payment_method=pm_card_visa&usage_limits[currency]=usd&usage_limits[max_amount]={cents}\
         &usage_limits[expires_at]={}&seller_details[network_business_profile]={SHOP_PROFILE}",
        NOW + 300
    );
    let fields = [
        ("authorization", format!("Bearer {AGENT_KEY}")),
        ("stripe-version", "2026-07-29.preview".to_owned()),
        ("content-type", "application/x-www-form-urlencoded".to_owned()),
    ];
    let answer = client.post("/v1/shared_payment/issued_tokens", &fields, &form).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

fn credential(challenge: &PaymentChallenge, token: &str) -> String {
    let request = challenge.request.decode_value().unwrap();
    let payload = json!({ "spt": token, "externalId": request["externalId"] });
    format_authorization(&PaymentCredential::new(challenge.to_echo(), payload)).unwrap()
}

#[tokio::test]
async fn a_purchase_is_charged_and_has_a_receipt() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let (sandbox, payer) = open(Duration::ZERO).await;
        let mut client = Client::connect(&sandbox, protocol).await;
        let unpaid = client.get("/mpp/report").await;
        assert_eq!(unpaid.problem(), "payment-required");
        assert!(unpaid.headers.get("payment-required").is_none());
        let challenge = unpaid.mpp_challenge();
        assert_eq!(challenge.realm, "localhost");

        let token = token(&mut client, 50).await;
        let header = credential(&challenge, &token);
        let paid = Some(("Authorization", header.as_str()));
        let answer = client.send(Method::GET, "/mpp/report", paid, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{protocol:?} {answer:?}");
        assert_eq!(answer.headers["cache-control"], "private");
        assert_eq!(answer.json()["company"], "Sandbank Shipping");
        let receipt = parse_receipt(answer.headers["payment-receipt"].to_str().unwrap()).unwrap();
        assert_eq!(receipt.method.as_str(), "stripe");

        let again = client.send(Method::GET, "/mpp/report", paid, "").await;
        assert_eq!(again.problem(), "verification-failed");
        assert_ne!(again.mpp_challenge().id, "");
        let counters = sandbox.stripe().counters();
        assert_eq!(counters.captured.get(&token), Some(&50));
        assert_eq!(counters.intents_succeeded, 1);
        assert_paid(&sandbox, &payer, 0);
    }
}

#[tokio::test]
async fn sixteen_presentations_of_one_credential_are_charged_once() {
    let (sandbox, _) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    let challenge = client.get("/mpp/report").await.mpp_challenge();
    let header = credential(&challenge, &token(&mut client, 50).await);
    let mut presentations = tokio::task::JoinSet::new();
    for n in 0..16 {
        let protocol = if n % 2 == 0 { Protocol::Http1 } else { Protocol::Http2 };
        let mut client = Client::connect(&sandbox, protocol).await;
        let header = header.clone();
        presentations.spawn(async move {
            let paid = Some(("authorization", header.as_str()));
            client.send(Method::GET, "/mpp/report", paid, "").await.status
        });
    }
    let statuses = presentations.join_all().await;
    let sold = statuses.iter().filter(|status| **status == StatusCode::OK).count();
    assert_eq!(sold, 1, "{statuses:?}");
    assert_eq!(sandbox.stripe().counters().intents_succeeded, 1);
}

#[tokio::test]
async fn what_is_sold_over_both_protocols_is_bought_by_either() {
    let (sandbox, payer) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    let unpaid = client.get("/both/report").await;
    let (x402, mpp) = (unpaid.v2_challenge(), unpaid.mpp_challenge());
    assert_eq!(x402["accepts"][0]["amount"], "250000");
    assert_eq!(mpp.request.decode_value().unwrap()["amount"], "50");

    let authorization = payer.authorize(&x402["accepts"][0], NOW, "one");
    let by_x402 = client.pay("/both/report", &payer.v2(&x402, &authorization)).await;
    assert_eq!(by_x402.status, StatusCode::OK, "{by_x402:?}");
    assert!(by_x402.headers.contains_key("payment-response"));
    assert_paid(&sandbox, &payer, 250_000);

    let header = credential(&mpp, &token(&mut client, 50).await);
    let paid = Some(("authorization", header.as_str()));
    let by_mpp = client.send(Method::GET, "/both/report", paid, "").await;
    assert_eq!(by_mpp.status, StatusCode::OK, "{by_mpp:?}");
    assert!(by_mpp.headers.contains_key("payment-receipt"));
    assert_paid(&sandbox, &payer, 250_000);
    assert_eq!(sandbox.stripe().counters().intents_succeeded, 1);

    // A rejection over one protocol offers both again.
    for refused in [
        client.send(Method::GET, "/both/report", paid, "").await,
        client.pay("/both/report", &payer.v2(&x402, &authorization)).await,
    ] {
        assert_eq!(refused.status, StatusCode::PAYMENT_REQUIRED);
        refused.v2_challenge();
        assert!(refused.headers.contains_key("www-authenticate"));
    }
    // Both at once is an error.
    let signature = encode(&payer.v2(&x402, &authorization));
    let fields = [("authorization", header.clone()), ("payment-signature", signature)];
    let both = client.ask(Method::GET, "/both/report", &fields, "").await;
    assert_eq!(both.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_credential_for_an_article_of_the_other_protocol_pays_nothing() {
    let (sandbox, payer) = open(Duration::ZERO).await;
    let mut client = Client::connect(&sandbox, Protocol::Http2).await;
    let challenge = client.get("/mpp/report").await.mpp_challenge();
    let header = credential(&challenge, &token(&mut client, 50).await);
    let paid = Some(("authorization", header.as_str()));
    let elsewhere = client.send(Method::GET, "/both/report", paid, "").await;
    assert_eq!(elsewhere.problem(), "invalid-challenge");
    client.send(Method::GET, "/v2/report", paid, "").await.v2_challenge();
    assert_eq!(sandbox.stripe().counters().intents_succeeded, 0);
    assert_paid(&sandbox, &payer, 0);
}
