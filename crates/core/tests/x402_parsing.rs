//! How strictly challenges are read, member by member, and properties of any text.

use alloy_primitives::{Address, B256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bursar_core::challenge::credential::credential;
use bursar_core::challenge::{
    self, Authorization, Challenge, Offer, Payload, Rail, ResourceHost, Term, Why, X402Version,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
const PAYEE: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";

fn requirement() -> Value {
    json!({
        "scheme": "exact", "network": "eip155:84532", "amount": "10000", "asset": USDC,
        "payTo": PAYEE, "maxTimeoutSeconds": 60, "extra": {"name": "USDC", "version": "2"}
    })
}

fn v2(challenge: &str) -> Result<Challenge, Why> {
    challenge::v2(STANDARD.encode(challenge).as_bytes())
}

fn v2_with(accepts: &[Value]) -> Result<Challenge, Why> {
    v2(&json!({"x402Version": 2, "accepts": accepts}).to_string())
}

/// The result for [`requirement`] with one member replaced.
fn verdict(member: &str, value: Value) -> Result<Offer, &'static str> {
    let mut changed = requirement();
    changed[member] = value;
    let mut challenge = v2_with(&[changed]).unwrap();
    match challenge.unpayable.first() {
        Some(entry) => Err(entry.why.code()),
        None => Ok(challenge.offers.remove(0)),
    }
}

fn extra(more: Value) -> Value {
    let mut extra = requirement()["extra"].take();
    let members = more.as_object().unwrap().clone();
    extra.as_object_mut().unwrap().extend(members);
    extra
}

#[test]
fn each_member_is_read_strictly() {
    let beyond_u128 = "340282366920938463463374607431768211456";
    for (member, value, code) in [
        ("scheme", json!("Exact"), "scheme-unsupported"),
        ("scheme", json!(null), "scheme-unsupported"),
        ("network", json!("base-sepolia"), "network-malformed"),
        ("network", json!("eip155:084532"), "network-malformed"),
        ("network", json!(84532), "network-malformed"),
        ("network", json!("eip155:8453"), "asset-unknown"),
        ("asset", json!("USDC"), "asset-malformed"),
        ("asset", json!(USDC.replacen("0x", "0X", 1)), "asset-malformed"),
        ("asset", json!(format!("0x{}", &USDC[..40])), "asset-malformed"),
        ("amount", json!(null), "amount-not-text"),
        ("amount", json!(beyond_u128), "amount-too-large"),
        ("payTo", json!(USDC), "payee-is-asset"),
        ("payTo", json!(&PAYEE[2..]), "payee-malformed"),
        ("payTo", json!(format!("{PAYEE}00")), "payee-malformed"),
        ("maxTimeoutSeconds", json!(9), "timeout-out-of-range"),
        ("maxTimeoutSeconds", json!(-60), "timeout-out-of-range"),
        ("maxTimeoutSeconds", json!(60.0), "timeout-not-integer"),
        ("maxTimeoutSeconds", json!(true), "timeout-not-integer"),
        ("maxTimeoutSeconds", json!(null), "timeout-not-integer"),
        ("extra", json!("USDC"), "token-domain-missing"),
        ("extra", json!({"name": "USDC"}), "token-domain-missing"),
        ("extra", extra(json!({"version": "1"})), "token-domain-mismatch"),
        ("extra", extra(json!({"version": 2})), "token-domain-missing"),
        (
            "extra",
            extra(json!({"assetTransferMethod": "permit3"})),
            "transfer-method-unsupported",
        ),
        (
            "extra",
            extra(json!({"assetTransferMethod": ["eip3009"]})),
            "transfer-method-unsupported",
        ),
        (
            "extra",
            extra(json!({"paymentFlow": "escrow"})),
            "payment-flow-unsupported",
        ),
        ("extra", extra(json!({"paymentFlow": 1})), "payment-flow-unsupported"),
    ] {
        let outcome = verdict(member, value.clone()).err();
        assert_eq!(outcome, Some(code), "{member}: {value}");
    }
}

#[test]
fn spellings_that_mean_the_same_are_taken() {
    for (member, value) in [
        ("asset", json!(USDC.to_lowercase())),
        ("payTo", json!(PAYEE.to_lowercase())),
        ("payTo", json!(format!("0x{}", PAYEE[2..].to_uppercase()))),
        ("maxTimeoutSeconds", json!(10)),
        ("maxTimeoutSeconds", json!(86_400)),
        ("maxTimeoutSeconds", json!(600_000)),
        ("extra", extra(json!({"assetTransferMethod": "eip3009"}))),
        ("extra", extra(json!({"paymentFlow": "authorization"}))),
        (
            "extra",
            extra(json!({"assetTransferMethod": null, "unknown": {"a": 1}})),
        ),
        ("unknown", json!([1, 2])),
    ] {
        let offer = verdict(member, value.clone());
        assert!(offer.is_ok(), "{member}: {value}: {:?}", offer.err());
    }
}

#[test]
fn a_timeout_of_more_than_a_day_counts_as_a_day() {
    for (text, seconds) in [
        ("10", 10),
        ("86400", 86_400),
        ("86401", 86_400),
        ("315360000", 86_400),
        ("18446744073709551616", 86_400),
        ("99999999999999999999999999", 86_400),
    ] {
        let written = requirement().to_string();
        let changed = written.replace("\"maxTimeoutSeconds\":60", &format!("\"maxTimeoutSeconds\":{text}"));
        assert_ne!(changed, written);
        let challenge = v2(&format!(r#"{{"x402Version":2,"accepts":[{changed}]}}"#)).unwrap();
        assert_eq!(challenge.offers[0].term, Term::Seconds(seconds), "{text}");
    }
}

#[test]
fn sixty_four_offers_are_read_and_sixty_five_are_not() {
    let mut offers = vec![requirement(); 64];
    assert_eq!(v2_with(&offers).unwrap().offers.len(), 64);
    offers.push(requirement());
    assert_eq!(v2_with(&offers).err(), Some(Why::TooManyOffers));
}

#[test]
fn tokens_for_permit2_only_are_named_as_such() {
    let mut mezo = requirement();
    mezo["network"] = json!("eip155:31612");
    mezo["asset"] = json!("0xdD468A1DDc392dcdbEf6db6e34E89AA338F9F186");
    let challenge = v2_with(&[mezo]).unwrap();
    assert_eq!(challenge.unpayable[0].why, Why::AssetNeedsPermit2);
}

#[test]
fn the_version_must_fit_its_place() {
    let with = |version: &str| {
        let offer = requirement();
        v2(&format!(r#"{{"x402Version":{version},"accepts":[{offer}]}}"#))
    };
    for version in ["2", "\"2\""] {
        assert_eq!(with(version).unwrap().offers[0].rail, Rail::X402);
    }
    for version in ["1", "3", "2.0", "\"v2\"", "null", "[2]"] {
        assert_eq!(with(version).err(), Some(Why::VersionUnsupported), "{version}");
    }
    for (body, why) in [
        (r#"{"x402Version":2,"accepts":[]}"#, Why::V2InBody),
        (r#"{"x402Version":"1","accepts":[]}"#, Why::VersionUnsupported),
        (r#"{"error":"pay"}"#, Why::NotX402),
        ("[]", Why::NotX402),
    ] {
        assert_eq!(challenge::v1(body.as_bytes()).err(), Some(why), "{body}");
    }
}

#[test]
fn what_concerns_the_whole_challenge_refuses_all_of_it() {
    let offer = requirement();
    for (rest, why) in [
        (
            format!(r#"[{offer}],"extensions":{{"a":{{"b":1,"b":2}}}}"#),
            Why::DuplicateKey,
        ),
        (
            r#"[],"extensions":{"sign-in-with-x":{"info":{}}}"#.to_owned(),
            Why::SignInOnly,
        ),
        ("{}".to_owned(), Why::OffersMissing),
        ("null".to_owned(), Why::OffersMissing),
        (
            format!(r#"[{offer}],"x":{}"#, "[".repeat(40) + &"]".repeat(40)),
            Why::TooDeep,
        ),
        (format!(r#"[{offer}],"x":"{}""#, "x".repeat(70_000)), Why::TooLarge),
    ] {
        let text = format!(r#"{{"x402Version":2,"accepts":{rest}}}"#);
        assert_eq!(v2(&text).err(), Some(why));
    }
}

#[test]
fn an_echo_that_could_not_be_sent_is_known_before_anything_is_charged() {
    let filler = "x".repeat(50_000);
    let text = json!({"x402Version": 2, "accepts": [requirement()], "extensions": {"x": filler}});
    let challenge = v2(&text.to_string()).unwrap();
    assert_eq!(challenge.unpayable[0].why, Why::CredentialTooLarge);
}

#[test]
fn v1_names_its_resource_in_each_requirement() {
    let with = |resource: Value| {
        let mut offer = requirement();
        offer["network"] = json!("base-sepolia");
        offer["maxAmountRequired"] = json!("10000");
        offer["resource"] = resource;
        let text = json!({"x402Version": 1, "accepts": [offer]}).to_string();
        let challenge = challenge::v1(text.as_bytes()).unwrap();
        challenge.offers[0].resource.clone()
    };
    let named = ResourceHost::Named("a.example".into());
    assert_eq!(with(json!("https://a.example/x")), named);
    assert_eq!(with(json!("/x")), ResourceHost::Same);
    assert_eq!(with(json!(null)), ResourceHost::Same);
    assert_eq!(with(json!(["https://a.example/x"])), ResourceHost::Unreadable);
}

/// A v1 challenge whose entries differ from [`requirement`] in these members.
fn v1_with(entries: &[Value]) -> Challenge {
    let accepts: Vec<Value> = entries
        .iter()
        .map(|changes| {
            let mut entry = requirement();
            entry["network"] = json!("base-sepolia");
            entry["maxAmountRequired"] = entry["amount"].take();
            entry
                .as_object_mut()
                .unwrap()
                .extend(changes.as_object().unwrap().clone());
            entry
        })
        .collect();
    challenge::v1(json!({"x402Version": 1, "accepts": accepts}).to_string().as_bytes()).unwrap()
}

/// Position and amount of each offer, position and reason of each other entry.
type Entries = (Vec<(usize, u128)>, Vec<(usize, &'static str)>);

fn entries(challenge: &Challenge) -> Entries {
    let offers = challenge.offers.iter();
    let unpayable = challenge.unpayable.iter();
    (
        offers.map(|offer| (offer.position, offer.amount.get())).collect(),
        unpayable
            .map(|entry| (entry.place.position.unwrap(), entry.why.code()))
            .collect(),
    )
}

#[test]
fn of_a_v1_challenge_only_the_first_of_each_pair_is_an_offer() {
    let base = json!({
        "network": "base", "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
        "extra": {"name": "USD Coin", "version": "2"}, "maxAmountRequired": "7000"
    });
    let price = |amount: &str| json!({"maxAmountRequired": amount});
    let challenge = v1_with(&[price("20000"), price("10000"), base, price("1")]);
    let expected = (
        vec![(0, 20_000), (2, 7_000)],
        vec![(1, "first-of-pair"), (3, "first-of-pair")],
    );
    assert_eq!(entries(&challenge), expected);

    // A first one that cannot be paid makes the pair unpayable, whatever the reason.
    for (first, why) in [
        (json!({"maxAmountRequired": 20000}), "amount-not-text"),
        (json!({"asset": PAYEE}), "asset-unknown"),
        (json!({"maxTimeoutSeconds": 1}), "timeout-out-of-range"),
    ] {
        let challenge = v1_with(&[first, price("10000")]);
        assert_eq!(entries(&challenge), (vec![], vec![(0, why), (1, "first-of-pair")]));
    }
    // What names no pair, or another one, stands in nobody's way. Servers compare the texts.
    for other in [
        json!({"scheme": "upto"}),
        json!({"scheme": "Exact"}),
        json!({"scheme": null}),
        json!({"network": "base-sepolia "}),
        json!({"network": 84532}),
    ] {
        let challenge = v1_with(&[other.clone(), price("10000")]);
        assert_eq!(entries(&challenge).0, [(1, 10_000)], "{other}");
    }
    // v2 echoes the whole requirement, so each is an offer of its own.
    let v2 = v2_with(&[requirement(), requirement()]).unwrap();
    assert_eq!(v2.offers.len(), 2);
}

#[test]
fn a_v2_resource_may_be_its_url_alone_and_comes_back_as_it_came() {
    let with = |resource: &str| {
        let offer = requirement();
        let mut challenge = v2(&format!(
            r#"{{"x402Version":2,"accepts":[{offer}],"resource":{resource}}}"#
        ))
        .unwrap();
        challenge.offers.remove(0)
    };
    let named = ResourceHost::Named("a.example".into());
    for (text, host) in [
        (r#""https://a.example/Sigur R\u00f3s""#, &named),
        (r#"{"url":"https://a.example/Sigur Ros\\x"}"#, &named),
        (r#""/x""#, &ResourceHost::Same),
        (r#""https://a.example\\@evil.example/""#, &ResourceHost::Unreadable),
        (r#"["https://a.example/"]"#, &ResourceHost::Unreadable),
        ("7", &ResourceHost::Unreadable),
    ] {
        let offer = with(text);
        assert_eq!(&offer.resource, host, "{text}");
        let authorization = &Authorization {
            network: offer.asset.network(),
            from: Address::ZERO,
            to: offer.payee.address().unwrap(),
            value: offer.amount,
            valid_after: 0,
            valid_before: 1_760_000_060,
            nonce: B256::ZERO,
        };
        let payload = Payload::Authorization {
            authorization,
            signature: &[0; 65],
        };
        let (_, credential) = credential(&offer.echo, &payload, None).unwrap();
        let sent = String::from_utf8(STANDARD.decode(credential.expose()).unwrap()).unwrap();
        assert!(sent.contains(&format!(r#","resource":{text},"accepted""#)), "{sent}");
    }
}

/// A requirement as sellers write them: members in any order, unknown members, escapes and blanks.
fn sellers_requirement() -> impl Strategy<Value = String> {
    let blank = prop_oneof![Just(""), Just(" "), Just("\n\t")];
    (0..8usize, blank, 1..=u64::MAX, "[a-z ./\u{e9}\u{2713}]{0,12}").prop_map(|(turn, blank, amount, unknown)| {
        let mut members = [
            r#""scheme":"exact""#.to_owned(),
            r#""network":"eip155:84532""#.to_owned(),
            format!(r#""amount":"{amount}""#),
            format!(r#""asset":"{USDC}""#),
            format!(r#""payTo":"{PAYEE}""#),
            r#""maxTimeoutSeconds":60"#.to_owned(),
            r#""extra":{"version" : "2", "name":"US\u0044C", "z":[1.50, 1e2, null]}"#.to_owned(),
            format!(r#""unknown-{unknown}":"{unknown}""#),
        ];
        members.rotate_left(turn);
        let members = members.join(&format!("{blank},{blank}"));
        format!("{{{blank}{members}{blank}}}")
    })
}

type Terms = (String, String, String);

/// Amount, payee and asset as a reader without rules finds them.
fn as_written(challenge: &Value, offer: &Offer) -> Terms {
    let entry = &challenge["accepts"][offer.position];
    let member = |name: &str| entry[name].as_str().unwrap().to_owned();
    let amount = match challenge["x402Version"].as_u64() {
        Some(1) => "maxAmountRequired",
        _ => "amount",
    };
    (
        member(amount),
        member("payTo").to_lowercase(),
        member("asset").to_lowercase(),
    )
}

fn as_read(offer: &Offer) -> Terms {
    (
        offer.amount.get().to_string(),
        offer.payee.text(),
        format!("{:#x}", offer.asset.token().unwrap().address),
    )
}

fn valid(version: X402Version) -> String {
    let mut second = requirement();
    second["amount"] = json!("20000");
    // No checksum, so that a changed digit gives another payee instead of an error.
    second["payTo"] = json!("0x3c44cdddb6a900fa2b585dd299e03d12fa4293bc");
    let mut accepts = vec![requirement(), second];
    let number = match version {
        X402Version::V2 => 2,
        X402Version::V1 => {
            for entry in &mut accepts {
                entry["network"] = json!("base-sepolia");
                entry["maxAmountRequired"] = entry["amount"].take();
            }
            1
        }
    };
    json!({"x402Version": number, "accepts": accepts}).to_string()
}

proptest! {
    #[test]
    fn arbitrary_bytes_make_no_offer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(challenge::v1(&bytes).is_err());
        prop_assert!(challenge::v2(&bytes).is_err());
        prop_assert!(challenge::v2(STANDARD.encode(&bytes).as_bytes()).is_err());
    }

    #[test]
    fn arbitrary_text_in_a_member_changes_no_terms(
        member in proptest::sample::select(&[
            "scheme", "network", "amount", "asset", "payTo", "maxTimeoutSeconds", "extra",
        ][..]),
        text in "\\PC{0,48}|[0-9]{1,45}|0x[0-9a-fA-F]{40}",
    ) {
        if let Ok(offer) = verdict(member, json!(text)) {
            let mut written = requirement();
            written[member] = json!(text);
            prop_assert_eq!(as_read(&offer), as_written(&json!({"accepts": [written]}), &offer));
        }
    }

    #[test]
    fn an_amount_is_read_as_written_or_not_at_all(text in "[ +0]{0,2}[0-9]{1,6}[ .e0]{0,2}") {
        if let Ok(offer) = verdict("amount", json!(text)) {
            prop_assert_eq!(offer.amount.get().to_string(), text);
        }
    }

    #[test]
    fn a_mutated_challenge_yields_no_other_terms_than_written(
        version in proptest::sample::select(&[X402Version::V1, X402Version::V2][..]),
        mutations in proptest::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![any::<u8>(), b'0'..=b'9', b' '..=b'~'], 0..3u8),
            1..4,
        ),
    ) {
        let mut bytes = valid(version).into_bytes();
        for (index, byte, kind) in mutations {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        let challenge = match version {
            X402Version::V1 => challenge::v1(&bytes),
            X402Version::V2 => challenge::v2(STANDARD.encode(&bytes).as_bytes()),
        };
        if let Ok(challenge) = challenge {
            let naive: Value = serde_json::from_slice(&bytes).unwrap();
            for offer in &challenge.offers {
                prop_assert_eq!(as_read(offer), as_written(&naive, offer));
            }
        }
    }

    #[test]
    fn the_echo_is_the_text_that_came(requirement in sellers_requirement(), named in any::<bool>()) {
        let resource = r#""resource":{ "url":"/x" , "tags":["\u00e9"] }"#;
        let member = if named { format!(",{resource}") } else { String::new() };
        let text = format!(r#"{{"accepts": [1, {requirement} ], "x402Version":2{member}}}"#);
        let challenge = v2(&text).unwrap();
        prop_assert_eq!(challenge.unpayable[0].why, Why::RequirementNotObject);
        let offer = &challenge.offers[0];
        let authorization = &Authorization {
            network: offer.asset.network(),
            from: Address::ZERO,
            to: offer.payee.address().unwrap(),
            value: offer.amount,
            valid_after: 0,
            valid_before: 1_760_000_060,
            nonce: B256::ZERO,
        };
        let (_, credential) = credential(&offer.echo, &Payload::Authorization { authorization, signature: &[0; 65] }, None).unwrap();
        let sent = STANDARD.decode(credential.header_value().as_bytes()).unwrap();
        let sent = String::from_utf8(sent).unwrap();
        let accepted = format!(r#","accepted":{requirement}}}"#);
        prop_assert!(sent.ends_with(&accepted), "{}", sent);
        prop_assert_eq!(sent.contains(resource), named);
        prop_assert!(!sent.contains("extensions"));
        prop_assert!(serde_json::from_str::<Value>(&sent).is_ok());
    }
}
