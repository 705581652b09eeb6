//! A tunnel's connection to the site is its own as long as it lives, and ends as it would without a proxy.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::support::agent::{Agent, Connection};
use crate::support::bursar::setup;
use crate::support::origin::{Origin, Speaks, answer, certificate};
use crate::support::wire::{Wire, soon};

const H1: &[&str] = &["http/1.1"];
const H2: &[&str] = &["h2"];

#[tokio::test]
async fn tunnels_at_the_same_time_have_a_connection_each_and_keep_it() {
    for offer in [H1, H2] {
        let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let agent = Agent::of(&bursar);
        let mut tunnels = Vec::new();
        for _ in 0..3 {
            tunnels.push(agent.connect(origin.address, offer).await);
        }
        for turn in 0..4 {
            for tunnel in &mut tunnels {
                let method = ["GET", "POST"][turn % 2];
                let request = Request::builder().method(method).uri("/").body(Full::default());
                tunnel.send(origin.address, request.unwrap()).await.unwrap();
            }
        }
        let seen: Vec<usize> = origin.seen().iter().map(|seen| seen.connection).collect();
        assert_eq!(seen, [0, 1, 2].repeat(4), "{offer:?}");
    }
}

/// A site that closes each connection cleanly after one answer, without saying so before.
async fn closing() -> (Origin, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = asked.clone();
    let origin = Origin::raw(move |stream, _| {
        let asked = counting.clone();
        async move {
            let mut wire = Wire::new(stream);
            if wire.request().await.is_some() {
                asked.fetch_add(1, Ordering::SeqCst);
                wire.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                wire.stream.shutdown().await.unwrap();
                wire.rest().await;
            }
        }
    })
    .await;
    (origin, asked)
}

#[tokio::test]
async fn the_agent_sees_that_the_site_has_closed_before_it_sends_what_it_must_not_repeat() {
    const TUNNELS: usize = 50;
    let (origin, asked) = closing().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for number in 1..=TUNNELS {
        let mut wire = Wire::new(agent.tls(origin.address, "localhost", H1).await.unwrap());
        let port = origin.address.port();
        wire.say(format!(
            "POST / HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 1\r\n\r\nx"
        ))
        .await;
        let answer = wire.answer().await.unwrap();
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
        assert_eq!(wire.rest().await, b"", "the tunnel ends by itself");
        assert_eq!(asked.load(Ordering::SeqCst), number);
    }
}

