//! Tests with the vectors of `fixtures/approvals`: requests byte by byte, and sequences of poll responses.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::failure::token_rejected;
use super::poll::{Grant, Look, Polling, Step};
use super::request::{self, Outgoing, SentDetails};
use super::settings::{AmountUnit, BindingStyle, CibaOptions, CibaSettings, ClientAuth, Secret, Style};
use bursar_core::approval::{ApprovalIntent, Code, Question, intent};
use bursar_core::challenge;
use bursar_ledger::PaymentId;
use bursar_net::oauth::form::basic;
use bursar_net::oauth::issuer::{Issuer, PlainHttp};

fn settings(style: Style, client_auth: fn(Secret) -> ClientAuth, client_id: &str, secret: &str) -> CibaSettings {
    CibaSettings {
        issuer: Issuer::parse("https://api.bkey.id", PlainHttp::Never).unwrap(),
        client_id: client_id.to_owned(),
        client_auth: client_auth(Secret::new(secret)),
        options: CibaOptions {
            style,
            ..CibaOptions::default()
        },
    }
}

/// A question about the intent that the vectors call `base`.
fn question() -> Question {
    let challenge = json!({
        "x402Version": 1,
        "accepts": [{
            "scheme": "exact", "network": "base", "maxAmountRequired": "12500000", "maxTimeoutSeconds": 60,
            "resource": "https://api.example.com/v1/forecast", "description": "", "mimeType": "",
            "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
            "extra": { "name": "USD Coin", "version": "2" },
        }],
    });
    let challenge = challenge::v1(challenge.to_string().as_bytes()).unwrap();
    let asked = intent::Asked {
        agent: "build-bot",
        approver: "did:bkey:zApproverOne",
        host: "api.example.com",
        method: "GET",
        resource: "https://api.example.com/v1/forecast",
        body_sha256: None,
    };
    let intent = ApprovalIntent::of(&asked, &challenge.offers[0]);
    let code = Code::parse("0BY5GS4N").unwrap();
    Question {
        id: PaymentId::new(Timestamp::UNIX_EPOCH, [0; 10]),
        code,
        sentence: intent.sentence("12.50", code),
        compact: "12.50USD#0BY5GS4N".to_owned(),
        usd_cents: 1250,
        ttl: Duration::from_secs(300),
        intent,
    }
}

fn case(name: &str) -> Value {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../../fixtures/approvals/ciba_requests.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    // The two pings are tested in `ping.rs`.
    assert_eq!(cases.len(), 7);
    cases.iter().find(|case| case["name"] == name).unwrap().clone()
}

fn assert_is(outgoing: Outgoing, case: &Value) {
    let request = outgoing.to(&"https://id.test/path?query".parse().unwrap()).unwrap();
    assert_eq!(
        (request.method().as_str(), request.uri()),
        ("POST", &"/path?query".parse().unwrap())
    );
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap());
    for (name, value) in case["headers"].as_object().into_iter().flatten() {
        assert_eq!(header(name), value.as_str(), "{}: {name}", case["name"]);
    }
    if case["headers"]["authorization"].is_null() {
        assert_eq!(header("authorization"), None, "never both");
    }
    match case["body"].as_str() {
        Some(body) => assert_eq!(request.body(), body),
        None => {
            let sent: Value = serde_json::from_slice(request.body()).unwrap();
            assert_eq!(sent, case["json"]);
        }
    }
}

#[test]
fn questions_are_those_of_the_vectors() {
    let bkey = settings(Style::Bkey, ClientAuth::Post, "bkey_client_x", "bkey_secret_y");
    let token = Secret::new("<agent token>");
    let asked = request::ask_bkey(&bkey, &question(), BindingStyle::Sentence, &token).unwrap();
    assert_is(asked, &case("bkey_bc_authorize"));

    let standard = settings(
        Style::Standard,
        ClientAuth::Basic,
        "proxy-poll",
        "proxy-secret-0123456789",
    );
    let asked = request::ask_standard(&standard, &question(), BindingStyle::Compact20, None).unwrap();
    assert_is(asked, &case("standard_bc_authorize"));
}

