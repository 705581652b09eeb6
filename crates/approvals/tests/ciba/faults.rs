//! Network and server faults, and what they must never cause: an approver asked twice, a decision that nobody made, a
//! lost token.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bursar_approvals::{Backend, QuestionStatus};
use tokio::net::TcpListener;
use tracing_subscriber::fmt::MakeWriter;

use crate::bkey::{CLIENT_SECRET, Call, Decision, Dialect, FakeBkey, Mishap};
use crate::support::{code, look, of, question, refused, wait};

fn answer(status: u16, body: &str) -> Mishap {
    Mishap::Answer(status, Vec::new(), body.to_owned())
}

#[tokio::test]
async fn slow_down_is_permanent() {
    for dialect in [Dialect::Oauth, Dialect::Both] {
        let fake = FakeBkey::start(dialect);
        let ciba = of(&fake);
        let mut asked = ciba.start(&question()).await.unwrap();
        fake.mishaps(Call::Look, &[Mishap::SlowDown, Mishap::None, Mishap::SlowDown]);
        for wanted in [10, 10, 15] {
            assert_eq!(wait(look(&ciba, &mut asked).await).as_secs(), wanted);
        }
        // It also outlives a restart.
        assert_eq!(asked.interval.as_secs(), 15);
        assert_eq!(wait(look(&of(&fake), &mut asked).await).as_secs(), 15);
    }
}

#[tokio::test]
async fn trouble_is_no_decision() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let ciba = of(&fake);
    let mut asked = ciba.start(&question()).await.unwrap();
    let later = vec![("retry-after", "33".to_owned())];
    fake.mishaps(
        Call::Look,
        &[
            answer(503, "oops"),
            Mishap::CutBefore,
            answer(200, "<html>"),
            Mishap::Answer(429, later, String::new()),
            Mishap::None,
        ],
    );
    for (wanted, failures) in [(10, 1), (20, 2), (40, 3), (60, 4), (5, 0)] {
        assert_eq!(wait(look(&ciba, &mut asked).await).as_secs(), wanted);
        assert_eq!(asked.failures, failures);
    }
    fake.decide(&asked.handle, Decision::Approved);
    assert!(matches!(look(&ciba, &mut asked).await, QuestionStatus::Approved(_)));
}

#[tokio::test]
async fn a_token_that_was_cut_off_is_lost_and_no_denial() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let ciba = of(&fake);
    let mut asked = ciba.start(&question()).await.unwrap();
    fake.decide(&asked.handle, Decision::Approved);
    fake.mishaps(Call::Look, &[Mishap::CutAfter]);
    wait(look(&ciba, &mut asked).await);
    let QuestionStatus::Failed(failure) = look(&ciba, &mut asked).await else {
        panic!()
    };
    assert_eq!((failure.code.as_str(), failure.retryable), ("token_lost", true));
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let elsewhere = FakeBkey::start(Dialect::Oauth);
    let there = |path: &str| {
        let to = format!("{}{path}", elsewhere.base);
        Mishap::Answer(307, vec![("location", to)], String::new())
    };
    let ciba = of(&fake);
    let mut asked = ciba.start(&question()).await.unwrap();
    fake.mishaps(Call::Look, &[there("/oauth/token")]);
    assert_eq!(code(look(&ciba, &mut asked).await), "redirected");
    fake.mishaps(Call::Ask, &[there("/oauth/bc-authorize")]);
    assert_eq!(refused(&ciba).await.code, "redirected");
    fake.mishaps(Call::Discovery, &[there("/.well-known/openid-configuration")]);
    assert_eq!(refused(&of(&fake)).await.code, "discovery_failed");
    let calls = [
        Call::Discovery,
        Call::Keys,
        Call::LogIn,
        Call::Ask,
        Call::Look,
        Call::Other,
    ];
    assert!(calls.iter().all(|call| elsewhere.count(*call) == 0));
}

