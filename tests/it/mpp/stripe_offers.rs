//! Which `stripe`/`charge` offers are paid, and which never reach Stripe: prices, currencies, modes, hostile
//! challenges.

use std::sync::Arc;

use serde_json::json;

use crate::mpp::stripe::{LIMITS, get, home, prepared};
use crate::support::bursar::{eventually, setup};
use crate::support::mpp::{self, decoded, encoded, evm};
use crate::support::origin::{Origin, Seen};
use crate::support::stripe::{FakeStripe, seller, sells, stripe};

#[tokio::test]
async fn one_budget_holds_over_all_rails() {
    let fake = Arc::new(FakeStripe::start());
    let stripe_of_seller = fake.clone();
    let origin = Origin::https(move |request: Seen| {
        let fake = stripe_of_seller.clone();
        async move {
            match (request.payment(), request.target.as_str()) {
                (None, "/evm") => mpp::asks(&[evm("400000")]),
                (None, "/x402") => crate::support::seller::asks("400000"),
                (None, _) => mpp::asks(&[stripe("80")]),
                (Some(_), "/evm") => mpp::sold("goods"),
                (Some(_), "/x402") => crate::support::seller::sold("goods"),
                (Some(credential), _) => sells(&fake, &credential),
            }
        }
    })
    .await;
    let limits = "timezone = \"UTC\"\n[agents.research]\nday = \"1.50\"\n";
    let bursar = prepared(setup().config(&fake.config()).limits(limits), &origin).serve();
    assert_eq!(get(&bursar, &origin, "/stripe").await.status, 200);
    assert_eq!(get(&bursar, &origin, "/evm").await.status, 200);
    for path in ["/x402", "/evm", "/stripe"] {
        let page = get(&bursar, &origin, path).await;
        assert_eq!(
            (page.status.as_u16(), page.problem()),
            (403, "over-limit".to_owned()),
            "{path}"
        );
        assert_eq!(page.json()["used"], "1.20");
    }
    assert_eq!(fake.captured(), 80);
}

#[tokio::test]
async fn the_cheapest_offer_is_taken_whatever_its_rail_and_only_one_credential_is_sent() {
    let fake = Arc::new(FakeStripe::start());
    let stripe_of_seller = fake.clone();
    let origin = Origin::https(move |request: Seen| {
        let fake = stripe_of_seller.clone();
        async move {
            match (request.payment(), request.target.as_str()) {
                (None, "/stripe-cheaper") => mpp::asks(&[evm("1000000"), stripe("60")]),
                (None, _) => mpp::asks(&[stripe("100"), evm("1000000")]),
                (Some(credential), _) if decoded(&credential)["challenge"]["method"] == "stripe" => {
                    sells(&fake, &credential)
                }
                (Some(_), _) => mpp::sold("goods"),
            }
        }
    })
    .await;
    let bursar = home(&fake, &origin).serve();
    for (path, rail) in [("/stripe-cheaper", "mpp.stripe"), ("/same-price", "mpp.evm")] {
        assert_eq!(get(&bursar, &origin, path).await.status, 200, "{path}");
        assert_eq!(bursar.payments().last().unwrap()["rail"], rail, "{path}");
    }
    assert_eq!((origin.payments().len(), fake.captured()), (2, 60));
    bursar
        .home
        .write_limits(&format!("rails = [\"mpp.stripe\", \"mpp.evm\"]\n{LIMITS}"));
    eventually("the new limits", || {
        bursar.log().contains("the new limits are in force").then_some(())
    })
    .await;
    assert_eq!(get(&bursar, &origin, "/same-price").await.status, 200);
    assert_eq!(bursar.payments().last().unwrap()["rail"], "mpp.stripe");
}

#[tokio::test]
async fn other_currencies_are_paid_only_at_finances_rate_and_only_while_it_is_valid() {
    let fake = Arc::new(FakeStripe::start());
    let origin = seller(&fake, |path| {
        let (amount, currency) = match path {
            "/eur" => ("200", "eur"),
            "/jpy" => ("500", "jpy"),
            "/kwd" => ("1000", "kwd"),
            _ => ("100", "gbp"),
        };
        mpp::asks(&[stripe(amount).asking("/currency", json!(currency))])
    })
    .await;
    let limits = format!(
        "{LIMITS}[rates.eur]\nusd = \"1.15\"\nvalid_until = \"2099-12-31\"\n[rates.jpy]\nusd = \"0.0065\"\nvalid_until = \"2099-12-31\"\n\
         [rates.kwd]\nusd = \"3.26\"\nvalid_until = \"2099-12-31\"\n[rates.gbp]\nusd = \"1.30\"\nvalid_until = \"2020-12-31\"\n"
    );
    let bursar = prepared(setup().config(&fake.config()).limits(&limits), &origin).serve();
    for (path, usd, symbol, decimal) in [
        ("/eur", "2.30", "EUR", "2.00"),
        ("/jpy", "3.25", "JPY", "500"),
        ("/kwd", "3.26", "KWD", "1.000"),
    ] {
        let page = get(&bursar, &origin, path).await;
        assert_eq!(page.status, 200, "{page:?}");
        let payment = bursar.payments().pop().unwrap();
        assert_eq!(
            (&payment["usd"], &payment["symbol"], &payment["amount_decimal"]),
            (&json!(usd), &json!(symbol), &json!(decimal))
        );
    }
    let page = get(&bursar, &origin, "/gbp").await;
    assert_eq!(
        (page.status.as_u16(), page.problem()),
        (403, "no-rate".to_owned()),
        "{page:?}"
    );
    assert_eq!(page.json()["rule"], "rates.gbp");
    assert_eq!(fake.counters().tokens_issued, 3);
}

