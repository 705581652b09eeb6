//! Challenges in the manner of real sellers, from `fixtures/real`: each is paid as its seller expects, or not at all.

use std::collections::BTreeSet;

use alloy_primitives::Address;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bursar_core::assets::Network;
use bursar_core::challenge::{self, Challenge, Found, Payer, Remote, Why};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

const HOST: &str = "api.example.com";
/// 2026-11-30, in Unix seconds.
const NOW: u64 = 1_795_996_800;

/// `HOST` stands for the requested host, also inside base64.
fn here(text: &str) -> String {
    let inner = STANDARD.decode(text).ok().and_then(|json| String::from_utf8(json).ok());
    match inner {
        Some(json) => STANDARD.encode(json.replace("HOST", HOST)),
        None => text.replace("HOST", HOST),
    }
}

fn read(case: &Value) -> Result<Challenge, Why> {
    let mut headers = HeaderMap::new();
    for (name, value) in case["headers"].as_object().unwrap() {
        let value = HeaderValue::from_str(&here(value.as_str().unwrap())).unwrap();
        headers.append(HeaderName::try_from(name).unwrap(), value);
    }
    let body = here(case["body"].as_str().unwrap());
    let x402 = match challenge::look(&headers) {
        Found::V2Header(header) => challenge::v2(header),
        Found::Body(kind) => kind.challenge(body.as_bytes()),
        Found::Nothing(why) => Err(why),
    };
    challenge::with_mpp(&headers, x402)
}

/// The amounts that could be signed, or the reason why there are none.
fn payable(case: &Value) -> Result<Vec<String>, &'static str> {
    let payer = Payer {
        address: Some(Address::repeat_byte(1)),
        stripe: None,
        remote: Remote::default(),
        networks: &BTreeSet::from([Network::Eip155(84_532)]),
        proven: &BTreeSet::new(),
        request_host: HOST,
        resource_hosts: &[],
        realms: &[],
        zero_amount: false,
        now: NOW,
    };
    let challenge = read(case).map_err(Why::code)?;
    let mut amounts = Vec::new();
    let mut first = challenge.unpayable.first().map(|unpayable| unpayable.why);
    for offer in &challenge.offers {
        match challenge::payable(offer, &payer) {
            Ok(()) => amounts.push(offer.amount.get().to_string()),
            Err(why) => first = first.or(Some(why)),
        }
        // Whatever the seller asks for, 300 s is what finance allows.
        let valid_before = offer.valid_before(NOW, 300).unwrap();
        assert!((NOW + 60..=NOW + 300).contains(&valid_before), "{}", case["name"]);
    }
    match first {
        Some(why) if amounts.is_empty() => Err(why.code()),
        _ => Ok(amounts),
    }
}

#[test]
fn every_challenge_in_the_manner_of_real_sellers_is_read_as_its_seller_means_it() {
    let fixture: Value = serde_json::from_str(include_str!("../../../fixtures/real/402.json")).unwrap();
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 13);
    for case in cases {
        let expected = match (case["expect"]["paid"].as_str(), case["expect"]["unpaid"].as_str()) {
            (Some(amount), None) => Ok(vec![amount.to_owned()]),
            (None, Some(why)) => Err(why),
            _ => panic!("{case}"),
        };
        assert_eq!(payable(case), expected, "{}", case["name"]);
    }
}
