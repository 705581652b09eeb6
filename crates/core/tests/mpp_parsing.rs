//! Properties of any MPP `request`: an offer says what a reader without rules finds in the text, or there is no offer.

use alloy_primitives::keccak256;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bursar_core::assets::{Asset, Mode};
use bursar_core::challenge::{self, Clause, Nonce, Offer, Term, Why};
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
const PATH_USD: &str = "0x20c0000000000000000000000000000000000000";
const OTHER: &str = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913";
const PAYEE: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

fn offer(request: &str, more: &str) -> Result<Offer, Why> {
    offer_of("evm", request, more)
}

fn offer_of(method: &str, request: &str, more: &str) -> Result<Offer, Why> {
    let request = URL_SAFE_NO_PAD.encode(request);
    let field =
        format!(r#"Payment id="a", realm="x.example", method="{method}", intent="charge", request="{request}"{more}"#);
    let mut headers = HeaderMap::new();
    headers.insert("www-authenticate", HeaderValue::from_str(&field).unwrap());
    let mut challenge = challenge::with_mpp(&headers, Err(Why::NoChallenge)).unwrap();
    match challenge.unpayable.pop() {
        Some(unpayable) => Err(unpayable.why),
        None => Ok(challenge.offers.remove(0)),
    }
}

/// One of several values; the first one is valid.
fn one_of(values: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(values[0]), 1 => prop::sample::select(values)]
}

