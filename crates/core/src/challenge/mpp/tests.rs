//! The vectors of `fixtures/mpp`, with the crate `mpp` as a second opinion on everything that is read.

use std::collections::BTreeSet;

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::super::{Payer, Rail, Receipt, ResourceHost, Term, payable, receipt as receipts, still_payable};
use super::*;
use crate::assets::{Mode, Network};

fn fixture(name: &str) -> Value {
    let path = format!("{}/../../fixtures/mpp/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn headers(lines: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_bytes(line).unwrap());
    }
    headers
}

/// The well-formed challenges, or why they are not well-formed.
fn parsed(lines: &[&[u8]]) -> Vec<Result<Payment, Why>> {
    let found = lines.iter().flat_map(|line| field::challenges(line));
    found.map(|parameters| Payment::read(&parameters?)).collect()
}

fn lines(case: &Value) -> Vec<Vec<u8>> {
    let latin1 = |text: &str| text.chars().map(|c| u8::try_from(c).unwrap()).collect();
    let lines = case["fieldLines"].as_array().unwrap().iter();
    lines.map(|line| latin1(line.as_str().unwrap())).collect()
}

fn echoed(payment: &Payment) -> Value {
    serde_json::from_str(&payment.echo).unwrap()
}

/// The same from the other implementation: echo and decoded request of each challenge.
fn second_opinion(lines: &[&[u8]]) -> Vec<Option<(Value, Value)>> {
    let parsed = mpp::protocol::core::parse_www_authenticate_all_bytes(lines.iter().copied());
    parsed
        .into_iter()
        .map(|challenge| {
            let challenge = challenge.ok()?;
            let mut echo = serde_json::to_value(&challenge).unwrap();
            // It returns `request` and `opaque` as received.
            let request = challenge.request.decode_value().unwrap();
            for (name, raw) in [
                ("request", Some(&challenge.request)),
                ("opaque", challenge.opaque.as_ref()),
            ] {
                if let Some(raw) = raw {
                    echo[name] = raw.raw().into();
                }
            }
            Some((echo, request))
        })
        .collect()
}

#[test]
fn the_vectors_challenges_are_read_as_both_references_read_them() {
    let fixture = fixture("challenges");
    let accept = fixture["accept"].as_array().unwrap();
    assert_eq!(accept.len(), 12);
    for case in accept {
        let name = &case["name"];
        let lines = lines(case);
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let ours: Vec<Payment> = parsed(&lines).into_iter().map(Result::unwrap).collect();
        let expected = case["mppx"]["ok"].as_array().unwrap();
        assert_eq!(ours.len(), expected.len(), "{name}");
        let theirs = second_opinion(&lines);
        assert_eq!(theirs.len(), ours.len(), "{name}");
        for ((ours, expected), theirs) in ours.iter().zip(expected).zip(theirs) {
            let mut echo = echoed(ours);
            let request: Value = serde_json::from_str(&ours.request).unwrap();
            assert_eq!(theirs.as_ref(), Some(&(echo.clone(), request.clone())), "{name}");
            assert_eq!(request, expected["requestDecoded"], "{name}");
            let mut expected = expected.clone();
            expected.as_object_mut().unwrap().remove("requestDecoded");
            echo.as_object_mut().unwrap().remove("request");
            assert_eq!(echo, expected, "{name}");
        }
    }
}

#[test]
fn the_vectors_bad_challenges_are_refused_by_both() {
    let fixture = fixture("challenges");
    let reject = fixture["reject"].as_array().unwrap();
    let whys = [
        Some(Why::MppParameterMissing),
        Some(Why::MppParameterMissing),
        Some(Why::MppParameterTwice),
        Some(Why::MppParameterTwice),
        Some(Why::MppMalformed),
        Some(Why::MppMethodMalformed),
        Some(Why::MppParameterMissing),
        Some(Why::MppParameterMissing),
        Some(Why::NotBase64),
        Some(Why::NotObject),
        Some(Why::NotJson),
        Some(Why::ExpiresMalformed),
        Some(Why::MppParameterMissing),
        None,
    ];
    assert_eq!(reject.len(), whys.len());
    for (case, why) in reject.iter().zip(whys) {
        let lines = lines(case);
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let ours: Vec<Why> = parsed(&lines).into_iter().map(Result::unwrap_err).collect();
        assert_eq!(ours, Vec::from_iter(why), "{}", case["name"]);
        assert!(second_opinion(&lines).iter().all(Option::is_none), "{}", case["name"]);
    }
}