#[tokio::test]
async fn a_tunnel_ends_after_an_answer_that_ends_the_sites_connection() {
    for end in [
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, Close\r\nContent-Length: 1\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
    ] {
        let origin = Origin::raw(move |stream, connection| async move {
            let mut wire = Wire::new(stream);
            // It would go on, and must not be asked to.
            while wire.request().await.is_some() {
                wire.say(format!("{end}{connection}")).await;
            }
        })
        .await;
        let bursar = setup().trust(&origin.ca_pem).start();
        for expected in ["0", "1", "2"] {
            let agent = Agent::of(&bursar);
            let mut wire = Wire::new(agent.tls(origin.address, "localhost", H1).await.unwrap());
            let port = origin.address.port();
            wire.say(format!("GET / HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n"))
                .await;
            let answer = wire.answer().await.unwrap();
            assert_eq!(answer.field("connection"), Some("close"), "{end:?}");
            assert_eq!(answer.text(), expected, "{end:?}");
            assert_eq!(wire.rest().await, b"", "{end:?}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_repeated_never_begins_on_a_kept_connection() {
    for offer in [H1, H2] {
        let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let agent = Agent::of(&bursar);
        for method in ["POST", "PUT", "DELETE"] {
            // Until one is surely kept: a tunnel's end takes effect after the agent has hung up.
            soon(async {
                loop {
                    let before = origin.seen().len();
                    for _ in 0..2 {
                        let mut tunnel = agent.connect(origin.address, offer).await;
                        let request = Request::get("/").body(Full::default()).unwrap();
                        tunnel.send(origin.address, request).await.unwrap();
                    }
                    let seen = origin.seen();
                    if seen[before].connection == seen[before + 1].connection {
                        return;
                    }
                }
            })
            .await;
            let used = origin.seen().iter().map(|seen| seen.connection).max().unwrap();
            let mut tunnel = agent.connect(origin.address, offer).await;
            for _ in 0..2 {
                let request = Request::builder().method(method).uri("/").body(Full::default());
                tunnel.send(origin.address, request.unwrap()).await.unwrap();
            }
            let seen = origin.seen();
            let [.., first, second] = &seen[..] else { panic!() };
            assert!(first.connection > used, "{method} {offer:?}");
            assert_eq!(first.connection, second.connection, "then it is the tunnel's own");
        }
    }
}

/// A site that allows `streams` streams on a connection and answers nobody before `together` have asked; how many
/// connections it had.
async fn narrow(streams: u32, together: usize) -> (Origin, Arc<AtomicUsize>) {
    let (all, connections) = (Arc::new(Barrier::new(together)), Arc::new(AtomicUsize::new(0)));
    let counting = connections.clone();
    let origin = Origin::raw_with(H2, move |stream, _| {
        counting.fetch_add(1, Ordering::SeqCst);
        let all = all.clone();
        let service = service_fn(move |_: Request<Incoming>| {
            let all = all.clone();
            async move {
                all.wait().await;
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok")))
            }
        });
        async move {
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(streams)
                .serve_connection(TokioIo::new(stream), service);
            let _ = serving.await;
        }
    })
    .await;
    (origin, connections)
}

/// `tunnels` tunnels with `streams` POSTs each, all at once.
async fn crowd(agent: &Agent, origin: &Origin, tunnels: usize, streams: usize) {
    let mut asking = JoinSet::new();
    for _ in 0..tunnels {
        let Connection::H2(sender, authority) = agent.connect(origin.address, H2).await else {
            panic!("not h2")
        };
        for _ in 0..streams {
            let (mut sender, authority) = (sender.clone(), authority.clone());
            asking.spawn(async move {
                let request = Request::post(format!("https://{authority}/")).body(Full::<Bytes>::from("x"));
                sender.ready().await.unwrap();
                let answer = sender.send_request(request.unwrap()).await.unwrap();
                assert_eq!(answer.status(), 200);
                assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
            });
        }
    }
    while let Some(asked) = soon(asking.join_next()).await {
        asked.unwrap();
    }
}

#[tokio::test]
async fn a_site_that_allows_two_streams_keeps_no_tunnel_waiting_for_another() {
    let (origin, connections) = narrow(2, 8).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    crowd(&Agent::of(&bursar), &origin, 4, 2).await;
    let connections = connections.load(Ordering::SeqCst);
    assert!((4..=8).contains(&connections), "{connections}");
}

#[tokio::test]
async fn one_tunnel_gets_as_many_connections_as_its_streams_need() {
    let (origin, connections) = narrow(2, 11).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    crowd(&Agent::of(&bursar), &origin, 1, 11).await;
    let connections = connections.load(Ordering::SeqCst);
    assert!((6..=9).contains(&connections), "{connections}");
}

#[tokio::test]
async fn streams_that_nobody_reads_hold_up_no_other_tunnel() {
    let origin = Origin::https(|seen| async move {
        match seen.target.as_str() {
            "/large" => answer(200, &[], vec![b'x'; 8 << 20]),
            _ => answer(200, &[], "ok"),
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let mut stalled = agent.connect(origin.address, H2).await;
    let mut unread = Vec::new();
    for _ in 0..6 {
        let request = Request::get("/large").body(Full::default()).unwrap();
        unread.push(stalled.open(origin.address, request).await.unwrap());
    }
    let mut other = agent.connect(origin.address, H2).await;
    let request = Request::get("/large").body(Full::default()).unwrap();
    let page = soon(other.send(origin.address, request)).await.unwrap();
    assert_eq!(page.body.len(), 8 << 20);
}

#[tokio::test]
async fn requests_in_absolute_form_keep_the_connection_of_their_agents_connection() {
    let certificate = || certificate(&["localhost"], |_| {});
    let (one, other) = (
        Origin::start(Speaks::Plain, certificate(), |_| async { answer(200, &[], "ok") }).await,
        Origin::start(Speaks::Plain, certificate(), |_| async { answer(200, &[], "ok") }).await,
    );
    let bursar = setup().start();
    let login = STANDARD.encode(Agent::of(&bursar).login);
    for expected in [0, 1] {
        let mut wire = Wire::to(&bursar).await;
        for (site, method) in [
            (&one, "POST"),
            (&other, "POST"),
            (&one, "POST"),
            (&one, "GET"),
            (&other, "POST"),
        ] {
            let authority = format!("localhost:{}", site.address.port());
            wire.say(format!(
                "{method} http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\
                 Proxy-Authorization: Basic {login}\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
            assert_eq!(wire.answer().await.unwrap().status(), 200);
            assert_eq!(site.seen().pop().unwrap().connection, expected);
        }
        // Another connection of the agent begins with POST, so it never takes a kept one.
    }
}
