use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::sync::Notify;

use super::*;

/// Answers by the path of the request.
#[derive(Clone, Default)]
struct Site {
    stopping: Arc<Notify>,
    is_stopping: Arc<Mutex<bool>>,
    /// How many exchanges of `/wait` were given up.
    given_up: Arc<AtomicUsize>,
    waits: Arc<Notify>,
}

struct GivenUp(Arc<AtomicUsize>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Site {
    fn stop(&self) {
        *self.is_stopping.lock().unwrap() = true;
        self.stopping.notify_waiters();
    }

    async fn answered(&self, request: Request<AgentBody>) -> Response<AnswerBody> {
        let (head, body) = request.into_parts();
        let (target, exchange) = (head.uri.to_string(), body.exchange());
        match target.as_str() {
            "/unread" => return Response::new(AnswerBody::full("no".into())),
            "/wait" | "/present" => {
                let _given_up = GivenUp(self.given_up.clone());
                let _presence = (target == "/present").then(|| exchange.require_presence());
                self.waits.notified().await;
            }
            "/hints" => {
                for link in ["a", "b"] {
                    let hint = Response::builder().status(103).header("link", link);
                    exchange.inform(hint.body(()).unwrap());
                    tokio::task::yield_now().await;
                }
            }
            "/nothing" => {
                let nothing = Response::builder().status(StatusCode::NO_CONTENT);
                return nothing.body(AnswerBody::empty()).unwrap();
            }
            _ => {}
        }
        exchange.invite();
        let Ok(body) = body.collect().await else {
            return Response::builder().status(400).body(AnswerBody::empty()).unwrap();
        };
        let trailers = body
            .trailers()
            .map(|trailers| format!("{trailers:?}"))
            .unwrap_or_default();
        let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        let text = format!("{} {target} {body}{trailers}\n", head.method);
        Response::new(AnswerBody::full(text.into()))
    }
}

impl Service for Site {
    async fn answer(&self, request: Request<AgentBody>, serving: Serving) -> Answer {
        let then = match request.method() {
            &Method::CONNECT => Then::Tunnel,
            _ => Then::GoOn,
        };
        if then == Then::Tunnel {
            let response = Response::new(AnswerBody::empty());
            return Answer { response, then };
        }
        let response = self.answered(request).await;
        let response = response.map(|body| body.while_serving(serving));
        Answer { response, then }
    }

    fn refuse(&self, why: Refused) -> Response<AnswerBody> {
        let text = AnswerBody::full(format!("{why:?}").into());
        Response::builder().status(400).body(text).unwrap()
    }

    fn is_stopping(&self) -> bool {
        *self.is_stopping.lock().unwrap()
    }

    async fn stopped(&self) {
        self.stopping.notified().await;
    }
}

/// Everything that is answered to `said`, sent in `parts` and then ended.
async fn conversation(site: &Site, parts: Vec<&[u8]>) -> String {
    let (mut agent, ours) = duplex(64);
    let talk = async {
        let (mut reading, mut writing) = tokio::io::split(&mut agent);
        let write = async {
            for part in parts {
                // The other side may have closed.
                let _ = writing.write_all(part).await;
                tokio::task::yield_now().await;
            }
            let _ = writing.shutdown().await;
        };
        let mut heard = Vec::new();
        let (read, ()) = tokio::join!(reading.read_to_end(&mut heard), write);
        read.unwrap();
        String::from_utf8(heard).unwrap()
    };
    let busy = Busy::default();
    let (heard, _) = tokio::join!(talk, serve(ours, &busy, site));
    heard
}

async fn said(text: &str) -> String {
    conversation(&Site::default(), vec![text.as_bytes()]).await
}

fn ok(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

const REQUESTS: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n\
    POST /b?\"c\" HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\
    \r\nPOST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n4;x=y\r\n-two\r\n0\r\nT: 1\r\n\r\n\
    POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nunread\
    GET /d HTTP/1.1\nHost: x\n\n\
    GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n\
    HEAD /e HTTP/1.1\r\nHost: x\r\n\r\n\
    GET /hints HTTP/1.1\r\nHost: x\r\n\r\n";

fn answers() -> String {
    [
        ok("GET /a \n"),
        ok("POST /b?%22c%22 hello\n"),
        ok("POST /c one-two{\"t\": \"1\"}\n"),
        ok("no"),
        ok("GET /d \n"),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: b\r\n\r\n".to_owned(),
        ok("GET /hints \n"),
    ]
    .concat()
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_in_their_order() {
    assert_eq!(said(REQUESTS).await, answers());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_answers_do_not_depend_on_how_the_bytes_arrive(mut cuts in proptest::collection::vec(0..REQUESTS.len(), 0..40)) {
        cuts.sort_unstable();
        let mut parts = Vec::new();
        let mut from = 0;
        for cut in cuts {
            parts.push(&REQUESTS.as_bytes()[from..cut]);
            from = cut;
        }
        parts.push(&REQUESTS.as_bytes()[from..]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let heard = runtime.block_on(conversation(&Site::default(), parts));
        prop_assert_eq!(heard, answers());
    }
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_ends_the_connection() {
    for (text, why) in [
        ("GET /a b HTTP/1.1\r\n\r\n", "Malformed(RequestLine)"),
        ("GET / HTTP/1.1\r\nA : b\r\n\r\n", "Malformed(BlankBeforeColon)"),
        ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "Malformed(Folded)"),
        (
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            "Malformed(ContentLength)",
        ),
    ] {
        let heard = said(&format!("{text}GET /next HTTP/1.1\r\n\r\n")).await;
        let length = why.len();
        let expected =
            format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{why}");
        assert_eq!(heard, expected, "{text:?}");
    }
    let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(HEAD_BYTES));
    assert!(said(&long).await.ends_with("\r\n\r\nTooLong"));
}

#[tokio::test]
async fn the_connection_stays_as_both_versions_of_http_mean_it() {
    let second = "GET /2 HTTP/1.0\r\n\r\n";
    for (first, stays) in [
        ("GET /1 HTTP/1.1\r\n\r\n", true),
        ("GET /1 HTTP/1.1\r\nConnection: close\r\n\r\n", false),
        ("GET /1 HTTP/1.1\r\nConnection: x, Close\r\n\r\n", false),
        ("GET /1 HTTP/1.0\r\n\r\n", false),
        ("GET /1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
    ] {
        let heard = said(&format!("{first}{second}")).await;
        assert_eq!(
            heard.matches("HTTP/1.1 200").count(),
            1 + usize::from(stays),
            "{first:?}"
        );
        assert_eq!(heard.matches("Connection: close").count(), 1, "{first:?}");
    }
}

#[tokio::test]
async fn an_upload_is_asked_for_when_it_is_wanted() {
    let post = |path: &str| format!("POST {path} HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    let heard = said(&format!("{}hi", post("/a"))).await;
    assert_eq!(heard, format!("HTTP/1.1 100 Continue\r\n\r\n{}", ok("POST /a hi\n")));
    // Not asked for, it may come or not: nothing can follow it.
    let heard = said(&format!("{}GET / HTTP/1.1\r\n\r\n", post("/unread"))).await;
    assert_eq!(
        heard,
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    );
}

#[tokio::test]
async fn an_agent_that_has_said_everything_gets_its_answer() {
    let site = Site::default();
    let waits = site.waits.clone();
    let (heard, ()) = tokio::join!(conversation(&site, vec![b"GET /wait HTTP/1.1\r\n\r\n"]), async {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        waits.notify_one();
    });
    assert_eq!(heard, ok("GET /wait \n"));
    // Unless it has to be there.
    let heard = conversation(&site, vec![b"GET /present HTTP/1.1\r\n\r\n"]).await;
    assert_eq!((heard.as_str(), site.given_up.load(Ordering::Relaxed)), ("", 2));
}

/// Counts writes, and ends with an error instead of a FIN.
struct Counting {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match polled {
            Poll::Ready(Ok(())) if buf.filled().len() == before => {
                Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            polled => polled,
        }
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn an_answer_is_one_write() {
    let (mut agent, stream) = duplex(64 << 10);
    let writes = Arc::new(AtomicUsize::new(0));
    let stream = Counting {
        stream,
        writes: writes.clone(),
    };
    let site = Site::default();
    let serving = tokio::spawn(async move { matches!(serve(stream, &Busy::default(), &site).await, Served::Over) });
    for exchanges in 1..=3 {
        agent.write_all(b"GET /a HTTP/1.1\r\n\r\n").await.unwrap();
        let mut heard = vec![0; ok("GET /a \n").len()];
        agent.read_exact(&mut heard).await.unwrap();
        assert_eq!(writes.load(Ordering::Relaxed), exchanges);
    }
    drop(agent);
    assert!(serving.await.unwrap());
}

#[tokio::test]
async fn an_agent_that_is_gone_takes_its_exchange_with_it() {
    let (mut agent, stream) = duplex(64 << 10);
    let stream = Counting {
        stream,
        writes: Arc::default(),
    };
    let site = Site::default();
    agent.write_all(b"GET /wait HTTP/1.1\r\n\r\n").await.unwrap();
    drop(agent);
    serve(stream, &Busy::default(), &site).await;
    assert_eq!(site.given_up.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_stop_ends_what_rests_and_lets_what_runs_finish() {
    let site = Site::default();
    let (_agent, ours) = duplex(64);
    let busy = Busy::default();
    let (served, ()) = tokio::join!(serve(ours, &busy, &site), async {
        tokio::task::yield_now().await;
        site.stop();
    });
    assert!(matches!(served, Served::Over));

    let site = Site::default();
    let (heard, ()) = tokio::join!(
        conversation(&site, vec![b"GET /wait HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n"]),
        async {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            site.stop();
            site.waits.notify_one();
        }
    );
    let text = "GET /wait \n";
    let length = text.len();
    assert_eq!(
        heard,
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}")
    );
}

#[tokio::test]
async fn a_tunnel_begins_with_what_came_behind_its_head() {
    let (mut agent, ours) = duplex(1 << 10);
    agent.write_all(b"CONNECT x:1 HTTP/1.1\r\n\r\nhello").await.unwrap();
    let Served::Tunnel(mut tunnel) = serve(ours, &Busy::default(), &Site::default()).await else {
        panic!("no tunnel");
    };
    let mut heard = [0; 5];
    tunnel.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    let mut heard = [0; 19];
    agent.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"HTTP/1.1 200 OK\r\n\r\n");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_nobody_wants_is_not_waited_for_for_ever() {
    let (mut agent, ours) = duplex(1 << 10);
    let began = tokio::time::Instant::now();
    agent
        .write_all(b"POST /unread HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf")
        .await
        .unwrap();
    let served = serve(ours, &Busy::default(), &Site::default()).await;
    assert!(matches!(served, Served::Over));
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    let mut heard = String::new();
    agent.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, ok("no"));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_stands_still_does_not_hold_its_connection_for_ever() {
    let (agent, near) = duplex(64);
    let shared = Shared::new(Wire::new(near));
    // It is read by somebody who never reads on.
    let upload = Incoming::of_request(&shared, Length::Known(5), None);
    let began = tokio::time::Instant::now();
    linger(&shared).await;
    assert!(began.elapsed() < Duration::from_secs(11 * 60));
    drop((upload, agent));
}
