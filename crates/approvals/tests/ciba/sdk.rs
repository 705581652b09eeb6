//! Checks the fake BKey with BKey's own Python SDK (`tests/interop/agents/bkey_approve.py`).

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::bkey::{APPROVER, CLIENT_ID, CLIENT_SECRET, Call, Decision, Dialect, FakeBkey, Mishap};
use crate::support::{interop, skip};

fn python() -> Option<String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_sdk = Command::new(&python).args(["-c", "import bkey.client"]).output();
    if !has_sdk.is_ok_and(|output| output.status.success()) {
        skip("no Python with `bkey-sdk`: pip install -r tests/interop/agents/requirements.txt, or set PYTHON");
        return None;
    }
    Some(python)
}

fn approve(python: &str, fake: &FakeBkey) -> Value {
    let out = Command::new(python)
        .arg(interop().join("agents/bkey_approve.py"))
        .args([&fake.base, APPROVER])
        .env("BKEY_CLIENT_ID", CLIENT_ID)
        .env("BKEY_CLIENT_SECRET", CLIENT_SECRET)
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn bkeys_own_sdk_works_with_the_fake() {
    let Some(python) = python() else { return };
    for dialect in [Dialect::Status, Dialect::Both] {
        let fake = FakeBkey::start(dialect);
        // Still pending at the first poll.
        let pending = match dialect {
            Dialect::Both => r#"{"status":"pending","error":"authorization_pending"}"#,
            Dialect::Oauth | Dialect::Status => r#"{"status":"pending"}"#,
        };
        fake.mishaps(Call::Look, &[Mishap::Answer(200, Vec::new(), pending.to_owned())]);
        fake.decide_next(Decision::Approved);
        let said = approve(&python, &fake);
        assert_eq!(said["status"], "approved", "{said}");
        assert_eq!(said["access_token"], fake.tokens()[0]);
        assert_eq!((fake.count(Call::LogIn), fake.count(Call::Look)), (1, 2));
        let asked = &fake.questions()[0];
        assert_eq!(
            (asked["login_hint"].as_str(), asked["requested_expiry"].as_u64()),
            (Some(APPROVER), Some(300))
        );
        assert_eq!(asked["scope"], "openid approve:payment");

        fake.decide_next(Decision::Denied);
        assert_eq!(approve(&python, &fake)["error"], "ApprovalDeniedError");
        fake.decide_next(Decision::Expired);
        assert_eq!(approve(&python, &fake)["error"], "ApprovalTimeoutError");
    }
}

/// Of the two dialects (approvals §4.5), this SDK treats the standard one as an error.
#[test]
fn bkeys_own_sdk_cannot_read_the_standard_dialect() {
    let Some(python) = python() else { return };
    let fake = FakeBkey::start(Dialect::Oauth);
    let said = approve(&python, &fake);
    assert_eq!(said["error"], "APIError", "{said}");
    assert_eq!(fake.count(Call::Look), 1);
}
