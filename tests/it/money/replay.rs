//! The paid request repeats the first one: same head, same body, and the credential as the only difference.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use sha2::{Digest, Sha256};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::support::agent::Agent;
use crate::support::bursar::setup;
use crate::support::origin::{Origin, Raw, Seen, read_request};
use crate::support::seller::{self, challenge, encoded, receipt, requirement};
use crate::support::wire::{Wire, soon};

const JSON: &str = "application/json";

async fn sells() -> Origin {
    Origin::https(|request| async move {
        if request.is_paid() {
            seller::sold("goods")
        } else {
            seller::asks("10000")
        }
    })
    .await
}

/// Bytes without any repeated part.
fn noise(length: usize) -> Bytes {
    let words = (0..length.div_ceil(32) as u64).flat_map(|n| Sha256::digest(n.to_be_bytes()));
    words.take(length).collect::<Vec<u8>>().into()
}

fn first_and_paid(origin: &Origin) -> (Seen, Seen) {
    let mut seen = origin.seen();
    assert_eq!(seen.len(), 2);
    let (paid, first) = (seen.pop().unwrap(), seen.pop().unwrap());
    assert!(paid.is_paid() && !first.is_paid());
    (first, paid)
}

#[tokio::test]
async fn a_large_body_is_sent_again_to_the_byte() {
    for alpn in ["http/1.1", "h2"] {
        let origin = sells().await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let body = noise(300_000);
        let mut connection = Agent::of(&bursar).connect(origin.address, &[alpn]).await;
        let request = Request::post("/upload?a=1&a=2")
            .header("content-type", JSON)
            .header("idempotency-key", "order-7")
            .header("authorization", "Bearer agents-own")
            .header("cookie", "session=1")
            .header("x-twice", "a")
            .header("x-twice", "b")
            .header("cache-control", "no-cache")
            .header("accept-encoding", "gzip, br")
            .body(Full::new(body.clone()))
            .unwrap();
        let page = connection.send(origin.address, request).await.unwrap();
        assert_eq!(page.status, 200);

        let (first, mut paid) = first_and_paid(&origin);
        assert_eq!(Sha256::digest(&first.body), Sha256::digest(&body));
        assert_eq!(Sha256::digest(&paid.body), Sha256::digest(&body));
        assert!(paid.headers.remove("payment-signature").is_some());
        assert_eq!(paid.headers, first.headers, "{alpn}");
        assert_eq!(
            (&paid.method, &paid.target, paid.version),
            (&first.method, &first.target, first.version)
        );
        assert_eq!(first.headers.get_all("x-twice").iter().count(), 2);
    }
}

