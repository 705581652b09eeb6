use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::testing::{offer, question_about};

use bursar_core::assets::{Asset, Mode, currency};

fn order() -> Order {
    Order::of(&question_about(&offer()), &Action::default()).unwrap()
}

#[test]
fn the_request_is_made_from_the_intent_as_strings() {
    let question = question_about(&offer());
    let order = Order::of(&question, &Action::default()).unwrap();
    let sent: Value = serde_json::from_slice(&order.body()).unwrap();
    let expected = json!({
        "action": "payment.approve",
        "userId": "usr_42",
        "payload": {
            "amount": "12.50",
            "amount_minor": "1250",
            "currency": "USDC",
            "recipient": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "host": "api.example.com",
            "intent_hash": alloy_primitives::hex::encode(question.intent.hash()),
            "code": question.code.as_str(),
        },
        "expiresIn": 300,
    });
    assert_eq!(sent, expected);
    for (ttl, expires_in) in [(1, 30), (30, 30), (600, 600), (7200, 600)] {
        let mut question = question_about(&offer());
        question.ttl = Duration::from_secs(ttl);
        assert_eq!(
            Order::of(&question, &Action::default()).unwrap().expires_in(),
            expires_in
        );
    }
}

#[test]
fn amounts_are_of_the_currency_and_never_less() {
    let amounts_of = |asset, atoms| {
        let mut offer = offer();
        offer.amount = Atoms::new(atoms);
        offer.asset = asset;
        amounts(&question_about(&offer)).unwrap()
    };
    let usdc = offer().asset;
    for (atoms, amount, minor) in [
        (1, "0.000001", "1"),
        (10_000, "0.01", "1"),
        (10_001, "0.010001", "2"),
        (500_000, "0.50", "50"),
        (12_000_000, "12.00", "1200"),
        (1_234_567_890, "1234.56789", "123457"),
    ] {
        assert_eq!(amounts_of(usdc, atoms), (amount.to_owned(), minor.to_owned()));
    }
    let fiat = |code| Asset::Fiat(Mode::Test, currency(code).unwrap());
    assert_eq!(amounts_of(fiat("usd"), 1250), ("12.50".to_owned(), "1250".to_owned()));
    assert_eq!(amounts_of(fiat("jpy"), 1250), ("1250".to_owned(), "1250".to_owned()));
}

fn answer(text: &Value) -> Option<ChallengeAnswer> {
    ChallengeAnswer::parse(text.to_string().as_bytes())
}

#[test]
fn an_echo_is_equal_or_refused() {
    let order = order();
    let sent: Value = serde_json::from_slice(&order.body()).unwrap();
    let compare = |changed: &Value| order.compare(&answer(changed).unwrap(), Echo::IfGiven);
    let mut whole = sent.clone();
    whole["status"] = "approved".into();
    assert_eq!(order.compare(&answer(&whole).unwrap(), Echo::Required), Ok(()));

    for member in ["action", "userId", "payload"] {
        for other in [json!("other"), json!(7), json!({}), json!([])] {
            let mut changed = whole.clone();
            changed[member] = other;
            assert_eq!(compare(&changed), Err(Difference::Other(member)));
        }
        for missing in [true, false] {
            let mut changed = whole.clone();
            match missing {
                true => drop(changed.as_object_mut().unwrap().remove(member)),
                false => changed[member] = Value::Null,
            }
            assert_eq!(compare(&changed), Ok(()));
            let required = order.compare(&answer(&changed).unwrap(), Echo::Required);
            assert_eq!(required, Err(Difference::Missing(member)));
        }
    }
    let members: Vec<String> = sent["payload"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(members.len(), 7);
    for member in &members {
        let mut changed = whole.clone();
        changed["payload"][member] = "other".into();
        assert_eq!(compare(&changed), Err(Difference::Other("payload")), "{member}");
        changed["payload"].as_object_mut().unwrap().remove(member);
        assert_eq!(compare(&changed), Err(Difference::Other("payload")), "{member}");
    }
    let mut more = whole.clone();
    more["payload"]["note"] = "and more".into();
    assert_eq!(compare(&more), Err(Difference::Other("payload")));
    let mut number = whole;
    number["payload"]["amount_minor"] = 1250.into();
    assert_eq!(compare(&number), Err(Difference::Other("payload")));
}

#[test]
fn an_ambiguous_response_is_rejected() {
    for text in [
        "",
        "null",
        "[]",
        "{}",
        "<html>",
        r#"{"status":null}"#,
        r#"{"status":true}"#,
        r#"{"status":"rejected","status":"approved"}"#,
        r#"{"status":"approved","x":{"a":1,"a":2}}"#,
        r#"{"status":"approved"} {}"#,
        r#"{"status":"approved","expiresAt":"tomorrow"}"#,
        r#"{"status":"approved","id":7}"#,
    ] {
        assert_eq!(ChallengeAnswer::parse(text.as_bytes()), None, "{text}");
    }
    assert_eq!(
        ChallengeAnswer::parse(b"{\"status\":\"approved\",\"x\":\"\xff\"}"),
        None
    );
    let parsed =
        ChallengeAnswer::parse(br#"{"id":"chl_1","status":"pending","expiresAt":"2026-05-29T18:41:00Z","new":1}"#);
    let parsed = parsed.unwrap();
    assert_eq!(parsed.status, Status::Pending);
    assert!(parsed.is_about(&ChallengeId::parse("chl_1").unwrap()));
    assert!(!parsed.is_about(&ChallengeId::parse("chl_2").unwrap()));
}

#[test]
fn an_id_cannot_lead_elsewhere() {
    for good in ["chl_9k2m", "0190-ab", "x"] {
        assert_eq!(ChallengeId::parse(good).unwrap().as_str(), good);
    }
    for bad in [
        "",
        "..",
        "a/b",
        "a?b",
        "a%2fb",
        "a b",
        "a#b",
        "a\r\nb",
        "é",
        &"a".repeat(129),
    ] {
        assert_eq!(ChallengeId::parse(bad), None, "{bad:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = ChallengeAnswer::parse(&body);
    }

    #[test]
    fn only_one_word_approves(word in "[a-zA-Z _.-]{0,12}") {
        let status = answer(&json!({ "status": word })).unwrap().status;
        prop_assert_eq!(status == Status::Approved, word == "approved");
    }

    #[test]
    fn minor_units_are_never_less_than_the_amount(atoms in any::<u64>()) {
        let mut offer = offer();
        offer.amount = Atoms::new(atoms.into());
        let (amount, minor) = amounts(&question_about(&offer)).unwrap();
        let minor: u128 = minor.parse().unwrap();
        prop_assert!(minor * 10_000 >= u128::from(atoms) && minor * 10_000 < u128::from(atoms) + 10_000);
        let digits: String = amount.chars().filter(char::is_ascii_digit).collect();
        let decimals = u32::try_from(amount.split_once('.').unwrap().1.len()).unwrap();
        prop_assert_eq!(digits.parse::<u128>().unwrap() * 10_u128.pow(6 - decimals), u128::from(atoms));
    }
}
