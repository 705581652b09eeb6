//! A question for tests: 12.50 USDC for a report.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::json;

use bursar_core::approval::{ApprovalIntent, Code, Question, intent};
use bursar_core::challenge::Offer;
use bursar_ledger::PaymentId;

pub fn offer() -> Offer {
    let challenge = json!({"x402Version": 2, "accepts": [{
        "scheme": "exact", "network": "eip155:84532", "amount": "12500000",
        "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        "maxTimeoutSeconds": 60, "extra": {"name": "USDC", "version": "2"}
    }]});
    let header = STANDARD.encode(challenge.to_string());
    bursar_core::challenge::v2(header.as_bytes()).unwrap().offers.remove(0)
}

/// The sentence includes the code, as a person would read it.
pub fn question_about(offer: &Offer) -> Question {
    let asked = intent::Asked {
        agent: "build-bot",
        approver: "usr_42",
        host: "api.example.com",
        method: "GET",
        resource: "https://api.example.com/report",
        body_sha256: None,
    };
    let intent = ApprovalIntent::of(&asked, offer);
    let code = Code::parse("0BY5GS4N").unwrap();
    Question {
        id: PaymentId::new(Timestamp::from_second(1_800_000_000).unwrap(), [7; 10]),
        code,
        sentence: intent.sentence("12.50", code),
        compact: intent.compact("12.50", code),
        intent,
        usd_cents: 1250,
        ttl: Duration::from_secs(300),
    }
}
