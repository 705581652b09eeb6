use std::io;
use std::path::Path;
use std::sync::{LazyLock, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::alerts::{Program, Webhook};
use bursar_approvals::testing::{offer, question_about};
use bursar_core::clock::ManualClock;
use bursar_net::tls::upstream::{Trust, UpstreamTls};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn notifier(channels: Vec<Channel>) -> QuestionNotifier {
    let clock: SharedClock = Arc::new(ManualClock::at(now()));
    QuestionNotifier::new(channels, clock.clone(), Alerts::new(clock).0)
}

fn in_seconds(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

fn command(words: &[&str], dir: &Path) -> Channel {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    Channel::Command(Arc::new(Program::new(words, dir.to_owned())))
}

fn webhook(url: &str) -> Channel {
    let tls = UpstreamTls::new(&Trust::default(), Duration::from_secs(10)).unwrap();
    let token = Some("whoever-asks".into());
    Channel::Webhook(Arc::new(Webhook::new(url.parse().unwrap(), token, Arc::new(tls))))
}

fn expected() -> Value {
    let question = question_about(&offer());
    let code = question.code;
    json!({
        "kind": "approval",
        "id": question.id,
        "sentence": format!("build-bot: pay 12.50 USDC to api.example.com #{code}"),
        "approver": "usr_42",
        "expires_at": "2027-01-15T08:05:00Z",
    })
}

/// Everything that is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
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

/// While there is one subscriber, tracing asks the thread that comes to an event first whether anybody listens, and
/// remembers a no of another test's thread for all. With two it asks both.
static SECOND: LazyLock<tracing::Dispatch> = LazyLock::new(|| {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(io::sink)
        .finish();
    tracing::Dispatch::new(subscriber)
});

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        LazyLock::force(&SECOND);
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn a_command_gets_the_sentence_and_nothing_of_our_environment() {
    let dir = tempfile::tempdir().unwrap();
    let send = command(&["sh", "-c", "cat > told.json; env > env.txt"], dir.path());
    let history = notifier(vec![send])
        .notify(&question_about(&offer()), in_seconds(300))
        .await;
    assert_eq!(history, Notified::ByOneAtLeast);
    let text = std::fs::read_to_string(dir.path().join("told.json")).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected());
    let environment = std::fs::read_to_string(dir.path().join("env.txt")).unwrap();
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some() && !environment.contains("CARGO"));
}

#[tokio::test]
async fn a_webhook_gets_the_same_notice_with_its_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/approve?key=k", listener.local_addr().unwrap());
    let (seen, mut posts) = mpsc::channel(1);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(move |request: Request<Incoming>| {
            let seen = seen.clone();
            async move {
                let (head, body) = request.into_parts();
                seen.send((head, body.collect().await?.to_bytes())).await.unwrap();
                Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::default()))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let _ = connection.await;
    });
    let dir = tempfile::tempdir().unwrap();
    let channels = vec![command(&["false"], dir.path()), webhook(&url)];
    let notifier = notifier(channels);
    let question = question_about(&offer());
    // The command keeps failing; the delivery to the webhook counts.
    let notifying = notifier.notify(&question, in_seconds(300));
    let (head, body) = tokio::select! {
        history = notifying => panic!("{history:?} before the command's retries ended"),
        post = posts.recv() => post.unwrap(),
    };
    assert_eq!(head.uri, "/approve?key=k");
    assert_eq!(head.headers["authorization"], "Bearer whoever-asks");
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected());
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_until_the_question_is_over_and_the_log_has_no_code() {
    let (log, _guard) = Log::start();
    let dir = tempfile::tempdir().unwrap();
    let question = question_about(&offer());
    let notifier = notifier(vec![command(&["./nobody-there"], dir.path())]);
    assert_eq!(notifier.notify(&question, in_seconds(300)).await, Notified::ByNone);
    assert_eq!(log.text().matches("cannot deliver to").count(), 4);
    assert_eq!(log.text().matches("giving up").count(), 1);

    assert_eq!(notifier.notify(&question, in_seconds(5)).await, Notified::ByNone);
    assert_eq!(log.text().matches("cannot deliver to").count(), 6);
    // Nobody is notified of a question that is already over.
    assert_eq!(notifier.notify(&question, in_seconds(-1)).await, Notified::ByNone);
    assert_eq!(log.text().matches("cannot deliver to").count(), 6);

    let text = log.text();
    assert!(text.contains(&question.id.to_string()), "{text}");
    for secret in [question.code.as_str(), &question.sentence, "api.example.com"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn without_a_channel_nobody_is_notified() {
    let history = notifier(Vec::new())
        .notify(&question_about(&offer()), in_seconds(300))
        .await;
    assert_eq!(history, Notified::ByNone);
}