/// Members in any order, some of them duplicated, some odd.
fn request() -> impl Strategy<Value = String> {
    let details = (
        one_of(&[
            "84532",
            "8453",
            "1",
            "84532.0",
            "\"84532\"",
            "null",
            "845320000000000000000000",
        ]),
        one_of(&[
            "[\"authorization\"]",
            "[\"permit2\",\"authorization\"]",
            "[]",
            "[\"Authorization\"]",
            "7",
        ]),
        one_of(&["6", "18", "null", "6.0", "\"6\""]),
        one_of(&["null", "[]", "[{\"recipient\":\"x\"}]"]),
    );
    let details = details.prop_map(|(chain, types, decimals, splits)| {
        format!(r#"{{"chainId":{chain},"credentialTypes":{types},"decimals":{decimals},"splits":{splits}}}"#)
    });
    let members = (
        one_of(&[
            "\"10000\"",
            "\"1\"",
            "\"010\"",
            "10000",
            "\"-1\"",
            "\"1e4\"",
            "\"\\u0031\"",
            "null",
        ]),
        prop_oneof![3 => Just(USDC), 1 => prop::sample::select(&[OTHER, PAYEE, "usd"][..])],
        prop_oneof![3 => Just(PAYEE), 1 => prop::sample::select(&[USDC, "0x", ""][..])],
        details,
        prop::option::weighted(
            0.3,
            prop::sample::select(&["\"amount\":\"7\"", "\"recipient\":\"x\"", "\"new\":[1]"][..]),
        ),
    );
    let members = members.prop_map(|(amount, currency, recipient, details, more)| {
        let mut members = vec![
            format!(r#""amount":{amount}"#),
            format!(r#""currency":"{currency}""#),
            format!(r#""recipient":"{recipient}""#),
            format!(r#""methodDetails":{details}"#),
        ];
        members.extend(more.map(str::to_owned));
        members
    });
    let shuffled = members.prop_flat_map(|members| Just(members).prop_shuffle());
    shuffled.prop_map(|members| format!("{{{}}}", members.join(",")))
}

/// Members in any order, sometimes with one more.
fn shuffled(
    members: impl Strategy<Value = Vec<String>>,
    more: &'static [&'static str],
) -> impl Strategy<Value = String> {
    let more = prop::option::weighted(0.3, prop::sample::select(more));
    let members = (members, more).prop_map(|(mut members, more)| {
        members.extend(more.map(str::to_owned));
        members
    });
    let shuffled = members.prop_flat_map(|members| Just(members).prop_shuffle());
    shuffled.prop_map(|members| format!("{{{}}}", members.join(",")))
}

fn tempo_request() -> impl Strategy<Value = String> {
    let details = (
        one_of(&["42431", "4217", "84532", "42431.0", "\"42431\"", "null"]),
        one_of(&[
            "[\"pull\"]",
            "[\"push\",\"pull\"]",
            "[\"push\"]",
            "[]",
            "null",
            "\"pull\"",
        ]),
        one_of(&["null", "false", "true", "\"true\"", "1"]),
        one_of(&["null", "6", "18", "\"6\""]),
        one_of(&["null", "[]", "[{\"recipient\":\"x\"}]"]),
        one_of(&["null", "\"0x00\""]),
    );
    let details = details.prop_map(|(chain, modes, payer, decimals, splits, memo)| {
        format!(
            r#"{{"chainId":{chain},"supportedModes":{modes},"feePayer":{payer},"decimals":{decimals},"splits":{splits},"memo":{memo}}}"#
        )
    });
    let members = (
        one_of(&[
            "\"50000\"",
            "\"1\"",
            "\"050000\"",
            "50000",
            "\"-1\"",
            "\"5e4\"",
            "\"340282366920938463463374607431768211455\"",
            "null",
        ]),
        prop_oneof![3 => Just(PATH_USD), 1 => prop::sample::select(&[USDC, PAYEE, "usd"][..])],
        prop_oneof![3 => Just(PAYEE), 1 => prop::sample::select(&[PATH_USD, "0x", ""][..])],
        details,
    );
    let members = members.prop_map(|(amount, currency, recipient, details)| {
        vec![
            format!(r#""amount":{amount}"#),
            format!(r#""currency":"{currency}""#),
            format!(r#""recipient":"{recipient}""#),
            format!(r#""methodDetails":{details}"#),
        ]
    });
    shuffled(
        members,
        &[
            "\"amount\":\"7\"",
            "\"recipient\":\"x\"",
            "\"splits\":[]",
            "\"new\":[1]",
        ],
    )
}

fn stripe_request() -> impl Strategy<Value = String> {
    let details = (
        one_of(&[
            "\"profile_test_lab\"",
            "\"profile_61\"",
            "\"acct_61\"",
            "\"profile_\"",
            "\"profile_a&b\"",
            "7",
            "null",
        ]),
        one_of(&["null", "[]"]),
    );
    let details = details.prop_map(|(profile, splits)| format!(r#"{{"networkId":{profile},"splits":{splits}}}"#));
    let members = (
        one_of(&[
            "\"100\"",
            "\"0\"",
            "\"0100\"",
            "100",
            "\"-1\"",
            "\"1.00\"",
            "\"1000000000000\"",
            "null",
        ]),
        one_of(&["\"usd\"", "\"jpy\"", "\"kwd\"", "\"USD\"", "\"xxx\"", "7"]),
        one_of(&["null", "\"order-7\"", "\"a\\\"b\\u0000\"", "7", "{}"]),
        details,
    );
    let members = members.prop_map(|(amount, currency, external_id, details)| {
        vec![
            format!(r#""amount":{amount}"#),
            format!(r#""currency":{currency}"#),
            format!(r#""externalId":{external_id}"#),
            format!(r#""methodDetails":{details}"#),
        ]
    });
    shuffled(
        members,
        &[
            "\"amount\":\"7\"",
            "\"currency\":\"eur\"",
            "\"splits\":[]",
            "\"new\":[1]",
        ],
    )
}

/// The properties below say something about offers, so the generators must make enough of them.
#[test]
fn many_of_the_generated_requests_are_offers() {
    let mut runner = TestRunner::deterministic();
    for (method, requests) in [
        ("evm", request().boxed()),
        ("tempo", tempo_request().boxed()),
        ("stripe", stripe_request().boxed()),
    ] {
        let is_offer = |_: &i32| offer_of(method, &requests.new_tree(&mut runner).unwrap().current(), "").is_ok();
        let offers = (0..1024).filter(is_offer).count();
        assert!((20..1000).contains(&offers), "{method}: {offers} of 1024");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn an_offer_says_what_is_written(request in request()) {
        if let Ok(offer) = offer(&request, "") {
            let written: Value = serde_json::from_str(&request).unwrap();
            let text = |member: &str| written[member].as_str().unwrap().to_lowercase();
            prop_assert_eq!(offer.amount.get().to_string(), text("amount"));
            prop_assert_eq!(format!("{:#x}", offer.asset.token().unwrap().address), text("currency"));
            prop_assert_eq!(offer.payee.text(), text("recipient"));
            let details = &written["methodDetails"];
            prop_assert_eq!(offer.asset.network().chain_id(), details["chainId"].as_u64());
            prop_assert!(details["decimals"].is_null() || details["decimals"] == offer.asset.decimals());
            prop_assert!(details["splits"].is_null());
            // Every member occurs once, so there is only one way to read them.
            for member in ["\"amount\"", "\"recipient\"", "\"currency\""] {
                prop_assert_eq!(request.matches(member).count(), 1);
            }
        }
    }

    #[test]
    fn a_tempo_offer_says_what_is_written_and_counts_the_fee(request in tempo_request()) {
        if let Ok(offer) = offer_of("tempo", &request, "") {
            let written: Value = serde_json::from_str(&request).unwrap();
            let text = |member: &str| written[member].as_str().unwrap().to_lowercase();
            prop_assert_eq!(offer.amount.get().to_string(), text("amount"));
            prop_assert_eq!(format!("{:#x}", offer.asset.token().unwrap().address), text("currency"));
            prop_assert_eq!(offer.payee.text(), text("recipient"));
            let details = &written["methodDetails"];
            prop_assert_eq!(offer.asset.network().chain_id(), details["chainId"].as_u64());
            prop_assert!(details["decimals"].is_null() || details["decimals"] == offer.asset.decimals());
            for none in [&details["splits"], &written["splits"], &details["memo"]] {
                prop_assert!(none.is_null());
            }
            let modes = &details["supportedModes"];
            prop_assert!(modes.is_null() || modes.as_array().unwrap().iter().any(|mode| mode == "pull"));
            let Clause::FeeCap(fee) = offer.clause else { panic!("{:?}", offer.clause) };
            prop_assert_eq!(fee.is_zero(), details["feePayer"] == true);
            prop_assert_eq!(offer.usd.unwrap().get(), offer.amount.get() + fee.get());
            prop_assert_eq!(offer.outlay().get(), offer.amount.get() + fee.get());
            for member in ["\"amount\"", "\"recipient\"", "\"currency\""] {
                prop_assert_eq!(request.matches(member).count(), 1);
            }
        }
    }

    #[test]
    fn a_stripe_offer_says_what_is_written(request in stripe_request()) {
        if let Ok(offer) = offer_of("stripe", &request, "") {
            let written: Value = serde_json::from_str(&request).unwrap();
            prop_assert_eq!(offer.amount.get().to_string(), written["amount"].as_str().unwrap());
            let Asset::Fiat(mode, currency) = offer.asset else { panic!("{:?}", offer.asset) };
            prop_assert_eq!(currency.code, written["currency"].as_str().unwrap());
            let profile = written["methodDetails"]["networkId"].as_str().unwrap();
            prop_assert_eq!(offer.payee.to_string(), profile);
            prop_assert_eq!(mode == Mode::Test, profile.starts_with("profile_test_"));
            prop_assert!(written["methodDetails"]["splits"].is_null() && written["splits"].is_null());
            prop_assert!(written["externalId"].is_null() || written["externalId"].is_string());
            // Cents are counted. Finance sets the price of amounts that are not in dollars.
            let usd = (currency.code == "usd").then(|| offer.amount.get() * 10_000);
            prop_assert_eq!(offer.usd.map(|usd| usd.get()), usd);
            prop_assert_eq!((offer.clause, offer.outlay()), (Clause::None, offer.amount));
            for member in ["\"amount\"", "\"currency\""] {
                prop_assert_eq!(request.matches(member).count(), 1);
            }
        }
    }

    #[test]
    fn arbitrary_texts_are_no_offers(request in "\\PC{0,80}") {
        for method in ["evm", "tempo", "stripe"] {
            prop_assert!(offer_of(method, &request, "").is_err());
        }
    }

    /// R16 holds whatever a challenge asks for.
    #[test]
    fn no_credential_outlives_what_anybody_wants(second in 0..4_102_444_800i64, now in 0..4_102_444_800u64, longest in 10..86_400u64) {
        let expires = jiff::Timestamp::from_second(second).unwrap();
        let good = format!(
            r#"{{"amount":"1","currency":"{USDC}","recipient":"{PAYEE}","methodDetails":{{"chainId":84532,"credentialTypes":["authorization"]}}}}"#
        );
        let offer = offer(&good, &format!(", expires=\"{expires}\"")).unwrap();
        let expires = u64::try_from(second).unwrap();
        prop_assert_eq!(offer.term, Term::Until(expires));
        prop_assert_eq!(offer.nonce, Nonce::Fixed(keccak256("ax.example")));
        match offer.term.valid_before(now, longest) {
            Some(valid_before) => prop_assert!(valid_before <= expires && valid_before <= now + longest && valid_before >= now + 6),
            None => prop_assert!(expires < now + 6),
        }
    }
}
