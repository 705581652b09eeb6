//! Connections to sites that are used again: kept only for the agent that made them, never a reason to fail. What a tunnel
//! has of its own is in `own.rs`.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::copy_bidirectional;
use tokio::sync::{Notify, mpsc};

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, bursar, setup};
use crate::support::origin::{Origin, Speaks, answer, certificate};
use crate::support::wire::{Wire, soon};

const H1: &[&str] = &["http/1.1"];

fn another_agent(server: &Bursar, name: &str) -> Agent {
    let added = bursar(server.path(), &["agents", "add", name]);
    let token = String::from_utf8(added.stdout).unwrap();
    Agent {
        login: format!("{name}:{}", token.trim()),
        ..Agent::of(server)
    }
}

/// Each agent asks in tunnels of its own, one after the other, until each has had a connection again that it had before; in
/// the path it says who it is. A tunnel's end takes effect some time after the agent has hung up.
async fn until_reused(origin: &Origin, agents: &[(&Agent, &[&str])]) -> Vec<Vec<usize>> {
    soon(async {
        loop {
            for (number, (agent, offer)) in agents.iter().enumerate() {
                let mut tunnel = agent.connect(origin.address, offer).await;
                let request = Request::get(format!("/{number}")).body(Full::default()).unwrap();
                tunnel.send(origin.address, request).await.unwrap();
            }
            let seen = origin.seen();
            let used = |number: usize| -> Vec<usize> {
                let own = seen.iter().filter(|seen| seen.target == format!("/{number}"));
                own.map(|seen| seen.connection).collect()
            };
            let all: Vec<Vec<usize>> = (0..agents.len()).map(used).collect();
            let is_reused = |used: &Vec<usize>| used.iter().collect::<HashSet<_>>().len() < used.len();
            if all.iter().all(is_reused) {
                return all;
            }
        }
    })
    .await
}

fn are_apart(used: &[Vec<usize>]) -> bool {
    let own: Vec<HashSet<usize>> = used.iter().map(|used| used.iter().copied().collect()).collect();
    own.iter()
        .enumerate()
        .all(|(at, one)| own[..at].iter().all(|other| one.is_disjoint(other)))
}

#[tokio::test]
async fn tunnels_of_one_agent_share_and_those_of_two_do_not() {
    for offer in [H1, &["h2"], &[]] {
        let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let (one, two) = (Agent::of(&bursar), another_agent(&bursar, "writer"));
        let used = until_reused(&origin, &[(&one, offer), (&two, offer)]).await;
        assert!(are_apart(&used), "{offer:?} {used:?}");
    }
}

