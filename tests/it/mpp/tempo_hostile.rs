//! MPP `tempo`/`charge` from scripted sellers, honest and not (MPP §9, §10): at most one transaction is signed, exactly
//! as recorded, and all of it is counted, including the fee cap.

use serde_json::{Value, json};

use crate::mpp::tempo::seconds;
use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, LIMITS, WALLET, setup};
use crate::support::faults::{Faults, Moment};
use crate::support::mpp::{self, Challenge, MODERATO, PATH_USD, PROBLEM, decoded, encoded, evm, problem};
use crate::support::origin::{Answer, Origin, Seen, Speaks, answer, certificate};
use crate::support::seller::{self, PAYEE, TX, USDC};

/// The test net without a node, for sellers that settle nothing.
fn named() -> String {
    format!("[networks.\"eip155:{MODERATO}\"]\nrpc = []\n")
}

fn in_seconds(seconds: i64) -> String {
    (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds)).to_string()
}

/// Sells to anyone who pays over Tempo or by authorization.
async fn sells(asks: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Origin {
    Origin::https(move |request: Seen| {
        let sold = match request.payment() {
            None => asks(&request.target),
            Some(credential) => receipted(
                200,
                &mpp::receipt_of(decoded(&credential)["challenge"]["method"].as_str().unwrap()),
            ),
        };
        async move { sold }
    })
    .await
}

fn receipted(status: u16, receipt: &str) -> Answer {
    answer(status, &[("payment-receipt", receipt)], "goods")
}

fn bursar(origin: &Origin, limits: &str) -> Bursar {
    let networks = format!("[networks.\"eip155:84532\"]\nrpc = []\n{}", named());
    setup().limits(limits).trust(&origin.ca_pem).config(&networks).start()
}

/// R20: the fee cap is part of the price.
#[tokio::test]
async fn a_lower_price_with_a_fee_is_not_the_cheaper_one() {
    let origin = sells(|path| mpp::asks(&[mpp::tempo("50000"), evm(path.trim_start_matches('/'))])).await;
    for (rails, evm, taken) in [
        ("", "60499", "mpp.evm"),
        ("", "60500", "mpp.evm"),
        ("rails = [\"mpp.tempo\", \"mpp.evm\"]\n", "60499", "mpp.evm"),
        ("rails = [\"mpp.tempo\", \"mpp.evm\"]\n", "60500", "mpp.tempo"),
        ("", "60501", "mpp.tempo"),
    ] {
        let bursar = bursar(&origin, &format!("{rails}{LIMITS}"));
        let page = Agent::of(&bursar).get(origin.address, &format!("/{evm}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        assert_eq!(bursar.payments()[0]["rail"], taken, "{rails}{evm}");
    }
}

#[tokio::test]
async fn what_is_sent_is_what_is_on_record() {
    let origin = sells(|_| mpp::asks(&[mpp::tempo("50000").with("opaque", "e30")])).await;
    let bursar = bursar(&origin, LIMITS);
    assert_eq!(Agent::of(&bursar).get(origin.address, "/x").await.status, 200);
    let (sent, payments) = (origin.payments(), bursar.payments());
    assert_eq!((sent.len(), origin.seen().len(), payments.len()), (1, 2, 1));
    let credential = decoded(&sent[0]);
    assert_eq!(credential["source"], format!("did:pkh:eip155:{MODERATO}:{WALLET}"));
    assert_eq!(credential["challenge"]["opaque"], "e30");
    assert_eq!(credential["payload"]["type"], "transaction");
    let signed = credential["payload"]["signature"].as_str().unwrap();
    assert!(signed.starts_with("0x76"), "{signed}");
    let nonce = payments[0]["nonce"]
        .as_str()
        .unwrap()
        .trim_start_matches("0x")
        .to_owned();
    // transferWithMemo(payee, 50000, memo), and nothing else that moves a token.
    let call = format!("95777d59{:0>64}{:064x}{nonce}", PAYEE[2..].to_lowercase(), 50_000);
    assert_eq!(signed.matches(&call).count(), 1, "{signed}");
    let valid_before = format!("84{:08x}", seconds(&payments[0]["valid_before"]));
    assert_eq!(signed.matches(&valid_before).count(), 1, "{signed}");
    // "mpp" hashed, version 1, the realm's hash, no client, the id's hash.
    let id = credential["challenge"]["id"].as_str().unwrap();
    let hashed = |text: &str, bytes: usize| alloy_primitives::hex::encode(&alloy_primitives::keccak256(text)[..bytes]);
    let memo = format!(
        "{}01{}{:020}{}",
        hashed("mpp", 4),
        hashed("localhost", 10),
        0,
        hashed(id, 7)
    );
    assert_eq!(nonce, memo);
}

#[tokio::test]
async fn a_challenge_that_is_about_to_expire_is_not_paid_and_its_end_is_kept() {
    let origin = sells(|path| {
        let seconds = path.trim_start_matches('/').parse().unwrap();
        mpp::asks(&[mpp::tempo("50000").with("expires", &in_seconds(seconds))])
    })
    .await;
    let bursar = bursar(&origin, LIMITS);
    let agent = Agent::of(&bursar);
    let page = agent.get(origin.address, "/5").await;
    assert_eq!(
        page.header("proxy-status"),
        Some("bursar; details=\"challenge-expired\"")
    );
    assert_eq!(origin.payments().len(), 0);
    for (path, longest) in [("/15", 15), ("/3600", 25)] {
        assert_eq!(agent.get(origin.address, path).await.status, 200, "{path}");
        let payment = bursar.payments().pop().unwrap();
        let life = seconds(&payment["valid_before"]) - seconds(&payment["created_at"]);
        assert!((longest - 2..=longest).contains(&life), "{path}: {payment}");
    }
}

#[tokio::test]
async fn a_challenge_is_answered_at_most_once() {
    let origin = sells(|_| mpp::asks(&[mpp::tempo("50000").with("id", "the-one")])).await;
    let bursar = bursar(&origin, LIMITS);
    let agent = Agent::of(&bursar);
    let (one, two) = tokio::join!(agent.get(origin.address, "/a"), agent.get(origin.address, "/b"));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 402]);
    let page = agent.get(origin.address, "/c").await;
    assert_eq!(page.header("proxy-status"), Some("bursar; details=\"challenge-used\""));
    assert_eq!(
        (origin.payments().len(), bursar.states()),
        (1, vec!["settled".to_owned()])
    );
}

fn asks(change: impl Fn(Challenge) -> Challenge) -> Answer {
    mpp::asks(&[change(mpp::tempo("50000"))])
}

fn asking(pointer: &str, value: Value) -> Answer {
    asks(|challenge| challenge.asking(pointer, value.clone()))
}

fn with(name: &'static str, value: &str) -> Answer {
    asks(|challenge| challenge.with(name, value))
}

/// With another member of `methodDetails`.
fn detail(name: &str, value: Value) -> Answer {
    let mut request = mpp::tempo_request("50000");
    request["methodDetails"][name] = value;
    with("request", &encoded(&request))
}

/// What is wrong, the reason that the agent gets, and the 402.
type Case = (&'static str, &'static str, fn() -> Answer);

const UNPAID: [Case; 45] = [
    ("amount-number", "amount-not-text", || asking("/amount", json!(50_000))),
    ("amount-missing", "amount-not-text", || asking("/amount", Value::Null)),
    ("amount-zero", "amount-zero", || asking("/amount", json!("0"))),
    ("amount-empty", "amount-not-decimal", || asking("/amount", json!(""))),
    ("amount-padded", "amount-leading-zero", || {
        asking("/amount", json!("050000"))
    }),
    ("amount-negative", "amount-not-decimal", || {
        asking("/amount", json!("-50000"))
    }),
    ("amount-fraction", "amount-not-decimal", || {
        asking("/amount", json!("0.05"))
    }),
    ("amount-2-128", "amount-too-large", || {
        asking("/amount", json!("340282366920938463463374607431768211456"))
    }),
    // With the fee it no longer fits.
    ("amount-2-128-less-1", "amount-too-large", || {
        asking("/amount", json!("340282366920938463463374607431768211455"))
    }),
    ("other-token", "asset-unknown", || {
        asking("/currency", json!("0x20c0000000000000000000000000000000000001"))
    }),
    ("fiat", "asset-malformed", || asking("/currency", json!("usd"))),
    ("no-token", "asset-malformed", || asking("/currency", Value::Null)),
    ("usdc-of-another-chain", "asset-unknown", || {
        asking("/currency", json!(USDC))
    }),
    // A token that no Tempo transaction can move.
    ("usdc-on-base", "asset-unknown", || {
        asks(|challenge| {
            challenge
                .asking("/methodDetails/chainId", json!(84_532))
                .asking("/currency", json!(USDC))
        })
    }),
    ("unknown-chain", "network-unsupported", || {
        asking("/methodDetails/chainId", json!(31_337))
    }),
    ("unnamed-chain", "network-not-configured", || {
        asking("/methodDetails/chainId", json!(4217))
    }),
    ("chain-as-text", "network-malformed", || {
        asking("/methodDetails/chainId", json!("42431"))
    }),
    ("chain-as-fraction", "network-malformed", || {
        asking("/methodDetails/chainId", json!(42_431.5))
    }),
    // The draft defines a default; a payer must not use it.
    ("no-chain", "chain-missing", || {
        asking("/methodDetails/chainId", Value::Null)
    }),
    ("no-details", "chain-missing", || asking("/methodDetails", Value::Null)),
    ("decimals", "decimals-mismatch", || detail("decimals", json!(18))),
    ("splits", "splits-unsupported", || {
        detail("splits", json!([{ "recipient": USDC, "amount": "1" }]))
    }),
    ("no-splits", "splits-unsupported", || detail("splits", json!([]))),
    ("memo", "memo-unsupported", || detail("memo", json!(TX))),
    ("push", "mode-unsupported", || {
        asking("/methodDetails/supportedModes", json!(["push"]))
    }),
    ("no-mode", "mode-unsupported", || {
        asking("/methodDetails/supportedModes", json!([]))
    }),
    ("mode-as-text", "mode-unsupported", || {
        asking("/methodDetails/supportedModes", json!("pull"))
    }),
    ("fee-payer-text", "mode-unsupported", || {
        detail("feePayer", json!("true"))
    }),
    ("fee-payer-number", "mode-unsupported", || detail("feePayer", json!(1))),
    ("no-recipient", "payee-malformed", || asking("/recipient", Value::Null)),
    ("to-nobody", "payee-zero", || {
        asking("/recipient", json!(format!("0x{}", "0".repeat(40))))
    }),
    ("to-token", "payee-is-asset", || asking("/recipient", json!(PATH_USD))),
    ("to-us", "payee-is-payer", || asking("/recipient", json!(WALLET))),
    ("checksum", "payee-checksum", || {
        asking("/recipient", json!(PAYEE.replacen("693B", "693b", 1)))
    }),
    ("other-realm", "realm-differs", || with("realm", "bank.example.com")),
    ("realm-suffix", "realm-differs", || {
        with("realm", "localhost.example.com")
    }),
    ("duplicate-key", "challenge-duplicate-key", || {
        use base64::Engine;
        let twice = mpp::tempo_request("1")
            .to_string()
            .replacen('{', r#"{"amount":"900000","#, 1);
        with(
            "request",
            &base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(twice),
        )
    }),
    ("expired", "challenge-expired", || {
        with("expires", "2020-01-01T00:00:00Z")
    }),
    ("not-a-time", "expires-malformed", || with("expires", "tomorrow")),
    ("other-body", "digest-mismatch", || {
        with("digest", "sha-256=CFdtBA5fXO1HaQ8sdv75T9kcnF5ed8M5LhPNrKzrx/I=")
    }),
    ("header-cookie", "mpp-header-not-allowed", || with("header", "Cookie")),
    ("session", "mpp-session-not-paid", || with("intent", "session")),
    ("subscription", "mpp-subscription-not-paid", || {
        with("intent", "subscription")
    }),
    ("evm-instead", "credential-type-unsupported", || with("method", "evm")),
    ("sixty-five", "too-many-offers", || {
        mpp::asks(&vec![mpp::tempo("50000"); 65])
    }),
];

#[tokio::test]
async fn what_must_not_be_paid_is_passed_on_with_a_reason() {
    let origin = Origin::https(|request: Seen| async move {
        let case = UNPAID.iter().find(|(name, ..)| request.target[1..] == **name);
        case.unwrap().2()
    })
    .await;
    let bursar = bursar(&origin, LIMITS);
    let agent = Agent::of(&bursar);
    for (name, why, _) in &UNPAID {
        let page = agent.get(origin.address, &format!("/{name}")).await;
        assert_eq!(page.status, 402, "{name}: {page:?}");
        assert_eq!(
            page.header("proxy-status"),
            Some(&*format!("bursar; details=\"{why}\"")),
            "{name}"
        );
        assert!(page.headers.contains_key("www-authenticate"), "{name}");
    }
    assert_eq!((origin.payments().len(), bursar.payments().len()), (0, 0));
    assert_eq!(origin.seen().len(), UNPAID.len(), "asked once each");
}

/// For a price of zero the server wants a signed proof of address, which is a login.
#[tokio::test]
async fn nothing_is_signed_for_a_price_of_nothing() {
    let origin = sells(|_| mpp::asks(&[mpp::tempo("0")])).await;
    let bursar = bursar(&origin, &format!("zero_amount = true\n{LIMITS}"));
    let page = Agent::of(&bursar).get(origin.address, "/").await;
    assert_eq!(
        page.header("proxy-status"),
        Some("bursar; details=\"mode-unsupported\"")
    );
    assert_eq!((origin.payments().len(), bursar.payments().len()), (0, 0));
}

#[tokio::test]
async fn nothing_is_paid_without_tls() {
    let plain = certificate(&["localhost"], |_| {});
    let origin = Origin::start(Speaks::Plain, plain, |_| async { with("realm", "127.0.0.1") }).await;
    let bursar = setup().config(&named()).start();
    let url = format!("http://127.0.0.1:{}/x", origin.address.port());
    let page = Agent::of(&bursar).get_plain(&url).await;
    assert_eq!(page.header("proxy-status"), Some("bursar; details=\"not-over-tls\""));
    assert_eq!((origin.payments().len(), bursar.payments().len()), (0, 0));
}

fn odd_receipt(member: &str, value: Value) -> Answer {
    let mut odd = decoded(&mpp::receipt_of("tempo"));
    odd[member] = value;
    receipted(200, &encoded(&odd))
}

fn problem_answer(status: u16, code: &str) -> Answer {
    answer(status, &[PROBLEM], problem(code))
}

/// The answer to the paid request, the resulting state, and the source or the reason in the ledger.
type After = (&'static str, fn() -> Answer, &'static str, &'static str);

const AFTER: [After; 16] = [
    ("200", || answer(200, &[], "goods"), "unknown", "no-receipt"),
    ("500", || answer(500, &[], "oops"), "unknown", "no-receipt"),
    (
        "302",
        || answer(302, &[("location", "https://localhost/x")], ""),
        "unknown",
        "no-receipt",
    ),
    (
        "500-but-settled",
        || receipted(500, &mpp::receipt_of("tempo")),
        "settled",
        "merchant",
    ),
    (
        "402-dearer",
        || mpp::asks(&[mpp::tempo("900000")]),
        "unknown",
        "seller-says-payment-required",
    ),
    (
        "402-verification",
        || problem_answer(402, "verification-failed"),
        "unknown",
        "seller-says-verification-failed",
    ),
    (
        "402-invalid",
        || problem_answer(402, "invalid-challenge"),
        "unknown",
        "seller-says-invalid-challenge",
    ),
    (
        "500-internal",
        || problem_answer(500, "internal-payment-error"),
        "unknown",
        "seller-says-internal-payment-error",
    ),
    // A receipt for a payment over another rail says nothing about this one.
    (
        "of-evm",
        || receipted(200, &mpp::receipt_of("evm")),
        "unknown",
        "receipt-unreadable",
    ),
    (
        "of-stripe",
        || odd_receipt("method", json!("stripe")),
        "unknown",
        "receipt-unreadable",
    ),
    (
        "of-x402",
        || answer(200, &[("payment-response", &seller::receipt(true, TX))], "goods"),
        "unknown",
        "no-receipt",
    ),
    (
        "reference-of-stripe",
        || odd_receipt("reference", json!("pi_123")),
        "unknown",
        "receipt-unreadable",
    ),
    (
        "no-reference",
        || odd_receipt("reference", Value::Null),
        "unknown",
        "receipt-unreadable",
    ),
    (
        "not-success",
        || odd_receipt("status", json!("pending")),
        "unknown",
        "receipt-says-failed",
    ),
    (
        "no-time",
        || odd_receipt("timestamp", json!("now")),
        "unknown",
        "receipt-unreadable",
    ),
    (
        "not-an-object",
        || receipted(200, "W10"),
        "unknown",
        "receipt-unreadable",
    ),
];

#[tokio::test]
async fn whatever_comes_after_a_payment_the_receipt_alone_settles_it() {
    let origin = Origin::https(|request: Seen| async move {
        match AFTER.iter().find(|(name, ..)| request.target[1..] == **name) {
            Some((_, answer, ..)) if request.is_paid() => answer(),
            _ => mpp::asks(&[mpp::tempo("50000")]),
        }
    })
    .await;
    let bursar = bursar(&origin, LIMITS);
    let agent = Agent::of(&bursar);
    for (name, expected, ..) in &AFTER {
        let page = agent.get(origin.address, &format!("/{name}")).await;
        assert_eq!(page.status, expected().status(), "{name}");
        assert!(page.headers.contains_key("bursar-payment"), "{name}");
    }
    let payments = bursar.payments();
    assert_eq!(payments.len(), AFTER.len());
    for ((name, _, state, why), payment) in AFTER.iter().zip(&payments) {
        assert_eq!(
            (&payment["state"], &payment["usd"]),
            (&json!(state), &json!("0.0605")),
            "{name}"
        );
        let said = if *state == "settled" { "by" } else { "reason" };
        assert_eq!(payment[said], *why, "{name}");
        let sent = origin
            .seen()
            .into_iter()
            .filter(|r| r.is_paid() && r.target[1..] == **name);
        assert_eq!(sent.count(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_seller_that_asks_for_ever_gets_one_transaction() {
    let origin = Origin::https(|_| async { mpp::asks(&[mpp::tempo("50000")]) }).await;
    let bursar = bursar(&origin, "timezone = \"UTC\"\n[agents.research]\ntotal = \"0.10\"\n");
    let agent = Agent::of(&bursar);
    let page = agent.get(origin.address, "/").await;
    assert_eq!(
        page.header("proxy-status"),
        Some("bursar; details=\"still-402-after-payment\"")
    );
    assert_eq!((origin.payments().len(), origin.seen().len()), (1, 2));
    for _ in 0..3 {
        assert_eq!(agent.get(origin.address, "/").await.status, 402);
    }
    assert_eq!(agent.get(origin.address, "/").await.problem(), "payment-in-doubt");
    let mut sent = origin.payments();
    assert_eq!(sent.len(), 4);
    sent.dedup();
    assert_eq!((sent.len(), bursar.states()), (1, vec!["unknown".to_owned()]));
    assert_eq!(agent.get(origin.address, "/other").await.problem(), "over-limit");
}

/// Killed between record and send, during the send, and before the outcome is recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_leaves_one_transaction_and_all_of_it_counted() {
    let origin = sells(|_| mpp::asks(&[mpp::tempo("50000")])).await;
    let to_seller = format!(">{}", origin.address.port());
    // And what the same request gets after the next start: the stored credential is presented, or the answer is
    // `payment-in-doubt`.
    for (call, what, nth, moment, sent, again) in [
        ("sync", "/audit/seg-", 1, Moment::After, 0, 409),
        ("write", "/private/credentials/", 1, Moment::After, 0, 200),
        ("write", to_seller.as_str(), 2, Moment::After, 1, 200),
        ("write", "/audit/seg-", 2, Moment::Before, 1, 200),
    ] {
        let when = format!("killed {moment} {call} {what} {nth}");
        let faults = Faults::none();
        let path = format!("/{}", origin.seen().len());
        let home = setup()
            // No alert at 80 %, because its entry would be one more write.
            .limits("timezone = \"UTC\"\n[agents.research]\ntotal = \"0.10\"\n")
            .trust(&origin.ca_pem)
            .config(&named())
            .home();
        let mut bursar = home.serve_by(faults.program());
        let mut connection = Agent::of(&bursar).connect(origin.address, &["http/1.1"]).await;
        faults.kill_at(call, what, nth, moment);
        let request = http::Request::get(&path).body(http_body_util::Full::default()).unwrap();
        let _ = connection.send(origin.address, request).await;
        let distinct = || {
            let paid = origin.seen().into_iter().filter(|request| request.target == path);
            let sent: std::collections::HashSet<String> = paid.filter_map(|request| request.payment()).collect();
            sent.len()
        };
        assert!(bursar.ended() < 0, "{when}: it stopped cleanly");
        assert!(distinct() <= sent, "{when}: {} sent", distinct());

        let bursar = bursar.kill().serve();
        let payments = bursar.payments();
        assert_eq!(payments.len(), 1, "{when}");
        assert_eq!(
            (&payments[0]["state"], &payments[0]["usd"]),
            (&json!("unknown"), &json!("0.0605")),
            "{when}"
        );
        let agent = Agent::of(&bursar);
        assert_eq!(
            agent.get(origin.address, "/another").await.problem(),
            "over-limit",
            "{when}"
        );
        let page = agent.get(origin.address, &path).await;
        assert_eq!(bursar.payments().len(), 1, "{when}");
        // 25 s pass quickly on a loaded machine.
        let valid_before: jiff::Timestamp = payments[0]["valid_before"].as_str().unwrap().parse().unwrap();
        if jiff::Timestamp::now().duration_since(valid_before) < jiff::SignedDuration::from_secs(-7) {
            assert_eq!(page.status, again, "{when}: {page:?}");
            assert_eq!(distinct(), usize::from(again == 200), "{when}");
        }
    }
}