/// Challenges of every kind from a real server: which become offers, and why the others do not.
#[test]
fn captured_challenges_become_offers_or_reasons() {
    let fixture = fixture("live_captures");
    let mut kinds = BTreeSet::new();
    let exchanges = fixture["captures"].as_array().unwrap().iter();
    let exchanges = exchanges.flat_map(|capture| capture["exchange"].as_array().unwrap());
    for response in exchanges.filter_map(|exchange| exchange.get("response")) {
        let mut headers = HeaderMap::new();
        for field in response["headers"].as_array().unwrap() {
            let name: HeaderName = field[0].as_str().unwrap().parse().unwrap();
            headers.append(name, HeaderValue::from_str(field[1].as_str().unwrap()).unwrap());
        }
        if response["status"] != 402 {
            if headers.contains_key("payment-receipt") {
                let evm = matches!(receipts::receipt(Rail::MppEvm, &headers), Receipt::Settled { .. });
                kinds.insert(if evm { "receipt" } else { "other-receipt" });
            }
            continue;
        }
        let read = read(&headers);
        for offer in &read.offers {
            assert!(matches!(offer.term, Term::Until(_)));
            assert_eq!(offer.resource, ResourceHost::Named("127.0.0.1".into()));
            kinds.insert(match (offer.rail, offer.body) {
                (Rail::MppTempo, _) => "offer-tempo",
                (_, Some(_)) => "offer-with-digest",
                (_, None) => "offer",
            });
        }
        kinds.extend(read.unpayable.iter().map(|unpayable| unpayable.why.code()));
    }
    let expected = [
        "offer",
        "offer-tempo",
        "offer-with-digest",
        "other-receipt",
        // The local seller's profile is invented, with an underscore that Stripe's own profiles do not have.
        "profile-malformed",
        "receipt",
    ];
    assert_eq!(Vec::from_iter(kinds), expected);
}

#[test]
fn the_vectors_receipts() {
    let fixture = fixture("receipts");
    let parse_case = |value: &Value| {
        let mut headers = HeaderMap::new();
        headers.insert("payment-receipt", value.as_str().unwrap().parse().unwrap());
        receipts::receipt(Rail::MppEvm, &headers)
    };
    let accept = fixture["accept"].as_array().unwrap();
    assert_eq!(accept.len(), 3);
    for case in accept {
        let decoded = &case["decoded"];
        assert!(mpp::protocol::core::parse_receipt(case["value"].as_str().unwrap()).is_ok());
        let expected = match decoded["method"].as_str().unwrap() {
            "evm" => Receipt::Settled {
                tx: Some(decoded["reference"].as_str().unwrap().into()),
            },
            // For a payment by another method, so not a receipt for ours.
            _ => Receipt::Unreadable,
        };
        assert_eq!(parse_case(&case["value"]), expected);
    }
    let reject = fixture["reject"].as_array().unwrap();
    assert_eq!(reject.len(), 4);
    for case in reject {
        let receipt = parse_case(&case["value"]);
        let failed = case["name"] == "status not success";
        assert_eq!(
            matches!(receipt, Receipt::Failed { tx: Some(_), .. }),
            failed,
            "{receipt:?}"
        );
        assert_eq!(receipt == Receipt::Unreadable, !failed, "{receipt:?}");
    }
    assert_eq!(receipts::receipt(Rail::MppEvm, &HeaderMap::new()), Receipt::Absent);
}