#[tokio::test]
async fn an_approver_who_may_have_been_asked_is_not_asked_again() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let ciba = of(&fake);
    let mishaps = [
        Mishap::CutBefore,
        Mishap::CutAfter,
        answer(503, ""),
        answer(200, "<html>"),
        answer(200, r#"{"auth_req_id":"a b","expires_in":300}"#),
    ];
    for (nth, mishap) in mishaps.into_iter().enumerate() {
        fake.mishaps(Call::Ask, &[mishap]);
        assert_eq!(refused(&ciba).await.code, "start_unknown");
        assert_eq!(fake.count(Call::Ask), nth + 1);
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_was_not_asked() {
    // Accepts connections but never completes the TLS handshake, so no request can have been sent.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf = format!("https://{}", listener.local_addr().unwrap());
    let knocked = Arc::new(AtomicUsize::new(0));
    let counter = knocked.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let fake = FakeBkey::start(Dialect::Oauth);
    let document = serde_json::json!({
        "issuer": fake.base,
        "backchannel_authentication_endpoint": deaf,
        "token_endpoint": format!("{}/oauth/token", fake.base),
        "jwks_uri": format!("{}/oauth/jwks", fake.base),
        "backchannel_token_delivery_modes_supported": ["poll"],
    });
    fake.mishaps(Call::Discovery, &[answer(200, &document.to_string())]);
    let failure = refused(&of(&fake)).await;
    assert_eq!((failure.code.as_str(), failure.retryable), ("unreachable", true));
    assert_eq!(knocked.load(Ordering::SeqCst), 2, "one retry, and no more");
}

#[tokio::test]
async fn a_message_that_cannot_be_shown_is_shortened_once() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let ciba = of(&fake);
    fake.mishaps(Call::Ask, &[Mishap::BindingMessage]);
    ciba.start(&question()).await.unwrap();
    let shown = fake.questions()[0]["binding_message"].clone();
    assert_eq!(shown, "12.50USDC#0BY5GS4N");
    assert_eq!(fake.count(Call::Ask), 2);
    fake.mishaps(Call::Ask, &[Mishap::BindingMessage, Mishap::BindingMessage]);
    assert_eq!(refused(&ciba).await.code, "invalid_binding_message");
    assert_eq!(fake.count(Call::Ask), 4);
}

#[tokio::test]
async fn keys_are_rotated_while_a_question_is_open() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let ciba = of(&fake);
    let approved = async |rotate: bool| {
        let mut asked = ciba.start(&question()).await.unwrap();
        wait(look(&ciba, &mut asked).await);
        if rotate {
            fake.rotate();
        }
        fake.decide(&asked.handle, Decision::Approved);
        (look(&ciba, &mut asked).await, asked)
    };
    assert!(matches!(approved(false).await.0, QuestionStatus::Approved(_)));
    assert!(matches!(approved(false).await.0, QuestionStatus::Approved(_)));
    assert_eq!(fake.count(Call::Keys), 1, "cached for an hour");
    assert!(matches!(approved(true).await.0, QuestionStatus::Approved(_)));
    assert_eq!(fake.count(Call::Keys), 2);
    // A second rotation within a minute: the token waits until the keys may be fetched again, and is not fetched twice.
    let (question_status, mut asked) = approved(true).await;
    let least = Duration::from_secs(50);
    assert!(wait(question_status) > least && wait(look(&ciba, &mut asked).await) > least);
    assert_eq!((fake.count(Call::Keys), fake.count(Call::Look)), (2, 8));
}

#[tokio::test]
async fn a_key_that_nobody_publishes_is_looked_for_once() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let ciba = of(&fake);
    fake.decide_next(Decision::Approved);
    let mut asked = ciba.start(&question()).await.unwrap();
    assert!(matches!(look(&ciba, &mut asked).await, QuestionStatus::Approved(_)));
    fake.rotate_in_secret();
    fake.decide_next(Decision::Approved);
    let mut asked = ciba.start(&question()).await.unwrap();
    assert_eq!(code(look(&ciba, &mut asked).await), "token_rejected:unknown_kid");
    assert_eq!(fake.count(Call::Keys), 2);
}

#[tokio::test]
async fn a_token_waits_for_the_keys_of_a_server_that_is_down() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let ciba = of(&fake);
    fake.decide_next(Decision::Approved);
    let mut asked = ciba.start(&question()).await.unwrap();
    fake.break_down(Call::Keys);
    assert!(wait(look(&ciba, &mut asked).await) >= Duration::from_secs(5));
    wait(look(&ciba, &mut asked).await);
    fake.mend();
    assert!(matches!(look(&ciba, &mut asked).await, QuestionStatus::Approved(_)));
    assert_eq!(fake.count(Call::Look), 1, "fetched once, then kept");
}

