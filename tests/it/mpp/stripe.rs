//! MPP `stripe`/`charge` through the real binary: which token is ordered, when it is sent, what is charged with it, and
//! what the ledger records. Money is counted at Stripe.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;
use serde_json::{Value, json};

use crate::support::agent::{Agent, Page};
use crate::support::bursar::{Bursar, Home, Setup, eventually, setup};
use crate::support::mpp::{self};
use crate::support::origin::{Origin, Seen, answer};
use crate::support::stripe::{AGENT_KEY, FakeStripe, Mishap, PROFILE, receipt, seller, sells, stripe};

const CREATE: &str = "POST /v1/shared_payment/issued_tokens";
const REVOKE: &str = "POST /v1/shared_payment/issued_tokens/*/revoke";
pub(crate) const LIMITS: &str = "timezone = \"UTC\"\n[agents.research]\nper_transaction = \"5.00\"\nday = \"100.00\"\n";

pub(crate) fn home(fake: &FakeStripe, origin: &Origin) -> Home {
    prepared(setup().config(&fake.config()).limits(LIMITS), origin)
}

pub(crate) fn prepared(setup: Setup, origin: &Origin) -> Home {
    let home = setup.trust(&origin.ca_pem).home();
    let key = home.path().join("stripe.key");
    std::fs::write(&key, AGENT_KEY).unwrap();
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
    home
}

pub(crate) async fn get(bursar: &Bursar, origin: &Origin, path: &str) -> Page {
    Agent::of(bursar).get(origin.address, path).await
}

/// Runs `reconcile --json` until nothing is pending; returns the last lines by payment.
async fn reconciled(bursar: &Bursar) -> Vec<Value> {
    eventually("a verdict on every payment", || {
        let said = bursar.run(&["reconcile", "--json"]);
        let text = String::from_utf8(said.stdout).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let payments: Vec<Value> = lines.into_iter().filter(|line| line["kind"] == "payment").collect();
        let pending = payments.iter().any(|line| line["finding"] == "pending");
        (!pending).then_some(payments)
    })
    .await
}

/// The key and the tokens may appear only under `private/`.
fn assert_discreet(bursar: &Bursar, origin: &Origin) {
    let journal = serde_json::to_string(&bursar.journal()).unwrap();
    for secret in [AGENT_KEY, "spt_"] {
        assert!(!bursar.log().contains(secret), "{secret} is in the log");
        assert!(!journal.contains(secret), "{secret} is in the journal");
    }
    for seen in origin.seen() {
        let head = format!("{:?}", seen.headers);
        assert!(!head.contains(AGENT_KEY));
    }
}

fn counted(bursar: &Bursar) -> Vec<(String, String)> {
    let text = |payment: &Value, name: &str| payment[name].as_str().unwrap().to_owned();
    let both = |payment: &Value| (text(payment, "state"), text(payment, "usd"));
    bursar.payments().iter().map(both).collect()
}

#[tokio::test]
async fn a_token_is_ordered_for_exactly_what_is_asked_and_charged_once() {
    let fake = Arc::new(FakeStripe::start());
    let origin = seller(&fake, |_| mpp::asks(&[stripe("100")])).await;
    let bursar = home(&fake, &origin).serve();
    let page = get(&bursar, &origin, "/report").await;
    assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]), "{page:?}");
    assert_eq!((fake.called(CREATE), fake.captured()), (1, 100));

    let payments = bursar.payments();
    let [payment] = &payments[..] else {
        panic!("{payments:?}")
    };
    for (member, value) in [
        ("state", "settled"),
        ("by", "merchant"),
        ("rail", "mpp.stripe"),
        ("scheme", "charge"),
        ("network", "stripe:test"),
        ("asset", "stripe:test/iso4217:usd"),
        ("symbol", "USD"),
        ("amount", "100"),
        ("amount_decimal", "1.00"),
        ("usd", "1.00"),
        ("payee", PROFILE),
    ] {
        assert_eq!(payment[member], value, "{member}");
    }
    assert!(payment["tx"].as_str().unwrap().starts_with("pi_"));
    let calls = fake.calls();
    let order = calls.iter().find(|call| call.path.ends_with("/issued_tokens")).unwrap();
    assert_eq!(order.headers["idempotency-key"], payment["id"].as_str().unwrap());
    assert_eq!(order.headers["stripe-version"], "2026-07-29.preview");
    let expires = payment["valid_before"]
        .as_str()
        .unwrap()
        .parse::<jiff::Timestamp>()
        .unwrap();
    let form = format!(
        "payment_method=pm_card_visa&usage_limits%5Bcurrency%5D=usd&usage_limits%5Bmax_amount%5D=100\
         &usage_limits%5Bexpires_at%5D={}&seller_details%5Bnetwork_business_profile%5D={PROFILE}",
        expires.as_second()
    );
    assert_eq!(order.body, form);
    let made = payment["created_at"]
        .as_str()
        .unwrap()
        .parse::<jiff::Timestamp>()
        .unwrap();
    assert!(expires.duration_since(made).as_secs() <= 300, "R16");

    let lines = reconciled(&bursar).await;
    assert_eq!(lines[0]["finding"], "confirmed", "{lines:?}");
    assert_eq!(bursar.payments()[0]["by"], "stripe");
    assert_eq!(
        std::fs::read_dir(bursar.path().join("private/tokens")).unwrap().count(),
        0
    );
    assert_eq!(fake.called(REVOKE), 0, "what a merchant says is paid is not taken back");
    assert_discreet(&bursar, &origin);
}