const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
const PAYEE: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

fn evm_request() -> Value {
    serde_json::json!({
        "amount": "10000", "currency": USDC, "recipient": PAYEE,
        "methodDetails": { "chainId": 84_532, "credentialTypes": ["permit2", "authorization"], "decimals": 6 }
    })
}

fn line(request: &str, more: &str) -> String {
    line_of("evm", request, more)
}

fn line_of(method: &str, request: &str, more: &str) -> String {
    use base64::Engine;
    let request = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(request);
    format!(r#"Payment id="a", realm="api.example.com", method="{method}", intent="charge", request="{request}"{more}"#)
}

fn verdict(request: &str, more: &str) -> Result<Offer, Why> {
    verdict_of("evm", request, more)
}

fn verdict_of(method: &str, request: &str, more: &str) -> Result<Offer, Why> {
    let mut read = read(&headers(&[line_of(method, request, more).as_bytes()]));
    match read.unpayable.first() {
        Some(unpayable) => Err(unpayable.why),
        None => Ok(read.offers.remove(0)),
    }
}

#[test]
fn each_member_of_a_request_is_read_strictly() {
    let offer = verdict(&evm_request().to_string(), "").unwrap();
    assert_eq!((offer.amount.get(), offer.usd.unwrap().get()), (10_000, 10_000));
    assert_eq!(offer.payee.to_string(), PAYEE);
    assert_eq!(offer.term, Term::Open);
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let beyond_u128 = "\"340282366920938463463374607431768211456\"";
    let zero = "\"0x0000000000000000000000000000000000000000\"";
    let usdc = format!("\"{USDC}\"");
    for (pointer, value, why) in [
        ("/amount", "10000", Why::AmountNotText),
        ("/amount", "\"\"", Why::AmountNotDecimal),
        ("/amount", "\"-1\"", Why::AmountNotDecimal),
        ("/amount", "\"1.5\"", Why::AmountNotDecimal),
        ("/amount", "\"1e3\"", Why::AmountNotDecimal),
        ("/amount", "\"0x10\"", Why::AmountNotDecimal),
        ("/amount", "\"010\"", Why::AmountLeadingZero),
        ("/amount", beyond_u128, Why::AmountTooLarge),
        ("/currency", "\"usd\"", Why::AssetMalformed),
        (
            "/currency",
            "\"0x00000000000000000000000000000000DeaDBeef\"",
            Why::AssetUnknown,
        ),
        ("/recipient", "null", Why::PayeeMalformed),
        ("/recipient", "\"me\"", Why::PayeeMalformed),
        ("/recipient", zero, Why::PayeeZero),
        ("/recipient", &usdc, Why::PayeeIsAsset),
        (
            "/recipient",
            "\"0x70997970c51812dc3A010C7d01b50e0d17dc79C8\"",
            Why::PayeeChecksum,
        ),
        ("/methodDetails", "null", Why::ChainMissing),
        ("/methodDetails/chainId", "null", Why::ChainMissing),
        ("/methodDetails/chainId", "\"84532\"", Why::NetworkMalformed),
        ("/methodDetails/chainId", "84532.0", Why::NetworkMalformed),
        ("/methodDetails/chainId", "-1", Why::NetworkMalformed),
        ("/methodDetails/chainId", "31337", Why::NetworkUnsupported),
        ("/methodDetails/chainId", "8453", Why::AssetUnknown),
        ("/methodDetails/decimals", "18", Why::DecimalsMismatch),
        ("/methodDetails/decimals", "\"6\"", Why::DecimalsMismatch),
        ("/methodDetails/credentialTypes", "null", Why::CredentialTypeUnsupported),
        (
            "/methodDetails/credentialTypes",
            "[\"permit2\"]",
            Why::CredentialTypeUnsupported,
        ),
        (
            "/methodDetails/credentialTypes",
            "\"authorization\"",
            Why::CredentialTypeUnsupported,
        ),
    ] {
        let mut request = evm_request();
        *request.pointer_mut(pointer).unwrap() = json(value);
        assert_eq!(verdict(&request.to_string(), "").err(), Some(why), "{pointer} {value}");
    }
    let mut split = evm_request();
    split["methodDetails"]["splits"] = serde_json::json!([{ "recipient": PAYEE, "amount": "1" }]);
    assert_eq!(verdict(&split.to_string(), "").err(), Some(Why::SplitsUnsupported));
    let twice = evm_request()
        .to_string()
        .replacen("\"amount\"", "\"amount\":\"1\",\"amount\"", 1);
    assert_eq!(verdict(&twice, "").err(), Some(Why::DuplicateKey));
}

fn stripe_request() -> Value {
    serde_json::json!({
        "amount": "100", "currency": "usd", "externalId": "order-7",
        "methodDetails": { "networkId": "profile_test_lab", "paymentMethodTypes": ["card"] }
    })
}

/// R16, whatever `max_validity` is.
#[test]
fn a_token_expires_within_five_minutes() {
    let mut offer = verdict_of("stripe", &stripe_request().to_string(), "").unwrap();
    for (term, longest, expires) in [
        (Term::Open, 86_400, 1300),
        (Term::Until(90_000), 86_400, 1300),
        (Term::Until(1100), 86_400, 1100),
        (Term::Until(90_000), 60, 1060),
    ] {
        offer.term = term;
        assert_eq!(offer.valid_before(1000, longest), Some(expires), "{term:?}");
    }
}

#[test]
fn each_member_of_a_stripe_request_is_read_strictly() {
    let offer = verdict_of("stripe", &stripe_request().to_string(), "").unwrap();
    assert_eq!((offer.rail, offer.amount.get()), (Rail::MppStripe, 100));
    assert_eq!(offer.usd.unwrap().get(), 1_000_000);
    assert_eq!(offer.payee.to_string(), "profile_test_lab");
    assert_eq!(offer.asset.caip19(), "stripe:test/iso4217:usd");
    let text = |length| Value::from("x".repeat(length));
    for (pointer, value, why) in [
        ("/amount", 100.into(), Why::AmountNotText),
        ("/amount", Value::Null, Why::AmountNotText),
        ("/amount", "".into(), Why::AmountNotDecimal),
        ("/amount", "-1".into(), Why::AmountNotDecimal),
        ("/amount", "1.00".into(), Why::AmountNotDecimal),
        ("/amount", "1e2".into(), Why::AmountNotDecimal),
        ("/amount", "0100".into(), Why::AmountLeadingZero),
        // Thirteen digits.
        ("/amount", "1000000000000".into(), Why::AmountTooLarge),
        (
            "/amount",
            "340282366920938463463374607431768211456".into(),
            Why::AmountTooLarge,
        ),
        ("/currency", "USD".into(), Why::CurrencyUnknown),
        ("/currency", "xxx".into(), Why::CurrencyUnknown),
        ("/currency", "".into(), Why::CurrencyUnknown),
        ("/currency", USDC.into(), Why::CurrencyUnknown),
        ("/currency", Value::Null, Why::CurrencyUnknown),
        ("/currency", 840.into(), Why::CurrencyUnknown),
        ("/methodDetails", Value::Null, Why::ProfileMalformed),
        ("/methodDetails", "profile_test_lab".into(), Why::ProfileMalformed),
        ("/methodDetails/networkId", Value::Null, Why::ProfileMalformed),
        ("/methodDetails/networkId", "".into(), Why::ProfileMalformed),
        ("/methodDetails/networkId", "acct_1234".into(), Why::ProfileMalformed),
        ("/methodDetails/networkId", "profile_".into(), Why::ProfileMalformed),
        (
            "/methodDetails/networkId",
            "profile_test_lab&usage_limits[max_amount]=1".into(),
            Why::ProfileMalformed,
        ),
        (
            "/methodDetails/networkId",
            "profile_test_ask_for_a_card".into(),
            Why::ProfileMalformed,
        ),
        ("/methodDetails/networkId", 7.into(), Why::ProfileMalformed),
        ("/externalId", 7.into(), Why::ExternalIdMalformed),
        ("/externalId", text(513), Why::ExternalIdMalformed),
    ] {
        let mut request = stripe_request();
        *request.pointer_mut(pointer).unwrap() = value.clone();
        let verdict = verdict_of("stripe", &request.to_string(), "");
        assert_eq!(verdict.err(), Some(why), "{pointer} {value}");
    }
    for (pointer, value) in [
        ("/amount", "999999999999".into()),
        ("/amount", "0".into()),
        ("/externalId", Value::Null),
        ("/externalId", text(512)),
    ] {
        let mut request = stripe_request();
        *request.pointer_mut(pointer).unwrap() = value;
        assert!(verdict_of("stripe", &request.to_string(), "").is_ok(), "{request}");
    }
    for place in ["", "/methodDetails"] {
        let mut split = stripe_request();
        split.pointer_mut(place).unwrap()["splits"] = serde_json::json!([]);
        let verdict = verdict_of("stripe", &split.to_string(), "");
        assert_eq!(verdict.err(), Some(Why::SplitsUnsupported), "{place}");
    }
    let twice = stripe_request()
        .to_string()
        .replacen("\"networkId\"", "\"networkId\":\"profile_a\",\"networkId\"", 1);
    assert_eq!(verdict_of("stripe", &twice, "").err(), Some(Why::DuplicateKey));
}

#[test]
fn stripes_test_profiles_are_for_test_keys_and_its_other_currencies_have_no_price() {
    for (profile, mode, other) in [
        ("profile_test_lab", Mode::Test, Mode::Live),
        ("profile_61abc", Mode::Live, Mode::Test),
    ] {
        let mut request = stripe_request();
        request["methodDetails"]["networkId"] = profile.into();
        let offer = verdict_of("stripe", &request.to_string(), "").unwrap();
        for (ours, verdict) in [
            (Some(mode), Ok(())),
            (Some(other), Err(Why::StripeModeDiffers)),
            (None, Err(Why::StripeNotConfigured)),
        ] {
            let payer = Payer {
                address: None,
                stripe: ours,
                remote: crate::challenge::Remote::default(),
                networks: &BTreeSet::new(),
                proven: &BTreeSet::new(),
                request_host: "api.example.com",
                resource_hosts: &[],
                realms: &[],
                zero_amount: false,
                now: 1,
            };
            assert_eq!(payable(&offer, &payer), verdict, "{profile} {ours:?}");
        }
    }
    for (currency, amount) in [("jpy", "500"), ("eur", "100"), ("kwd", "1000")] {
        let mut request = stripe_request();
        (request["currency"], request["amount"]) = (currency.into(), amount.into());
        let offer = verdict_of("stripe", &request.to_string(), "").unwrap();
        assert_eq!((offer.usd, offer.amount.get().to_string()), (None, amount.to_owned()));
    }
}

#[test]
fn a_payer_takes_what_is_for_this_host_and_not_expired() {
    let payer = Payer {
        address: Some(alloy_primitives::Address::repeat_byte(1)),
        stripe: None,
        remote: crate::challenge::Remote::default(),
        networks: &BTreeSet::from([Network::Eip155(84_532)]),
        proven: &BTreeSet::new(),
        request_host: "api.example.com",
        resource_hosts: &[],
        realms: &[],
        zero_amount: false,
        now: 4_070_908_800 - 10,
    };
    let expires = |at: &str| format!(", expires=\"{at}\"");
    let request = evm_request().to_string();
    let taken = |more: &str| payable(&verdict(&request, more).unwrap(), &payer);
    assert_eq!(taken(""), Ok(()));
    assert_eq!(taken(&expires("2099-01-01T00:00:00Z")), Ok(()));
    assert_eq!(taken(&expires("2098-12-31T23:59:55Z")), Err(Why::ChallengeExpired));
    for (realm, verdict) in [
        ("bank.example.com", Err(Why::RealmDiffers)),
        ("https://api.example.com@bank.example.com/", Err(Why::RealmDiffers)),
        // The default of two server libraries, and other words: they say nothing about the merchant.
        ("MPP Payment", Ok(())),
        ("Weather, Inc.", Ok(())),
        ("localhost:3000", Ok(())),
    ] {
        let line = line(&request, "").replace("api.example.com", realm);
        let read = read(&headers(&[line.as_bytes()]));
        assert_eq!(payable(&read.offers[0], &payer), verdict, "{realm}");
        assert_eq!(read.offers[0].realm.as_deref(), Some(realm));
    }
}

#[test]
fn an_upload_can_outlive_a_challenge_or_be_another_than_it_binds() {
    let digest = ", digest=\"sha-256=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\", expires=\"2099-01-01T00:00:00Z\"";
    let offer = verdict(&evm_request().to_string(), digest).unwrap();
    let nothing: [u8; 32] = Sha256::digest("").into();
    let (early, late) = (4_070_908_800 - 6, 4_070_908_800 - 5);
    assert_eq!(still_payable(&offer, &nothing, early), Ok(()));
    assert_eq!(still_payable(&offer, &nothing, late), Err(Why::ChallengeExpired));
    assert_eq!(still_payable(&offer, &[0; 32], early), Err(Why::DigestMismatch));
}

#[test]
fn methods_and_intents_that_are_not_paid_are_named() {
    for (method, intent, why) in [
        ("usdc", "charge", Why::MppUsdc),
        ("solana", "charge", Why::MppSolana),
        ("lightning", "charge", Why::MppLightning),
        ("card", "charge", Why::MppCard),
        ("stellar", "charge", Why::MppStellar),
        ("hedera", "charge", Why::MppHedera),
        ("nearintents", "charge", Why::MppNearIntents),
        ("x:y_1-z", "charge", Why::MppMethodUnknown),
        ("tempo", "session", Why::MppSession),
        ("stripe", "subscription", Why::MppSubscription),
        ("evm", "donate_2", Why::MppIntentUnknown),
        ("evm", "Charge", Why::MppIntentUnknown),
    ] {
        let line = format!(r#"Payment id="a", realm="x", method="{method}", intent="{intent}", request="e30""#);
        let read = read(&headers(&[line.as_bytes()]));
        let whys: Vec<Why> = read.unpayable.iter().map(|unpayable| unpayable.why).collect();
        assert_eq!((whys, read.offers.len()), (vec![why], 0), "{method} {intent}");
    }
}

#[test]
fn a_large_echo_is_refused_before_anything_is_charged() {
    let description = "x".repeat(50_000);
    let more = format!(", description=\"{description}\"");
    let request = evm_request().to_string();
    assert_eq!(verdict(&request, &more).err(), Some(Why::CredentialTooLarge));
}

/// Pieces of fields, good and bad ones.
const PIECES: [&str; 22] = [
    "Payment ",
    "payment\t",
    "Bearer ",
    "Basic dXNlcg==",
    "id=\"a\"",
    "id=b",
    "realm=\"x, Payment id=z\"",
    "realm=\"caf\u{e9}\"",
    "method=\"evm\"",
    "method=tempo",
    "intent=charge",
    "request=\"e30\"",
    "request=e30",
    "expires=\"2099-01-01T00:00:00Z\"",
    "description=\"\\u2014 \\\" \\\\\"",
    "opaque=\"e30\"",
    "header=\"Payment-Authorization\"",
    ", ",
    ",",
    " ",
    "\"",
    "=",
];

proptest! {
    /// bursar is the stricter reader: whatever it accepts, the other one reads in the same way.
    #[test]
    fn whatever_we_read_the_other_implementation_reads_alike(
        pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..24),
    ) {
        let text: String = pieces.concat();
        agree(text.trim())?;
    }

    #[test]
    fn well_formed_challenges_are_read_by_both(
        (id, realm, description) in ("[!-~]{1,20}", "[ -~\u{a1}-\u{ff}]{1,20}", "[ -~\u{100}-\u{1ffff}]{0,10}"),
        order in Just(vec![0, 1, 2, 3, 4, 5, 6]).prop_shuffle(),
        before in prop::sample::select(&["", "Bearer realm=\"x, Payment id=y\", ", "Negotiate, ", ",, "][..]),
    ) {
        let parameters = [
            format!("id={}", quoted(&id)), format!("realm={}", quoted(&realm)), "method=\"evm\"".to_owned(),
            "intent=charge".to_owned(), "request=\"e30\"".to_owned(), format!("description={}", quoted(&description)),
            "opaque=\"e30\"".to_owned(),
        ];
        let ordered: Vec<&str> = order.iter().map(|index| parameters[*index].as_str()).collect();
        let text = format!("{before}Payment {}", ordered.join(", "));
        prop_assert_eq!(agree(&text)?, 1);
        let latin1: Vec<u8> = text.chars().map(|c| u8::try_from(c).unwrap()).collect();
        let echo = echoed(parsed(&[&latin1])[0].as_ref().unwrap());
        prop_assert_eq!((&echo["id"], &echo["realm"]), (&Value::from(id), &Value::from(realm)));
        prop_assert_eq!(&echo["description"], &Value::from(description));
    }

    #[test]
    fn arbitrary_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let mut headers = HeaderMap::new();
            headers.insert(WWW_AUTHENTICATE, value);
            prop_assert!(read(&headers).offers.is_empty());
        }
    }
}