#[tokio::test]
async fn cached_keys_and_metadata_serve_while_the_server_is_down() {
    let fake = FakeBkey::start(Dialect::Oauth);
    fake.keys_are_good_for(0);
    let ciba = of(&fake);
    for down in [false, false, true, true] {
        fake.decide_next(Decision::Approved);
        let mut asked = ciba.start(&question()).await.unwrap();
        if down {
            fake.break_down(Call::Keys);
        }
        assert!(matches!(look(&ciba, &mut asked).await, QuestionStatus::Approved(_)));
    }
    // Twice while it was up and once while it was down; then no attempt for a minute.
    assert_eq!(fake.count(Call::Keys), 3);
    assert_eq!(fake.count(Call::Discovery), 1);
}

#[tokio::test]
async fn a_server_that_is_not_the_issuer_is_asked_nothing() {
    let fake = FakeBkey::start(Dialect::Oauth);
    fake.calls_itself("https://api.bkey.id");
    let failure = refused(&of(&fake)).await;
    assert_eq!((failure.code.as_str(), failure.retryable), ("discovery_failed", true));
    fake.calls_itself(&fake.base);
    fake.break_down(Call::Discovery);
    assert_eq!(refused(&of(&fake)).await.code, "discovery_failed");
    assert_eq!(fake.count(Call::LogIn) + fake.count(Call::Ask), 0);
    // A poll needs the metadata too; without it, nothing is decided.
    let (up, down) = (FakeBkey::start(Dialect::Oauth), of(&fake));
    let mut asked = of(&up).start(&question()).await.unwrap();
    assert_eq!(wait(look(&down, &mut asked).await).as_secs(), 10);
}

#[tokio::test]
async fn the_agent_logs_in_once_for_all() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let ciba = of(&fake);
    let question = question();
    let starts = (0..8).map(|_| ciba.start(&question));
    for started in futures(starts).await {
        started.unwrap();
    }
    assert_eq!((fake.count(Call::LogIn), fake.count(Call::Ask)), (1, 8));

    // A token that expires within a minute is not cached.
    let fake = FakeBkey::start(Dialect::Oauth);
    fake.agent_tokens_live(59);
    let ciba = of(&fake);
    ciba.start(&question).await.unwrap();
    ciba.start(&question).await.unwrap();
    assert_eq!(fake.count(Call::LogIn), 2);
}

#[tokio::test]
async fn a_revoked_agent_token_is_replaced() {
    let fake = FakeBkey::start(Dialect::Oauth);
    let ciba = of(&fake);
    ciba.start(&question()).await.unwrap();
    fake.mishaps(Call::Ask, &[Mishap::TokenRefused, Mishap::None, Mishap::None]);
    let failure = refused(&ciba).await;
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("agent_token_refused", true)
    );
    ciba.start(&question()).await.unwrap();
    assert_eq!(fake.count(Call::LogIn), 2);
    // If a fresh token is refused, the client is misconfigured.
    let other = of(&fake);
    fake.mend();
    fake.mishaps(Call::Ask, &[Mishap::TokenRefused]);
    assert_eq!(refused(&other).await.code, "invalid_client");
    fake.mishaps(Call::LogIn, &[answer(401, r#"{"error":"invalid_client"}"#)]);
    assert_eq!(refused(&of(&fake)).await.code, "invalid_client");
}

async fn futures<T: Send + 'static>(
    all: impl Iterator<Item = std::pin::Pin<Box<dyn Future<Output = T> + Send + '_>>>,
) -> Vec<T> {
    let mut pending: Vec<_> = all.collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        pending.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(value) => {
                done.push(value);
                false
            }
            std::task::Poll::Pending => true,
        });
        match pending.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    done
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[test]
fn no_secret_is_logged() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    let fake = FakeBkey::start(Dialect::Oauth);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            fake.answers_as("did:bkey:zSomebodyElse");
            fake.mishaps(Call::Keys, &[answer(200, "{}")]);
            let ciba = of(&fake);
            fake.decide_next(Decision::Approved);
            let mut asked = ciba.start(&question()).await.unwrap();
            wait(look(&ciba, &mut asked).await);
            code(look(&ciba, &mut asked).await);
        });
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        log.contains("wrong_subject") && log.contains("cannot fetch the identity server's keys"),
        "{log}"
    );
    assert_eq!(fake.tokens().len(), 2);
    for secret in fake.tokens().iter().map(String::as_str).chain([CLIENT_SECRET]) {
        assert!(!log.contains(secret), "{log}");
    }
}