#[tokio::test]
async fn the_record_is_on_disk_before_the_order_and_the_order_before_the_credential() {
    let fake = Arc::new(FakeStripe::start());
    let origin = seller(&fake, |_| mpp::asks(&[stripe("100")])).await;
    let home = home(&fake, &origin);
    let (dir, stripe) = (home.path().to_owned(), fake.clone());
    let bursar = home.serve();
    fake.mishaps(&[Mishap::Broken, Mishap::Broken]);
    let buying = get(&bursar, &origin, "/x");
    tokio::pin!(buying);
    let reserved = |dir: &std::path::Path| {
        let audit = std::fs::read_dir(dir.join("audit")).unwrap();
        let names = audit.map(|file| file.unwrap().path());
        let text: String = names.filter_map(|path| std::fs::read_to_string(path).ok()).collect();
        text.contains("pay.reserved")
    };
    // The first order has failed and the next waits a moment: the record is there, and nothing has been sent to the
    // seller.
    tokio::select! {
        page = &mut buying => panic!("{page:?}"),
        () = eventually("the first order", || (stripe.called(CREATE) > 0).then_some(())) => {}
    }
    assert!(reserved(&dir));
    assert!(origin.payments().is_empty());
    assert_eq!(buying.await.status, 200);
    // Three attempts at one order under one key; one token, one credential.
    let keys: Vec<_> = fake
        .calls()
        .iter()
        .filter(|call| call.path.ends_with("/issued_tokens"))
        .map(|call| call.headers["idempotency-key"].clone())
        .collect();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0]));
    assert_eq!((fake.counters().tokens_issued, origin.payments().len()), (1, 1));
}

#[tokio::test]
async fn an_answer_of_stripes_that_is_lost_costs_no_second_token() {
    let fake = Arc::new(FakeStripe::start());
    let origin = seller(&fake, |_| mpp::asks(&[stripe("100")])).await;
    let bursar = home(&fake, &origin).serve();
    fake.mishaps(&[Mishap::Unanswered, Mishap::Unread]);
    assert_eq!(get(&bursar, &origin, "/x").await.status, 200);
    assert_eq!(
        (fake.called(CREATE), fake.counters().tokens_issued, fake.captured()),
        (3, 1, 100)
    );
}

#[tokio::test]
async fn while_stripe_is_down_nothing_is_paid_and_what_may_exist_is_taken_back() {
    let fake = Arc::new(FakeStripe::start());
    let origin = seller(&fake, |_| mpp::asks(&[stripe("100")])).await;
    let bursar = home(&fake, &origin).serve();
    // Stripe acts, its answer is lost, and then it is unreachable.
    fake.mishaps(&[Mishap::Unanswered]);
    fake.break_down();
    let page = get(&bursar, &origin, "/x").await;
    assert_eq!(
        (page.status.as_u16(), page.problem()),
        (503, "token-unavailable".to_owned()),
        "{page:?}"
    );
    assert!(page.headers.contains_key("retry-after"));
    assert_eq!(counted(&bursar), [("unknown".into(), "1.00".into())]);
    assert!(origin.payments().is_empty());
    fake.mend();
    let lines = reconciled(&bursar).await;
    assert_eq!(lines[0]["finding"], "expired", "{lines:?}");
    assert_eq!(counted(&bursar)[0].0, "expired");
    assert_eq!(
        (
            fake.counters().tokens_issued,
            fake.counters().revocations,
            fake.captured()
        ),
        (1, 1, 0)
    );
    // Stripe is reachable again.
    assert_eq!(get(&bursar, &origin, "/x").await.status, 200);
    assert_eq!(fake.captured(), 100);
    assert_discreet(&bursar, &origin);
}

