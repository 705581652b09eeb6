//! A question's handle fetches its answer, and the answer is a bearer token. Both are only in the question's own file,
//! whatever the log level (R46).

use std::path::Path;

use crate::approvals::ciba::{asked, at_ten_cents, fake, ping, pinged};
use crate::money::canary::{files, holds, loud, spellings};
use crate::support::bkey::{APPROVER, CLIENT_SECRET, Decision};
use crate::support::bursar::eventually;

#[tokio::test]
async fn handles_and_tokens_are_in_no_log_line_and_no_other_file() {
    let (origin, fake) = (at_ten_cents().await, fake());
    let mut bursar = pinged(&origin, &fake).serve_by(loud());
    let mut ids = Vec::new();
    // One token is rejected, one is accepted, and one question is denied.
    for (subject, decision, status) in [
        ("did:bkey:zSomebodyElse", Decision::Approved, 503),
        (APPROVER, Decision::Approved, 200),
        (APPROVER, Decision::Denied, 403),
    ] {
        fake.answers_as(subject);
        let (waiting, handle) = asked(&bursar, &origin, &fake).await;
        let open = ids.len() + 1;
        let is_open = || (bursar.log().matches("a person is asked").count() == open).then_some(());
        eventually("the question to be open", is_open).await;
        fake.decide(&handle, decision);
        let questions = fake.questions();
        let token = questions.last().unwrap()["client_notification_token"].as_str().unwrap();
        assert_eq!(
            ping(bursar.callbacks(), "/approvals/ciba/ping", token, "guessed").await,
            401
        );
        assert_eq!(
            ping(bursar.callbacks(), "/approvals/ciba/ping", token, &handle).await,
            204
        );
        assert_eq!(waiting.await.unwrap().status, status);
        ids.push(handle);
    }
    assert_eq!(bursar.stop(), 0);
    let home = bursar.kill();
    let log = std::fs::read_to_string(home.path().join("serve.log")).unwrap();
    for said in [
        "DEBUG",
        "the approval token was rejected",
        "the approval backend reports an answer",
        "wrong_subject",
    ] {
        assert!(log.contains(said), "the log does not say {said:?}");
    }

    let questions = fake.questions();
    let pings = questions
        .iter()
        .map(|asked| asked["client_notification_token"].as_str().unwrap());
    let mut secrets: Vec<String> = pings.map(str::to_owned).collect();
    secrets.extend(fake.tokens());
    secrets.extend(ids.iter().cloned());
    secrets.push(CLIENT_SECRET.to_owned());
    assert_eq!(secrets.len(), 3 + 2 + 3 + 1);
    let may_hold_secrets =
        |path: &Path| path.parent().unwrap().ends_with("private/approvals") || path.ends_with("bkey-secret");
    let mut found = 0;
    for path in files(home.path()) {
        let bytes = std::fs::read(&path).unwrap();
        for secret in &secrets {
            let is_there = spellings(secret).iter().any(|spelling| holds(&bytes, spelling));
            assert!(
                !is_there || may_hold_secrets(&path),
                "{} holds {secret}",
                path.display()
            );
            found += usize::from(is_there);
        }
    }
    // Check the search itself: each handle is in its file, and so is the accepted token.
    assert!(found >= ids.len() + 2, "{found}");
}