#[test]
fn looks_and_log_ins_are_those_of_the_vectors() {
    let client = settings(Style::Bkey, ClientAuth::Post, "bkey_client_x", "s p+/=&é");
    assert_is(
        request::look(&client, "ciba_0001").unwrap(),
        &case("token_poll_post_auth"),
    );
    let client = settings(Style::Bkey, ClientAuth::Post, "bkey_client_x", "bkey_secret_y");
    assert_is(
        request::client_credentials(&client).unwrap(),
        &case("client_credentials"),
    );
    let wanted = case("basic_auth_encodes_first");
    let text = |name: &str| wanted[name].as_str().unwrap();
    let value = basic(text("client_id"), &Secret::new(text("client_secret"))).unwrap();
    assert_eq!(value.to_str().unwrap(), format!("Basic {}", text("basic")));
    assert!(value.is_sensitive());
}

#[test]
fn amounts_are_exact_in_either_unit() {
    let amount = |unit, cents| {
        let mut client = settings(Style::Bkey, ClientAuth::Post, "c", "s");
        client.options.amount_unit = unit;
        let question = Question {
            usd_cents: cents,
            ..question()
        };
        let asked = request::ask_bkey(&client, &question, BindingStyle::Sentence, &Secret::new("t")).unwrap();
        let body = String::from_utf8(asked.body.to_vec()).unwrap();
        body.split_once("\"amount\":")
            .map(|(_, rest)| rest.split_once(',').unwrap().0.to_owned())
    };
    assert_eq!(amount(AmountUnit::Minor, 1250).as_deref(), Some("1250"));
    assert_eq!(amount(AmountUnit::Major, 1250).as_deref(), Some("12.50"));
    assert_eq!(amount(AmountUnit::Major, 7).as_deref(), Some("0.07"));
    assert_eq!(amount(AmountUnit::Omit, 1250), None);
}