#[tokio::test]
async fn declines_and_actions_are_distinguished_and_cost_nothing() {
    let fake = Arc::new(FakeStripe::start());
    for (method, why) in [
        ("pm_card_chargeDeclined", "stripe-declined"),
        ("pm_card_authenticationRequired", "stripe-action-required"),
    ] {
        let origin = seller(&fake, |_| mpp::asks(&[stripe("100")])).await;
        let bursar = prepared(setup().config(&fake.config_with(method)).limits(LIMITS), &origin).serve();
        let page = get(&bursar, &origin, "/x").await;
        assert_eq!(
            (page.status.as_u16(), page.problem()),
            (403, "payment-declined".to_owned()),
            "{page:?}"
        );
        assert_eq!(page.json()["retryable"], false);
        let payments = bursar.payments();
        assert_eq!(
            (&payments[0]["state"], &payments[0]["reason"]),
            (&json!("expired"), &json!(why))
        );
        assert!(origin.payments().is_empty());
        assert_discreet(&bursar, &origin);
    }
    // The token that waited for its holder was revoked.
    assert_eq!((fake.counters().revocations, fake.captured()), (1, 0));
}

#[tokio::test]
async fn a_setup_that_stripe_does_not_accept_says_whose_move_it_is() {
    let fake = Arc::new(FakeStripe::start());
    let origin = seller(&fake, |_| mpp::asks(&[stripe("100")])).await;
    let home = home(&fake, &origin);
    std::fs::write(home.path().join("stripe.key"), "sk_test_of_another_account").unwrap();
    let bursar = home.serve();
    let page = get(&bursar, &origin, "/x").await;
    assert_eq!(
        (page.status.as_u16(), page.problem()),
        (503, "token-unavailable".to_owned())
    );
    assert_eq!(page.json()["retryable"], false);
    assert!(
        page.json()["detail"]
            .as_str()
            .unwrap()
            .contains("[stripe] in bursar.toml"),
        "{page:?}"
    );
    assert_eq!(counted(&bursar)[0].0, "expired");
    // A seller that Stripe does not know: the fault is the seller's.
    let stranger = seller(&fake, |_| {
        mpp::asks(&[stripe("100").asking("/methodDetails/networkId", json!("profile_test_stranger"))])
    })
    .await;
    let bursar = self::home(&fake, &stranger).serve();
    let page = get(&bursar, &stranger, "/x").await;
    assert_eq!(
        (page.status.as_u16(), page.problem()),
        (403, "payment-declined".to_owned()),
        "{page:?}"
    );
    assert_eq!(counted(&bursar)[0].0, "expired");
}

#[tokio::test]
async fn a_refused_token_is_taken_back_and_its_money_with_it() {
    let fake = Arc::new(FakeStripe::start());
    let origin = Origin::https(|request: Seen| async move {
        match request.is_paid() {
            false => mpp::asks(&[stripe("100")]),
            true => answer(402, &[mpp::PROBLEM], mpp::problem("verification-failed")),
        }
    })
    .await;
    let bursar = home(&fake, &origin).serve();
    let page = get(&bursar, &origin, "/x").await;
    assert_eq!(page.status, 402);
    assert_eq!(
        page.header("proxy-status"),
        Some("bursar; details=\"still-402-after-payment\"")
    );
    assert_eq!(counted(&bursar), [("unknown".into(), "1.00".into())]);
    let lines = reconciled(&bursar).await;
    assert_eq!(
        (&lines[0]["finding"], &lines[0]["why"]),
        (&json!("expired"), &json!("token-revoked"))
    );
    assert_eq!((fake.counters().revocations, fake.captured()), (1, 0));
    let payment = &bursar.payments()[0];
    assert_eq!(
        (&payment["state"], &payment["by"]),
        (&json!("expired"), &json!("stripe"))
    );
    // A seller that kept the token cannot use it.
    let kept = &origin.payments()[0];
    assert!(fake.charge(kept, "100", "usd").is_err());
}

