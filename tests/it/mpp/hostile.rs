//! Hostile and faulty MPP servers (MPP §9, §10): the agent gets the site's answer with a reason added, and never more
//! than one credential is sent.

use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::bursar::{WALLET, setup};
use crate::support::mpp::{self, Challenge, PROBLEM, encoded, evm, problem, receipt, request};
use crate::support::origin::{Answer, Origin, Seen, Speaks, answer, certificate};
use crate::support::seller::{self, PAYEE, TX, USDC};

fn asks(change: impl Fn(Challenge) -> Challenge) -> Answer {
    mpp::asks(&[change(evm("10000"))])
}

fn asking(pointer: &str, value: Value) -> Answer {
    asks(|challenge| challenge.asking(pointer, value.clone()))
}

fn with(name: &'static str, value: &str) -> Answer {
    asks(|challenge| challenge.with(name, value))
}

fn method(method: &str, intent: &str) -> Answer {
    asks(|challenge| challenge.with("method", method).with("intent", intent))
}

/// What is wrong, the reason that the agent gets, and the 402.
type Case = (&'static str, &'static str, fn() -> Answer);

const UNPAID: [Case; 45] = [
    ("expired", "challenge-expired", || {
        with("expires", "2020-01-01T00:00:00Z")
    }),
    ("not-a-time", "expires-malformed", || with("expires", "tomorrow")),
    ("other-realm", "realm-differs", || with("realm", "bank.example.com")),
    ("realm-suffix", "realm-differs", || {
        with("realm", "localhost.example.com")
    }),
    ("realm-user", "realm-differs", || {
        with("realm", "https://localhost@bank.example.com/")
    }),
    ("header-cookie", "mpp-header-not-allowed", || with("header", "Cookie")),
    ("header-host", "mpp-header-not-allowed", || with("header", "Host")),
    ("header-proxy", "mpp-header-not-allowed", || {
        with("header", "Proxy-Authorization")
    }),
    ("other-body", "digest-mismatch", || {
        with("digest", "sha-256=CFdtBA5fXO1HaQ8sdv75T9kcnF5ed8M5LhPNrKzrx/I=")
    }),
    ("other-hash", "digest-unsupported", || {
        with("digest", "md5=1B2M2Y8AsgTpgAmY7PhCfg==")
    }),
    ("no-id", "mpp-parameter-missing", || {
        asks(|challenge| challenge.without("id"))
    }),
    ("empty-id", "mpp-parameter-missing", || with("id", "")),
    ("id-twice", "mpp-parameter-twice", || {
        let field = format!("{}, ID=\"b\"", evm("10000").field());
        answer(402, &[("www-authenticate", &field)], "")
    }),
    ("open-quote", "mpp-malformed", || {
        answer(402, &[("www-authenticate", "Payment id=\"a")], "")
    }),
    ("upper-case", "mpp-method-malformed", || with("method", "EVM")),
    ("not-base64", "challenge-not-base64", || with("request", "!!!")),
    ("not-json", "challenge-not-json", || with("request", "eyJhIjo")),
    ("array", "challenge-not-object", || with("request", "W10")),
    ("long-request", "mpp-request-too-large", || {
        let mut long = request("10000");
        long["externalId"] = "x".repeat(16 << 10).into();
        with("request", &encoded(&long))
    }),
    ("duplicate-key", "challenge-duplicate-key", || {
        use base64::Engine;
        let twice = request("1").to_string().replacen('{', r#"{"amount":"900000","#, 1);
        with(
            "request",
            &base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(twice),
        )
    }),
    ("amount-number", "amount-not-text", || asking("/amount", json!(10_000))),
    ("amount-negative", "amount-not-decimal", || {
        asking("/amount", json!("-1"))
    }),
    ("amount-2-256", "amount-too-large", || {
        asking(
            "/amount",
            json!("115792089237316195423570985008687907853269984665640564039457584007913129639936"),
        )
    }),
    ("amount-zero", "amount-zero", || asking("/amount", json!("0"))),
    ("unknown-token", "asset-unknown", || asking("/currency", json!(PAYEE))),
    ("fiat", "asset-malformed", || asking("/currency", json!("usd"))),
    ("decimals", "decimals-mismatch", || {
        asking("/methodDetails/decimals", json!(2))
    }),
    ("other-chain", "asset-unknown", || {
        asking("/methodDetails/chainId", json!(1))
    }),
    ("unknown-chain", "network-unsupported", || {
        asking("/methodDetails/chainId", json!(31_337))
    }),
    ("unnamed-network", "network-not-configured", || {
        let base = json!("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913");
        asks(|challenge| {
            let challenge = challenge.asking("/methodDetails/chainId", json!(8453));
            challenge.asking("/currency", base.clone())
        })
    }),
    ("no-chain", "chain-missing", || {
        asking("/methodDetails/chainId", Value::Null)
    }),
    ("no-recipient", "payee-malformed", || asking("/recipient", Value::Null)),
    ("to-nobody", "payee-zero", || {
        asking("/recipient", json!(format!("0x{}", "0".repeat(40))))
    }),
    ("to-token", "payee-is-asset", || asking("/recipient", json!(USDC))),
    ("to-us", "payee-is-payer", || asking("/recipient", json!(WALLET))),
    ("permit2", "credential-type-unsupported", || {
        asking("/methodDetails/credentialTypes", json!(["permit2", "hash"]))
    }),
    ("no-types", "credential-type-unsupported", || {
        asking("/methodDetails/credentialTypes", Value::Null)
    }),
    ("splits", "splits-unsupported", || {
        let mut split = request("10000");
        split["methodDetails"]["splits"] = json!([{ "recipient": WALLET, "amount": "9000" }]);
        with("request", &encoded(&split))
    }),
    // With the request of another method.
    ("stripe", "currency-unknown", || method("stripe", "charge")),
    ("tempo", "asset-unknown", || method("tempo", "charge")),
    ("lightning", "mpp-lightning-not-paid", || method("lightning", "charge")),
    ("session", "mpp-session-not-paid", || method("evm", "session")),
    ("subscription", "mpp-subscription-not-paid", || {
        method("stripe", "subscription")
    }),
    ("unheard-of", "mpp-method-unknown", || method("barter", "charge")),
    ("sixty-five", "too-many-offers", || mpp::asks(&vec![evm("10000"); 65])),
];

#[tokio::test]
async fn what_must_not_be_paid_is_passed_on_with_a_reason() {
    let origin = Origin::https(|request: Seen| async move {
        let case = UNPAID.iter().find(|(name, ..)| request.target[1..] == **name);
        case.unwrap().2()
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
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

#[tokio::test]
async fn offers_of_both_protocols_are_counted_together() {
    let origin = Origin::https(|_| async {
        let mut asks = mpp::asks(&vec![evm("10000"); 33]);
        let x402 = seller::encoded(&seller::challenge("/", &vec![seller::requirement("10000"); 32]));
        asks.headers_mut().insert("payment-required", x402.parse().unwrap());
        asks
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let page = Agent::of(&bursar).get(origin.address, "/").await;
    assert_eq!(page.header("proxy-status"), Some("bursar; details=\"too-many-offers\""));
    assert_eq!(origin.payments().len(), 0);
}

#[tokio::test]
async fn nothing_is_paid_without_tls() {
    let certificate = certificate(&["localhost"], |_| {});
    let origin = Origin::start(Speaks::Plain, certificate, |_| async { with("realm", "127.0.0.1") }).await;
    let bursar = setup().start();
    let page = Agent::of(&bursar)
        .get_plain(&format!("http://127.0.0.1:{}/x", origin.address.port()))
        .await;
    assert_eq!(page.header("proxy-status"), Some("bursar; details=\"not-over-tls\""));
    assert_eq!((origin.payments().len(), bursar.payments().len()), (0, 0));
}

fn problem_answer(status: u16, code: &str) -> Answer {
    answer(status, &[PROBLEM], problem(code))
}

fn receipted(status: u16, receipt: &str) -> Answer {
    answer(status, &[("payment-receipt", receipt)], "goods")
}

fn odd_receipt(member: &str, value: Value) -> Answer {
    let mut odd = mpp::decoded(&receipt());
    odd[member] = value;
    receipted(200, &encoded(&odd))
}

/// The answer to the paid request, the resulting state, and the source or the reason in the ledger.
type After = (&'static str, fn() -> Answer, &'static str, &'static str);

const AFTER: [After; 25] = [
    ("200", || answer(200, &[], "goods"), "unknown", "no-receipt"),
    (
        "204",
        || answer(204, &[("payment-receipt", &receipt())], ""),
        "settled",
        "merchant",
    ),
    ("403-but-settled", || receipted(403, &receipt()), "settled", "merchant"),
    ("500-but-settled", || receipted(500, &receipt()), "settled", "merchant"),
    (
        "302",
        || answer(302, &[("location", "https://localhost/other")], ""),
        "unknown",
        "no-receipt",
    ),
    ("403", || answer(403, &[], "no"), "unknown", "no-receipt"),
    ("404", || answer(404, &[], "gone"), "unknown", "no-receipt"),
    ("500", || answer(500, &[], "oops"), "unknown", "no-receipt"),
    ("402-bare", || answer(402, &[], "pay"), "unknown", "no-receipt"),
    (
        "402-dearer",
        || mpp::asks(&[evm("900000")]),
        "unknown",
        "seller-says-payment-required",
    ),
    (
        "402-other-payee",
        || asking("/recipient", json!(USDC)),
        "unknown",
        "seller-says-payment-required",
    ),
    (
        "402-malformed",
        || problem_answer(402, "malformed-credential"),
        "unknown",
        "seller-says-malformed-credential",
    ),
    (
        "402-invalid",
        || problem_answer(402, "invalid-challenge"),
        "unknown",
        "seller-says-invalid-challenge",
    ),
    (
        "402-expired",
        || problem_answer(402, "payment-expired"),
        "unknown",
        "seller-says-payment-expired",
    ),
    (
        "402-verification",
        || problem_answer(402, "verification-failed"),
        "unknown",
        "seller-says-verification-failed",
    ),
    (
        "403-replayed",
        || problem_answer(403, "verification-failed"),
        "unknown",
        "seller-says-verification-failed",
    ),
    (
        "500-internal",
        || problem_answer(500, "internal-payment-error"),
        "unknown",
        "seller-says-internal-payment-error",
    ),
    (
        "402-other-problem",
        || problem_answer(402, "session/insufficient-balance"),
        "unknown",
        "no-receipt",
    ),
    (
        "not-success",
        || odd_receipt("status", json!("failed")),
        "unknown",
        "receipt-says-failed",
    ),
    (
        "other-method",
        || odd_receipt("method", json!("stripe")),
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
        "reference-garbage",
        || odd_receipt("reference", json!("0x<script>")),
        "unknown",
        "receipt-unreadable",
    ),
    (
        "no-time",
        || odd_receipt("timestamp", json!("yesterday")),
        "unknown",
        "receipt-unreadable",
    ),
    ("not-base64", || receipted(200, "%%%"), "unknown", "receipt-unreadable"),
    // A receipt of the protocol that was not used says nothing about this payment.
    (
        "x402-receipt",
        || answer(200, &[("payment-response", &seller::receipt(true, TX))], "goods"),
        "unknown",
        "no-receipt",
    ),
];

#[tokio::test]
async fn whatever_comes_after_a_payment_the_receipt_alone_settles_it() {
    let origin = Origin::https(|request: Seen| async move {
        match AFTER.iter().find(|(name, ..)| request.target[1..] == **name) {
            Some((_, answer, ..)) if request.is_paid() => answer(),
            _ => mpp::asks(&[evm("10000")]),
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for (name, expected, ..) in &AFTER {
        let page = agent.get(origin.address, &format!("/{name}")).await;
        let expected = expected();
        assert_eq!(page.status, expected.status(), "{name}");
        let body = http_body_util::BodyExt::collect(expected.into_body())
            .await
            .unwrap()
            .to_bytes();
        if !name.starts_with("402-dearer") && !name.starts_with("402-other-payee") {
            assert_eq!(page.body, body, "{name}");
        }
        assert!(page.headers.contains_key("bursar-payment"), "{name}");
    }
    let payments = bursar.payments();
    assert_eq!(payments.len(), AFTER.len());
    for ((name, _, state, why), payment) in AFTER.iter().zip(&payments) {
        assert_eq!(payment["state"], *state, "{name}");
        let said = if *state == "settled" { "by" } else { "reason" };
        assert_eq!(payment[said], *why, "{name}");
        let sent = origin
            .seen()
            .into_iter()
            .filter(|r| r.is_paid() && r.target[1..] == **name);
        assert_eq!(sent.count(), 1, "{name}");
    }
}

/// The reference client pays such a seller three times for one call (MPP §9.1).
#[tokio::test]
async fn a_seller_that_asks_for_ever_gets_one_credential() {
    let origin = Origin::https(|request: Seen| async move {
        let mut asks = mpp::asks(&[evm("10000")]);
        if request.is_paid() {
            asks.headers_mut().insert("retry-after", "0".parse().unwrap());
        }
        asks
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let page = agent.get(origin.address, "/").await;
    assert_eq!(page.status, 402);
    assert_eq!(
        page.header("proxy-status"),
        Some("bursar; details=\"still-402-after-payment\"")
    );
    assert!(page.headers.contains_key("www-authenticate") && page.headers.contains_key("bursar-payment"));
    assert_eq!((origin.payments().len(), origin.seen().len()), (1, 2));

    // The agent's repeats present the same credential, and only a limited number of times.
    for _ in 0..3 {
        assert_eq!(agent.get(origin.address, "/").await.status, 402);
    }
    assert_eq!(agent.get(origin.address, "/").await.problem(), "payment-in-doubt");
    let mut sent = origin.payments();
    assert_eq!(sent.len(), 4);
    sent.dedup();
    assert_eq!((sent.len(), bursar.payments().len()), (1, 1));
}
