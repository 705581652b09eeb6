//! Questions that are approved, denied or not answered.

use bursar_approvals::ciba::settings::Style;
use bursar_approvals::{Backend, Denial, QuestionStatus};
use serde_json::{Value, json};

use crate::bkey::{APPROVER, CLIENT_ID, CLIENT_SECRET, Call, Decision, Dialect, FakeBkey, fields};
use crate::support::{client, code, look, of, question, settings, wait};

#[tokio::test]
async fn a_person_approves_in_every_dialect() {
    for dialect in [Dialect::Oauth, Dialect::Status, Dialect::Both] {
        let fake = FakeBkey::start(dialect);
        let ciba = of(&fake);
        assert_eq!(ciba.name(), "ciba");
        let mut asked = ciba.start(&question()).await.unwrap();
        assert_eq!((asked.interval.as_secs(), asked.failures), (5, 0));
        assert_eq!(wait(look(&ciba, &mut asked).await).as_secs(), 5, "{dialect:?}");
        fake.decide(&asked.handle, Decision::Approved);
        let QuestionStatus::Approved(evidence) = look(&ciba, &mut asked).await else {
            panic!("{dialect:?}");
        };
        assert_eq!(evidence.approver, APPROVER);
        assert_eq!(evidence.proof["token"], fake.tokens()[0]);
        assert!(!evidence.proof.to_string().contains("never to be kept"));
        // Used up: the token cannot be fetched again.
        assert_eq!(code(look(&ciba, &mut asked).await), "token_lost");
    }
}

#[tokio::test]
async fn the_question_is_put_as_bkey_wants_it() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let ciba = of(&fake);
    let mut asked = ciba.start(&question()).await.unwrap();
    look(&ciba, &mut asked).await;
    let [put] = fake.arrived(Call::Ask).try_into().unwrap();
    let bearer = format!("Bearer {}", fake.tokens()[0]);
    assert_eq!(put.headers["authorization"], bearer.as_str());
    let put: Value = serde_json::from_str(&put.body).unwrap();
    let wanted = json!({
        "login_hint": APPROVER, "scope": "openid approve:payment",
        "binding_message": "build-bot: pay 12.50 USDC to api.example.com #0BY5GS4N",
        "action_details": {
            "type": "payment", "description": "x402 12.50 USDC to api.example.com", "amount": 1250, "currency": "USD",
            "recipient": "api.example.com",
            "resource": "02fc586495d40031543863011dd4aa0d0c294a4a55684409abaa993ba8520c08",
        },
        "requested_expiry": 300,
    });
    assert_eq!(put, wanted);
    let [looked] = fake.arrived(Call::Look).try_into().unwrap();
    assert!(!looked.headers.contains_key("authorization"));
    let form = fields(&looked.body);
    assert_eq!(form["auth_req_id"], asked.handle);
    assert_eq!(
        (form["client_id"].as_str(), form["client_secret"].as_str()),
        (CLIENT_ID, CLIENT_SECRET)
    );
}

#[tokio::test]
async fn a_person_refuses_or_does_not_answer() {
    for dialect in [Dialect::Oauth, Dialect::Status, Dialect::Both] {
        let fake = FakeBkey::start(dialect);
        let ciba = of(&fake);
        for (decision, wanted) in [
            (Decision::Denied, QuestionStatus::Denied(Denial::default())),
            (Decision::Expired, QuestionStatus::Expired),
        ] {
            fake.decide_next(decision);
            let mut asked = ciba.start(&question()).await.unwrap();
            assert_eq!(look(&ciba, &mut asked).await, wanted, "{dialect:?}");
        }
    }
}

#[tokio::test]
async fn another_persons_token_is_rejected() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let ciba = of(&fake);
    // The agent itself, whose own token also has the scope.
    for subject in ["did:bkey:zSomebodyElse", CLIENT_ID] {
        fake.answers_as(subject);
        fake.decide_next(Decision::Approved);
        let mut asked = ciba.start(&question()).await.unwrap();
        assert_eq!(code(look(&ciba, &mut asked).await), "token_rejected:wrong_subject");
    }
}

#[tokio::test]
async fn a_server_that_signs_no_details_cannot_approve_where_they_were_sent() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let mut settings = settings(&fake.base, Style::Bkey);
    settings.options.style = Style::Standard;
    settings.options.details_type = Some("payment_initiation".to_owned());
    let ciba = client(settings);
    // This server expects JSON, so the question cannot be sent in this style. Its tokens never name a payment.
    assert_eq!(ciba.start(&question()).await.unwrap_err().code, "invalid_request");
    let asked = of(&fake).start(&question()).await.unwrap();
    fake.decide(&asked.handle, Decision::Approved);
    assert_eq!(
        code(look(&ciba, &mut asked.clone()).await),
        "token_rejected:binding_mismatch"
    );
}

#[tokio::test]
async fn a_question_is_taken_up_again_after_a_restart() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let mut asked = of(&fake).start(&question()).await.unwrap();
    let again = of(&fake);
    wait(look(&again, &mut asked).await);
    fake.decide(&asked.handle, Decision::Approved);
    assert!(matches!(
        look(&of(&fake), &mut asked).await,
        QuestionStatus::Approved(_)
    ));
}

#[tokio::test]
async fn after_its_end_nobody_is_asked_about_it() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let ciba = of(&fake);
    let mut asked = ciba.start(&question()).await.unwrap();
    asked.expires_at = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(9);
    // The grace period is ten seconds; the wait ends with it.
    assert!(wait(look(&ciba, &mut asked).await).as_secs() <= 2);
    asked.expires_at = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(11);
    assert_eq!(look(&ciba, &mut asked).await, QuestionStatus::Expired);
    assert_eq!(fake.count(Call::Look), 1);
}