#[tokio::test]
async fn hostile_challenges_reach_neither_stripe_nor_the_ledger() {
    let fake = Arc::new(FakeStripe::start());
    let origin = seller(&fake, |path| {
        let good = || stripe("100");
        let twice = format!(
            "{{\"amount\":\"1\",{}",
            &crate::support::stripe::request("100").to_string()[1..]
        );
        use base64::Engine;
        let twice = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(twice);
        mpp::asks(&[match path {
            "/amount-number" => good().asking("/amount", json!(100)),
            "/amount-zero" => good().asking("/amount", json!("0")),
            "/amount-signed" => good().asking("/amount", json!("-100")),
            "/amount-decimal" => good().asking("/amount", json!("1.00")),
            "/amount-huge" => good().asking("/amount", json!("1000000000000")),
            "/currency-upper" => good().asking("/currency", json!("USD")),
            "/currency-unknown" => good().asking("/currency", json!("xxx")),
            "/profile-missing" => good().asking("/methodDetails", json!({})),
            "/profile-acct" => good().asking("/methodDetails/networkId", json!("acct_1")),
            "/profile-injects" => good().asking("/methodDetails/networkId", json!("profile_test_a&amount=9")),
            "/profile-live" => good().asking("/methodDetails/networkId", json!("profile_liveseller")),
            "/external-number" => {
                let mut request = crate::support::stripe::request("100");
                request["externalId"] = json!(7);
                good().with("request", &encoded(&request))
            }
            "/twice" => good().with("request", &twice),
            "/expired" => good().with("expires", "2020-01-01T00:00:00Z"),
            "/realm" => good().with("realm", "bank.example.com"),
            "/cookie" => good().with("header", "Cookie"),
            "/digest" => good().with("digest", "sha-256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            "/subscription" => good().with("intent", "subscription"),
            _ => panic!("{path}"),
        }])
    })
    .await;
    let bursar = home(&fake, &origin).serve();
    for (path, why) in [
        ("/amount-number", "amount-not-text"),
        ("/amount-zero", "amount-zero"),
        ("/amount-signed", "amount-not-decimal"),
        ("/amount-decimal", "amount-not-decimal"),
        ("/amount-huge", "amount-too-large"),
        ("/currency-upper", "currency-unknown"),
        ("/currency-unknown", "currency-unknown"),
        ("/profile-missing", "profile-malformed"),
        ("/profile-acct", "profile-malformed"),
        ("/profile-injects", "profile-malformed"),
        ("/profile-live", "stripe-mode-differs"),
        ("/external-number", "external-id-malformed"),
        ("/twice", "challenge-duplicate-key"),
        ("/expired", "challenge-expired"),
        ("/realm", "realm-differs"),
        ("/cookie", "mpp-header-not-allowed"),
        ("/digest", "digest-mismatch"),
        ("/subscription", "mpp-subscription-not-paid"),
    ] {
        let page = get(&bursar, &origin, path).await;
        assert_eq!(page.status, 402, "{path}: {page:?}");
        let details = format!("bursar; details=\"{why}\"");
        assert_eq!(page.header("proxy-status"), Some(details.as_str()), "{path}");
    }
    assert!(fake.calls().is_empty() && bursar.payments().is_empty() && origin.payments().is_empty());
}

#[tokio::test]
async fn a_challenge_is_answered_once_and_a_reference_goes_back_to_the_seller() {
    let fake = Arc::new(FakeStripe::start());
    let origin = seller(&fake, |path| {
        let mut request = crate::support::stripe::request("100");
        request["externalId"] = json!("order \"7\" \u{e9}");
        let asks = stripe("100").with("request", &encoded(&request));
        mpp::asks(&[match path {
            "/same" => asks.with("id", "the-one"),
            _ => asks,
        }])
    })
    .await;
    let bursar = home(&fake, &origin).serve();
    assert_eq!(get(&bursar, &origin, "/same").await.status, 200);
    let sent = decoded(&origin.payments()[0]);
    assert_eq!(sent["payload"]["externalId"], "order \"7\" \u{e9}");
    assert!(sent.get("source").is_none());
    let page = get(&bursar, &origin, "/same").await;
    assert_eq!(page.header("proxy-status"), Some("bursar; details=\"challenge-used\""));
    assert_eq!((fake.counters().tokens_issued, fake.captured()), (1, 100));
}

#[tokio::test]
async fn without_stripe_or_with_a_live_key_by_mistake() {
    let fake = Arc::new(FakeStripe::start());
    let origin = seller(&fake, |_| mpp::asks(&[stripe("100")])).await;
    let bursar = setup().limits(LIMITS).trust(&origin.ca_pem).start();
    let page = get(&bursar, &origin, "/x").await;
    assert_eq!(
        page.header("proxy-status"),
        Some("bursar; details=\"stripe-not-configured\"")
    );

    for (key, says) in [
        ("sk_live_by_mistake", "live = true"),
        ("pk_test_publishable", "publishable"),
        ("hunter2", "not a Stripe secret key"),
    ] {
        let home = self::home(&fake, &origin);
        std::fs::write(home.path().join("stripe.key"), key).unwrap();
        let served = home.run(&["serve"]);
        assert_eq!(served.status.code(), Some(2), "{key}");
        let said = String::from_utf8(served.stderr).unwrap();
        assert!(said.contains(says) && !said.contains(key), "{said}");
    }
    assert!(fake.calls().is_empty());
}
