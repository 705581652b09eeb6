use http::HeaderValue;
use proptest::prelude::*;

use super::*;

const SECRET: &str = "whsec_keyra_mock_0123456789";
const NOW: i64 = 1_800_000_000;
const FORMATS: [SignatureFormat; 4] = [
    SignatureFormat::Hex,
    SignatureFormat::Prefixed,
    SignatureFormat::Base64,
    SignatureFormat::Timestamped,
];

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../../../fixtures/approvals/keyra_webhook.json")).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn headers(field: &str) -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static(HEADER),
        HeaderValue::from_str(field).unwrap(),
    )])
}

fn webhooks(format: SignatureFormat) -> Webhooks {
    Webhooks::new(SECRET, format).ok().unwrap()
}

/// As KEYRA would sign it.
fn signed(format: SignatureFormat, secret: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let hex = |bytes: &[u8]| alloy_primitives::hex::encode(hmac::sign(&key, bytes));
    match format {
        SignatureFormat::Hex => hex(body),
        SignatureFormat::Prefixed => format!("sha256={}", hex(body)),
        SignatureFormat::Base64 => STANDARD.encode(hmac::sign(&key, body)),
        SignatureFormat::Timestamped => {
            let dotted = [NOW.to_string().as_bytes(), b".", body].concat();
            format!("t={NOW},v1={}", hex(&dotted))
        }
    }
}

#[test]
fn cases_of_the_vectors() {
    let fixture = fixture();
    assert_eq!(fixture["header_name"], HEADER);
    assert_eq!(fixture["tolerance_s"], TOLERANCE_S);
    assert_eq!(fixture["secret"], SECRET);
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 23);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let secret = case["secret"].as_str().unwrap_or(SECRET);
        let format = SignatureFormat::parse(case["format"].as_str().unwrap()).unwrap();
        let body = STANDARD.decode(case["body_b64"].as_str().unwrap()).unwrap();
        let headers = case["header"].as_str().map_or_else(HeaderMap::new, headers);
        let now = at(case["now"].as_i64().unwrap_or(NOW));
        let event = match Webhooks::new(secret, format) {
            Ok(webhooks) => webhooks.event(&headers, &body, now),
            Err(error) => {
                assert_eq!(
                    (name, error),
                    ("empty_secret_must_not_start", SettingsError::EmptySecret)
                );
                continue;
            }
        };
        match case["verdict"].as_str().unwrap() {
            "accept" => {
                let event = event.unwrap_or_else(|why| panic!("{name}: {why}"));
                assert_eq!(event.id.as_deref(), Some("evt_1"), "{name}");
                assert_eq!(event.kind, EventKind::Approved, "{name}");
                assert_eq!(event.challenge.unwrap().as_str(), "chl_9k2m", "{name}");
            }
            _ => {
                let why = match name {
                    "empty_body" => Refused::NotAnEvent,
                    _ => Refused::Signature,
                };
                assert_eq!(event, Err(why), "{name}");
            }
        }
    }
}

#[test]
fn events_of_the_vectors() {
    let fixture = fixture();
    let events = fixture["events"].as_array().unwrap();
    assert_eq!(events.len(), 5);
    for event in events {
        let body = format!(r#"{{"type":{},"data":{{"challengeId":"chl_1"}}}}"#, event["type"]);
        let wakes = event["effect"].as_str().unwrap().starts_with("fetch");
        let kind = Event::parse(body.as_bytes()).unwrap().kind;
        assert_eq!(kind != EventKind::Other, wakes, "{body}");
    }
}

#[test]
fn a_second_signature_header_is_rejected() {
    let body = br#"{"type":"challenge.approved","data":{"challengeId":"chl_1"}}"#;
    for format in FORMATS {
        let mut twice = headers(&signed(format, SECRET, body));
        assert!(webhooks(format).event(&twice, body, at(NOW)).is_ok(), "{format}");
        let field = twice[HEADER].clone();
        twice.append(HEADER, field);
        let refused = webhooks(format).event(&twice, body, at(NOW));
        assert_eq!(refused, Err(Refused::Signature), "{format}");
    }
}

#[test]
fn the_timestamp_appears_once_and_is_signed_as_written() {
    let body = br#"{"type":"challenge.approved"}"#;
    let good = signed(SignatureFormat::Timestamped, SECRET, body);
    let v1 = good.split_once(',').unwrap().1;
    let refused = [
        format!("t={NOW},t={NOW},{v1}"),
        format!("t={NOW},t=0,{v1}"),
        format!("t=0{NOW},{v1}"),
        format!("t=+{NOW},{v1}"),
        format!("t={NOW}, {v1}"),
        format!("t={NOW}"),
        format!("t=,{v1}"),
        format!("{good},"),
        format!("t={NOW}00000000000000000000,{v1}"),
    ];
    let webhooks = webhooks(SignatureFormat::Timestamped);
    for field in refused {
        let event = webhooks.event(&headers(&field), body, at(NOW));
        assert_eq!(event, Err(Refused::Signature), "{field}");
    }
    let with_others = format!("v0=abc,{good},v2=x");
    assert!(webhooks.event(&headers(&with_others), body, at(NOW)).is_ok());
}

#[test]
fn a_signed_body_may_still_be_invalid() {
    for body in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"type":7}"#,
        r#"{"type":"a","type":"challenge.approved"}"#,
        r#"{"type":"challenge.approved"} x"#,
    ] {
        let field = headers(&signed(SignatureFormat::Hex, SECRET, body.as_bytes()));
        let event = webhooks(SignatureFormat::Hex).event(&field, body.as_bytes(), at(NOW));
        assert_eq!(event, Err(Refused::NotAnEvent), "{body}");
    }
}

