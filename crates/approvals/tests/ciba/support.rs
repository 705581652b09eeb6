//! A question, and a client set up as in the program.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bursar_approvals::ciba::Ciba;
use bursar_approvals::ciba::settings::{CibaOptions, CibaSettings, ClientAuth, Secret, Style};
use bursar_approvals::tokens::Tokens;
use bursar_approvals::{Asked, Backend, Failure, QuestionStatus};
use bursar_core::approval::{ApprovalIntent, Code, Question, intent};
use bursar_core::challenge;
use bursar_core::clock::SystemClock;
use bursar_ledger::PaymentId;
use bursar_net::oauth::issuer::{Issuer, PlainHttp};
use bursar_net::tls::upstream::{Trust, UpstreamTls};
use jiff::Timestamp;
use serde_json::json;

use crate::bkey::{APPROVER, CLIENT_ID, CLIENT_SECRET, FakeBkey};

/// A question about $12.50 for [`APPROVER`].
pub(crate) fn question() -> Question {
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
        approver: APPROVER,
        host: "api.example.com",
        method: "GET",
        resource: "https://api.example.com/v1/forecast",
        body_sha256: None,
    };
    let intent = ApprovalIntent::of(&asked, &challenge.offers[0]);
    let code = Code::parse("0BY5GS4N").unwrap();
    Question {
        id: PaymentId::new(Timestamp::now(), [7; 10]),
        code,
        sentence: intent.sentence("12.50", code),
        compact: intent.compact("12.50", code),
        usd_cents: 1250,
        ttl: Duration::from_secs(300),
        intent,
    }
}

pub(crate) fn settings(issuer: &str, style: Style) -> CibaSettings {
    CibaSettings {
        issuer: Issuer::parse(issuer, PlainHttp::ToThisMachine).unwrap(),
        client_id: CLIENT_ID.to_owned(),
        client_auth: ClientAuth::Post(Secret::new(CLIENT_SECRET)),
        options: CibaOptions {
            style,
            ..CibaOptions::default()
        },
    }
}

pub(crate) fn client(settings: CibaSettings) -> Ciba<Tokens> {
    let tls = UpstreamTls::new(&Trust::default(), Duration::from_secs(10)).unwrap();
    Ciba::new(settings, Tokens, Arc::new(tls), Arc::new(SystemClock))
}

pub(crate) fn of(fake: &FakeBkey) -> Ciba<Tokens> {
    client(settings(&fake.base, Style::Bkey))
}

/// The failure of a question that could not be asked.
pub(crate) async fn refused(ciba: &Ciba<Tokens>) -> Failure {
    ciba.start(&question()).await.expect_err("it was put")
}

pub(crate) async fn look(ciba: &Ciba<Tokens>, asked: &mut Asked) -> QuestionStatus {
    ciba.poll(&question(), asked).await
}

pub(crate) fn code(question_status: QuestionStatus) -> String {
    match question_status {
        QuestionStatus::Failed(failure) => failure.code,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn wait(question_status: QuestionStatus) -> Duration {
    match question_status {
        QuestionStatus::Pending { wait } => wait,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn interop() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop")
}

/// Skips a test that cannot run here; with BURSAR_TEST_STRICT=1 that is a failure.
pub(crate) fn skip(need: &str) {
    let strict = std::env::var_os("BURSAR_TEST_STRICT").is_some_and(|value| value == "1");
    assert!(!strict, "BURSAR_TEST_STRICT=1 and {need}");
    eprintln!("skipped: {need}");
}