#[tokio::test]
async fn a_seller_that_takes_the_money_and_lies_is_found_out() {
    let fake = Arc::new(FakeStripe::start());
    let stripe_of_seller = fake.clone();
    let origin = Origin::https(move |request: Seen| {
        let fake = stripe_of_seller.clone();
        async move {
            let Some(credential) = request.payment() else {
                return mpp::asks(&[stripe("100")]);
            };
            match request.target.as_str() {
                // Charged, but refused all the same.
                "/refuses" => {
                    assert!(fake.charge(&credential, "100", "usd").is_ok());
                    answer(402, &[mpp::PROBLEM], mpp::problem("verification-failed"))
                }
                // Not charged, but acknowledged as paid.
                _ => answer(200, &[("payment-receipt", &receipt("pi_invented"))], "goods"),
            }
        }
    })
    .await;
    let bursar = home(&fake, &origin).serve();
    assert_eq!(get(&bursar, &origin, "/refuses").await.status, 402);
    let lines = reconciled(&bursar).await;
    assert_eq!(lines[0]["finding"], "settled", "{lines:?}");
    assert_eq!(counted(&bursar), [("settled".into(), "1.00".into())]);
    assert_eq!((fake.captured(), fake.counters().revocations), (100, 0));

    // Its token is valid until it expires, and counts.
    assert_eq!(get(&bursar, &origin, "/thanks").await.status, 200);
    let said = bursar.run(&["reconcile", "--json"]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("\"finding\":\"pending\""), "{text}");
    assert_eq!(said.status.code(), Some(4));
    assert_eq!(counted(&bursar)[1], ("settled".into(), "1.00".into()));
}

#[tokio::test]
async fn a_seller_that_asks_for_ever_gets_one_credential_and_stripe_sees_one_token() {
    let fake = Arc::new(FakeStripe::start());
    let origin = Origin::https(|_| async move { mpp::asks(&[stripe("100")]) }).await;
    let bursar = home(&fake, &origin).serve();
    for _ in 0..3 {
        assert_eq!(get(&bursar, &origin, "/x").await.status, 402);
    }
    let sent = origin.payments();
    // The agent's own repeats present the same token again (R3).
    assert!(!sent.is_empty() && sent.iter().all(|credential| *credential == sent[0]));
    assert_eq!((fake.called(CREATE), fake.counters().tokens_issued), (1, 1));
    assert_eq!(bursar.payments().len(), 1);
}

#[tokio::test]
async fn a_crash_between_order_and_credential_is_found_again_under_the_same_key() {
    let fake = Arc::new(FakeStripe::start());
    let origin = seller(&fake, |_| mpp::asks(&[stripe("100")])).await;
    let mut bursar = home(&fake, &origin).serve();
    // Stripe has made the token, and the proxy dies before it reads the answer.
    fake.mishaps(&[Mishap::Unanswered, Mishap::Broken, Mishap::Broken]);
    {
        let buying = get(&bursar, &origin, "/x");
        tokio::pin!(buying);
        tokio::select! {
            page = &mut buying => panic!("{page:?}"),
            () = eventually("a token", || (fake.counters().tokens_issued == 1).then_some(())) => {}
        }
    }
    let home = bursar.kill();
    fake.mend();
    let bursar = home.serve();
    let lines = reconciled(&bursar).await;
    assert_eq!(lines.last().unwrap()["after"], "expired", "{lines:?}");
    assert_eq!(counted(&bursar), [("expired".into(), "1.00".into())]);
    let counters = fake.counters();
    assert_eq!(
        (counters.tokens_issued, counters.revocations),
        (1, 1),
        "no second token was made to find the first"
    );
    let keys: Vec<_> = fake
        .calls()
        .iter()
        .filter_map(|call| call.headers.get("idempotency-key").cloned())
        .collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert!(origin.payments().is_empty());
}

#[tokio::test]
async fn a_crash_after_the_credential_keeps_the_money_counted_until_stripe_says_what_was_taken() {
    let fake = Arc::new(FakeStripe::start());
    let stripe_of_seller = fake.clone();
    let origin = Origin::https(move |request: Seen| {
        let fake = stripe_of_seller.clone();
        async move {
            match request.payment() {
                None => mpp::asks(&[stripe("100")]),
                Some(credential) => {
                    let sold = sells(&fake, &credential);
                    match request.target.as_str() {
                        "/hangs" => std::future::pending().await,
                        _ => sold,
                    }
                }
            }
        }
    })
    .await;
    let mut bursar = home(&fake, &origin).serve();
    {
        let buying = get(&bursar, &origin, "/hangs");
        tokio::pin!(buying);
        tokio::select! {
            page = &mut buying => panic!("{page:?}"),
            () = eventually("the charge", || (fake.captured() == 100).then_some(())) => {}
        }
    }
    let bursar = bursar.kill().serve();
    reconciled(&bursar).await;
    let payment = &bursar.payments()[0];
    assert_eq!(
        (&payment["state"], &payment["by"]),
        (&json!("settled"), &json!("stripe"))
    );
    assert_eq!((fake.captured(), fake.counters().tokens_issued), (100, 1));
    assert_discreet(&bursar, &origin);
}

