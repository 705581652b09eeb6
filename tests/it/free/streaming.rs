//! Streams: an event arrives before the next one exists, an upload before it ends, raw bytes after an upgrade; and time
//! limits that must not cut them.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, setup};
use crate::support::origin::Origin;
use crate::support::wire::{Frames, Wire, soon};

const H1: &[&str] = &["http/1.1"];
const SHORT: &str = "[timeouts]\nhead_s = 1\nhello_s = 1\n";

async fn wire(bursar: &Bursar, origin: &Origin) -> Wire<TlsStream<TcpStream>> {
    Wire::new(Agent::of(bursar).tls(origin.address, "localhost", H1).await.unwrap())
}

fn get(origin: &Origin, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:{}\r\n\r\n",
        origin.address.port()
    )
}

/// An h1 site that sends each event the test gives it, and a last one when the test stops.
async fn events() -> (Origin, mpsc::UnboundedSender<&'static str>) {
    let (say, said) = mpsc::unbounded_channel::<&'static str>();
    let said = std::sync::Arc::new(tokio::sync::Mutex::new(said));
    let origin = Origin::raw(move |stream, _| {
        let said = said.clone();
        async move {
            let mut wire = Wire::new(stream);
            while let Some(request) = wire.request().await {
                if request.start.contains(" /next ") {
                    wire.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext").await;
                    continue;
                }
                wire.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .await;
                let mut said = said.lock().await;
                while let Some(event) = said.recv().await.filter(|event| !event.is_empty()) {
                    wire.say(format!("{:x}\r\n{event}\r\n", event.len())).await;
                }
                wire.say("0\r\n\r\n").await;
            }
        }
    })
    .await;
    (origin, say)
}

#[tokio::test]
async fn an_event_arrives_before_the_next_one_exists() {
    let (origin, say) = events().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut wire = wire(&bursar, &origin).await;
    wire.say(get(&origin, "/")).await;
    let head = wire.head().await.unwrap();
    assert_eq!(head.field("content-type"), Some("text/event-stream"));
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        say.send(event).unwrap();
        assert_eq!(wire.chunk().await.unwrap(), event.as_bytes());
    }
    say.send("").unwrap();
    assert_eq!(wire.until("0\r\n\r\n").await.as_deref(), Some("0\r\n\r\n"));
}

