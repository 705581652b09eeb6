//! Challenges that must not be paid as they are, from `fixtures/x402`, through the public interface. The vectors that
//! end in a signature are tested with the signer, in another crate.

use std::collections::BTreeSet;

use alloy_primitives::{Address, address};
use bursar_core::assets::Network;
use bursar_core::challenge::{self, Challenge, Found, Offer, Payer, PaymentFlow, ResourceHost, Why};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

const PAYER: Address = address!("0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266");

fn fixture(name: &str) -> Value {
    let path = format!("{}/../../fixtures/x402/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Everything that happens to a 402 before the limits are consulted.
fn read(response: &Value) -> Result<Challenge, Why> {
    let mut headers = HeaderMap::new();
    for (name, value) in response["headers"].as_object().unwrap() {
        headers.append(
            HeaderName::try_from(name).unwrap(),
            HeaderValue::from_str(value.as_str().unwrap()).unwrap(),
        );
    }
    match challenge::look(&headers) {
        Found::V2Header(header) => challenge::v2(header),
        Found::Body(kind) => kind.challenge(response["body"].as_str().unwrap().as_bytes()),
        Found::Nothing(why) => Err(why),
    }
}

fn payable(offer: &Offer, network: u64, host: &str, zero_amount: bool) -> Result<(), Why> {
    let payer = Payer {
        address: Some(PAYER),
        stripe: None,
        remote: challenge::Remote::default(),
        networks: &BTreeSet::from([Network::Eip155(network)]),
        proven: &BTreeSet::new(),
        request_host: host,
        resource_hosts: &[],
        realms: &[],
        zero_amount,
        now: 1,
    };
    challenge::payable(offer, &payer)
}

/// Where a challenge is rejected.
#[derive(Debug, PartialEq)]
enum Stop {
    /// The challenge as a whole cannot be parsed.
    Challenge(&'static str),
    /// Nobody can pay its only requirement.
    Requirement(&'static str),
    /// bursar cannot pay it in this configuration.
    Payer(&'static str),
    /// Only the limits can refuse it.
    Limits,
}
use Stop::{Challenge as C, Limits, Payer as P, Requirement as R};

fn stop(case: &Value) -> Stop {
    let challenge = match read(&case["response"]) {
        Ok(challenge) => challenge,
        Err(why) => return C(why.code()),
    };
    match (&challenge.offers[..], &challenge.unpayable[..]) {
        ([], [one]) => {
            assert_eq!(one.place.position, Some(0));
            R(one.why.code())
        }
        ([offer], []) => match payable(offer, 84_532, "127.0.0.1", false) {
            Err(why) => P(why.code()),
            Ok(()) => Limits,
        },
        other => panic!("{other:?}"),
    }
}

const BAD: [(&str, Stop); 41] = [
    ("malformed/not-base64", C("challenge-not-base64")),
    ("malformed/not-json", C("challenge-not-json")),
    ("malformed/json-array", C("challenge-not-object")),
    ("malformed/empty-header", C("challenge-header-empty")),
    ("malformed/no-accepts", C("offers-missing")),
    ("malformed/empty-accepts", C("offers-empty")),
    ("malformed/amount-number", R("amount-not-text")),
    ("malformed/amount-negative", R("amount-not-decimal")),
    ("malformed/amount-hex", R("amount-not-decimal")),
    ("malformed/amount-decimal", R("amount-not-decimal")),
    ("malformed/amount-exponent", R("amount-not-decimal")),
    ("malformed/amount-overflow", R("amount-too-large")),
    ("malformed/amount-empty", R("amount-not-decimal")),
    ("malformed/amount-spaces", R("amount-not-decimal")),
    ("malformed/amount-plus", R("amount-not-decimal")),
    ("malformed/amount-zero", P("amount-zero")),
    ("malformed/amount-leading-zeros", R("amount-leading-zero")),
    ("malformed/payto-short", R("payee-malformed")),
    ("malformed/payto-zero", R("payee-zero")),
    ("malformed/payto-bad-checksum", R("payee-checksum")),
    ("malformed/no-extra", R("token-domain-missing")),
    ("malformed/timeout-zero", R("timeout-out-of-range")),
    ("malformed/timeout-negative", R("timeout-out-of-range")),
    ("malformed/timeout-string", R("timeout-not-integer")),
    // It counts as a day (R73).
    ("malformed/timeout-huge", Limits),
    ("malformed/version-3", C("version-unsupported")),
    ("malformed/v1-object-in-v2-header", C("version-unsupported")),
    ("malformed/caip2-junk", R("network-malformed")),
    ("malformed/bare-402", C("no-challenge")),
    ("malformed/v1-truncated-body", C("challenge-not-json")),
    ("price-far-above", Limits),
    ("wrong-asset", R("asset-unknown")),
    ("wrong-domain", R("token-domain-mismatch")),
    ("unknown-network", R("network-unsupported")),
    ("mainnet-network", P("network-not-configured")),
    ("unknown-scheme", R("scheme-unsupported")),
    ("unknown-transfer-method", R("transfer-method-unsupported")),
    ("unknown-payment-flow", R("payment-flow-unsupported")),
    ("resource-mismatch", P("resource-host-differs")),
    ("payto-self", P("payee-is-payer")),
    ("html-paywall", C("no-challenge")),
];

#[test]
fn every_bad_challenge_stops_where_it_should() {
    let fixture = fixture("bad-challenges");
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), BAD.len());
    for (case, (name, expected)) in cases.iter().zip(&BAD) {
        assert_eq!(case["name"], *name);
        assert_eq!(&stop(case), expected, "{name}: {}", case["recommended"]);
    }
}

#[test]
fn what_the_payer_refuses_is_payable_under_another_configuration() {
    let fixture = fixture("bad-challenges");
    let only_offer = |name: &str| {
        let cases = fixture["cases"].as_array().unwrap();
        let case = cases.iter().find(|case| case["name"] == name).unwrap();
        read(&case["response"]).unwrap().offers.remove(0)
    };
    assert_eq!(
        only_offer("price-far-above").usd.unwrap().to_string(),
        "5000.00",
        "the price for the limits to refuse"
    );
    let mainnet = only_offer("mainnet-network");
    assert_eq!(payable(&mainnet, 8453, "127.0.0.1", false), Ok(()));
    let zero = only_offer("malformed/amount-zero");
    assert_eq!(payable(&zero, 84_532, "127.0.0.1", true), Ok(()));

    let foreign = only_offer("resource-mismatch");
    let host = "bank.example.com".to_owned();
    assert_eq!(foreign.resource, ResourceHost::Named(host.clone()));
    assert_eq!(payable(&foreign, 84_532, &host, false), Ok(()));
    // R23: the merchant's section in limits.toml may name the other host.
    let payer = Payer {
        address: Some(PAYER),
        stripe: None,
        remote: challenge::Remote::default(),
        networks: &BTreeSet::from([Network::Eip155(84_532)]),
        proven: &BTreeSet::new(),
        request_host: "127.0.0.1",
        resource_hosts: &[host],
        realms: &[],
        zero_amount: false,
        now: 1,
    };
    assert_eq!(challenge::payable(&foreign, &payer), Ok(()));
}

#[test]
fn schemes_and_methods_we_do_not_have_are_named() {
    for (name, code) in [
        ("v2-auth-capture-eip3009", "scheme-unsupported"),
        ("v2-batch-settlement-deposit", "scheme-unsupported"),
        ("v2-exact-svm-memo", "network-unsupported"),
    ] {
        let challenge = read(&fixture(name)["response"]).unwrap();
        assert!(challenge.offers.is_empty(), "{name}");
        assert_eq!(challenge.unpayable[0].why.code(), code, "{name}");
    }
}

#[test]
fn one_bad_requirement_spoils_no_other() {
    let challenge = read(&fixture("v2-exact-multi-accepts-selection")["response"]).unwrap();
    let offers: Vec<_> = challenge
        .offers
        .iter()
        .map(|offer| (offer.position, offer.amount.get(), offer.flow))
        .collect();
    assert_eq!(
        offers,
        [
            (2, 5_000_000, PaymentFlow::Authorization),
            (4, 20_000, PaymentFlow::Upfront),
            (5, 30_000, PaymentFlow::Authorization),
            (6, 10_000, PaymentFlow::Authorization),
        ]
    );
    let unpayable: Vec<_> = challenge
        .unpayable
        .iter()
        .map(|entry| (entry.place.position, entry.why))
        .collect();
    assert_eq!(
        unpayable,
        [
            (Some(0), Why::SchemeUnsupported),
            (Some(1), Why::NetworkUnsupported),
            (Some(3), Why::AssetUnknown),
        ]
    );
}