#[test]
fn an_attestation_needs_its_device() {
    let read = |data: &str| {
        let body = format!(r#"{{"type":"challenge.approved","data":{data}}}"#);
        Event::parse(body.as_bytes()).unwrap().attestation
    };
    let whole = read(r#"{"attestation":{"sig":"x"},"deviceId":"dev_1"}"#).unwrap();
    assert_eq!(
        (whole.attestation["sig"].as_str(), whole.device_id.as_str()),
        (Some("x"), "dev_1")
    );
    for data in [
        r#"{"attestation":"x"}"#,
        r#"{"deviceId":"dev_1"}"#,
        r#"{"attestation":null,"deviceId":"d"}"#,
    ] {
        assert_eq!(read(data), None, "{data}");
    }
}

fn formats() -> impl Strategy<Value = SignatureFormat> {
    (0..FORMATS.len()).prop_map(|index| FORMATS[index])
}

proptest! {
    #[test]
    fn no_changed_body_passes(
        format in formats(),
        mut body in proptest::collection::vec(any::<u8>(), 1..200),
        place in any::<prop::sample::Index>(),
        flip in 1..=u8::MAX,
    ) {
        let field = signed(format, SECRET, &body);
        let webhooks = webhooks(format);
        prop_assert!(webhooks.is_signed(&field, &body, at(NOW)));
        let index = place.index(body.len());
        body[index] ^= flip;
        prop_assert!(!webhooks.is_signed(&field, &body, at(NOW)));
        body[index] ^= flip;
        body.remove(index);
        prop_assert!(!webhooks.is_signed(&field, &body, at(NOW)));
    }

    #[test]
    fn no_changed_signature_passes(
        format in formats(),
        body in proptest::collection::vec(any::<u8>(), 0..100),
        place in any::<prop::sample::Index>(),
        other in "[ -~]",
    ) {
        let field = signed(format, SECRET, &body);
        let index = place.index(field.len());
        let mut changed = field.clone();
        changed.replace_range(index..=index, &other);
        // Hex digits may be in either case; in base64 every character counts.
        let same = match format {
            SignatureFormat::Base64 => changed == field,
            _ => changed.eq_ignore_ascii_case(&field) && changed.starts_with(&field[..field.len() - 64]),
        };
        prop_assert_eq!(webhooks(format).is_signed(&changed, &body, at(NOW)), same);
        // Nothing shorter and nothing longer passes.
        let cut = &field[..index];
        prop_assert!(!webhooks(format).is_signed(cut, &body, at(NOW)));
        let longer = format!("{field}{other}");
        prop_assert!(!webhooks(format).is_signed(&longer, &body, at(NOW)));
    }

    #[test]
    fn no_other_secret_passes(format in formats(), secret in "[!-~]{1,40}", body in proptest::collection::vec(any::<u8>(), 0..100)) {
        prop_assume!(secret != SECRET);
        let field = signed(format, &secret, &body);
        prop_assert!(!webhooks(format).is_signed(&field, &body, at(NOW)));
    }

    #[test]
    fn no_format_passes_for_another(one in formats(), other in formats(), body in proptest::collection::vec(any::<u8>(), 0..100)) {
        let field = signed(one, SECRET, &body);
        prop_assert_eq!(webhooks(other).is_signed(&field, &body, at(NOW)), one == other);
    }

    #[test]
    fn arbitrary_text_never_panics(field in "\\PC{0,200}", body in proptest::collection::vec(any::<u8>(), 0..100)) {
        for format in FORMATS {
            prop_assert!(!webhooks(format).is_signed(&field, &body, at(NOW)));
        }
        let _ = Event::parse(&body);
    }
}
