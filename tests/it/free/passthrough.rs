//! Free traffic passes unchanged: bytes, fields, framing, version, and no trace of us.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::support::agent::Agent;
use crate::support::bursar::setup;
use crate::support::origin::{Origin, Speaks, answer, certificate};
use crate::support::wire::{Frames, Message, Wire, fields, soon};

const H1: &[&str] = &["http/1.1"];

/// A site that answers every request with the bytes from `answer_to`, and reports what it saw.
async fn scripted(
    answer_to: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
) -> (Origin, mpsc::UnboundedReceiver<Message>) {
    let (saw, seen) = mpsc::unbounded_channel();
    let answer_to = Arc::new(answer_to);
    let origin = Origin::raw(move |stream, _| {
        let (saw, answer_to) = (saw.clone(), answer_to.clone());
        async move {
            let mut wire = Wire::new(stream);
            while let Some(request) = wire.request().await {
                let said = answer_to(&request);
                saw.send(request).unwrap();
                wire.say(said).await;
            }
        }
    })
    .await;
    (origin, seen)
}

#[tokio::test]
async fn h1_fields_arrive_as_they_were_sent() {
    const ANSWERED: &str = "X-Odd-CASE: 1\r\nSet-Cookie: a=1; Path=/\r\nset-cookie: b=2\r\nContent-Encoding: gzip\r\n\
                            Vary: *\r\nContent-Length: 5\r\nWarning: 199 - \"a, b\"\r\n";
    let (origin, mut seen) = scripted(|_| {
        [
            b"HTTP/1.1 200 Very Fine\r\n",
            ANSWERED.as_bytes(),
            b"X-Latin: \xe9\r\n\r\n\x1f\x8b\x08\0!",
        ]
        .concat()
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let stream = Agent::of(&bursar).tls(origin.address, "localhost", H1).await.unwrap();
    let mut wire = Wire::new(stream);
    let sent = format!(
        "Host: localhost:{}\r\nAccept-Encoding: gzip, br\r\nCOOKIE: a=1\r\nX-Twice: 1\r\nx-tWICE: 2, 3\r\nCookie: b=2\r\n\
         Authorization: Bearer t\r\nUser-Agent: test (1)\r\nX-Empty:\r\nAccept: */*;q=0.8,  text/html\r\n\
         If-None-Match: \"x\"\r\nCache-Control: no-cache\r\n",
        origin.address.port()
    );
    let hops = "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nProxy-Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
                Proxy-Authorization: Basic eDp5\r\n";
    let line = "GET /a%20b/../c?q=1&q=%2F;x HTTP/1.1";
    wire.say(format!("{line}\r\n{sent}{hops}\r\n")).await;

    let answered = wire.answer().await.unwrap();
    let mut expected = fields(ANSWERED);
    expected.push(("x-latin".to_owned(), "\u{e9}".to_owned()));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(answered.start, "HTTP/1.1 200 Very Fine");
    assert_eq!(answered.sorted(), expected);
    assert_eq!(answered.body, b"\x1f\x8b\x08\0!");
    let request = soon(seen.recv()).await.unwrap();
    assert_eq!(request.start, line);
    let mut expected = fields(&sent);
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(request.sorted(), expected);
}

/// All on one connection: a wrong length anywhere would corrupt what follows.
#[tokio::test]
async fn every_framing_arrives_and_leaves_the_connection_usable() {
    // Method, the site's answer, and what the agent must see of it: fields and body.
    const CASES: [(&str, &str, &str, &str); 12] = [
        (
            "GET",
            "200 OK\r\nContent-Length: 2\r\n\r\nok",
            "content-length: 2",
            "ok",
        ),
        ("GET", "200 OK\r\nContent-Length: 0\r\n\r\n", "content-length: 0", ""),
        ("HEAD", "200 OK\r\nContent-Length: 7\r\n\r\n", "content-length: 7", ""),
        ("HEAD", "200 OK\r\nX: 1\r\n\r\n", "x: 1", ""),
        ("GET", "204 No Content\r\nX: 1\r\n\r\n", "x: 1", ""),
        (
            "GET",
            "304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 7\r\n\r\n",
            "etag: \"a\"\r\ncontent-length: 7",
            "",
        ),
        ("GET", "304 Not Modified\r\nETag: \"a\"\r\n\r\n", "etag: \"a\"", ""),
        (
            "GET",
            "103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "content-length: 2",
            "ok",
        ),
        (
            "GET",
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;ext=1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
            "transfer-encoding: chunked",
            "ok",
        ),
        (
            "GET",
            "500 Oh\r\nContent-Length: 2\r\n\r\nno",
            "content-length: 2",
            "no",
        ),
        (
            "GET",
            "302 Found\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n",
            "location: https://elsewhere.example/\r\ncontent-length: 0",
            "",
        ),
        (
            "GET",
            "407 Of The Site\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
            "content-length: 0",
            "",
        ),
    ];
    let (origin, _seen) = scripted(|request| {
        let case: usize = request.start.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        format!("HTTP/1.1 {}", CASES[case].1).into_bytes()
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let stream = Agent::of(&bursar).tls(origin.address, "localhost", H1).await.unwrap();
    let mut wire = Wire::new(stream);
    for (case, (method, _, expected, body)) in CASES.iter().enumerate() {
        let port = origin.address.port();
        wire.say(format!("{method} /{case} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"))
            .await;
        let mut answered = match *method {
            "HEAD" => wire.head().await.unwrap(),
            _ => wire.answer().await.unwrap(),
        };
        if answered.status() == 103 {
            assert_eq!(answered.fields, fields("link: </a>"));
            answered = wire.answer().await.unwrap();
        }
        assert_eq!(answered.fields, fields(expected), "case {case}");
        assert_eq!(answered.text(), *body, "case {case}");
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_arrives_whole() {
    let origin = Origin::raw(|stream, _| async move {
        let mut wire = Wire::new(stream);
        wire.request().await;
        wire.say("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end")
            .await;
        // Without a TLS close_notify this would be an answer that somebody in between truncated.
        wire.stream.shutdown().await.unwrap();
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let page = Agent::of(&bursar).get(origin.address, "/").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.body, "until the end");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_made_whole() {
    let origin = Origin::raw(|stream, _| async move {
        let mut wire = Wire::new(stream);
        wire.request().await;
        wire.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let mut connection = agent.connect(origin.address, H1).await;
    let broken = connection
        .send(origin.address, Request::get("/").body(Full::default()).unwrap())
        .await;
    assert!(broken.is_err(), "{broken:?}");
}

#[tokio::test]
async fn h1_trailers_pass_both_ways() {
    let (origin, mut seen) = scripted(|_| {
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"
            .to_vec()
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let stream = Agent::of(&bursar).tls(origin.address, "localhost", H1).await.unwrap();
    let mut wire = Wire::new(stream);
    let port = origin.address.port();
    wire.say(format!(
        "POST / HTTP/1.1\r\nHost: localhost:{port}\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-In\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nup\r\n0\r\nX-In: 5\r\n\r\n"
    ))
    .await;
    let answered = wire.answer().await.unwrap();
    assert_eq!(answered.text(), "ok");
    assert_eq!(answered.trailers, fields("x-sum: 7"));
    let request = soon(seen.recv()).await.unwrap();
    assert_eq!(request.body, b"up");
    assert_eq!(request.trailers, fields("x-in: 5"));
    assert_eq!(request.field("te"), Some("trailers"));
}

#[tokio::test]
async fn h2_on_both_sides_with_fields_and_trailers() {
    let (saw, mut seen) = mpsc::unbounded_channel();
    let origin = Origin::raw_with(&["h2"], move |stream, _| {
        let saw = saw.clone();
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let saw = saw.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.unwrap();
                    saw.send((head, body.trailers().cloned(), body.to_bytes())).unwrap();
                    let (frames, body) = Frames::new();
                    frames.send(Frame::data("ok".into())).unwrap();
                    frames.send(Frame::trailers(map(&[("grpc-status", "0")]))).unwrap();
                    let mut response = Response::new(body);
                    *response.headers_mut() = map(&[
                        ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
                        ("set-cookie", "a=1"),
                        ("set-cookie", "b=2"),
                    ]);
                    Ok::<_, Infallible>(response)
                }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let stream = Agent::of(&bursar)
        .tls(origin.address, "localhost", &["h2", "http/1.1"])
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);

    let (frames, body) = Frames::new();
    frames.send(Frame::data("up".into())).unwrap();
    frames.send(Frame::trailers(map(&[("x-in", "5")]))).unwrap();
    drop(frames);
    let mut request = Request::post(origin.url("/x?y=%20")).body(body).unwrap();
    let sent = map(&[
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("te", "trailers"),
        ("accept-encoding", "br"),
        ("x-empty", ""),
    ]);
    *request.headers_mut() = sent.clone();
    let response = sender.send_request(request).await.unwrap();
    let expected = map(&[
        ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ]);
    assert_eq!(response.headers(), &expected);
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers(), Some(&map(&[("grpc-status", "0")])));
    assert_eq!(body.to_bytes(), "ok");

    let (head, trailers, body) = soon(seen.recv()).await.unwrap();
    assert_eq!(head.version, Version::HTTP_2);
    assert_eq!(head.uri.to_string(), origin.url("/x?y=%20"));
    assert_eq!(head.headers, sent);
    assert_eq!(trailers, Some(map(&[("x-in", "5")])));
    assert_eq!(body, "up");
}

fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let lines = lines.iter();
    lines
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
}

#[tokio::test]
async fn the_version_is_the_sites() {
    let h1 = Origin::start(Speaks::H1, certificate(&["localhost"], |_| {}), |_| async {
        answer(200, &[], "one")
    })
    .await;
    let both = Origin::https(|_| async { answer(200, &[], "both") }).await;
    let bursar = setup().trust(&format!("{}{}", h1.ca_pem, both.ca_pem)).start();
    let agent = Agent::of(&bursar);
    for (origin, offer, agreed, version) in [
        (&h1, &["h2", "http/1.1"][..], Some(&b"http/1.1"[..]), Version::HTTP_11),
        (&h1, &[], None, Version::HTTP_11),
        (&both, &["h2", "http/1.1"], Some(b"h2"), Version::HTTP_2),
        (&both, &["http/1.1"], Some(b"http/1.1"), Version::HTTP_11),
        (&both, &[], None, Version::HTTP_11),
        (&both, &["acme-tls/1", "h2"], Some(b"h2"), Version::HTTP_2),
    ] {
        let stream = agent.tls(origin.address, "localhost", offer).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed, "{offer:?}");
        let mut connection = agent.connect(origin.address, offer).await;
        let page = connection
            .send(origin.address, Request::get("/").body(Full::default()).unwrap())
            .await
            .unwrap();
        assert_eq!(page.status, 200);
        assert_eq!(origin.seen().last().unwrap().version, version, "{offer:?}");
    }
}

#[tokio::test]
async fn large_bodies_pass_byte_for_byte_in_both_directions() {
    const LENGTH: usize = 10 << 20;
    let origin = Origin::https(|request| async move { answer(200, &[], request.body) }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut state = 1u32;
    let body: Bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(LENGTH)
    .collect();
    let agent = Agent::of(&bursar);
    for offer in [H1, &["h2"]] {
        let mut connection = agent.connect(origin.address, offer).await;
        let request = Request::post("/").body(Full::new(body.clone())).unwrap();
        let page = soon(connection.send(origin.address, request)).await.unwrap();
        assert_eq!(page.header("content-length"), Some(LENGTH.to_string().as_str()));
        assert!(page.body == body, "{offer:?}: {} bytes came back", page.body.len());
    }
}

#[tokio::test]
async fn free_traffic_leaves_no_trace_in_the_ledger() {
    let origin = Origin::https(|_| async { answer(200, &[], "free") }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    agent.get(origin.address, "/").await;
    let before = size(&bursar.path().join("audit"));
    assert!(before > 0);
    for _ in 0..20 {
        let page = agent.get(origin.address, "/").await;
        assert_eq!(page.body, "free");
        for ours in ["via", "proxy-status", "bursar-payment"] {
            assert_eq!(page.header(ours), None);
        }
    }
    assert_eq!(size(&bursar.path().join("audit")), before);
    for request in origin.seen() {
        let ours: Vec<_> = request.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(ours, ["host"]);
    }
}

fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let about = entry.metadata().unwrap();
            if about.is_dir() {
                size(&entry.path())
            } else {
                about.len()
            }
        })
        .sum()
}

#[tokio::test]
async fn via_is_added_only_when_asked_for_and_finds_loops() {
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let bursar = setup().proxy("via = true\n").trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    agent
        .request(origin.address, Request::get("/").header("via", "1.0 fred"))
        .await;
    let seen = origin.seen().remove(0);
    let via: Vec<_> = seen
        .headers
        .get_all("via")
        .iter()
        .map(|line| line.to_str().unwrap())
        .collect();
    assert_eq!(via.len(), 2);
    assert_eq!(via[0], "1.0 fred");
    assert!(via[1].starts_with("1.1 bursar-"), "{via:?}");

    let page = agent
        .request(origin.address, Request::get("/").header("via", via.join(", ")))
        .await;
    assert_eq!(page.status, 508);
    assert_eq!(page.problem(), "loop");
    assert_eq!(origin.seen().len(), 1);
}