#[test]
fn a_standard_server_is_given_what_it_signs() {
    let mut client = settings(Style::Standard, ClientAuth::Post, "c", "s");
    assert_eq!(request::sent_details(&client, &question()), SentDetails::None);
    client.options.details_type = Some("payment_initiation".to_owned());
    let wanted = json!([{
        "type": "payment_initiation", "actions": ["initiate"], "locations": ["https://api.example.com"],
        "instructedAmount": { "currency": "USDC", "amount": "12.50" }, "creditorName": "api.example.com",
        "creditorAccount": { "address": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C", "network": "eip155:8453" },
        "identifier": "02fc586495d40031543863011dd4aa0d0c294a4a55684409abaa993ba8520c08",
    }]);
    assert_eq!(
        request::sent_details(&client, &question()),
        SentDetails::Authorization(wanted)
    );
    let notification = Secret::new("n-token");
    let asked = request::ask_standard(&client, &question(), BindingStyle::Compact20, Some(&notification)).unwrap();
    let body = String::from_utf8(asked.body.to_vec()).unwrap();
    let names: Vec<&str> = body.split('&').map(|pair| pair.split_once('=').unwrap().0).collect();
    let wanted = [
        "scope",
        "login_hint",
        "binding_message",
        "requested_expiry",
        "authorization_details",
        "client_notification_token",
        "client_id",
        "client_secret",
    ];
    assert_eq!(names, wanted);
}

#[test]
fn openid_is_asked_for_once_and_the_wait_is_within_bounds() {
    let mut client = settings(Style::Standard, ClientAuth::Basic, "c", "s");
    client.options.scope = "approve:payment openid".to_owned();
    for (ttl, wanted) in [(1, "requested_expiry=30"), (3600, "requested_expiry=600")] {
        let question = Question {
            ttl: Duration::from_secs(ttl),
            ..question()
        };
        let asked = request::ask_standard(&client, &question, BindingStyle::Sentence, None).unwrap();
        let body = String::from_utf8(asked.body.to_vec()).unwrap();
        assert!(
            body.starts_with("scope=approve%3Apayment+openid&") && body.ends_with(wanted),
            "{body}"
        );
    }
}

/// The token's subject. Stands in for the verifier in the one sequence that needs it.
fn subject(grant: &Grant) -> String {
    let payload = grant.access_token.expose().split('.').nth(1).unwrap();
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    payload["sub"].as_str().unwrap().to_owned()
}

/// State, seconds to wait, failure code.
fn summary(step: Step) -> (&'static str, Option<u64>, Option<String>) {
    match step {
        Step::Pending(wait) => ("pending", Some(wait.as_secs()), None),
        Step::Granted(grant) if subject(&grant) == "did:bkey:zApproverOne" => ("approved", None, None),
        Step::Granted(_) => ("error", None, Some(token_rejected("wrong_subject").code)),
        Step::Denied => ("denied", None, None),
        Step::Expired => ("expired", None, None),
        Step::Failed(failure) => ("error", None, Some(failure.code)),
    }
}

fn step(polling: &mut Polling, status: u16, headers: &[(&str, &str)], body: &[u8]) -> Step {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    polling.step(&Look::Answered {
        status: StatusCode::from_u16(status).unwrap(),
        headers: &headers,
        body,
        now: "2026-11-06T08:49:37Z".parse().unwrap(),
    })
}

#[test]
fn answers_mean_what_the_vectors_say() {
    let vectors: Value = serde_json::from_str(include_str!("../../../../fixtures/approvals/ciba_poll.json")).unwrap();
    let sequences = vectors["sequences"].as_array().unwrap();
    let (mut steps, mut deadlines) = (0, 0);
    for sequence in sequences {
        let name = &sequence["name"];
        let mut polling = Polling::new(sequence.get("interval").map_or(Some(5), Value::as_u64));
        for answer in sequence["answers"].as_array().unwrap() {
            if answer["deadline_passed"] == true {
                // `Ciba` sends nothing after the deadline; tests/ciba/fake.rs tests that.
                deadlines += 1;
                continue;
            }
            let step = match answer["timeout"] == true {
                true => polling.step(&Look::Unanswered),
                false => {
                    let status = u16::try_from(answer["status"].as_u64().unwrap()).unwrap();
                    let headers: Vec<_> = answer["headers"].as_object().into_iter().flatten().collect();
                    let headers: Vec<_> = headers
                        .iter()
                        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
                        .collect();
                    step(
                        &mut polling,
                        status,
                        &headers,
                        answer["body"].as_str().unwrap().as_bytes(),
                    )
                }
            };
            let (state, wait, code) = summary(step);
            assert_eq!(state, answer["expect"].as_str().unwrap(), "{name}");
            assert_eq!(wait, answer["next_wait_s"].as_u64(), "{name}");
            if let Some(wanted) = answer["error"].as_str() {
                assert_eq!(code.as_deref(), Some(wanted), "{name}");
            }
            steps += 1;
        }
    }
    assert_eq!((sequences.len(), deadlines), (28, 1));
    assert_eq!(steps, 40);
}

#[test]
fn two_unreadable_responses_are_tolerated() {
    let mut polling = Polling::new(Some(5));
    assert_eq!(summary(step(&mut polling, 200, &[], b"<html>")).1, Some(10));
    assert_eq!(summary(step(&mut polling, 200, &[], b"\xff")).1, Some(20));
    assert_eq!(
        summary(step(&mut polling, 200, &[], b"")).2.as_deref(),
        Some("bad_response")
    );
    // Server errors in between do not count as unreadable, and a good response resets the count.
    let mut polling = Polling::new(Some(5));
    for (status, body) in [
        (200, "<"),
        (502, "<"),
        (200, "<"),
        (400, r#"{"error":"authorization_pending"}"#),
        (200, "<"),
    ] {
        assert_eq!(
            summary(step(&mut polling, status, &[], body.as_bytes())).0,
            "pending",
            "{status} {body}"
        );
    }
}

#[test]
fn backing_off_ends_at_a_minute_and_never_undercuts_the_server() {
    let mut polling = Polling::new(Some(5));
    let waits: Vec<_> = (0..6)
        .map(|_| summary(polling.step(&Look::Unsent)).1.unwrap())
        .collect();
    assert_eq!(waits, [10, 20, 40, 60, 60, 60]);
    assert_eq!(polling.failures(), 6);
    let mut polling = Polling::new(Some(9999));
    assert_eq!(polling.interval().as_secs(), 60, "clamped");
    for _ in 0..3 {
        step(&mut polling, 400, &[], br#"{"error":"slow_down"}"#);
    }
    assert_eq!(
        summary(polling.step(&Look::Unsent)).1,
        Some(75),
        "never faster than the server asked for"
    );
    assert_eq!(Polling::new(Some(0)).interval().as_secs(), 1);
    let mut resumed = Polling::resumed(Duration::from_secs(5), 2);
    assert_eq!(summary(resumed.step(&Look::Unsent)).1, Some(40));
    assert_eq!(Polling::resumed(Duration::from_secs(5), u32::MAX).failures(), u32::MAX);
}

#[test]
fn retry_after_is_seconds_or_a_date_and_bounded() {
    for (value, wanted) in [
        ("17", 17),
        ("3", 10),
        ("Fri, 06 Nov 2026 08:50:07 GMT", 30),
        ("Fri, 06 Nov 2026 08:40:00 GMT", 10),
        ("99999999999999", 600),
        ("soon", 10),
        ("-5", 10),
    ] {
        let waited = summary(step(&mut Polling::new(Some(5)), 503, &[("retry-after", value)], b"")).1;
        assert_eq!(waited, Some(wanted), "{value}");
    }
}

#[test]
fn a_token_is_lost_only_where_it_may_have_been_sent() {
    let invalid = br#"{"error":"invalid_grant"}"#;
    let code = |polling: &mut Polling| summary(step(polling, 400, &[], invalid)).2.unwrap();
    let mut polling = Polling::new(Some(5));
    polling.step(&Look::Unsent);
    assert_eq!(code(&mut polling), "invalid_grant");
    let mut polling = Polling::new(Some(5));
    polling.step(&Look::Unanswered);
    polling.step(&Look::Unsent);
    assert_eq!(
        code(&mut polling),
        "token_lost",
        "a poll that was not sent changes nothing"
    );
    let mut polling = Polling::new(Some(5));
    polling.step(&Look::Unanswered);
    step(&mut polling, 400, &[], br#"{"error":"authorization_pending"}"#);
    assert_eq!(code(&mut polling), "invalid_grant");
    assert_eq!(code(&mut Polling::resumed(Duration::from_secs(5), 0)), "token_lost");
}

#[test]
fn a_contradictory_response_is_not_an_approval() {
    for body in [
        r#"{"access_token":"a.b.c","status":"pending"}"#,
        r#"{"access_token":"a.b.c","status":"rejected"}"#,
        r#"{"access_token":"a.b.c","status":1}"#,
        r#"{"access_token":"a.b.c","error":"authorization_pending"}"#,
        r#"{"access_token":"a.b.c","access_token":"d.e.f"}"#,
        r#"{"status":"denied","status":"approved","access_token":"a.b.c"}"#,
        r#"{"access_token":["a.b.c"]}"#,
        r#"{"access_token":"a.b.c","token_type":7}"#,
        r#"{"access_token":"a.b.c","id_token":7}"#,
        r#"{"access_token":"a.b.c","scope":["x"]}"#,
        r#"["a.b.c",null,null,null,null,null,"approved"]"#,
        r#"{"status":"on its way"}"#,
        "null",
    ] {
        let (state, _, code) = summary(step(&mut Polling::new(Some(5)), 200, &[], body.as_bytes()));
        assert_eq!((state, code.as_deref()), ("error", Some("bad_response")), "{body}");
    }
    let refused = summary(step(
        &mut Polling::new(Some(5)),
        201,
        &[],
        br#"{"access_token":"a.b.c"}"#,
    ));
    assert_eq!(refused.0, "error", "only a 200 can have a token");
    let fault = summary(step(
        &mut Polling::new(Some(5)),
        503,
        &[],
        br#"{"error":"server_error"}"#,
    ));
    assert_eq!(fault.0, "pending");
}
