//! Other protocols over a paid connection: gRPC, whose status is in the trailers, and upgrades (threat 2.17).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Full};

use crate::support::agent::Agent;
use crate::support::bursar::setup;
use crate::support::origin::{Answer, Origin, Seen, Speaks, answer, certificate};
use crate::support::seller;
use crate::support::wire::{Frames, Wire};

/// One length-prefixed message of gRPC.
const MESSAGE: &[u8] = b"\0\0\0\0\x05hello";

fn trailers(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([
        ("grpc-status".parse().unwrap(), HeaderValue::from_static(status)),
        ("grpc-message".parse().unwrap(), HeaderValue::from_static("none")),
    ])
}

fn grpc(sold: Answer, status: &'static str) -> Answer {
    let (mut head, _) = sold.into_parts();
    head.headers
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    let (frames, body) = Frames::new();
    frames.send(Frame::data(Bytes::from_static(MESSAGE))).unwrap();
    frames.send(Frame::trailers(trailers(status))).unwrap();
    Answer::from_parts(head, body.boxed())
}

#[tokio::test]
async fn a_grpc_status_arrives_and_decides_nothing_about_money() {
    let origin = Origin::https(|request: Seen| async move {
        match (request.target.as_str(), request.is_paid()) {
            // RESOURCE_EXHAUSTED and UNAUTHENTICATED ask for no money.
            ("/free.Service/Exhausted", _) => grpc(answer(200, &[], ""), "8"),
            ("/free.Service/Unauthenticated", _) => {
                answer(200, &[("content-type", "application/grpc"), ("grpc-status", "16")], "")
            }
            (_, false) => seller::asks("10000"),
            ("/paid.Service/Ok", true) => grpc(seller::sold(""), "0"),
            (_, true) => grpc(seller::sold(""), "13"),
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let mut connection = agent.connect(origin.address, &["h2"]).await;
    for (method, status, payments) in [
        ("/free.Service/Exhausted", "8", 0),
        ("/paid.Service/Ok", "0", 1),
        ("/paid.Service/Internal", "13", 2),
    ] {
        let request = Request::post(method)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::from(MESSAGE))
            .unwrap();
        let page = connection.open(origin.address, request).await.unwrap();
        assert_eq!(
            (page.status().as_u16(), &page.headers()["content-type"]),
            (200, &HeaderValue::from_static("application/grpc"))
        );
        let body = page.into_body().collect().await.unwrap();
        assert_eq!(body.trailers(), Some(&trailers(status)), "{method}");
        assert_eq!(body.to_bytes(), MESSAGE);
        assert_eq!(bursar.states(), vec!["settled"; payments], "{method}");
    }
    let request = Request::post("/free.Service/Unauthenticated")
        .body(Full::default())
        .unwrap();
    let page = connection.send(origin.address, request).await.unwrap();
    assert_eq!((page.status.as_u16(), page.header("grpc-status")), (200, Some("16")));
    assert_eq!(bursar.payments().len(), 2);
    let paid = origin.seen().into_iter().filter(Seen::is_paid);
    assert!(paid.map(|seen| seen.body).eq([MESSAGE, MESSAGE]));
}

/// Answers an unpaid request with 402 and a paid one first with a lost answer, then with a switch of protocols.
async fn switching() -> Origin {
    let script = |request: Seen| async move {
        match (request.is_paid(), request.target.as_str()) {
            (false, "/chat") if request.headers.contains_key("upgrade") => seller::asks("10000"),
            (false, _) => seller::asks("10000"),
            (true, _) if request.headers.contains_key("x-switch") => {
                answer(101, &[("connection", "upgrade"), ("upgrade", "websocket")], "")
            }
            (true, _) => answer(500, &[], "later"),
        }
    };
    Origin::start(Speaks::H1, certificate(&["localhost", "127.0.0.1"], |_| {}), script).await
}

#[tokio::test]
async fn an_upgrade_is_not_paid_for_and_no_paid_answer_switches_protocols() {
    let origin = switching().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let port = origin.address.port();
    let ask = async |more: &str| {
        let mut wire = Wire::new(agent.tls(origin.address, "localhost", &["http/1.1"]).await.unwrap());
        wire.say(format!("GET /chat HTTP/1.1\r\nHost: localhost:{port}\r\n{more}\r\n"))
            .await;
        wire.answer().await.unwrap()
    };
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let unpaid = ask(upgrade).await;
    assert_eq!(unpaid.status(), 402);
    assert_eq!(
        unpaid.field("proxy-status"),
        Some("bursar; details=\"upgrade-not-paid\"")
    );
    assert_eq!(bursar.payments().len(), 0);

    // Paid and lost. The same request presents it again, now with an upgrade: the stream is joined to nobody.
    assert_eq!(ask("").await.status(), 500);
    for more in [format!("{upgrade}X-Switch: 1\r\n"), "X-Switch: 1\r\n".to_owned()] {
        let page = ask(&more).await;
        assert_eq!((page.status(), page.problem().as_str()), (502, "answer-lost"), "{more}");
        assert_eq!(page.field("upgrade"), None);
    }
    assert_eq!(bursar.states(), ["unknown"]);
    let mut credentials = origin.payments();
    assert_eq!(credentials.len(), 3);
    credentials.dedup();
    assert_eq!(credentials.len(), 1, "the same bytes");
}
