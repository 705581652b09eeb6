//! Uploads that a site cuts short, delays or never reads, and what `Expect: 100-continue` saves.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio_rustls::client::TlsStream;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, setup};
use crate::support::origin::{Origin, answer};
use crate::support::seller;
use crate::support::wire::{Message, Wire, soon};

const H1: &[&str] = &["http/1.1"];
/// More than fits into all socket buffers on the way.
const LARGE: usize = 16 << 20;

async fn wire(bursar: &Bursar, origin: &Origin) -> Wire<TlsStream<TcpStream>> {
    Wire::new(Agent::of(bursar).tls(origin.address, "localhost", H1).await.unwrap())
}

fn post(origin: &Origin, more: &str, length: usize) -> String {
    let port = origin.address.port();
    format!("POST /up HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: {length}\r\n{more}\r\n")
}

/// Like many clients: writes everything before it reads.
async fn upload(wire: &mut Wire<TlsStream<TcpStream>>, head: &str, length: usize) -> Message {
    wire.say(head).await;
    soon(wire.say(vec![b'u'; length])).await;
    wire.answer().await.unwrap()
}

#[tokio::test]
async fn an_early_refusal_arrives_although_the_site_reads_no_more() {
    let finished = Arc::new(Notify::new());
    let hold = finished.clone();
    let origin = Origin::raw(move |stream, connection| {
        let hold = hold.clone();
        async move {
            let mut wire = Wire::new(stream);
            wire.head().await.unwrap();
            if connection == 0 {
                wire.say("HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nless")
                    .await;
                // Neither reads nor closes.
                hold.notified().await;
            } else {
                wire.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine").await;
            }
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut wire = wire(&bursar, &origin).await;
    let page = upload(&mut wire, &post(&origin, "", LARGE), LARGE).await;
    assert_eq!((page.status(), page.text().as_str()), (413, "less"));
    // The agent's connection is still usable; the site's, with an unfinished body, is not.
    wire.say(format!(
        "GET / HTTP/1.1\r\nHost: localhost:{}\r\n\r\n",
        origin.address.port()
    ))
    .await;
    assert_eq!(wire.answer().await.unwrap().text(), "fine");
    finished.notify_one();
}

#[tokio::test]
async fn an_early_402_for_a_large_upload_is_passed_on_unpaid() {
    let origin = Origin::raw(|stream, _| async move {
        let mut wire = Wire::new(stream);
        wire.head().await.unwrap();
        let challenge = seller::encoded(&seller::challenge("/", &[seller::requirement("10000")]));
        wire.say(format!(
            "HTTP/1.1 402 Pay\r\nPAYMENT-REQUIRED: {challenge}\r\nContent-Length: 3\r\n\r\npay"
        ))
        .await;
        wire.rest().await;
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    for chunked in [false, true] {
        let mut wire = wire(&bursar, &origin).await;
        let page = if chunked {
            // Its size becomes known only once it is too large.
            let port = origin.address.port();
            wire.say(format!(
                "POST / HTTP/1.1\r\nHost: localhost:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
            ))
            .await;
            for _ in 0..LARGE >> 16 {
                let chunk = [b"10000\r\n", &[b'u'; 1 << 16][..], b"\r\n"].concat();
                soon(wire.say(chunk)).await;
            }
            wire.say("0\r\n\r\n").await;
            wire.answer().await.unwrap()
        } else {
            upload(&mut wire, &post(&origin, "", LARGE), LARGE).await
        };
        assert_eq!((page.status(), page.text().as_str()), (402, "pay"));
        assert_eq!(
            page.field("proxy-status"),
            Some("bursar; details=\"body-too-large-to-replay\"")
        );
        assert!(page.field("payment-required").is_some());
    }
    assert_eq!(bursar.payments().len(), 0);
}

#[tokio::test]
async fn a_refusal_of_ours_arrives_in_the_midst_of_an_upload() {
    let origin = Origin::https(|_| async { answer(200, &[], "never") }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut wire = wire(&bursar, &origin).await;
    let page = upload(&mut wire, &post(&origin, "X-Payment: x\r\n", LARGE), LARGE).await;
    assert_eq!((page.status(), page.problem().as_str()), (403, "agent-payment"));
    // And the login, on the listener.
    let mut wire = Wire::to(&bursar).await;
    wire.say(format!(
        "POST http://localhost:1/ HTTP/1.1\r\nContent-Length: {LARGE}\r\n\r\n"
    ))
    .await;
    soon(wire.say(vec![b'u'; LARGE])).await;
    assert_eq!(wire.answer().await.unwrap().status(), 407);
    assert_eq!(origin.seen().len(), 0);
}

/// A 2xx does not stop the upload: the site may answer first and read later.
#[tokio::test]
async fn a_site_that_agrees_early_gets_the_whole_upload() {
    let (results_out, mut results) = mpsc::unbounded_channel();
    let origin = Origin::raw(move |stream, _| {
        let results_out = results_out.clone();
        async move {
            let mut wire = Wire::new(stream);
            wire.head().await.unwrap();
            wire.say("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await;
            results_out.send(wire.exactly(LARGE).await.is_some()).unwrap();
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut wire = wire(&bursar, &origin).await;
    wire.say(post(&origin, "", LARGE)).await;
    assert_eq!(wire.answer().await.unwrap().status(), 202);
    soon(wire.say(vec![b'u'; LARGE])).await;
    assert_eq!(soon(results.recv()).await, Some(true));
}

#[tokio::test]
async fn a_refusal_before_100_saves_the_upload() {
    let (results_out, mut results) = mpsc::unbounded_channel();
    let origin = Origin::raw(move |stream, _| {
        let results_out = results_out.clone();
        async move {
            let mut wire = Wire::new(stream);
            let head = wire.head().await.unwrap();
            assert_eq!(head.field("expect"), Some("100-continue"));
            wire.say("HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno").await;
            results_out.send(wire.rest().await).unwrap();
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut wire = wire(&bursar, &origin).await;
    wire.say(post(&origin, "Expect: 100-continue\r\n", LARGE)).await;
    let page = wire.answer().await.unwrap();
    assert_eq!(
        (page.status(), page.text().as_str()),
        (417, "no"),
        "and no 100 before it"
    );
    assert_eq!(soon(results.recv()).await.unwrap(), b"", "the site saw no byte of it");
}

#[tokio::test]
async fn a_402_before_100_is_paid_and_the_upload_sent_once() {
    let (results_out, mut results) = mpsc::unbounded_channel();
    let origin = Origin::raw(move |stream, _| {
        let results_out = results_out.clone();
        async move {
            let mut wire = Wire::new(stream);
            let Some(head) = wire.head().await else { return };
            if head.field("payment-signature").is_none() {
                let challenge = seller::encoded(&seller::challenge("/", &[seller::requirement("10000")]));
                wire.say(format!(
                    "HTTP/1.1 402 Pay\r\nPAYMENT-REQUIRED: {challenge}\r\nContent-Length: 3\r\n\r\npay"
                ))
                .await;
                results_out.send(("unpaid", wire.rest().await)).unwrap();
            } else {
                // Only the credential differs (R27); the body still follows at once.
                assert_eq!(head.field("expect"), Some("100-continue"));
                results_out.send(("paid", wire.exactly(5).await.unwrap())).unwrap();
                let receipt = seller::receipt(true, seller::TX);
                wire.say(format!(
                    "HTTP/1.1 200 OK\r\nPAYMENT-RESPONSE: {receipt}\r\nContent-Length: 5\r\n\r\ngoods"
                ))
                .await;
                wire.rest().await;
            }
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut wire = wire(&bursar, &origin).await;
    wire.say(post(&origin, "Expect: 100-continue\r\n", 5)).await;
    assert_eq!(wire.answer().await.unwrap().status(), 100);
    wire.say("hello").await;
    assert_eq!(wire.answer().await.unwrap().text(), "goods");
    let mut results_out = vec![soon(results.recv()).await.unwrap(), soon(results.recv()).await.unwrap()];
    results_out.sort();
    assert_eq!(results_out, [("paid", b"hello".to_vec()), ("unpaid", Vec::new())]);
    assert_eq!(bursar.states(), ["settled"]);
}

#[tokio::test]
async fn a_100_lets_the_upload_flow() {
    let origin = Origin::raw(|stream, _| async move {
        let mut wire = Wire::new(stream);
        wire.head().await.unwrap();
        wire.say("HTTP/1.1 100 Continue\r\n\r\n").await;
        let body = wire.exactly(5).await.unwrap();
        wire.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
        wire.say(body).await;
        wire.rest().await;
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut wire = wire(&bursar, &origin).await;
    wire.say(post(&origin, "Expect: 100-continue\r\n", 5)).await;
    assert_eq!(wire.answer().await.unwrap().status(), 100);
    wire.say("hello").await;
    assert_eq!(wire.answer().await.unwrap().text(), "hello");
}

/// The one real second of waiting: by RFC 9110 §10.1.1 a client does not wait for ever, nor do we on its behalf.
#[tokio::test]
async fn a_site_that_never_says_100_gets_the_upload_after_a_while() {
    let origin = Origin::https(|request| async move { answer(200, &[], request.body) }).await;
    let silent = Origin::raw(|stream, _| async move {
        let mut wire = Wire::new(stream);
        while let Some(request) = wire.request().await {
            let length = request.body.len();
            wire.say(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}",
                request.text()
            ))
            .await;
        }
    })
    .await;
    let bursar = setup().trust(&format!("{}{}", origin.ca_pem, silent.ca_pem)).start();
    for (origin, invites) in [(&origin, true), (&silent, false)] {
        let mut wire = wire(&bursar, origin).await;
        wire.say(post(origin, "Expect: 100-continue\r\n", 5)).await;
        // The word is the site's: an agent that has waited long enough sends its upload without it.
        if invites {
            assert_eq!(wire.answer().await.unwrap().status(), 100);
        }
        wire.say("hello").await;
        assert_eq!(wire.answer().await.unwrap().text(), "hello");
        // An agent that does not wait for the 100.
        wire.say(post(origin, "Expect: 100-continue\r\n", 5) + "again").await;
        let mut page = wire.answer().await.unwrap();
        if page.status() == 100 {
            page = wire.answer().await.unwrap();
        }
        assert_eq!(page.text(), "again");
    }
}

#[tokio::test]
async fn a_body_over_the_cap_is_forwarded_and_not_payable() {
    let origin = Origin::https(|request| async move {
        assert_eq!(request.body.len(), 3 << 20);
        seller::asks("10000")
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for offer in [H1, &["h2"]] {
        let mut connection = agent.connect(origin.address, offer).await;
        let request = Request::post("/")
            .body(Full::new(Bytes::from(vec![b'u'; 3 << 20])))
            .unwrap();
        let page = soon(connection.send(origin.address, request)).await.unwrap();
        assert_eq!(page.status, 402);
        assert_eq!(
            page.header("proxy-status"),
            Some("bursar; details=\"body-too-large-to-replay\"")
        );
    }
    assert_eq!(origin.seen().len(), 2);
    assert_eq!(bursar.payments().len(), 0);
}

/// hyper may report the failed write before the answer that had arrived: either is passed on, and neither hangs (R228).
#[tokio::test]
async fn a_site_that_answers_and_closes_in_the_midst_of_an_upload() {
    let origin = Origin::raw(|stream, _| async move {
        let mut wire = Wire::new(stream);
        wire.head().await.unwrap();
        wire.say("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nless")
            .await;
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    for _ in 0..10 {
        let mut wire = wire(&bursar, &origin).await;
        let page = upload(&mut wire, &post(&origin, "", LARGE), LARGE).await;
        match page.status() {
            413 => assert_eq!(page.text(), "less"),
            _ => assert_eq!((page.status(), page.problem().as_str()), (502, "upstream-broken")),
        }
    }
}

#[tokio::test]
async fn an_early_refusal_arrives_over_h2_and_leaves_its_neighbours_alone() {
    let origin = Origin::raw_with(&["h2"], |stream, _| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            if request.uri().path() == "/up" {
                return Ok::<_, Infallible>(Response::builder().status(413).body(Full::from("less")).unwrap());
            }
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Ok(Response::new(Full::new(body)))
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let mut connection = agent.connect(origin.address, &["h2"]).await;
    for _ in 0..3 {
        let upload = Request::post("/up").body(Full::from(vec![b'u'; LARGE])).unwrap();
        let page = soon(connection.send(origin.address, upload)).await.unwrap();
        assert_eq!((page.status.as_u16(), &page.body[..]), (413, &b"less"[..]));
        let small = Request::post("/echo").body(Full::from("small")).unwrap();
        let page = soon(connection.send(origin.address, small)).await.unwrap();
        assert_eq!(page.body, "small");
    }
}