/// An HTTP/1.1 seller that records the bytes of every request.
async fn keeps_bytes() -> (Origin, Arc<Mutex<Vec<Raw>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let origin = Origin::raw(move |mut stream, _| {
        let log = log.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                let answer = if request.is_paid() {
                    format!(
                        "HTTP/1.1 200 OK\r\npayment-response: {}\r\ncontent-length: 5\r\n\r\ngoods",
                        receipt(true, seller::TX)
                    )
                } else {
                    let asks = encoded(&challenge("/", &[requirement("10000")]));
                    format!("HTTP/1.1 402 Pay\r\npayment-required: {asks}\r\ncontent-length: 0\r\n\r\n")
                };
                log.lock().unwrap().push(request);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    (origin, seen)
}

#[tokio::test]
async fn the_heads_are_equal_as_bytes_but_for_one_line() {
    for (method, body) in [("GET", ""), ("POST", "a body"), ("POST", ""), ("DELETE", "")] {
        let (origin, seen) = keeps_bytes().await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let request = Request::builder()
            .method(method)
            .uri("/x?y=%2F")
            .header("user-agent", "agent/1")
            .header("te", "trailers")
            .header("connection", "te")
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .unwrap();
        let page = Agent::of(&bursar).send(origin.address, request).await;
        assert_eq!(page.status, 200);
        let seen = seen.lock().unwrap();
        let [first, paid] = &seen[..] else {
            panic!("{} requests", seen.len())
        };
        let without_credential: String = paid
            .head
            .split_inclusive("\r\n")
            .filter(|line| !line.to_ascii_lowercase().starts_with("payment-signature: "))
            .collect();
        assert_eq!(without_credential, first.head, "{method}");
        assert_eq!(paid.head.to_ascii_lowercase().matches("payment-signature: ").count(), 1);
        assert_eq!((&paid.body[..], &first.body[..]), (body.as_bytes(), body.as_bytes()));
    }
}

/// Writes a request as raw bytes and reads the answer until the connection ends.
async fn by_hand(agent: &Agent, origin: &Origin, request: &[&[u8]]) -> String {
    let mut stream = agent.tls(origin.address, "localhost", &["http/1.1"]).await.unwrap();
    for part in request {
        stream.write_all(part).await.unwrap();
        stream.flush().await.unwrap();
    }
    let mut answer = Vec::new();
    // A connection closed without TLS close_notify is an end as well.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_chunked_upload_is_replayed_whole() {
    let origin = sells().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let head = format!(
        "POST /x HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        origin.address.port()
    );
    let parts: [&[u8]; 4] = [head.as_bytes(), b"3\r\nabc\r\n", b"4\r\ndefg\r\n", b"0\r\n\r\n"];
    let answer = by_hand(&Agent::of(&bursar), &origin, &parts).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (first, paid) = first_and_paid(&origin);
    assert_eq!((&first.body[..], &paid.body[..]), (&b"abcdefg"[..], &b"abcdefg"[..]));
}

#[tokio::test]
async fn a_body_over_one_mebibyte_is_forwarded_and_not_paid() {
    let origin = sells().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let exact = agent.post(origin.address, "/exact", noise(1 << 20)).await;
    assert_eq!(exact.status, 200, "one mebibyte is still replayed");
    let page = agent.post(origin.address, "/over", noise((1 << 20) + 1)).await;
    assert_eq!(page.status, 402);
    assert_eq!(
        page.header("proxy-status"),
        Some("bursar; details=\"body-too-large-to-replay\"")
    );
    assert!(page.headers.contains_key("payment-required"));
    assert_eq!(page.body, "{}");

    // Without a declared length, the size only becomes known while reading.
    let head = format!(
        "POST /chunked HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        origin.address.port()
    );
    let chunk = [b"10000\r\n", &noise(1 << 16)[..], b"\r\n"].concat();
    let mut parts = vec![head.as_bytes()];
    parts.extend(std::iter::repeat_n(&chunk[..], 17));
    parts.push(b"0\r\n\r\n");
    let answer = by_hand(&agent, &origin, &parts).await;
    assert!(answer.starts_with("HTTP/1.1 402"), "{answer}");
    assert!(answer.contains("body-too-large-to-replay"), "{answer}");

    let sizes: Vec<_> = origin
        .seen()
        .iter()
        .map(|request| (request.target.clone(), request.body.len()))
        .collect();
    let over = [("/over".to_owned(), (1 << 20) + 1), ("/chunked".to_owned(), 17 << 16)];
    assert!(over.iter().all(|sent| sizes.contains(sent)), "{sizes:?}");
    assert_eq!(bursar.states(), ["settled"]);
}

/// A seller that answers 402 before it has read the upload, as many do.
#[tokio::test]
async fn a_402_that_comes_before_a_large_upload_is_read_reaches_the_agent_whole() {
    const TEXT: &str = "this upload costs money";
    let origin = Origin::raw(|mut stream, _| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let asks = encoded(&challenge("/", &[requirement("10000")]));
        let head = format!(
            "HTTP/1.1 402 Pay\r\npayment-required: {asks}\r\ncontent-length: {}\r\n\r\n",
            TEXT.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        // Reads the rest of the upload before it sends the text: a proxy that stops uploading never gets it.
        let mut upload = vec![0; 32 << 20];
        if stream.read_exact(&mut upload).await.is_ok() {
            let _ = stream.write_all(TEXT.as_bytes()).await;
        }
        let _ = stream.shutdown().await;
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut connection = Agent::of(&bursar).connect(origin.address, &["http/1.1"]).await;
    let request = Request::post("/")
        .body(Full::new(Bytes::from(vec![7; 32 << 20])))
        .unwrap();
    let page = connection.send(origin.address, request).await.unwrap();
    assert_eq!((page.status.as_u16(), &page.body[..]), (402, TEXT.as_bytes()));
    assert_eq!(
        page.header("proxy-status"),
        Some("bursar; details=\"body-too-large-to-replay\"")
    );
    assert_eq!(bursar.payments().len(), 0);
}

/// Whether a site got a chunked upload to its end.
#[derive(Debug, PartialEq, Eq)]
enum Upload {
    Whole(Vec<u8>),
    CutOff(Vec<u8>),
}

/// Asks for money, fails once paid, and reports every chunked upload.
async fn upload_watcher() -> (Origin, mpsc::UnboundedReceiver<Upload>) {
    const END: &[u8] = b"0\r\n\r\n";
    let (report, uploads) = mpsc::unbounded_channel();
    let origin = Origin::raw(move |mut stream, _| {
        let report = report.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                let challenge = seller::encoded(&seller::challenge("/", &[seller::requirement("10000")]));
                let mut answer = match request.is_paid() {
                    true => "500 Failed\r\nContent-Length: 0\r\n\r\n".to_owned(),
                    false => format!(
                        "402 Payment Required\r\nContent-Length: 2\r\nPayment-Required: {challenge}\r\n\r\n{{}}"
                    ),
                };
                if request.head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
                    let mut body = Vec::new();
                    while !body.ends_with(END) {
                        match stream.read_u8().await {
                            Ok(byte) => body.push(byte),
                            Err(_) => return drop(report.send(Upload::CutOff(body))),
                        }
                    }
                    report.send(Upload::Whole(body)).unwrap();
                    answer = "200 OK\r\nContent-Length: 0\r\n\r\n".to_owned();
                }
                stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    })
    .await;
    (origin, uploads)
}

/// While a payment for its target is outstanding, an upload is read to its end before any of it is sent.
#[tokio::test]
async fn an_upload_that_breaks_off_reaches_no_site_as_a_whole_one() {
    let (origin, mut uploads) = upload_watcher().await;
    let mut bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    assert_eq!(agent.post(origin.address, "/order", "one of each").await.status, 500);
    assert_eq!(bursar.states(), ["unknown"]);
    let port = origin.address.port();
    let head = format!("POST /order HTTP/1.1\r\nHost: localhost:{port}\r\nTransfer-Encoding: chunked\r\n\r\n");
    // Whole first, so that the watcher is known to see it.
    for (upload, is_whole) in [("5\r\nhello\r\n0\r\n\r\n", true), ("5\r\nhello\r\nno size\r\n", false)] {
        let mut wire = Wire::new(agent.tls(origin.address, "localhost", &["http/1.1"]).await.unwrap());
        wire.say(format!("{head}{upload}")).await;
        if is_whole {
            assert_eq!(wire.answer().await.unwrap().status(), 200);
            assert_eq!(uploads.recv().await, Some(Upload::Whole(upload.into())));
        } else {
            wire.rest().await;
        }
    }
    // Both ends close, so whatever the site got by now is reported.
    drop(bursar.kill());
    drop(origin);
    while let Some(upload) = soon(uploads.recv()).await {
        assert!(matches!(upload, Upload::CutOff(_)), "{upload:?}");
    }
}