/// The reference server's form: characters outside Latin-1 as UTF-16 code units.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte @ (b'"' | b'\\')) => quoted.extend(['\\', byte.into()]),
            Ok(byte) => quoted.push(byte.into()),
            Err(_) => quoted += &format!("\\u{unit:04x}"),
        }
    }
    quoted + "\""
}

/// How many challenges bursar reads. The other implementation must find each of them, in the same order.
fn agree(text: &str) -> Result<usize, TestCaseError> {
    let latin1: Vec<u8> = text.chars().map(|c| u8::try_from(c).unwrap()).collect();
    let ours = parsed(&[&latin1]);
    let ours: Vec<_> = ours.iter().filter_map(|payment| payment.as_ref().ok()).collect();
    let mut theirs = second_opinion(&[&latin1]).into_iter().flatten();
    for payment in &ours {
        let request: Value = serde_json::from_str(&payment.request).unwrap();
        let same = (echoed(payment), request);
        prop_assert!(
            theirs.any(|theirs| theirs == same),
            "{text}\nonly we read {}",
            payment.echo
        );
    }
    Ok(ours.len())
}

#[test]
fn on_tempo_no_token_is_a_payee() {
    let request = |recipient: &str| {
        serde_json::json!({
            "amount": "50000", "currency": "0x20c0000000000000000000000000000000000000", "recipient": recipient,
            "methodDetails": { "chainId": 42_431 },
        })
    };
    let read =
        |recipient| verdict_of("tempo", &request(recipient).to_string(), "").map(|offer| offer.payee.to_string());
    assert_eq!(read(PAYEE), Ok(PAYEE.to_owned()));
    for token in [
        "0x20c0000000000000000000000000000000000000",
        "0x20c0000000000000000000000000000000000001",
        "0x20c000000000000000000000ffffffffffffffff",
    ] {
        assert_eq!(read(token), Err(Why::PayeeIsAsset), "{token}");
    }
    // Ten zero bytes belong to the prefix. Any other address that begins like it may belong to a person.
    let near = "0x20c0000000000000000000010000000000000001";
    assert_eq!(read(near).map(|payee| payee.to_lowercase()), Ok(near.to_owned()));
}