#[tokio::test]
async fn a_kept_connection_is_for_its_version_and_scheme_only() {
    let origin = Origin::https(|_| async { answer(200, &[], "ok") }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let used = until_reused(&origin, &[(&agent, H1), (&agent, &["h2"]), (&agent, &[])]).await;
    assert!(are_apart(&used), "{used:?}");
}

#[tokio::test]
async fn requests_at_the_same_time_do_not_wait_for_each_other() {
    // Nobody gets an answer before all have arrived.
    let all = Arc::new(tokio::sync::Barrier::new(4));
    for (speaks, offer) in [(Speaks::H1, H1), (Speaks::H1AndH2, &["h2"][..])] {
        let gather = all.clone();
        let origin = Origin::start(speaks, certificate(&["localhost"], |_| {}), move |_| {
            let gather = gather.clone();
            async move {
                gather.wait().await;
                answer(200, &[], "ok")
            }
        })
        .await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let mut asking = Vec::new();
        for _ in 0..4 {
            let agent = Agent::of(&bursar);
            let site = origin.address;
            asking.push(tokio::spawn(async move {
                let mut connection = agent.connect(site, offer).await;
                let request = Request::get("/").body(Full::default()).unwrap();
                connection.send(site, request).await.unwrap().status
            }));
        }
        for asked in asking {
            assert_eq!(soon(asked).await.unwrap(), 200);
        }
    }
}

/// A site whose first connection reads a second request and closes without an answer.
async fn vanishing() -> (Origin, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = asked.clone();
    let origin = Origin::raw(move |stream, connection| {
        let asked = counting.clone();
        async move {
            let mut wire = Wire::new(stream);
            for turn in 0.. {
                if wire.request().await.is_none() {
                    return;
                }
                asked.fetch_add(1, Ordering::SeqCst);
                if connection == 0 && turn == 1 {
                    return;
                }
                wire.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{connection}"))
                    .await;
            }
        }
    })
    .await;
    (origin, asked)
}

#[tokio::test]
async fn only_what_changes_nothing_is_asked_again_when_a_kept_connection_dies() {
    for (method, status, times) in [("GET", 200, 3), ("POST", 502, 2), ("DELETE", 502, 2)] {
        let (origin, asked) = vanishing().await;
        let bursar = setup().trust(&origin.ca_pem).start();
        let mut connection = Agent::of(&bursar).connect(origin.address, H1).await;
        let request = |method: &str| {
            Request::builder()
                .method(method)
                .uri("/")
                .body(Full::default())
                .unwrap()
        };
        connection.send(origin.address, request("GET")).await.unwrap();
        let page = connection.send(origin.address, request(method)).await.unwrap();
        assert_eq!(page.status, status, "{method}");
        assert_eq!(asked.load(Ordering::SeqCst), times, "{method}");
    }
}

#[tokio::test]
async fn no_connection_is_used_again_that_its_site_wants_closed() {
    let origin = Origin::raw(|stream, connection| async move {
        let mut wire = Wire::new(stream);
        while wire.request().await.is_some() {
            wire.say(format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n{connection}"
            ))
            .await;
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    for expected in ["0", "1", "2"] {
        let mut connection = Agent::of(&bursar).connect(origin.address, H1).await;
        let request = Request::post("/").body(Full::from("x")).unwrap();
        let page = connection.send(origin.address, request).await.unwrap();
        assert_eq!(page.body, expected);
        assert_eq!(page.header("connection"), Some("close"), "the tunnel ends with it");
    }
}

#[tokio::test]
async fn no_connection_is_used_again_that_still_owes_an_upload() {
    let done = Arc::new(Notify::new());
    let hold = done.clone();
    let origin = Origin::raw(move |stream, connection| {
        let hold = hold.clone();
        async move {
            let mut wire = Wire::new(stream);
            wire.head().await.unwrap();
            // Answers 2xx early, without reading the body.
            wire.say(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{connection}"))
                .await;
            hold.notified().await;
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let mut first = agent.connect(origin.address, H1).await;
    let upload = Request::post("/")
        .body(Full::from(Bytes::from(vec![b'u'; 16 << 20])))
        .unwrap();
    let response = first.open(origin.address, upload).await.unwrap();
    assert_eq!(response.status(), 200);
    let page = agent.get(origin.address, "/").await;
    assert_eq!(page.body, "1");
    done.notify_waiters();
}

#[tokio::test]
async fn an_agent_that_hangs_up_takes_its_exchange_with_it() {
    let (gone, mut goes) = mpsc::unbounded_channel();
    let origin = Origin::raw(move |stream, _| {
        let gone = gone.clone();
        async move {
            let mut wire = Wire::new(stream);
            wire.request().await.unwrap();
            gone.send("asked").unwrap();
            // No answer: waits for the connection to close.
            wire.rest().await;
            gone.send("gone").unwrap();
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let mut wire = Wire::new(agent.tls(origin.address, "localhost", H1).await.unwrap());
    wire.say(format!(
        "GET / HTTP/1.1\r\nHost: localhost:{}\r\n\r\n",
        origin.address.port()
    ))
    .await;
    assert_eq!(soon(goes.recv()).await, Some("asked"));
    drop(wire);
    assert_eq!(soon(goes.recv()).await, Some("gone"));
}

#[tokio::test]
async fn an_h2_connection_that_the_site_ends_is_replaced() {
    let (noticed, mut notices) = mpsc::unbounded_channel();
    let origin = Origin::raw_with(&["h2"], move |mut stream, connection| {
        let noticed = noticed.clone();
        async move {
            let (near, mut far) = tokio::io::duplex(64 << 10);
            let served = Arc::new(Notify::new());
            let serving = served.clone();
            let service = service_fn(move |_: Request<Incoming>| {
                serving.notify_one();
                async move { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(connection.to_string()))) }
            });
            tokio::spawn(async move {
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(near), service);
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = served.notified() => connection.as_mut().graceful_shutdown(),
                }
                let _ = connection.await;
            });
            // Ends when both sides have closed, so the proxy has noticed by then.
            let _ = copy_bidirectional(&mut stream, &mut far).await;
            noticed.send(connection).unwrap();
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut connection = Agent::of(&bursar).connect(origin.address, &["h2"]).await;
    for expected in 0..3 {
        let request = Request::post("/").body(Full::from("x")).unwrap();
        let page = connection.send(origin.address, request).await.unwrap();
        assert_eq!(page.body, expected.to_string());
        assert_eq!(soon(notices.recv()).await, Some(expected));
    }
}
