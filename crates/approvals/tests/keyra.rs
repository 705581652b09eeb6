//! Approvals over KEYRA, against a fake service on loopback: what approves, and that nothing else does.

mod keyra_fake;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bursar_approvals::keyra::{
    ApiKey, BaseUrl, ChallengeId, Echo, Environment, Keyra, KeyraSettings, Passed, Received, Refused, SignatureFormat,
    Trust, Webhooks,
};
use bursar_approvals::{Asked, Backend, Denial, Failure, QuestionStatus};
use bursar_core::approval::{ApprovalIntent, Code, Evidence, EvidenceKind, Question, intent};
use bursar_core::clock::{Clock, ManualClock};
use bursar_ledger::PaymentId;
use bursar_net::tls::upstream::{Trust as TlsTrust, UpstreamTls};
use jiff::{SignedDuration, Timestamp};
use keyra_fake::{DEVICE, Echoes, FakeKeyra, Fault, KEY, SECRET, receiver, send_webhook};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn question() -> Question {
    question_about("12500000")
}

fn question_about(amount: &str) -> Question {
    let challenge = json!({"x402Version": 2, "accepts": [{
        "scheme": "exact", "network": "eip155:84532", "amount": amount,
        "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        "maxTimeoutSeconds": 60, "extra": {"name": "USDC", "version": "2"}
    }]});
    let header = STANDARD.encode(challenge.to_string());
    let offer = bursar_core::challenge::v2(header.as_bytes()).unwrap().offers.remove(0);
    let asked = intent::Asked {
        agent: "build-bot",
        approver: "usr_42",
        host: "api.example.com",
        method: "GET",
        resource: "https://api.example.com/report",
        body_sha256: None,
    };
    let intent = ApprovalIntent::of(&asked, &offer);
    let code = Code::parse("0BY5GS4N").unwrap();
    Question {
        id: PaymentId::new(now(), [7; 10]),
        code,
        sentence: intent.sentence("12.50", code),
        compact: intent.compact("12.50", code),
        intent,
        usd_cents: 1250,
        ttl: Duration::from_secs(300),
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn settings(base: &str) -> KeyraSettings {
    let key = ApiKey::parse(KEY, Environment::Sandbox).ok().unwrap();
    KeyraSettings::new(BaseUrl::parse(base).unwrap(), key)
}

fn keyra(settings: KeyraSettings, clock: &Arc<ManualClock>) -> Keyra {
    let tls = UpstreamTls::new(&TlsTrust::default(), Duration::from_secs(10)).unwrap();
    Keyra::new(settings, Arc::new(tls), clock.clone())
}

/// A service, its client, and one question that has been asked.
struct Case {
    fake: Arc<FakeKeyra>,
    keyra: Arc<Keyra>,
    clock: Arc<ManualClock>,
    question: Question,
    asked: Asked,
}

impl Case {
    async fn new() -> Self {
        Self::with(Echoes::Everything, |_| {}).await
    }

    async fn with(echoes: Echoes, change: impl FnOnce(&mut KeyraSettings)) -> Self {
        let clock = Arc::new(ManualClock::at(now()));
        let fake = FakeKeyra::listening(clock.clone(), echoes).await;
        let mut settings = settings(&fake.base);
        change(&mut settings);
        let keyra = Arc::new(keyra(settings, &clock));
        let question = question();
        let asked = keyra.start(&question).await.unwrap();
        Self {
            fake,
            keyra,
            clock,
            question,
            asked,
        }
    }

    async fn poll(&mut self) -> QuestionStatus {
        self.keyra.poll(&self.question, &mut self.asked).await
    }

    fn id(&self) -> String {
        self.asked.handle.clone()
    }

    fn pass(&self, seconds: i64) {
        self.clock.set(self.clock.now() + SignedDuration::from_secs(seconds));
    }
}

fn pending(seconds: u64) -> QuestionStatus {
    QuestionStatus::Pending {
        wait: Duration::from_secs(seconds),
    }
}

fn failed(code: &str, retryable: bool) -> QuestionStatus {
    QuestionStatus::Failed(failure(code, retryable))
}

fn failure(code: &str, retryable: bool) -> Failure {
    Failure {
        code: code.to_owned(),
        retryable,
    }
}

fn evidence(question_status: QuestionStatus) -> Evidence {
    match question_status {
        QuestionStatus::Approved(evidence) => *evidence,
        other => panic!("{other:?}"),
    }
}

fn sha256(text: &str) -> String {
    alloy_primitives::hex::encode(Sha256::digest(text))
}

/// A case with webhooks and a receiver for them.
async fn with_webhooks() -> (Case, std::net::SocketAddr) {
    let case = Case::with(Echoes::Everything, |settings| {
        settings.webhooks = Webhooks::new(SECRET, SignatureFormat::Hex).ok();
    })
    .await;
    let keyra = case.keyra.clone();
    let address = receiver(move |headers, body| keyra.receive(headers, body).status()).await;
    (case, address)
}

#[tokio::test]
async fn an_attestation_that_keyra_verified_approves() {
    let mut case = Case::new().await;
    assert_eq!(case.asked.expires_at, now() + SignedDuration::from_secs(300));
    assert_eq!((case.asked.interval, case.asked.failures), (Duration::from_secs(3), 0));
    assert_eq!(case.poll().await, pending(3));
    case.fake.attest_and_show("chl_1");
    case.pass(20);
    let evidence = evidence(case.poll().await);

    assert!(case.fake.is_verified("chl_1"));
    assert_eq!(evidence.kind, EvidenceKind::KeyraVerified);
    assert_eq!(evidence.approver, "usr_42");
    assert_eq!(evidence.decided_at, now() + SignedDuration::from_secs(20));
    assert_eq!(evidence.replay_key, sha256("keyra:chl_1"));
    let proof = &evidence.proof;
    assert_eq!((&proof["challenge"], &proof["event"]), (&json!("chl_1"), &Value::Null));
    assert_eq!(proof["service"], case.fake.base);
    let answers = proof["answers"].as_array().unwrap();
    let calls = ["GET /v1/challenges/chl_1", "POST /v1/challenges/chl_1/verify"];
    assert_eq!(answers.len(), calls.len());
    for (answer, call) in answers.iter().zip(calls) {
        let text = answer["body"].as_str().unwrap();
        assert_eq!(answer["call"], call);
        assert_eq!(answer["sha256"], sha256(text));
        assert_eq!(serde_json::from_str::<Value>(text).unwrap()["id"], "chl_1");
    }

    let seen = case.fake.seen();
    assert!(seen.iter().all(|seen| seen.authorization == format!("Bearer {KEY}")));
    let intent = &case.question.intent;
    let payload = json!({
        "amount": "12.50", "amount_minor": "1250", "currency": "USDC", "host": "api.example.com",
        "recipient": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        "intent_hash": alloy_primitives::hex::encode(intent.hash()), "code": case.question.code.as_str(),
    });
    let order = json!({ "action": "payment.approve", "userId": "usr_42", "payload": payload, "expiresIn": 300 });
    assert_eq!((seen[0].call.as_str(), &seen[0].body), ("POST /v1/challenges", &order));
    let verify = json!({ "attestation": case.fake.attest("chl_1"), "deviceId": DEVICE });
    assert_eq!(seen.last().unwrap().body, verify);
}

#[tokio::test]
async fn what_the_status_alone_proves() {
    // Nothing, if verification is configured and no webhook can bring the attestation.
    let mut case = Case::new().await;
    case.fake.set_status("chl_1", "approved");
    assert_eq!(case.poll().await, failed("attestation_missing", false));

    // Enough, if the operator configured it.
    let mut case = Case::with(Echoes::Nothing, |settings| settings.trust = Trust::Status).await;
    assert_eq!(case.poll().await, pending(3));
    case.fake.set_status("chl_1", "approved");
    let evidence = evidence(case.poll().await);
    assert_eq!(evidence.kind, EvidenceKind::KeyraStatus);
    assert_eq!(evidence.proof["answers"].as_array().unwrap().len(), 1);

    // Even then, an attestation that is present must verify.
    let mut case = Case::with(Echoes::Nothing, |settings| settings.trust = Trust::Status).await;
    case.fake.set_status("chl_1", "approved");
    case.fake.show("chl_1", json!({ "signature": "forged" }));
    assert_eq!(case.poll().await, failed("attestation_invalid", true));
}

#[tokio::test]
async fn a_webhook_wakes_and_may_bring_the_attestation() {
    let (mut case, address) = with_webhooks().await;
    case.fake.set_status("chl_1", "approved");
    // The attestation may still arrive.
    assert_eq!(case.poll().await, pending(3));
    let data = json!({ "challengeId": "chl_1", "attestation": case.fake.attest("chl_1"), "deviceId": DEVICE });
    let event = case.fake.event("challenge.approved", &data);
    let before = case.fake.calls().len();
    assert_eq!(send_webhook(address, "another secret", &event).await, 401);
    assert_eq!(case.poll().await, pending(3), "a forged event had an effect");
    assert_eq!(send_webhook(address, SECRET, &event).await, 200);
    assert_eq!(case.fake.calls().len(), before + 1, "an event alone led to a call");
    let evidence = evidence(case.poll().await);
    assert_eq!(evidence.kind, EvidenceKind::KeyraVerified);
    assert_eq!(evidence.proof["event"], "evt_1");
}

#[tokio::test]
async fn a_webhook_decides_nothing() {
    let (mut case, address) = with_webhooks().await;
    for kind in ["challenge.approved", "challenge.rejected", "challenge.expired"] {
        let event = case
            .fake
            .event(kind, &json!({ "challengeId": "chl_1", "status": "approved" }));
        assert_eq!(send_webhook(address, SECRET, &event).await, 200);
        assert_eq!(case.poll().await, pending(3), "{kind}");
    }
    // With an attestation for another challenge.
    let other = case.keyra.start(&case.question).await.unwrap();
    let data = json!({ "challengeId": case.id(), "attestation": case.fake.attest(&other.handle), "deviceId": DEVICE });
    let event = case.fake.event("challenge.approved", &data);
    assert_eq!(send_webhook(address, SECRET, &event).await, 200);
    assert_eq!(case.poll().await, failed("attestation_invalid", true));
}

#[tokio::test]
async fn webhooks_are_classified() {
    let (case, address) = with_webhooks().await;
    let receive = |event: &[u8]| {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET.as_bytes());
        let signature = alloy_primitives::hex::encode(aws_lc_rs::hmac::sign(&key, event));
        let headers = [("keyra-signature".parse().unwrap(), signature.parse().unwrap())];
        case.keyra.receive(&headers.into_iter().collect(), event)
    };
    let event = case
        .fake
        .event("challenge.rejected", &json!({ "challengeId": "chl_1" }));
    assert_eq!(receive(&event), Received::Wake(ChallengeId::parse("chl_1").unwrap()));
    assert_eq!(receive(&event), Received::Passed(Passed::Repeated));
    let unknown = case
        .fake
        .event("challenge.approved", &json!({ "challengeId": "chl_99" }));
    assert_eq!(receive(&unknown), Received::Passed(Passed::UnknownChallenge));
    let paired = case.fake.event("device.paired", &json!({ "deviceId": DEVICE }));
    assert_eq!(receive(&paired), Received::Passed(Passed::OtherEvent));
    assert_eq!(receive(b"{}"), Received::Refused(Refused::NotAnEvent));
    assert_eq!(receive(&vec![b' '; 65 << 10]), Received::Refused(Refused::NotAnEvent));

    for (event, status) in [(&event, 200), (&unknown, 200), (&paired, 200), (&b"{}".to_vec(), 400)] {
        assert_eq!(send_webhook(address, SECRET, event).await, status);
    }
    let deaf = Case::new().await;
    let received = deaf.keyra.receive(&http::HeaderMap::new(), &event);
    assert_eq!(
        (received.status().as_u16(), received),
        (404, Received::Refused(Refused::NotConfigured))
    );
}

#[tokio::test]
async fn a_rejection_is_a_denial_until_the_end_and_then_a_timeout() {
    let mut case = Case::new().await;
    case.fake.set_status("chl_1", "rejected");
    case.pass(299);
    assert_eq!(case.poll().await, QuestionStatus::Denied(Denial::default()));
    case.pass(1);
    assert_eq!(case.poll().await, QuestionStatus::Expired);
    case.fake.set_status("chl_1", "expired");
    assert_eq!(case.poll().await, QuestionStatus::Expired);
}

#[tokio::test]
async fn no_other_word_approves() {
    for trust in [Trust::Verify, Trust::Status] {
        for status in [
            "used",
            "something_new",
            "",
            "Approved",
            "APPROVED",
            " approved",
            "approved\n",
            "verified",
            "ok",
        ] {
            let mut case = Case::with(Echoes::Everything, |settings| settings.trust = trust).await;
            case.fake.set_status("chl_1", status);
            case.fake.attest_and_show("chl_1");
            let expected = match status {
                "used" => failed("challenge_already_used", true),
                _ => failed("unknown_status", false),
            };
            assert_eq!(case.poll().await, expected, "{status:?}");
            assert!(!case.fake.is_verified("chl_1"), "{status:?}");
        }
    }
    // Nor in the response to `verify`.
    for (change, expected) in [
        (Fault::Changed(|answer| answer["status"] = "pending".into()), pending(3)),
        (
            Fault::Changed(|answer| answer["status"] = "rejected".into()),
            QuestionStatus::Denied(Denial::default()),
        ),
        (
            Fault::Changed(|answer| answer["status"] = "expired".into()),
            QuestionStatus::Expired,
        ),
        (
            Fault::Changed(|answer| answer["status"] = "valid".into()),
            failed("unknown_status", false),
        ),
        (Fault::Instead("{}"), pending(6)),
        (Fault::Instead(r#"{"verified":true}"#), pending(6)),
    ] {
        let mut case = Case::new().await;
        case.fake.attest_and_show("chl_1");
        case.fake.faults([Fault::Changed(|_| {}), change]);
        assert_eq!(case.poll().await, expected);
    }
}

type Change = fn(&mut Value);

#[tokio::test]
async fn an_echo_of_another_payment_approves_nothing() {
    let changes: [(&str, Change); 8] = [
        ("id", |answer| answer["id"] = "chl_2".into()),
        ("action", |answer| answer["action"] = "payment.refund".into()),
        ("userId", |answer| answer["userId"] = "usr_43".into()),
        ("payload", |answer| answer["payload"]["amount"] = "0.01".into()),
        ("payload", |answer| answer["payload"]["recipient"] = "0x0".into()),
        ("payload", |answer| answer["payload"]["intent_hash"] = "00".into()),
        ("payload", |answer| {
            drop(answer["payload"].as_object_mut().unwrap().remove("code"))
        }),
        ("payload", |answer| answer["payload"] = "{}".into()),
    ];
    for (member, change) in changes {
        let expected = failed(&format!("echo_mismatch:{member}"), false);
        // In GET, whatever the status is.
        for status in ["pending", "approved"] {
            let mut case = Case::with(Echoes::Everything, |settings| settings.trust = Trust::Status).await;
            case.fake.set_status("chl_1", status);
            case.fake.faults([Fault::Changed(change)]);
            assert_eq!(case.poll().await, expected);
        }
        // And in the response to `verify`.
        let mut case = Case::new().await;
        case.fake.attest_and_show("chl_1");
        case.fake.faults([Fault::Changed(|_| {}), Fault::Changed(change)]);
        assert_eq!(case.poll().await, expected);
    }
}

#[tokio::test]
async fn a_required_echo_that_is_missing_fails_the_question() {
    for (echoes, approves) in [(Echoes::Everything, true), (Echoes::Nothing, false)] {
        let mut case = Case::with(echoes, |settings| settings.echo = Echo::Required).await;
        case.fake.attest_and_show("chl_1");
        match approves {
            true => drop(evidence(case.poll().await)),
            false => {
                assert_eq!(case.poll().await, failed("echo_missing:action", false));
                assert!(!case.fake.is_verified("chl_1"));
            }
        }
    }
}

#[tokio::test]
async fn a_question_about_another_amount_does_not_get_this_answer() {
    let mut case = Case::new().await;
    case.fake.attest_and_show("chl_1");
    case.question = question_about("99000000");
    assert_eq!(case.poll().await, failed("echo_mismatch:payload", false));
}

async fn start_with(faults: impl IntoIterator<Item = Fault>) -> (Result<Asked, Failure>, Arc<FakeKeyra>) {
    let clock = Arc::new(ManualClock::at(now()));
    let fake = FakeKeyra::listening(clock.clone(), Echoes::Everything).await;
    fake.faults(faults);
    let mut settings = settings(&fake.base);
    settings.patience = Duration::from_millis(500);
    let started = keyra(settings, &clock).start(&question()).await;
    (started, fake)
}

#[tokio::test]
async fn a_create_that_may_have_arrived_is_not_repeated() {
    for fault in [
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::CutWithin,
        Fault::Silence,
        Fault::Endless,
        Fault::Instead("<html>"),
        Fault::Instead(r#"{"status":"pending"}"#),
        Fault::Instead(r#"{"id":"../admin","status":"pending","expiresAt":"2027-01-15T08:05:00Z"}"#),
        Fault::Answer {
            status: 500,
            code: None,
        },
        Fault::Answer {
            status: 503,
            code: None,
        },
    ] {
        let (started, fake) = start_with([fault]).await;
        assert_eq!(started, Err(failure("start_unknown", true)));
        assert_eq!(fake.calls(), ["POST /v1/challenges"]);
    }
}

#[tokio::test]
async fn a_create_that_was_refused_says_why() {
    for (status, code, expected, retryable) in [
        (401, Some("invalid_api_key"), "invalid_api_key", false),
        (404, Some("device_not_found"), "device_not_found", false),
        (410, Some("challenge_expired"), "challenge_expired", true),
        (400, Some("anything_else"), "http_400", false),
        (403, None, "http_403", false),
    ] {
        let (started, fake) = start_with([Fault::Answer { status, code }]).await;
        assert_eq!(started, Err(failure(expected, retryable)));
        assert_eq!(fake.calls().len(), 1);
    }
    let (started, fake) = start_with([Fault::Redirect]).await;
    assert_eq!(started, Err(failure("http_307", false)));
    assert_eq!(fake.calls().len(), 1, "a redirect was followed");

    for (change, expected, retryable) in [
        (
            Fault::Changed(|answer| answer["status"] = "approved".into()),
            "not_pending_at_start",
            true,
        ),
        (
            Fault::Changed(|answer| answer["userId"] = "usr_43".into()),
            "echo_mismatch:userId",
            false,
        ),
        (
            Fault::Changed(|answer| answer["expiresAt"] = "2020-01-01T00:00:00Z".into()),
            "expired_at_start",
            true,
        ),
    ] {
        let (started, _) = start_with([change]).await;
        assert_eq!(started, Err(failure(expected, retryable)));
    }
}

#[tokio::test]
async fn a_create_that_did_nothing_is_repeated_once() {
    let at_once = Fault::Later {
        status: 429,
        retry_after: "0",
    };
    let (started, fake) = start_with([at_once]).await;
    assert_eq!(started.unwrap().handle, "chl_1");
    assert_eq!(fake.calls().len(), 2);
    let (started, fake) = start_with([at_once, at_once]).await;
    assert_eq!(started, Err(failure("rate_limit_exceeded", true)));
    assert_eq!((fake.calls().len(), fake.challenges().len()), (2, 0));
    let (started, fake) = start_with([Fault::Later {
        status: 429,
        retry_after: "30",
    }])
    .await;
    assert_eq!(started, Err(failure("rate_limit_exceeded", true)));
    assert_eq!(fake.calls().len(), 1);

    // No server.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let clock = Arc::new(ManualClock::at(now()));
    let started = keyra(settings(&base), &clock).start(&question()).await;
    assert_eq!(started, Err(failure("unreachable", true)));
}

#[tokio::test]
async fn the_end_is_the_earlier_one() {
    let (started, _) = start_with([Fault::Changed(|answer| {
        answer["expiresAt"] = "2027-01-15T08:01:00Z".into()
    })])
    .await;
    assert_eq!(started.unwrap().expires_at, "2027-01-15T08:01:00Z".parse().unwrap());
    let (started, _) = start_with([Fault::Changed(|answer| {
        answer["expiresAt"] = "2030-01-01T00:00:00Z".into()
    })])
    .await;
    assert_eq!(started.unwrap().expires_at, now() + SignedDuration::from_secs(300));
}

#[tokio::test]
async fn faults_are_no_decisions() {
    let mut case = Case::with(Echoes::Everything, |settings| {
        settings.patience = Duration::from_millis(500)
    })
    .await;
    let faults = [
        (
            Fault::Answer {
                status: 500,
                code: None,
            },
            6,
        ),
        (
            Fault::Later {
                status: 429,
                retry_after: "17",
            },
            17,
        ),
        (
            Fault::Later {
                status: 503,
                retry_after: "1",
            },
            24,
        ),
        (Fault::CutBefore, 48),
        (Fault::CutAfter, 60),
        (Fault::CutWithin, 60),
        (Fault::Silence, 60),
        (
            Fault::Answer {
                status: 429,
                code: Some("rate_limit_exceeded"),
            },
            60,
        ),
        (
            Fault::Later {
                status: 503,
                retry_after: "120",
            },
            120,
        ),
    ];
    for (failures, (fault, wait)) in faults.into_iter().enumerate() {
        case.fake.faults([fault]);
        assert_eq!(case.poll().await, pending(wait));
        assert_eq!(case.asked.failures, u32::try_from(failures).unwrap() + 1);
    }
    assert_eq!(case.poll().await, pending(3));
    assert_eq!(case.asked.failures, 0);
    case.fake.attest_and_show("chl_1");
    evidence(case.poll().await);
}

#[tokio::test]
async fn three_unreadable_responses_in_a_row_fail_the_question() {
    let mut case = Case::new().await;
    for answers in [
        [Fault::Instead("<html>"), Fault::Instead("{}")],
        [
            Fault::Endless,
            Fault::Instead(r#"{"status":"pending","status":"approved"}"#),
        ],
    ] {
        for answer in answers {
            case.fake.faults([answer]);
            assert!(matches!(case.poll().await, QuestionStatus::Pending { .. }));
        }
        assert_eq!(case.poll().await, pending(3));
    }
    let garbage = || Fault::Instead("approved");
    for expected in [pending(6), pending(12), failed("bad_response", true)] {
        case.fake.faults([garbage()]);
        assert_eq!(case.poll().await, expected);
    }
}

#[tokio::test]
async fn an_error_in_a_poll_fails_the_question() {
    for (status, code, expected) in [
        (401, Some("invalid_api_key"), failed("invalid_api_key", false)),
        (403, None, failed("http_403", false)),
        (404, Some("not_found"), failed("http_404", false)),
        (410, Some("challenge_expired"), QuestionStatus::Expired),
        (302, None, failed("http_302", false)),
    ] {
        let mut case = Case::new().await;
        case.fake.attest_and_show("chl_1");
        case.fake.faults([Fault::Answer { status, code }]);
        assert_eq!(case.poll().await, expected);
    }
    let mut case = Case::new().await;
    case.asked.handle = "../users".to_owned();
    assert_eq!(case.poll().await, failed("bad_handle", false));
    assert_eq!(case.fake.calls().len(), 1);
}

#[tokio::test]
async fn a_challenge_is_used_once() {
    // The response to `verify` was lost: the approver has to be asked again.
    for fault in [Fault::CutAfter, Fault::CutWithin] {
        let mut case = Case::new().await;
        case.fake.attest_and_show("chl_1");
        case.fake.faults([Fault::Changed(|_| {}), fault]);
        assert_eq!(case.poll().await, pending(6));
        assert!(case.fake.is_verified("chl_1"));
        assert_eq!(case.poll().await, failed("challenge_already_used", true));
    }
    // The call never arrived: a retry is fine.
    let mut case = Case::new().await;
    case.fake.attest_and_show("chl_1");
    case.fake.faults([Fault::Changed(|_| {}), Fault::CutBefore]);
    assert_eq!(case.poll().await, pending(6));
    evidence(case.poll().await);
    // A challenge that was approved is not approved again.
    assert_eq!(case.poll().await, failed("challenge_already_used", true));
    // Errors of `verify`.
    for (status, code, expected) in [
        (422, "attestation_invalid", failed("attestation_invalid", true)),
        (404, "device_not_found", failed("device_not_found", false)),
        (410, "challenge_expired", QuestionStatus::Expired),
    ] {
        let mut case = Case::new().await;
        case.fake.attest_and_show("chl_1");
        case.fake.faults([
            Fault::Changed(|_| {}),
            Fault::Answer {
                status,
                code: Some(code),
            },
        ]);
        assert_eq!(case.poll().await, expected);
    }
}

#[tokio::test]
async fn too_late_is_expired() {
    let mut case = Case::with(Echoes::Everything, |settings| settings.trust = Trust::Status).await;
    case.fake.set_status("chl_1", "approved");
    case.pass(311);
    assert_eq!(case.poll().await, QuestionStatus::Expired);
    // Found shortly after the end, it counts as decided before it.
    let mut case = Case::with(Echoes::Everything, |settings| settings.trust = Trust::Status).await;
    case.fake.set_status("chl_1", "approved");
    case.pass(310);
    evidence(case.poll().await);

    let mut case = Case::new().await;
    case.pass(311);
    assert_eq!(case.poll().await, QuestionStatus::Expired);
    case.fake.faults([Fault::CutBefore]);
    assert_eq!(case.poll().await, QuestionStatus::Expired);
    // If the attestation never came, the setup is wrong.
    let (mut case, _) = with_webhooks().await;
    case.fake.set_status("chl_1", "approved");
    case.pass(311);
    assert_eq!(case.poll().await, failed("attestation_missing", false));
}

#[tokio::test]
async fn after_a_restart_polling_resumes() {
    let mut case = Case::new().await;
    case.fake.attest_and_show("chl_1");
    case.keyra = Arc::new(keyra(settings(&case.fake.base), &case.clock));
    assert_eq!(evidence(case.poll().await).kind, EvidenceKind::KeyraVerified);
}

#[tokio::test]
async fn a_wrong_key_asks_nobody() {
    let clock = Arc::new(ManualClock::at(now()));
    let fake = FakeKeyra::listening(clock.clone(), Echoes::Everything).await;
    let key = ApiKey::parse("sk_test_other", Environment::Sandbox).ok().unwrap();
    let keyra = keyra(KeyraSettings::new(BaseUrl::parse(&fake.base).unwrap(), key), &clock);
    assert_eq!(keyra.name(), "keyra");
    let started = keyra.start(&question()).await;
    assert_eq!(started, Err(failure("invalid_api_key", false)));
    assert!(fake.challenges().is_empty());
}
