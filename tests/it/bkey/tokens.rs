//! BKey issues the tokens for sellers that take cards (approvals §4.6). Nothing can look them up afterwards.

use serde_json::json;

use crate::bkey::{Lie, assert_problem, config, is_counted, write_secret};
use crate::support::agent::Agent;
use crate::support::bkey::payments::OrderState;
use crate::support::bkey::{Call, Dialect, FakeBkey};
use crate::support::bursar::{Home, eventually, setup};
use crate::support::origin::Origin;
use crate::support::{mpp, stripe};

/// An MPP seller that accepts any token.
async fn takes_tokens(challenge: fn() -> mpp::Challenge) -> Origin {
    Origin::https(move |request| async move {
        match request.payment() {
            None => mpp::asks(&[challenge()]),
            Some(_) => crate::support::origin::answer(200, &[("payment-receipt", &stripe::receipt("pi_1"))], "goods"),
        }
    })
    .await
}

fn live() -> mpp::Challenge {
    stripe::stripe("100").asking("/methodDetails/networkId", json!("profile_61TestSeller"))
}

fn tokens_by_bkey(origin: &Origin, fake: &FakeBkey) -> Home {
    let stripe = "[stripe]\nkey = \"bkey\"\npayment_method = \"pm_card_visa\"\n";
    let home = setup()
        .trust(&origin.ca_pem)
        .limits("[agents.research]\ntotal = \"1.50\"\n")
        .config(&config(fake, stripe, 50))
        .home();
    write_secret(&home);
    home
}

#[tokio::test]
async fn a_token_of_bkeys_pays_a_seller_that_takes_cards() {
    for packed in [false, true] {
        let (origin, fake) = (takes_tokens(live).await, FakeBkey::start(Dialect::Oauth));
        let bursar = tokens_by_bkey(&origin, &fake).serve();
        fake.payments(|of| of.packed = packed);
        let page = Agent::of(&bursar).get(origin.address, "/report?q=1").await;
        assert_eq!(page.status, 200, "{page:?}");
        let credential = mpp::decoded(&origin.payments()[0]);
        assert!(credential.to_string().contains("spt_auth_0001"), "{credential}");
        let id = bursar.payments()[0]["id"].as_str().unwrap().to_owned();
        let site = format!("https://localhost:{}", origin.address.port());
        let order = json!({
            "amountCents": 100, "currency": "USD", "paymentMethodId": "pm_card_visa", "merchantName": "localhost",
            "description": format!("research: pay 1.00 USD to localhost, payment {id}"), "resource": format!("{site}/report"),
        });
        assert_eq!(fake.payments(|payments| payments.ordered()), [order]);
        assert_eq!(bursar.states(), ["settled"]);
        assert!(!bursar.log().contains("spt_auth") && !format!("{:?}", bursar.journal()).contains("spt_auth"));
    }
}

#[tokio::test]
async fn a_token_that_is_not_what_was_ordered_is_kept_and_not_sent() {
    let lies: [(&str, Lie); 5] = [
        ("expiresAt", |of| of.valid_s = 3600),
        ("amountCents", |of| {
            of.lie = Some(|answer| answer["amountCents"] = json!(101))
        }),
        ("currency", |of| {
            of.lie = Some(|answer| answer["currency"] = json!("EUR"))
        }),
        ("paymentMethodId", |of| {
            of.lie = Some(|answer| answer["paymentMethodId"] = json!("pm_other"))
        }),
        ("sptId", |of| of.lie = Some(|answer| answer["sptId"] = json!("pi_1"))),
    ];
    for (member, lie) in lies {
        let (origin, fake) = (takes_tokens(live).await, FakeBkey::start(Dialect::Oauth));
        let bursar = tokens_by_bkey(&origin, &fake).serve();
        fake.payments(lie);
        let page = Agent::of(&bursar).get(origin.address, "/report?q=1").await;
        assert_problem(&page, 503, "signing-failed");
        assert!(origin.payments().is_empty(), "{member}");
        assert_eq!(bursar.states(), ["unknown"]);
        let id = bursar.payments()[0]["id"].as_str().unwrap().to_owned();
        let stored = bursar.path().join("private/tokens").join(&id);
        assert_eq!(stored.exists(), member != "sptId", "{member}");
        let again = Agent::of(&bursar).get(origin.address, "/report?q=1").await;
        assert_problem(&again, 409, "payment-in-doubt");
        assert_eq!(fake.count(Call::OrderToken), 1);
        is_counted(&bursar, &origin).await;
        // Nothing can look it up; only a person can resolve it.
        let compared = bursar.run(&["reconcile", &id]);
        let said = String::from_utf8_lossy(&compared.stdout).into_owned() + &String::from_utf8_lossy(&compared.stderr);
        assert_eq!(bursar.states(), ["unknown"], "{said}");
        let why = "the card's statement";
        assert!(
            bursar
                .run(&["payments", "resolve", &id, "--expired", "--why", why])
                .status
                .success()
        );
    }
}

#[tokio::test]
async fn tokens_are_ordered_only_in_live_dollars() {
    let fake = FakeBkey::start(Dialect::Oauth);
    for (challenge, why) in [
        (
            (|| stripe::stripe("100")) as fn() -> mpp::Challenge,
            "stripe-mode-differs",
        ),
        (|| live().asking("/currency", json!("eur")), "signer-only-dollars"),
    ] {
        let origin = takes_tokens(challenge).await;
        let bursar = tokens_by_bkey(&origin, &fake).serve();
        let page = Agent::of(&bursar).get(origin.address, "/report").await;
        assert_eq!(page.status, 402);
        assert!(page.header("proxy-status").unwrap().contains(why), "{page:?}");
    }
    assert_eq!(fake.count(Call::OrderToken), 0);
}

#[tokio::test]
async fn a_person_confirms_a_token() {
    let (origin, fake) = (takes_tokens(live).await, FakeBkey::start(Dialect::Status));
    let bursar = tokens_by_bkey(&origin, &fake).serve();
    fake.payments(|of| (of.order_state, of.packed) = (OrderState::Waits, true));
    let (agent, site) = (Agent::of(&bursar), origin.address);
    let waiting = tokio::spawn(async move { agent.get(site, "/report").await });
    eventually("a look", || (fake.count(Call::LookToken) > 0).then_some(())).await;
    fake.payments(|of| of.decide(&OrderState::Made));
    assert_eq!(waiting.await.unwrap().status, 200);
    assert_eq!(
        (origin.payments().len(), bursar.states()),
        (1, vec!["settled".to_owned()])
    );
}