#[tokio::test]
async fn a_token_that_nobody_waits_for_is_not_sent_and_taken_back() {
    let fake = Arc::new(FakeStripe::start());
    let origin = seller(&fake, |_| mpp::asks(&[stripe("100")])).await;
    let bursar = home(&fake, &origin).serve();
    fake.mishaps(&[Mishap::Broken]);
    {
        let buying = get(&bursar, &origin, "/x");
        tokio::pin!(buying);
        tokio::select! {
            page = &mut buying => panic!("{page:?}"),
            () = eventually("the first order", || (fake.called(CREATE) > 0).then_some(())) => {}
        }
    }
    eventually("the second order", || {
        (fake.counters().tokens_issued == 1).then_some(())
    })
    .await;
    eventually("the end", || (bursar.states() == ["unknown"]).then_some(())).await;
    assert!(origin.payments().is_empty());
    let lines = reconciled(&bursar).await;
    assert_eq!(lines[0]["after"], "expired", "{lines:?}");
    assert_eq!((fake.counters().revocations, fake.captured()), (1, 0));
}

/// A seller needs at least six seconds.
#[tokio::test]
async fn a_token_that_came_too_late_for_the_seller_is_not_sent_and_taken_back() {
    let fake = Arc::new(FakeStripe::start());
    let origin = seller(&fake, |_| {
        // Near the end of a second, so that the pauses between orders span two.
        while jiff::Timestamp::now().subsec_millisecond() < 850 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let expires = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + 7).unwrap();
        mpp::asks(&[stripe("100").with("expires", &expires.to_string())])
    })
    .await;
    let bursar = home(&fake, &origin).serve();
    fake.mishaps(&[Mishap::Broken, Mishap::Broken]);
    let page = get(&bursar, &origin, "/x").await;
    assert_eq!(
        (page.status.as_u16(), page.problem()),
        (503, "token-unavailable".to_owned()),
        "{page:?}"
    );
    assert!(origin.payments().is_empty());
    assert_eq!(fake.counters().tokens_issued, 1);
    let lines = reconciled(&bursar).await;
    assert_eq!(lines[0]["after"], "expired", "{lines:?}");
    assert_eq!(fake.captured(), 0);
}

#[tokio::test]
async fn a_repeat_presents_the_same_token() {
    let fake = Arc::new(FakeStripe::start());
    let (stripe_of_seller, tries) = (fake.clone(), AtomicUsize::new(0));
    let tries = Arc::new(tries);
    let origin = Origin::https(move |request: Seen| {
        let (fake, tries) = (stripe_of_seller.clone(), tries.clone());
        async move {
            match request.payment() {
                None => mpp::asks(&[stripe("100")]),
                Some(_) if tries.fetch_add(1, Ordering::SeqCst) == 0 => answer(503, &[], "later"),
                Some(credential) => sells(&fake, &credential),
            }
        }
    })
    .await;
    // A long timeout: the token must not be revoked in between.
    let config = fake.config().replace("settle_wait_s = 1", "settle_wait_s = 60");
    let mut bursar = prepared(setup().config(&config).limits(LIMITS), &origin).serve();
    assert_eq!(get(&bursar, &origin, "/x").await.status, 503);
    let bursar = bursar.kill().serve();
    assert_eq!(get(&bursar, &origin, "/x").await.status, 200);
    let sent = origin.payments();
    assert_eq!((sent.len(), &sent[0]), (2, &sent[1]));
    assert_eq!((fake.counters().tokens_issued, fake.captured()), (1, 100));
    assert_eq!(counted(&bursar), [("settled".into(), "1.00".into())]);
}

#[tokio::test]
async fn two_at_once_are_two_tokens_and_an_idempotency_key_is_one() {
    let fake = Arc::new(FakeStripe::start());
    let origin = seller(&fake, |_| mpp::asks(&[stripe("100")])).await;
    let bursar = home(&fake, &origin).serve();
    let (one, two) = tokio::join!(get(&bursar, &origin, "/x"), get(&bursar, &origin, "/x"));
    assert_eq!((one.status.as_u16(), two.status.as_u16()), (200, 200));
    assert_eq!((fake.counters().tokens_issued, fake.captured()), (2, 200));
    let keyed = || async {
        let request = Request::get("/y").header("idempotency-key", "order-7");
        Agent::of(&bursar).request(origin.address, request).await.status
    };
    let (one, two) = tokio::join!(keyed(), keyed());
    assert!(one == 200 || two == 200, "{one} {two}");
    assert_eq!((fake.counters().tokens_issued, fake.captured()), (3, 300));
}