#[tokio::test]
async fn an_upload_arrives_before_its_end_and_may_be_answered_meanwhile() {
    let origin = Origin::raw(|stream, _| async move {
        let mut wire = Wire::new(stream);
        wire.head().await.unwrap();
        wire.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        loop {
            let size = wire.chunk_size().await.unwrap();
            let part = wire.exactly(size + 2).await.unwrap();
            wire.say(format!("{size:x}\r\n")).await;
            wire.say(part).await;
            if size == 0 {
                break;
            }
        }
        wire.rest().await;
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut wire = wire(&bursar, &origin).await;
    let port = origin.address.port();
    wire.say(format!(
        "POST / HTTP/1.1\r\nHost: localhost:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
    ))
    .await;
    wire.say("3\r\none\r\n").await;
    assert_eq!(wire.head().await.unwrap().status(), 200);
    assert_eq!(
        wire.chunk().await.unwrap(),
        b"one",
        "echoed before the second part was sent"
    );
    wire.say("3\r\ntwo\r\n").await;
    assert_eq!(wire.chunk().await.unwrap(), b"two");
    wire.say("0\r\n\r\n").await;
    assert_eq!(wire.until("0\r\n\r\n").await.as_deref(), Some("0\r\n\r\n"));
}

/// An h2 site that echoes while it reads, and reports what it read.
async fn duplex_site() -> (Origin, mpsc::UnboundedReceiver<Bytes>) {
    let (arrived, arrives) = mpsc::unbounded_channel();
    let origin = Origin::raw_with(&["h2"], move |stream, _| {
        let arrived = arrived.clone();
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let arrived = arrived.clone();
                async move {
                    let (frames, body) = Frames::new();
                    tokio::spawn(async move {
                        let mut upload = request.into_body();
                        while let Some(Ok(frame)) = upload.frame().await {
                            let data = frame.into_data().unwrap_or_default();
                            arrived.send(data.clone()).unwrap();
                            frames.send(Frame::data(data)).unwrap();
                        }
                    });
                    Ok::<_, Infallible>(Response::new(body))
                }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await;
    (origin, arrives)
}

#[tokio::test]
async fn h2_streams_flow_in_both_directions_at_once() {
    let (origin, mut arrives) = duplex_site().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let stream = Agent::of(&bursar)
        .tls(origin.address, "localhost", &["h2"])
        .await
        .unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut open = Vec::new();
    // Several at once on one connection.
    for _ in 0..3 {
        let (upload, body) = Frames::new();
        let request = Request::post(origin.url("/")).body(body).unwrap();
        let response = soon(sender.send_request(request)).await.unwrap();
        open.push((upload, response.into_body()));
    }
    for part in ["one", "two"] {
        for (upload, answer) in &mut open {
            upload.send(Frame::data(part.into())).unwrap();
            assert_eq!(soon(arrives.recv()).await.unwrap(), part);
            let echoed = soon(answer.frame()).await.unwrap().unwrap();
            assert_eq!(echoed.into_data().unwrap(), part);
        }
    }
    for (upload, answer) in open {
        drop(upload);
        assert_eq!(soon(answer.collect()).await.unwrap().to_bytes(), "");
    }
}

/// Waits past the time limit for a head, by watching another connection run into it.
async fn outlast_a_head(bursar: &Bursar) {
    let mut slow = Wire::to(bursar).await;
    slow.say("GET http://x/ HTTP/1.1\r\nX: ").await;
    assert_eq!(slow.rest().await, b"");
}

#[tokio::test]
async fn a_long_stream_is_not_cut_by_the_bound_of_the_next_head() {
    let (origin, say) = events().await;
    let bursar = setup().config(SHORT).trust(&origin.ca_pem).start();
    let mut wire = wire(&bursar, &origin).await;
    wire.say(get(&origin, "/")).await;
    wire.head().await.unwrap();
    say.send("data: 1\n\n").unwrap();
    wire.chunk().await.unwrap();
    let (begun, rest) = (
        get(&origin, "/next").split_at(9).0.to_owned(),
        get(&origin, "/next").split_at(9).1.to_owned(),
    );
    wire.say(begun).await;
    outlast_a_head(&bursar).await;
    outlast_a_head(&bursar).await;
    say.send("data: 2\n\n").unwrap();
    assert_eq!(wire.chunk().await.unwrap(), b"data: 2\n\n");
    say.send("").unwrap();
    wire.until("0\r\n\r\n").await.unwrap();
    wire.say(rest).await;
    assert_eq!(wire.answer().await.unwrap().text(), "next");
}

#[tokio::test]
async fn a_kept_connection_may_rest_longer_than_a_head_may_take() {
    let (origin, _say) = events().await;
    let bursar = setup().config(SHORT).trust(&origin.ca_pem).start();
    let mut tunnel = wire(&bursar, &origin).await;
    let mut listener = Wire::to(&bursar).await;
    for _ in 0..2 {
        tunnel.say(get(&origin, "/next")).await;
        assert_eq!(tunnel.answer().await.unwrap().text(), "next");
        // Answered at once, without waiting for anybody.
        listener.say("CONNECT localhost:1 HTTP/1.1\r\n\r\n").await;
        assert_eq!(listener.answer().await.unwrap().status(), 407);
        outlast_a_head(&bursar).await;
    }
}

#[tokio::test]
async fn a_dripping_head_is_closed_by_its_bound() {
    let (origin, _say) = events().await;
    let bursar = setup().config(SHORT).trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let began = Instant::now();
    // On the listener; as TLS hello; in the tunnel.
    outlast_a_head(&bursar).await;
    let mut hello = Wire::new(agent.tunnel("localhost:1").await);
    hello.say(b"\x16\x03\x01\x02\x00").await;
    assert_eq!(hello.rest().await, b"");
    let mut tunnel = wire(&bursar, &origin).await;
    tunnel.say("GET / HTTP/1.1\r\n").await;
    assert_eq!(tunnel.rest().await, b"");
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "three time limits of a second each"
    );
}

#[tokio::test]
async fn silence_ends_what_is_idle() {
    let (origin, say) = events().await;
    let bursar = setup().config("[timeouts]\nidle_s = 1\n").trust(&origin.ca_pem).start();
    let mut unused = Wire::new(Agent::of(&bursar).tunnel("localhost:1").await);
    assert_eq!(unused.rest().await, b"", "a tunnel that nobody uses");
    let mut kept = wire(&bursar, &origin).await;
    kept.say(get(&origin, "/next")).await;
    kept.answer().await.unwrap();
    assert_eq!(kept.rest().await, b"", "a connection between requests");
    let mut stream = wire(&bursar, &origin).await;
    stream.say(get(&origin, "/")).await;
    stream.head().await.unwrap();
    say.send("data: 1\n\n").unwrap();
    stream.chunk().await.unwrap();
    assert_eq!(
        stream.rest().await,
        b"",
        "a stream whose site fell silent ends without its last chunk"
    );
}

#[tokio::test]
async fn an_upgrade_becomes_raw_bytes_and_is_not_cut() {
    let origin = Origin::raw(|stream, _| async move {
        let mut wire = Wire::new(stream);
        let request = wire.head().await.unwrap();
        assert_eq!(request.field("upgrade"), Some("websocket"));
        assert_eq!(request.field("connection"), Some("upgrade"));
        assert_eq!(request.field("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        wire.say(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhi",
        )
        .await;
        // Bytes that are not HTTP, in pieces; echoed.
        while let Some(part) = wire.exactly(4).await {
            wire.say(part).await;
        }
    })
    .await;
    let bursar = setup().config(SHORT).trust(&origin.ca_pem).start();
    let mut wire = wire(&bursar, &origin).await;
    let port = origin.address.port();
    wire.say(format!(
        "GET /chat HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n\x00\x01"
    ))
    .await;
    let head = wire.head().await.unwrap();
    assert_eq!(head.status(), 101);
    assert_eq!(head.field("upgrade"), Some("websocket"));
    assert_eq!(head.field("connection"), Some("upgrade"));
    assert_eq!(head.field("sec-websocket-accept"), Some("x"));
    assert_eq!(wire.exactly(2).await.unwrap(), b"hi");
    wire.say(b"\xff\xfe").await;
    assert_eq!(wire.exactly(4).await.unwrap(), b"\x00\x01\xff\xfe");
    outlast_a_head(&bursar).await;
    outlast_a_head(&bursar).await;
    wire.say(b"late").await;
    assert_eq!(wire.exactly(4).await.unwrap(), b"late");
}

#[tokio::test]
async fn an_upgrade_that_is_refused_leaves_an_ordinary_answer() {
    let (origin, _say) = events().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut wire = wire(&bursar, &origin).await;
    let port = origin.address.port();
    for _ in 0..2 {
        wire.say(format!(
            "GET /next HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        ))
        .await;
        assert_eq!(wire.answer().await.unwrap().text(), "next");
    }
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_an_error() {
    let origin = Origin::raw(|stream, _| async move {
        let mut wire = Wire::new(stream);
        wire.head().await.unwrap();
        wire.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
            .await;
        wire.rest().await;
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let page = Agent::of(&bursar).get(origin.address, "/").await;
    assert_eq!(
        (page.status.as_u16(), page.problem().as_str()),
        (502, "upstream-broken")
    );
}

#[tokio::test]
async fn h2_without_extended_connect_says_no() {
    let (origin, _arrives) = duplex_site().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let stream = Agent::of(&bursar)
        .tls(origin.address, "localhost", &["h2"])
        .await
        .unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    // The setting is absent, so a client knows that it must open WebSockets over h1 (RFC 8441 §3).
    let (_, body) = Frames::new();
    let mut request = Request::connect(origin.url("/chat")).body(body).unwrap();
    request
        .extensions_mut()
        .insert(hyper::ext::Protocol::from_static("websocket"));
    assert!(soon(sender.send_request(request)).await.is_err());
    // A plain CONNECT inside the tunnel is not possible either.
    let (_, body) = Frames::new();
    let request = Request::connect(format!("localhost:{}", origin.address.port()))
        .body(body)
        .unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 421);
}
